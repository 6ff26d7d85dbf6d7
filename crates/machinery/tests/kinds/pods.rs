use dray_machinery::Subresource;

use super::{Case, case};

const POD: &str = "spec: {containers: [{name: main, image: 'web:1'}]}";

pub(super) fn pod() -> Case {
    case("v1 Pod", POD)
}

/// The specification of a pod with one container that has more.
fn container(more: &str) -> String {
    format!("spec: {{containers: [{{name: main, image: 'web:1', {more}}}]}}")
}

/// What is wrong with a container that has more, below the container.
#[track_caller]
pub(super) fn refuses_container(cases: &[(&str, &[&str])]) {
    for (more, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("spec.containers[0].{text}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        pod().refuses(&[(&container(more), &expected)]);
    }
}

#[test]
fn defaults_of_pods() {
    pod().defaults(
        "{}",
        "spec: {restartPolicy: Always, dnsPolicy: ClusterFirst, schedulerName: default-scheduler, terminationGracePeriodSeconds: 30, \
         securityContext: {}, enableServiceLinks: true}",
    );
    pod().defaults("{}", "status: {phase: Pending, qosClass: BestEffort}");
    pod().defaults(
        "spec: {schedulingGates: [{name: a}]}",
        "status: {conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated, \
         message: Scheduling is blocked due to non-empty scheduling gates}]}",
    );
    pod().defaults("spec: {serviceAccountName: a}", "spec: {serviceAccount: a}");
    pod().defaults("spec: {serviceAccount: a}", "spec: {serviceAccountName: a}");
    pod().defaults(
        "spec: {hostNetwork: true, containers: [{name: a, image: b, ports: [{containerPort: 1}]}]}",
        "spec: {containers: [{name: a, image: b, imagePullPolicy: Always, resources: {}, terminationMessagePath: /dev/termination-log, \
         terminationMessagePolicy: File, ports: [{containerPort: 1, hostPort: 1, protocol: TCP}]}]}",
    );
    pod().defaults(
        "spec: {containers: [{name: a, image: 'b:1', livenessProbe: {httpGet: {port: 1}}, lifecycle: {preStop: {httpGet: {port: 1}}}}]}",
        "spec: {containers: [{name: a, image: 'b:1', imagePullPolicy: IfNotPresent, resources: {}, \
         terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File, \
         livenessProbe: {httpGet: {port: 1, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, \
         failureThreshold: 3}, lifecycle: {preStop: {httpGet: {port: 1, path: /, scheme: HTTP}}}}]}",
    );
    pod().defaults(
        "spec: {containers: [{name: a, image: 'b:1', resources: {limits: {cpu: 1, memory: 1Gi}}}]}",
        "{spec: {containers: [{name: a, image: 'b:1', imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, \
         terminationMessagePolicy: File, resources: {limits: {cpu: '1', memory: 1Gi}, requests: {cpu: '1', memory: 1Gi}}}]}, \
         status: {qosClass: Guaranteed}}",
    );
}

#[test]
fn containers_are_checked() {
    pod().refuses(&[
        ("spec: {containers: []}", &["spec.containers: Required value"]),
        ("spec: {containers: [{name: a, image: ''}]}", &["spec.containers[0].image: Required value"]),
        (
            "spec: {containers: [{name: '', image: b}, {name: A, image: b}]}",
            &["spec.containers[0].name: Required value", "spec.containers[1].name: Invalid value: \"A\": a lowercase RFC 1123 label…"],
        ),
        (
            "spec: {containers: [{name: a, image: b}], initContainers: [{name: a, image: b}]}",
            &["spec.initContainers[0].name: Duplicate value: \"a\""],
        ),
        ("spec: {ephemeralContainers: [{name: a, image: b}]}", &["spec.ephemeralContainers: Forbidden: cannot be set on create"]),
        (
            "spec: {initContainers: [{name: a, image: b, livenessProbe: {exec: {command: [a]}}, lifecycle: {}}]}",
            &[
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        ("spec: {initContainers: [{name: a, image: b, restartPolicy: Always, livenessProbe: {exec: {command: [a]}}}]}", &[]),
        (
            "spec: {containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 2}]}, \
             {name: b, image: b, ports: [{containerPort: 3, hostPort: 2}]}]}",
            &["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//2\""],
        ),
    ]);
    refuses_container(&[
        (
            "imagePullPolicy: Often",
            &[
                "imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            "terminationMessagePolicy: Log",
            &[
                "terminationMessagePolicy: Unsupported value: \"Log\": supported values: \"FallbackToLogsOnError\", \"File\"",
            ],
        ),
        ("ports: [{containerPort: 0}]", &["ports[0].containerPort: Required value"]),
        (
            "ports: [{containerPort: 65536}]",
            &["ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"],
        ),
        (
            "ports: [{containerPort: 1, hostPort: 65536}]",
            &["ports[0].hostPort: Invalid value: 65536: must be between 1 and 65535, inclusive"],
        ),
        (
            "ports: [{containerPort: 1, protocol: ICMP}]",
            &["ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            "ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]",
            &["ports[1].name: Duplicate value: \"a\""],
        ),
        (
            "ports: [{containerPort: 1, name: '1'}]",
            &["ports[0].name: Invalid value: \"1\": must contain at least one letter (a-z)"],
        ),
        ("env: [{name: ''}]", &["env[0].name: Required value"]),
        (
            "env: [{name: a, valueFrom: {}}]",
            &[
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            "env: [{name: a, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            &["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
        ),
        (
            "env: [{name: a, valueFrom: {fieldRef: {fieldPath: metadata.x}}}]",
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.x\": supported values: \"metadata.name\"…",
            ],
        ),
        ("env: [{name: a, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a']\"}}}]", &[]),
        (
            "env: [{name: a, valueFrom: {fieldRef: {fieldPath: \"metadata.name['a']\"}}}]",
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name\": does not support subscript",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.disk}}}]",
            &[
                "env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.disk\": supported values: \"limits.cpu\"…",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 3}}}]",
            &[
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {secretKeyRef: {name: s, key: ''}}}]",
            &["env[0].valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            "envFrom: [{}]",
            &["envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
        ),
        ("volumeMounts: [{name: x, mountPath: /a}]", &["volumeMounts[0].name: Not found: \"x\""]),
    ]);
}

