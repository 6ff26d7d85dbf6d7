use dray_machinery::Subresource::Status;
use serde_json::json;

use super::case;

const TEMPLATE: &str = "
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'web:1'}]}
";

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

#[test]
fn deployments() {
    let deployment = case("apps/v1 Deployment", TEMPLATE);
    deployment.defaults(
        "{}",
        "
spec:
  replicas: 1
  revisionHistoryLimit: 10
  progressDeadlineSeconds: 600
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}
  template:
    spec: {restartPolicy: Always, dnsPolicy: ClusterFirst, schedulerName: default-scheduler,
      terminationGracePeriodSeconds: 30, securityContext: {}}
",
    );
    deployment.refuses(&[
        ("spec: {replicas: -1}", &[&format!("spec.replicas: Invalid value: -1: {NOT_NEGATIVE}")]),
        (
            "spec: {selector: null}",
            &["spec.selector: Required value"],
        ),
        (
            "spec: {selector: {matchLabels: {app: other}}}",
            &["spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"],
        ),
        (
            "spec: {selector: {matchLabels: null}}",
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        ),
        (
            "spec: {strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}}",
            &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            "spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}}",
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        ),
        (
            "spec: {strategy: {rollingUpdate: {maxUnavailable: 101%}}}",
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
        ),
        (
            "spec: {strategy: {rollingUpdate: {maxSurge: x}}}",
            &["spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be…"],
        ),
        (
            "spec: {minReadySeconds: 600}",
            &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
        ),
        (
            "spec: {template: {spec: {restartPolicy: Never, activeDeadlineSeconds: 1}}}",
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ],
        ),
        ("spec: {template: {spec: {containers: []}}}", &["spec.template.spec.containers: Required value"]),
    ]);
    deployment.refuses_updates(&[
        ("spec: {replicas: 2}", &[]),
        (
            "{spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}}}}",
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"],
        ),
    ]);
    deployment.refuses_parts(
        Status,
        "status: {replicas: 1, collisionCount: 2}",
        &[
            ("status: {readyReplicas: 1, availableReplicas: 1}", &[]),
            (
                "status: {readyReplicas: 2}",
                &["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
            ),
            (
                "status: {availableReplicas: 1}",
                &["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"],
            ),
            (
                "status: {collisionCount: 1}",
                &["status.collisionCount: Invalid value: 1: cannot be decremented"],
            ),
        ],
    );
    deployment.shows(
        "status: {readyReplicas: 1, updatedReplicas: 1}",
        json!(["test", "1/1", 1, 0, "100s", "web", "web:1", "app=web"]),
    );
}

#[test]
fn replica_sets_and_their_older_form() {
    let set = case("apps/v1 ReplicaSet", TEMPLATE);
    set.defaults("{}", "spec: {replicas: 1}");
    set.refuses(&[
        ("spec: {selector: {}}", &[]),
        (
            "spec: {minReadySeconds: -1}",
            &[&format!("spec.minReadySeconds: Invalid value: -1: {NOT_NEGATIVE}")],
        ),
    ]);
    set.refuses_updates(&[(
        "{spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}}}}",
        &["spec.selector: Invalid value…"],
    )]);
    let controller = case(
        "v1 ReplicationController",
        "spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'web:1'}]}}}",
    );
    controller.defaults("{}", "{metadata: {labels: {app: web}}, spec: {replicas: 1, selector: {app: web}}}");
    controller.refuses(&[
        (
            "spec: {selector: {app: other}}",
            &["spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"],
        ),
        ("spec: {template: null}", &["spec.selector: Required value", "spec.template: Required value"]),
    ]);
    controller.shows("{}", json!(["test", 1, 0, 0, "100s", "web", "web:1", "app=web"]));
}

#[test]
fn stateful_sets() {
    let set = case(
        "apps/v1 StatefulSet",
        &format!(
            "{TEMPLATE}
  serviceName: web
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"
        ),
    );
    set.defaults(
        "{}",
        "
spec:
  replicas: 1
  revisionHistoryLimit: 10
  podManagementPolicy: OrderedReady
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
  volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeMode: Filesystem}
    status: {phase: Pending}
",
    );
    set.refuses(&[
        (
            "spec: {podManagementPolicy: Any}",
            &["spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'"],
        ),
        (
            "spec: {updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}}",
            &["spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'"],
        ),
        (
            "spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 0, partition: -1}}}",
            &[
                &format!("spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: {NOT_NEGATIVE}"),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
            ],
        ),
        (
            "spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: Keep}}",
            &["spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\""],
        ),
        ("spec: {ordinals: {start: -1}}", &[&format!("spec.ordinals.start: Invalid value: -1: {NOT_NEGATIVE}")]),
    ]);
    set.refuses_updates(&[
        ("spec: {replicas: 3, minReadySeconds: 5, ordinals: {start: 1}}", &[]),
        (
            "spec: {serviceName: other}",
            &["spec: Forbidden: updates to statefulset spec for fields other than…"],
        ),
        ("spec: {volumeClaimTemplates: null}", &["spec: Forbidden: updates to statefulset spec…"]),
    ]);
    set.shows("status: {readyReplicas: 1}", json!(["test", "1/1", "100s", "web", "web:1"]));
}

#[test]
fn daemon_sets() {
    let set = case("apps/v1 DaemonSet", TEMPLATE);
    set.defaults(
        "{}",
        "
metadata: {annotations: {deprecated.daemonset.template.generation: '1'}}
spec:
  revisionHistoryLimit: 10
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
",
    );
    set.refuses(&[
        (
            "spec: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}",
            &["spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"],
        ),
        (
            "spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 0}}}",
            &["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
        ),
        (
            "spec: {updateStrategy: {type: Now}}",
            &["spec.updateStrategy: Unsupported value: {\"type\":\"Now\"}: supported values: \"RollingUpdate\", \"OnDelete\""],
        ),
    ]);
    set.shows(
        "{spec: {template: {spec: {nodeSelector: {a: b}}}}, status: {numberReady: 2}}",
        json!(["test", 0, 0, 2, 0, 0, "a=b", "100s", "web", "web:1", "app=web"]),
    );
}

#[test]
fn the_template_of_a_daemon_set_counts_its_changes() {
    let set = case("apps/v1 DaemonSet", TEMPLATE);
    let old = set.made("{}");
    let generation = |change: &str| {
        let mut new = old.clone();
        dray_machinery::patch::merge(&mut new, &super::yaml(change));
        (set.kind.prepare_update)(&mut new, &old);
        new["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone()
    };
    assert_eq!(generation("spec: {minReadySeconds: 1}"), "1");
    assert_eq!(generation("spec: {template: {metadata: {labels: {tier: front}}}}"), "2");
}

#[test]
fn revisions_and_templates() {
    let revision = case("apps/v1 ControllerRevision", "{data: {a: 1}, revision: 1}");
    revision.refuses(&[
        ("data: null", &["data: Required value: data is mandatory"]),
        ("revision: -1", &[&format!("revision: Invalid value: -1: {NOT_NEGATIVE}")]),
    ]);
    revision.refuses_updates(&[("data: {a: 2}", &["data: Invalid value: {\"a\":2}: field is immutable"])]);
    let template = case("v1 PodTemplate", "template: {spec: {containers: [{name: a, image: b}]}}");
    template.defaults("{}", "template: {spec: {restartPolicy: Always}}");
    template
        .refuses(&[("template: {spec: {containers: null}}", &["template.spec.containers: Required value"])]);
    template.shows("{}", json!(["test", "a", "b", "<none>"]));
}
