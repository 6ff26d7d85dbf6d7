use super::pods::{pod, refuses_container};

/// What is wrong with a volume, below the volume.
#[track_caller]
fn refuses_volume(cases: &[(&str, &[&str])]) {
    for (source, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|text| format!("spec.volumes[0]{text}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        pod().refuses(&[(&format!("spec: {{volumes: [{{name: v, {source}}}]}}"), &expected)]);
    }
}

#[test]
fn defaults_of_volumes() {
    pod().defaults(
        "spec: {volumes: [{name: a}, {name: b, secret: {secretName: s}}, {name: c, hostPath: {path: /}}, \
         {name: d, projected: {sources: [{serviceAccountToken: {path: t}}]}}, \
         {name: e, downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.name}}]}}]}",
        "spec: {volumes: [{name: a, emptyDir: {}}, {name: b, secret: {secretName: s, defaultMode: 420}}, \
         {name: c, hostPath: {path: /, type: ''}}, \
         {name: d, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}, \
         {name: e, downwardAPI: {defaultMode: 420, items: [{path: a, fieldRef: {apiVersion: v1, fieldPath: metadata.name}}]}}]}",
    );
}

#[test]
fn mounts_are_checked() {
    let mount = |mounts: &str| {
        format!(
            "spec: {{volumes: [{{name: v}}, {{name: c, persistentVolumeClaim: {{claimName: c}}}}], \
             containers: [{{name: a, image: b, {mounts}}}]}}"
        )
    };
    for (mounts, expected) in [
        (
            "volumeMounts: [{name: v, mountPath: /a}, {name: c, mountPath: /a}]",
            "volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        ("volumeMounts: [{name: v, mountPath: ''}]", "volumeMounts[0].mountPath: Required value"),
        (
            "volumeMounts: [{name: v, mountPath: /a, subPath: /b}]",
            "volumeMounts[0].subPath: Invalid value: \"/b\": must be a relative path",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, subPath: ../b}]",
            "volumeMounts[0].subPath: Invalid value: \"../b\": must not contain '..'",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, subPath: a, subPathExpr: b}]",
            "volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, mountPropagation: Bidirectional}]",
            "volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, recursiveReadOnly: Enabled}]",
            "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            "volumeDevices: [{name: v, devicePath: /a}]",
            "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
        ),
        ("volumeDevices: [{name: c, devicePath: ''}]", "volumeDevices[0].devicePath: Required value"),
        (
            "volumeDevices: [{name: c, devicePath: /a/../b}]",
            "volumeDevices[0].devicePath: Invalid value: \"/a/../b\": must not contain '..'",
        ),
    ] {
        pod().refuses(&[(&mount(mounts), &[&format!("spec.containers[0].{expected}")])]);
    }
}

