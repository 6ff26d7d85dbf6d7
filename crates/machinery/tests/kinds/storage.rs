use dray_machinery::Subresource::Status;
use serde_json::json;

use super::case;

#[test]
fn classes() {
    let class = case("storage.k8s.io/v1 StorageClass", "provisioner: example.com/disk");
    class.defaults("{}", "{reclaimPolicy: Delete, volumeBindingMode: Immediate}");
    class.refuses(&[
        ("provisioner: ''", &["provisioner: Required value"]),
        ("provisioner: a b", &["provisioner: Invalid value: \"a b\": name part must consist of…"]),
        ("reclaimPolicy: Recycle", &["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""]),
        ("volumeBindingMode: Later", &["volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\""]),
        ("allowedTopologies: [{matchLabelExpressions: [{key: a, values: []}]}]", &["allowedTopologies[0].matchLabelExpressions[0].values: Required value"]),
    ]);
    class.refuses_updates(&[
        ("allowVolumeExpansion: true", &[]),
        ("parameters: {a: b}", &["parameters: Forbidden: updates to parameters are forbidden."]),
        ("provisioner: other", &["provisioner: Forbidden: updates to provisioner are forbidden."]),
        (
            "volumeBindingMode: WaitForFirstConsumer",
            &["volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"],
        ),
    ]);
    class.shows(
        "metadata: {annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}",
        json!(["test (default)", "example.com/disk", "Delete", "Immediate", false, "100s"]),
    );
    let class =
        case("storage.k8s.io/v1 VolumeAttributesClass", "{driverName: example.com, parameters: {a: b}}");
    class.refuses(&[(
        "parameters: null",
        &["parameters: Required value: must contain at least one key/value pair"],
    )]);
    class.refuses_updates(&[(
        "driverName: other",
        &["driverName: Forbidden: updates to driverName are forbidden."],
    )]);
    class.shows("{}", json!(["test", "example.com", "100s"]));
}

#[test]
fn drivers_and_nodes() {
    let driver = case("storage.k8s.io/v1 CSIDriver", "spec: {}");
    driver.defaults(
        "{}",
        "spec: {attachRequired: true, podInfoOnMount: false, storageCapacity: false, requiresRepublish: false,
          seLinuxMount: false, fsGroupPolicy: ReadWriteOnceWithFSType, volumeLifecycleModes: [Persistent]}",
    );
    driver.refuses(&[
        ("spec: {fsGroupPolicy: Some}", &["spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\""]),
        ("spec: {volumeLifecycleModes: [Short]}", &["spec.volumeLifecycleModes: Unsupported value: \"Short\": supported values: \"Persistent\", \"Ephemeral\""]),
        (
            "spec: {tokenRequests: [{audience: a, expirationSeconds: 1}, {audience: a}]}",
            &[
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ],
        ),
    ]);
    driver.refuses_updates(&[(
        "spec: {attachRequired: false}",
        &["spec.attachedRequired: Invalid value: false: field is immutable"],
    )]);
    driver.shows("{}", json!(["test", true, false, false, "<unset>", false, "Persistent", "100s"]));
    let node = case(
        "storage.k8s.io/v1 CSINode",
        "spec: {drivers: [{name: example.com, nodeID: n, topologyKeys: [a/b]}]}",
    );
    node.refuses(&[(
        "spec: {drivers: [{name: d, nodeID: ''}, {name: d, nodeID: n, allocatable: {count: -1}}]}",
        &[
            "spec.drivers[0].nodeID: Required value",
            "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
            "spec.drivers[1].name: Duplicate value: \"d\"",
        ],
    )]);
    node.refuses_updates(&[
        ("spec: {drivers: []}", &[]),
        ("spec: {drivers: [{name: example.com, nodeID: m}]}", &["spec.drivers: Invalid value…"]),
    ]);
    node.shows("{}", json!(["test", 1, "100s"]));
    let capacity = case("storage.k8s.io/v1 CSIStorageCapacity", "{storageClassName: fast, capacity: 1Gi}");
    capacity.refuses(&[
        ("storageClassName: A", &["storageClassName: Invalid value: \"A\"…"]),
        ("capacity: -1", &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"]),
    ]);
    capacity.refuses_updates(&[(
        "storageClassName: slow",
        &["storageClassName: Invalid value: \"slow\": field is immutable"],
    )]);
    capacity.shows("{}", json!(["test", "fast", "1Gi"]));
}

#[test]
fn attachments() {
    let attachment = case(
        "storage.k8s.io/v1 VolumeAttachment",
        "spec: {attacher: example.com, nodeName: n, source: {persistentVolumeName: pv}}",
    );
    attachment.refuses(&[
        ("spec: {source: {persistentVolumeName: null}}", &["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]),
        ("spec: {attacher: '', nodeName: ''}", &["spec.attacher: Required value", "spec.nodeName: Invalid value: \"\"…"]),
        (
            "spec: {source: {persistentVolumeName: null, inlineVolumeSpec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, csi: {driver: d, volumeHandle: h}}}}",
            &["spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes"],
        ),
    ]);
    attachment.refuses_updates(&[("spec: {nodeName: m}", &["spec: Invalid value…"])]);
    attachment.refuses_parts(
        Status,
        "{}",
        &[(
            "status: {attached: false, attachError: {errorCode: -1}}",
            &["status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        )],
    );
    attachment.shows("status: {attached: true}", json!(["test", "example.com", "pv", "n", true, "100s"]));
}

#[test]
fn persistent_volumes() {
    let volume = case(
        "v1 PersistentVolume",
        "spec: {capacity: {storage: 5Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /data}}",
    );
    volume.defaults(
        "{}",
        "{spec: {persistentVolumeReclaimPolicy: Retain, volumeMode: Filesystem, hostPath: {type: ''}}, status: {phase: Pending}}",
    );
    volume.refuses(&[
        ("spec: {accessModes: []}", &["spec.accessModes: Required value"]),
        (
            "spec: {accessModes: [ReadWriteOncePod, ReadOnlyMany, Any]}",
            &[
                "spec.accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ],
        ),
        ("spec: {capacity: null}", &["spec.capacity: Required value", "spec.capacity: Unsupported value: {}: supported values: \"storage\""]),
        ("spec: {capacity: {storage: 0}}", &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"]),
        ("spec: {hostPath: null}", &["spec: Required value: must specify a volume type"]),
        ("spec: {nfs: {server: s, path: /p}}", &["spec.nfs: Forbidden: may not specify more than 1 volume type"]),
        ("spec: {hostPath: {path: /a/../b}}", &["spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"]),
        ("spec: {hostPath: null, local: {path: /x}}", &["spec.nodeAffinity: Required value: Local volume requires node affinity"]),
        ("spec: {nodeAffinity: {}}", &["spec.nodeAffinity.required: Required value: must specify required node constraints"]),
        ("spec: {persistentVolumeReclaimPolicy: Recycle, hostPath: {path: /}}", &["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"]),
        ("spec: {hostPath: null, csi: {driver: d}}", &["spec.csi.volumeHandle: Required value"]),
    ]);
    volume.refuses_updates(&[
        ("spec: {persistentVolumeReclaimPolicy: Delete}", &[]),
        ("spec: {hostPath: {path: /other}}", &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]),
        ("spec: {volumeMode: Block}", &["volumeMode: Invalid value: \"Block\": field is immutable"]),
    ]);
    volume.shows(
        "{spec: {claimRef: {namespace: a, name: b}, storageClassName: fast}, status: {phase: Bound}}",
        json!(["test", "5Gi", "RWO", "Retain", "Bound", "a/b", "fast", "<unset>", "", "100s", "Filesystem"]),
    );
}

#[test]
fn persistent_volume_claims() {
    let claim = case(
        "v1 PersistentVolumeClaim",
        "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}",
    );
    claim.defaults(
        "spec: {dataSource: {kind: PersistentVolumeClaim, name: other}}",
        "{spec: {volumeMode: Filesystem, resources: {requests: {storage: 1Gi}}, dataSourceRef: {kind: PersistentVolumeClaim, name: other}}, status: {phase: Pending}}",
    );
    claim.refuses(&[
        ("spec: {accessModes: null}", &["spec.accessModes: Required value: at least 1 access mode is required"]),
        ("spec: {resources: null}", &["spec.resources[storage]: Required value"]),
        ("spec: {resources: {requests: {storage: 0}}}", &["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"]),
        ("spec: {storageClassName: A}", &["spec.storageClassName: Invalid value: \"A\"…"]),
        (
            "spec: {dataSource: {kind: VolumeSnapshot, name: ''}}",
            &[
                "spec.dataSource.name: Required value",
                "spec.dataSource: Invalid value: \"VolumeSnapshot\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                "spec.dataSourceRef.name: Required value",
                "spec.dataSourceRef: Invalid value: \"VolumeSnapshot\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ],
        ),
        ("spec: {volumeMode: Tape}", &["spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\""]),
    ]);
    claim.refuses_updates(&[
        ("spec: {volumeName: pv}", &[]),
        ("spec: {storageClassName: fast}", &[]),
        ("spec: {accessModes: [ReadOnlyMany]}", &["spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"]),
        ("spec: {resources: {requests: {storage: 2Gi}}}", &["spec: Forbidden: spec is immutable…"]),
    ]);
    claim.shows(
        "{spec: {volumeName: pv}, status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}}",
        json!(["test", "Bound", "pv", "1Gi", "RWO", "", "<unset>", "100s", "Filesystem"]),
    );
}
