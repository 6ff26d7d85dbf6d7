use dray_machinery::Subresource::{Approval, Status};
use serde_json::json;

use super::case;

#[test]
fn nodes_and_runtimes() {
    let node = case("v1 Node", "spec: {taints: [{key: a, effect: NoSchedule}]}");
    node.refuses(&[
        ("spec: {taints: [{key: '', effect: ''}]}", &["spec.taints[0].key: Invalid value: \"\": name part must be non-empty", "spec.taints[0].key: Invalid value: \"\": name part must consist…", "spec.taints[0].effect: Required value"]),
        ("spec: {taints: [{key: a, effect: Some}]}", &["spec.taints[0].effect: Unsupported value: \"Some\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""]),
        ("spec: {taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute, value: b}]}", &["spec.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\",\"value\":\"b\"}"]),
        ("spec: {podCIDRs: [10.0.0.0/8, 10.1.0.0/16]}", &["spec.podCIDRs: Invalid value…"]),
    ]);
    let placed = case("v1 Node", "spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24], providerID: a}");
    placed.refuses_updates(&[
        ("spec: {unschedulable: true}", &[]),
        (
            "spec: {podCIDRs: [10.0.1.0/24]}",
            &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
        ),
        (
            "spec: {providerID: b}",
            &["spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"],
        ),
    ]);
    node.refuses_parts(
        Status,
        "{}",
        &[(
            "status: {capacity: {cpu: -1}}",
            &["status.capacity[cpu]: Invalid value: -1: must be greater than or equal to 0"],
        )],
    );
    let class = case("node.k8s.io/v1 RuntimeClass", "handler: runc");
    class.refuses(&[
        ("handler: Run", &["handler: Invalid value: \"Run\": a lowercase RFC 1123 label…"]),
        ("overhead: {podFixed: {cpu: -1}}", &["overhead.podFixed[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]),
        ("scheduling: {tolerations: [{key: a, operator: Exists, value: b}]}", &["scheduling.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"]),
    ]);
    class.refuses_updates(&[("handler: other", &["handler: Invalid value: \"other\": field is immutable"])]);
    class.shows("{}", json!(["test", "runc", "100s"]));
}

/// A request for a certificate, of a key that nobody has.
fn request() -> String {
    use base64::Engine as _;
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let text = parameters.serialize_request(&key).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn certificate_requests() {
    let base =
        format!("spec: {{request: {}, signerName: example.com/mine, usages: [client auth]}}", request());
    let csr = case("certificates.k8s.io/v1 CertificateSigningRequest", &base);
    csr.refuses(&[
        ("metadata: {name: 'Any:name'}", &[]),
        ("spec: {request: eA==}", &["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"]),
        ("spec: {usages: []}", &["spec.usages: Required value"]),
        ("spec: {usages: [sing, any, any]}", &["spec.usages[0]: Unsupported value: \"sing\": supported values: \"any\", \"cert sign\"…", "spec.usages[2]: Duplicate value: \"any\""]),
        ("spec: {signerName: kubernetes.io/legacy-unknown}", &["spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version"]),
        ("spec: {signerName: mine}", &["spec.signerName: Invalid value: \"mine\": must be a fully qualified domain and path of the form 'example.com/signer-name'"]),
        ("spec: {expirationSeconds: 1}", &["spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)"]),
    ]);
    let approved = "status: {conditions: [{type: Approved, status: 'True'}]}";
    csr.refuses_parts(
        Approval,
        "{}",
        &[
            (approved, &[]),
            ("status: {conditions: [{type: Approved, status: 'False'}]}", &["status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""]),
            ("status: {conditions: [{type: Approved, status: 'True'}, {type: Denied, status: 'True'}]}", &["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]),
            ("status: {certificate: eA==}", &["status.certificate: Forbidden: updates may not set certificate content", "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"]),
        ],
    );
    csr.refuses_parts(
        Status,
        approved,
        &[
            (
                "status: {conditions: []}",
                &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
            ),
            (
                "status: {conditions: [{type: Approved, status: 'True', reason: x}]}",
                &["status.conditions: Forbidden: updates may not modify a condition of type \"Approved\""],
            ),
        ],
    );
    csr.shows("{spec: {username: me, expirationSeconds: 3600}, status: {conditions: [{type: Approved, status: 'True'}]}}", json!(["test", "100s", "example.com/mine", "me", "60m", "Approved"]));
}

#[test]
fn flows() {
    let schema = case(
        "flowcontrol.apiserver.k8s.io/v1 FlowSchema",
        "spec: {priorityLevelConfiguration: {name: global}, rules: [{subjects: [{kind: User, user: {name: me}}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: [/healthz]}]}]}",
    );
    schema.defaults("{}", "spec: {matchingPrecedence: 1000}");
    schema.refuses(&[
        ("spec: {matchingPrecedence: 1}", &["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"]),
        ("spec: {matchingPrecedence: 10001}", &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"]),
        ("spec: {priorityLevelConfiguration: {name: null}}", &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"]),
        ("spec: {rules: [{}]}", &["spec.rules[0].subjects: Required value: subjects must contain at least one value", "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"]),
        (
            "spec: {rules: [{subjects: [{kind: Group, user: {name: a}}], resourceRules: [{verbs: [fly], apiGroups: ['*', a], resources: [], namespaces: []}]}]}",
            &[
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"fly\"]: supported values: \"create\"…",
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ],
        ),
    ]);
    schema.shows("{}", json!(["test", "global", 1000, "<none>", "100s", "?"]));
    let level = case(
        "flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration",
        "spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}",
    );
    level.defaults("{}", "spec: {limited: {nominalConcurrencyShares: 30, lendablePercent: 0, limitResponse: {queuing: {handSize: 8, queues: 64, queueLengthLimit: 50}}}}");
    level.refuses(&[
        ("spec: {type: Exempt, limited: null}", &["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]),
        ("spec: {limited: null}", &["spec.limited: Required value: must not be empty when type is Limited"]),
        ("spec: {limited: {limitResponse: {queuing: {handSize: 65}}}}", &["spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)"]),
        ("spec: {limited: {limitResponse: {type: Reject}}}", &["spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited"]),
        ("spec: {limited: {lendablePercent: 101}}", &["spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"]),
    ]);
    level.shows("{}", json!(["test", "Limited", 30, 64, 8, 50, "100s"]));
}

#[test]
fn claims_for_devices() {
    let claim = case(
        "resource.k8s.io/v1 ResourceClaim",
        "spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpus}}]}}",
    );
    claim.defaults("{}", "spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpus, allocationMode: ExactCount, count: 1}}]}}");
    claim.refuses(&[
        ("spec: {devices: {requests: [{name: A}]}}", &["spec.devices.requests[0].name: Invalid value: \"A\"…", "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"]),
        ("spec: {devices: {requests: [{name: a, exactly: {deviceClassName: '', allocationMode: All, count: 2}}]}}", &["spec.devices.requests[0].exactly.deviceClassName: Required value", "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"]),
        ("spec: {devices: {constraints: [{requests: [other], matchAttribute: a}]}}", &["spec.devices.constraints[0].requests[0]: Invalid value: \"other\": must be the name of a request in the claim…", "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": must include a domain"]),
        ("spec: {devices: {config: [{}]}}", &["spec.devices.config[0].opaque: Required value"]),
    ]);
    claim.refuses_updates(&[("spec: {devices: {requests: []}}", &["spec: Invalid value…"])]);
    claim.refuses_parts(
        Status,
        "{}",
        &[
            ("status: {reservedFor: [{resource: pods, name: a, uid: u}]}", &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]),
            ("status: {allocation: {devices: {results: [{request: gpu, driver: d, pool: p, device: x}]}}}", &[]),
            ("status: {allocation: {devices: {results: [{request: cpu, driver: d, pool: p, device: x}]}}}", &["status.allocation.devices.results[0].request: Invalid value: \"cpu\": must be the name of a request…"]),
        ],
    );
    claim.shows("{}", json!(["test", "pending", "100s"]));
    claim.shows("status: {allocation: {}, reservedFor: [{}]}", json!(["test", "allocated,reserved", "100s"]));
    let template = case(
        "resource.k8s.io/v1 ResourceClaimTemplate",
        "spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpus}}]}}}",
    );
    template.refuses(&[("spec: {metadata: {name: x}}", &["spec.metadata.name: Forbidden: cannot be set"])]);
    template.refuses_updates(&[("spec: {spec: null}", &["spec: Invalid value…"])]);
}

#[test]
fn devices() {
    let class = case("resource.k8s.io/v1 DeviceClass", "spec: {selectors: [{cel: {expression: 'true'}}]}");
    class.refuses(&[
        ("spec: {selectors: [{}]}", &["spec.selectors[0].cel: Required value"]),
        (
            "spec: {extendedResourceName: cpu}",
            &["spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name"],
        ),
    ]);
    class.shows("{}", json!(["test", "100s"]));
    let slice = case(
        "resource.k8s.io/v1 ResourceSlice",
        "spec: {driver: d.example, nodeName: n, pool: {name: p, generation: 1, resourceSliceCount: 1}, devices: [{name: a, attributes: {size: {int: 1}}}]}",
    );
    slice.refuses(&[
        ("spec: {nodeName: null}", &["spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"]),
        ("spec: {allNodes: true}", &["spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of…"]),
        ("spec: {pool: {resourceSliceCount: 0}}", &["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"]),
        ("spec: {devices: [{name: a}, {name: a}]}", &["spec.devices[1].name: Duplicate value: \"a\""]),
        ("spec: {devices: [{name: a, attributes: {1x: {}}}]}", &["spec.devices[0].attributes[1x]: Invalid value: \"1x\": a valid C identifier…", "spec.devices[0].attributes[1x]: Required value: exactly one value must be specified"]),
    ]);
    slice.refuses_updates(&[(
        "spec: {driver: other}",
        &["spec.driver: Invalid value: \"other\": field is immutable"],
    )]);
    slice.shows("{}", json!(["test", "n", "d.example", "p", "100s"]));
}