#[test]
fn security_is_checked() {
    refuses_container(&[
        (
            "securityContext: {runAsUser: -1}",
            &["securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        ),
        (
            "securityContext: {procMount: Some}",
            &[
                "securityContext.procMount: Unsupported value: \"Some\": supported values: \"Default\", \"Unmasked\"",
            ],
        ),
        (
            "securityContext: {seccompProfile: {type: Localhost}}",
            &[
                "securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        ),
        (
            "securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: a}}",
            &[
                "securityContext.seccompProfile.localhostProfile: Invalid value: \"a\": can only be set when seccomp type is Localhost",
            ],
        ),
        (
            "securityContext: {appArmorProfile: {type: Some}}",
            &[
                "securityContext.appArmorProfile.type: Unsupported value: \"Some\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
            ],
        ),
        (
            "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
            &[
                "securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        ),
    ]);
    pod().refuses(&[
        ("spec: {securityContext: {fsGroup: -1}}", &["spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive"]),
        (
            "spec: {securityContext: {supplementalGroups: [-1]}}",
            &["spec.securityContext.supplementalGroups[0]: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        ),
        (
            "spec: {shareProcessNamespace: true, hostPID: true}",
            &["spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"],
        ),
        ("spec: {hostUsers: false, hostPID: true}", &["spec.hostPID: Forbidden: when `pod.Spec.HostUsers` is false"]),
        (
            "spec: {securityContext: {sysctls: [{name: a, value: b}, {name: a, value: b}]}}",
            &["spec.securityContext.sysctls[1].name: Duplicate value: \"a\""],
        ),
        (
            "spec: {hostNetwork: true, securityContext: {sysctls: [{name: net.a, value: b}]}}",
            &["spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified when 'hostNetwork' is true"],
        ),
        (
            "spec: {securityContext: {fsGroupChangePolicy: Some}}",
            &["spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Some\": supported values: \"Always\", \"OnRootMismatch\""],
        ),
        (
            "spec: {os: {name: linux}, securityContext: {windowsOptions: {}}}",
            &["spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"],
        ),
        ("spec: {os: {name: plan9}}", &["spec.os.name: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]),
        ("spec: {os: {name: windows}, hostIPC: true}", &["spec.hostIPC: Forbidden: cannot be set for a windows pod"]),
    ]);
}

#[test]
fn scheduling_is_checked() {
    pod().refuses(&[
        (
            "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}",
            &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"],
        ),
        (
            "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: \
             [{key: a, operator: In}, {key: b, operator: Exists, values: [c]}, {key: d, operator: Gt}, {key: e, operator: Odd}]}]}}}}",
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].operator: Invalid value: \"Odd\": not a valid selector operator",
            ],
        ),
        (
            "spec: {affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {}}]}}}",
            &["spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100"],
        ),
        (
            "spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: '', namespaces: [A]}]}}}",
            &[
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaces[0]: Invalid value: \"A\"…",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ],
        ),
        (
            "spec: {tolerations: [{value: a}]}",
            &["spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\""],
        ),
        (
            "spec: {tolerations: [{key: a, operator: Exists, value: b}]}",
            &["spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"],
        ),
        (
            "spec: {tolerations: [{key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 1}]}",
            &["spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set"],
        ),
        (
            "spec: {tolerations: [{key: a, operator: Exists, effect: Never}]}",
            &["spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\""],
        ),
        (
            "spec: {topologySpreadConstraints: [{maxSkew: 0, topologyKey: '', whenUnsatisfiable: Some}]}",
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Some\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            "spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: 1}]}",
            &["spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"],
        ),
        (
            "spec: {nodeName: n, schedulingGates: [{name: a}]}",
            &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
        (
            "spec: {schedulingGates: [{name: a}, {name: a}]}",
            &["spec.schedulingGates[1]: Duplicate value: \"a\""],
        ),
        ("spec: {nodeSelector: {a: b c}}", &["spec.nodeSelector: Invalid value: \"b c\"…"]),
    ]);
}

#[test]
fn volumes_are_checked() {
    pod().refuses(&[
        ("spec: {volumes: [{name: a}, {name: a}]}", &["spec.volumes[1].name: Duplicate value: \"a\""]),
        (
            "spec: {volumes: [{name: A}]}",
            &["spec.volumes[0].name: Invalid value: \"A\": a lowercase RFC 1123 label…"],
        ),
    ]);
    refuses_volume(&[
        (
            "emptyDir: {}, hostPath: {path: /}",
            &[".emptyDir: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "emptyDir: {sizeLimit: -1}",
            &[".emptyDir.sizeLimit: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        ("hostPath: {path: ''}", &[".hostPath.path: Required value"]),
        ("hostPath: {path: /a/../b}", &[".hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"]),
        (
            "hostPath: {path: /a, type: Some}",
            &[".hostPath.type: Unsupported value: \"Some\": supported values: \"\", \"BlockDevice\"…"],
        ),
        ("secret: {secretName: ''}", &[".secret.secretName: Required value"]),
        (
            "secret: {secretName: a, defaultMode: 512}",
            &[
                ".secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        ("configMap: {name: ''}", &[".configMap.name: Required value"]),
        (
            "configMap: {name: a, items: [{key: '', path: /x}]}",
            &[
                ".configMap.items[0].key: Required value",
                ".configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
            ],
        ),
        ("persistentVolumeClaim: {claimName: ''}", &[".persistentVolumeClaim.claimName: Required value"]),
        (
            "nfs: {server: '', path: a}",
            &[".nfs.server: Required value", ".nfs.path: Invalid value: \"a\": must be an absolute path"],
        ),
        (
            "downwardAPI: {items: [{path: a}]}",
            &[".downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"],
        ),
        (
            "projected: {sources: [{secret: {name: ''}}]}",
            &[".projected.sources[0].secret.name: Required value"],
        ),
        (
            "projected: {sources: [{serviceAccountToken: {path: a, expirationSeconds: 1}}]}",
            &[
                ".projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            ],
        ),
        (
            "projected: {sources: [{secret: {name: a, items: [{key: a, path: b}]}}, {configMap: {name: c, items: [{key: a, path: b}]}}]}",
            &[".projected: Invalid value: \"c\": conflicting duplicate paths"],
        ),
        (
            "iscsi: {targetPortal: a, iqn: x, lun: 0}",
            &[".iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa"],
        ),
        (
            "fc: {}",
            &[".fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"],
        ),
        ("flocker: {}", &[".flocker: Required value: one of datasetName and datasetUUID is required"]),
        ("csi: {driver: ''}", &[".csi.driver: Required value"]),
        ("rbd: {monitors: [], image: ''}", &[".rbd.monitors: Required value", ".rbd.image: Required value"]),
        (
            "image: {reference: a, pullPolicy: Some}",
            &[
                ".image.pullPolicy: Unsupported value: \"Some\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        ("image: {}", &[".image.reference: Required value"]),
        ("ephemeral: {}", &[".ephemeral.volumeClaimTemplate: Required value"]),
        (
            "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [], resources: {requests: {storage: 1}}}}}",
            &[
                ".ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
            ],
        ),
    ]);
}
