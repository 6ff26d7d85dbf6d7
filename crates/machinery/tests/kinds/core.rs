use serde_json::json;

use super::case;

#[test]
fn namespaces() {
    let namespace = case("v1 Namespace", "{}");
    namespace.defaults(
        "{}",
        "{metadata: {labels: {kubernetes.io/metadata.name: test}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}",
    );
    namespace.refuses(&[(
        "metadata: {name: a.b}",
        &["metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label…"],
    )]);
    namespace.shows("{}", json!(["test", "Active", "100s"]));
}

#[test]
fn metadata_of_all_kinds() {
    let map = case("v1 ConfigMap", "{}");
    map.refuses(&[
        ("metadata: {name: '', generateName: 'a-'}", &[]),
        ("metadata: {name: ''}", &["metadata.name: Required value: name or generateName is required"]),
        ("metadata: {name: A}", &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain…"]),
        ("metadata: {labels: {a: b c}}", &["metadata.labels: Invalid value: \"b c\": a valid label must be…"]),
        ("metadata: {annotations: {'-': x}}", &["metadata.annotations: Invalid value: \"-\": name part must consist…"]),
        ("metadata: {finalizers: [mine]}", &["metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"]),
        (
            "metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: '', uid: u}]}",
            &["metadata.ownerReferences.name: Invalid value: \"\": must not be empty"],
        ),
    ]);
}

#[test]
fn maps_and_secrets() {
    let map = case("v1 ConfigMap", "data: {a: b}");
    map.refuses(&[
        ("data: {a/b: c}", &["data[a/b]: Invalid value: \"a/b\": a valid config key must consist of…"]),
        ("binaryData: {a: Yg==}", &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]),
    ]);
    let fixed = case("v1 ConfigMap", "{data: {a: b}, immutable: true}");
    fixed.refuses_updates(&[
        ("data: {a: c}", &["data: Forbidden: field is immutable when `immutable` is set"]),
        ("immutable: false", &["immutable: Forbidden: field is immutable when `immutable` is set"]),
    ]);
    let secret = case("v1 Secret", "stringData: {a: b}");
    secret.defaults("{}", "{type: Opaque, data: {a: Yg==}, stringData: null}");
    secret.refuses(&[
        ("type: kubernetes.io/tls", &["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
        ("type: kubernetes.io/ssh-auth", &["data[ssh-privatekey]: Required value"]),
        (
            "type: kubernetes.io/basic-auth",
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        ("{type: kubernetes.io/basic-auth, stringData: {username: u}}", &[]),
        ("type: kubernetes.io/dockerconfigjson", &["data[.dockerconfigjson]: Required value"]),
        (
            "{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: x}}",
            &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": expected value…"],
        ),
        (
            "type: kubernetes.io/service-account-token",
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
    ]);
    secret.refuses_updates(&[("type: other", &["type: Invalid value: \"other\": field is immutable"])]);
    secret.shows("{}", json!(["test", "Opaque", 1, "100s"]));
}

#[test]
fn services() {
    let service = case("v1 Service", "spec: {ports: [{port: 80}]}");
    service.defaults(
        "{}",
        "spec: {type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster, ports: [{port: 80, protocol: TCP, targetPort: 80}]}",
    );
    service.defaults(
        "spec: {type: LoadBalancer, sessionAffinity: ClientIP}",
        "spec: {externalTrafficPolicy: Cluster, allocateLoadBalancerNodePorts: true, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}}",
    );
    service.defaults(
        "spec: {sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}}",
        "spec: {sessionAffinity: None, sessionAffinityConfig: null}",
    );
    service.refuses(&[
        ("metadata: {name: 1a}", &["metadata.name: Invalid value: \"1a\": a DNS-1035 label…"]),
        ("spec: {ports: []}", &["spec.ports: Required value"]),
        ("spec: {ports: [], clusterIP: None}", &[]),
        ("spec: {ports: [{port: 0}]}", &["spec.ports[0].port: Invalid value: 0…", "spec.ports[0].targetPort: Invalid value: 0…"]),
        ("spec: {ports: [{port: 1, name: a}, {port: 2}]}", &["spec.ports[1].name: Required value"]),
        ("spec: {ports: [{port: 1, name: a}, {port: 1, name: b}]}", &["spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}"]),
        ("spec: {ports: [{port: 1, nodePort: 30000}]}", &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
        ("spec: {type: Some}", &["spec.type: Unsupported value: \"Some\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""]),
        ("spec: {type: ExternalName}", &["spec.externalName: Required value"]),
        ("spec: {type: NodePort, clusterIP: None}", &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"]),
        ("spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}", &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"]),
        ("spec: {externalIPs: [127.0.0.1, x]}", &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)", "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address…"]),
        ("spec: {externalTrafficPolicy: Local}", &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"]),
        ("spec: {loadBalancerClass: a}", &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"]),
        ("spec: {loadBalancerSourceRanges: [10.0.0.0/8]}", &["spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"]),
        ("spec: {type: LoadBalancer, loadBalancerSourceRanges: [x]}", &["spec.loadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value…"]),
        ("spec: {healthCheckNodePort: 30000}", &["spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"]),
        ("spec: {selector: {a: b c}}", &["spec.selector: Invalid value: \"b c\"…"]),
        ("spec: {trafficDistribution: Near}", &["spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\""]),
        ("spec: {ipFamilyPolicy: Some}", &["spec.ipFamilyPolicy: Unsupported value: \"Some\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\""]),
    ]);
    let class =
        case("v1 Service", "spec: {type: LoadBalancer, loadBalancerClass: a.example/b, ports: [{port: 80}]}");
    class.refuses_updates(&[(
        "spec: {loadBalancerClass: a.example/c}",
        &["spec.loadBalancerClass: Invalid value: \"a.example/c\": may not change once set"],
    )]);
    let fixed =
        case("v1 Service", "spec: {clusterIP: 10.0.0.9, clusterIPs: [10.0.0.9], ports: [{port: 80}]}");
    fixed.refuses_updates(&[(
        "spec: {clusterIP: 10.0.0.8, clusterIPs: [10.0.0.8]}",
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"],
    )]);
}

#[test]
fn events() {
    let event = case("v1 Event", "involvedObject: {namespace: default}");
    event.refuses(&[(
        "involvedObject: {namespace: other}",
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    )]);
    let event = case(
        "events.k8s.io/v1 Event",
        "{eventTime: '2026-01-01T00:00:00.000000Z', type: Normal, reportingController: c.example/x, reportingInstance: i, action: a, reason: r}",
    );
    event.refuses(&[
        (
            "{type: Odd, reason: ''}",
            &["type: Invalid value: \"\": has invalid value: Odd", "reason: Required value"],
        ),
        ("eventTime: null", &["eventTime: Required value"]),
    ]);
}
