//! Quotas over HTTP, without the controller that counts: what the API server adds by itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::{Cluster, cluster};

const CREATE: &[&str] = &["create", "-f", "-"];

/// Makes a quota of which nothing is used.
fn quota(cluster: &Cluster, name: &str, spec: &str, hard: &[(&str, &str)]) {
    let list = |amount: fn(&str) -> &str| {
        let all: Vec<String> =
            hard.iter().map(|(name, most)| format!("{name:?}:{:?}", amount(most))).collect();
        all.join(",")
    };
    let (most, none) = (list(|most| most), list(|_| "0"));
    let text = format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: {name}}}, spec: {{hard: {{{most}}}{spec}}}}}"
    );
    cluster.ok(CREATE, &text);
    let status = format!(r#"{{"status":{{"hard":{{{most}}},"used":{{{none}}}}}}}"#);
    cluster.ok(&["patch", "quota", name, "--subresource=status", "--type=merge", "-p", &status], "");
}

fn used(cluster: &Cluster, name: &str) -> String {
    cluster.ok(&["get", "quota", name, "-o", "jsonpath={.status.used}"], "")
}

fn pod(name: &str, resources: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: c, resources: {{{resources}}}}}]}}}}"
    )
}

#[test]
fn pods_are_made_up_to_a_quota() {
    let cluster = cluster();
    quota(&cluster, "q", "", &[("pods", "2"), ("requests.cpu", "1")]);
    let refused = cluster.refused(CREATE, &pod("p", ""));
    assert!(
        refused.contains("pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"),
        "{refused}"
    );
    cluster.ok(CREATE, &pod("p", "requests: {cpu: 600m}"));
    assert_eq!(used(&cluster, "q"), r#"{"pods":"1","requests.cpu":"600m"}"#);
    let words =
        "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1";
    let refused = cluster.refused(CREATE, &pod("q", "requests: {cpu: 500m}"));
    assert!(refused.contains(words), "{refused}");
    // What is only tried uses nothing, but is judged.
    let dry = ["create", "--dry-run=server", "-f", "-"];
    cluster.ok(&dry, &pod("q", "requests: {cpu: 400m}"));
    assert!(cluster.refused(&dry, &pod("q", "requests: {cpu: 500m}")).contains(words));
    assert_eq!(used(&cluster, "q"), r#"{"pods":"1","requests.cpu":"600m"}"#);
    cluster.ok(CREATE, &pod("q", "requests: {cpu: 400m}"));
    assert!(
        cluster
            .refused(CREATE, &pod("r", "requests: {cpu: 1m}"))
            .contains("exceeded quota: q, requested: pods=1,requests.cpu=1m")
    );
}

#[test]
fn scopes_narrow_quotas() {
    let cluster = cluster();
    let class =
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 1000}";
    cluster.ok(CREATE, class);
    let spec =
        ", scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}";
    quota(&cluster, "q", spec, &[("pods", "0")]);
    cluster.ok(CREATE, &pod("p", ""));
    let high = pod("q", "").replace("containers", "priorityClassName: high, containers");
    let refused = cluster.refused(CREATE, &high);
    assert!(
        refused.contains("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
        "{refused}"
    );
}

#[test]
fn everything_is_counted() {
    let cluster = cluster();
    let gold = "gold.storageclass.storage.k8s.io/requests.storage";
    let hard = [
        ("count/deployments.apps", "1"),
        ("secrets", "1"),
        ("services.nodeports", "2"),
        (gold, "2Gi"),
        ("persistentvolumeclaims", "5"),
    ];
    quota(&cluster, "q", "", &hard);
    cluster.ok(&["create", "deployment", "a", "--image=a"], "");
    let refused = cluster.refused(&["create", "deployment", "b", "--image=b"], "");
    assert!(
        refused.contains("requested: count/deployments.apps=1, used: count/deployments.apps=1"),
        "{refused}"
    );
    cluster.ok(&["create", "secret", "generic", "a"], "");
    assert!(cluster.refused(&["create", "secret", "generic", "b"], "").contains("secrets=1"));
    cluster.ok(&["create", "service", "clusterip", "s", "--tcp=80", "--tcp=81", "--tcp=82"], "");
    // A Service that becomes another uses what it uses then.
    let refused = cluster.refused(&["patch", "service", "s", "-p", r#"{"spec":{"type":"NodePort"}}"#], "");
    assert!(refused.contains("requested: services.nodeports=3, used: services.nodeports=0"), "{refused}");
    let claim = |name: &str, storage: &str| {
        format!(
            "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{storageClassName: gold, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {storage}}}}}}}}}"
        )
    };
    cluster.ok(CREATE, &claim("a", "1500Mi"));
    let refused = cluster.refused(CREATE, &claim("b", "1Gi"));
    assert!(
        refused.contains(&format!("requested: {gold}=1Gi, used: {gold}=1500Mi, limited: {gold}=2Gi")),
        "{refused}"
    );
}