#[test]
fn probes_and_hooks_are_checked() {
    refuses_container(&[
        ("livenessProbe: {}", &["livenessProbe: Required value: must specify a handler type"]),
        (
            "livenessProbe: {exec: {command: [a]}, httpGet: {port: 1}}",
            &["livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type"],
        ),
        ("livenessProbe: {exec: {command: []}}", &["livenessProbe.exec.command: Required value"]),
        (
            "livenessProbe: {httpGet: {port: 0}}",
            &["livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        ),
        (
            "livenessProbe: {httpGet: {port: 1, scheme: FTP}}",
            &[
                "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ],
        ),
        (
            "livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: 'a b', value: c}]}}",
            &[
                "livenessProbe.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must consist of…",
            ],
        ),
        (
            "livenessProbe: {tcpSocket: {port: 1}, initialDelaySeconds: -1}",
            &["livenessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}",
            &["livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            "livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 0}",
            &["livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"],
        ),
        (
            "readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1, successThreshold: 2}",
            &[
                "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            ],
        ),
        (
            "startupProbe: {grpc: {port: 70000}}",
            &["startupProbe.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        ("lifecycle: {preStop: {}}", &["lifecycle.preStop: Required value: must specify a handler type"]),
        (
            "lifecycle: {preStop: {sleep: {seconds: 60}}}",
            &[
                "lifecycle.preStop.sleep.seconds: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)…",
            ],
        ),
        (
            "lifecycle: {postStart: {exec: {command: []}}}",
            &["lifecycle.postStart.exec.command: Required value"],
        ),
    ]);
}

#[test]
fn resources_are_checked() {
    refuses_container(&[
        (
            "resources: {requests: {disk: 1}}",
            &[
                "resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            ],
        ),
        (
            "resources: {requests: {cpu: 2}, limits: {cpu: 1}}",
            &["resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
        ),
        (
            "resources: {requests: {cpu: -1}}",
            &["resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            "resources: {requests: {example.com/gpu: 1}}",
            &[
                "resources.limits[example.com/gpu]: Required value: Limit must be set for non overcommitable resources",
            ],
        ),
        (
            "resources: {requests: {example.com/gpu: 1}, limits: {example.com/gpu: 2}}",
            &[
                "resources.requests[example.com/gpu]: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
            ],
        ),
        (
            "resources: {limits: {example.com/gpu: 500m}}",
            &[
                "resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                "resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
            ],
        ),
        ("resources: {claims: [{name: x}]}", &["resources.claims[0].name: Not found: \"x\""]),
        (
            "resizePolicy: [{resourceName: disk, restartPolicy: Never}]",
            &[
                "resizePolicy[0].resourceName: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
                "resizePolicy[0].restartPolicy: Unsupported value: \"Never\": supported values: \"NotRequired\", \"RestartContainer\"",
            ],
        ),
    ]);
    pod().refuses(&[
        (
            "spec: {resources: {requests: {cpu: 1}}, containers: [{name: a, image: b, resources: {requests: {cpu: 2}}}]}",
            &["spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2"],
        ),
        (
            "spec: {resources: {limits: {cpu: 1}}, containers: [{name: a, image: b, resources: {limits: {cpu: 2}, requests: {cpu: 1}}}]}",
            &["spec.containers[0].resources.limits[cpu]: Invalid value: \"2\": must be less than or equal to pod limits of 1"],
        ),
        (
            "spec: {resources: {claims: [{name: a}]}}",
            &["spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"],
        ),
        (
            "spec: {resourceClaims: [{name: a}]}",
            &["spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"],
        ),
        ("spec: {overhead: {cpu: -1}}", &["spec.overhead[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]),
    ]);
}

#[test]
fn the_rest_of_a_pod_is_checked() {
    pod().refuses(&[
        ("spec: {restartPolicy: Some}", &["spec.restartPolicy: Unsupported value: \"Some\": supported values: \"Always\", \"Never\", \"OnFailure\""]),
        (
            "spec: {dnsPolicy: Some}",
            &["spec.dnsPolicy: Unsupported value: \"Some\": supported values: \"ClusterFirst\", \"ClusterFirstWithHostNet\", \"Default\", \"None\""],
        ),
        ("spec: {dnsPolicy: None}", &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
        (
            "spec: {dnsPolicy: None, dnsConfig: {}}",
            &["spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"],
        ),
        (
            "spec: {dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}}",
            &["spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have more than 3 nameservers"],
        ),
        ("spec: {dnsConfig: {options: [{value: a}]}}", &["spec.dnsConfig.options[0]: Required value: must not be empty"]),
        ("spec: {hostAliases: [{ip: x}]}", &["spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address…"]),
        ("spec: {hostname: a.b}", &["spec.hostname: Invalid value: \"a.b\": a lowercase RFC 1123 label…"]),
        ("spec: {nodeName: A}", &["spec.nodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain…"]),
        ("spec: {serviceAccountName: A}", &["spec.serviceAccountName: Invalid value: \"A\"…"]),
        ("spec: {activeDeadlineSeconds: 0}", &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
        (
            "spec: {terminationGracePeriodSeconds: -1}",
            &["spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
        ("spec: {readinessGates: [{conditionType: ''}]}", &["spec.readinessGates[0].conditionType: Invalid value: \"\": name part must be non-empty…",
            "spec.readinessGates[0].conditionType: Invalid value: \"\": name part must consist of…"]),
        (
            "spec: {preemptionPolicy: Some}",
            &["spec.preemptionPolicy: Unsupported value: \"Some\": supported values: \"Never\", \"PreemptLowerPriority\""],
        ),
    ]);
}

#[test]
fn little_of_a_pod_changes() {
    let pod = case(
        "v1 Pod",
        "spec: {containers: [{name: main, image: 'web:1'}], activeDeadlineSeconds: 10, tolerations: [{key: a, operator: Exists, effect: NoExecute}]}",
    );
    pod.refuses_updates(&[
        ("spec: {activeDeadlineSeconds: 5}", &[]),
        ("spec: {activeDeadlineSeconds: 11}", &["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"]),
        (
            "spec: {activeDeadlineSeconds: null}",
            &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
        ),
        ("spec: {containers: [{name: main, image: ''}]}", &["spec.containers[0].image: Required value", "spec: Forbidden: pod updates may not change fields…"]),
        ("spec: {tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 3}, {operator: Exists}]}", &[]),
        (
            "spec: {tolerations: []}",
            &["spec.tolerations[0]: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        ),
        (
            "spec: {containers: [{name: main, image: a}, {name: b, image: c}]}",
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        ("spec: {nodeSelector: {a: b}}", &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`…"]),
        (
            "spec: {schedulingGates: [{name: a}]}",
            &["spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'a'"],
        ),
    ]);
    let gated = case(
        "v1 Pod",
        "spec: {containers: [{name: main, image: 'web:1'}], nodeSelector: {a: b}, schedulingGates: [{name: a}, {name: b}]}",
    );
    gated.refuses_updates(&[
        ("spec: {schedulingGates: [{name: b}]}", &[]),
        ("spec: {nodeSelector: {c: d}}", &[]),
        (
            "spec: {nodeSelector: {a: c}}",
            &["spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"],
        ),
        (
            "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
             [{matchExpressions: [{key: a, operator: Exists}]}]}}}}",
            &[],
        ),
        ("spec: {affinity: {podAffinity: {}}}", &["spec: Forbidden: pod updates may not change fields…"]),
    ]);
}

#[test]
fn containers_come_to_running_pods() {
    const ADDED: &str = "{name: debug, image: sh, imagePullPolicy: Always, terminationMessagePolicy: File";
    let added = |more: &str| format!("spec: {{ephemeralContainers: [{ADDED}{more}}}]}}");
    for (more, expected) in [
        ("", &[][..]),
        (", targetContainerName: main", &[]),
        (
            ", targetContainerName: other",
            &["spec.ephemeralContainers[0].targetContainerName: Not found: \"other\""],
        ),
        (
            ", ports: [{containerPort: 1, protocol: TCP}]",
            &["spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"],
        ),
    ] {
        pod().refuses_parts(Subresource::EphemeralContainers, "{}", &[(&added(more), expected)]);
    }
    pod().refuses_parts(
        Subresource::EphemeralContainers,
        &added(""),
        &[
            (
                "spec: {ephemeralContainers: null}",
                &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed"],
            ),
            (
                &added(", command: [sh]"),
                &["spec.ephemeralContainers[0]: Forbidden: existing ephemeral containers \"debug\" may not be changed"],
            ),
        ],
    );
}

#[test]
fn containers_get_more_and_less() {
    let pod = case(
        "v1 Pod",
        "spec: {containers: [{name: a, image: 'b:1', resources: {requests: {cpu: 1}, limits: {cpu: 2}}}]}",
    );
    const REST: &str = "imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File";
    let sized = |resources: &str| {
        format!("spec: {{containers: [{{name: a, image: 'b:1', {REST}, resources: {{{resources}}}}}]}}")
    };
    for (resources, expected) in [
        ("requests: {cpu: '2'}, limits: {cpu: '2'}", &[][..]),
        (
            "requests: {cpu: '3'}, limits: {cpu: '2'}",
            &["spec.containers[0].resources.requests[cpu]: Invalid value: \"3\": must be less than…"],
        ),
        (
            "requests: {cpu: '1', ephemeral-storage: '1'}, limits: {cpu: '2'}",
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
        (
            "requests: {cpu: '1', memory: 1Gi}, limits: {cpu: '1', memory: 1Gi}",
            &["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"],
        ),
    ] {
        pod.refuses_parts(Subresource::Resize, "{}", &[(&sized(resources), expected)]);
    }
}

#[test]
fn a_status_has_addresses_that_there_can_be() {
    pod().refuses_parts(
        Subresource::Status,
        "{}",
        &[
            ("status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}", &[]),
            ("status: {podIPs: [{ip: x}]}", &["status.podIPs[0]: Invalid value: \"x\": must be a valid IP address…"]),
            (
                "status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}",
                &["status.podIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family"],
            ),
            ("status: {nominatedNodeName: A}", &["status.nominatedNodeName: Invalid value: \"A\"…"]),
        ],
    );
}
