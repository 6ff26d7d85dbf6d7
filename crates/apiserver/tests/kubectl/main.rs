//! The real kubectl over TLS. Its path comes from `KUBECTL`; without one it is looked for in `PATH`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod custom;
mod documents;
mod kinds;
#[path = "../support/mod.rs"]
mod support;

use support::cluster;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", ports: [{containerPort: 80}]}
"#;

#[test]
fn applies_changes_and_deletes() {
    let cluster = cluster();
    let apply = ["apply", "-f", "-"];
    assert_eq!(cluster.ok(&apply, WEB), "deployment.apps/web created\n");
    assert_eq!(cluster.ok(&apply, WEB), "deployment.apps/web unchanged\n");
    assert_eq!(cluster.ok(&["scale", "deploy/web", "--replicas=5"], ""), "deployment.apps/web scaled\n");
    cluster.ok(&["set", "image", "deploy/web", "web=web:2"], "");
    cluster.ok(&["label", "deploy/web", "tier=front"], "");
    cluster.ok(&["annotate", "deploy/web", "a=b"], "");
    let paths = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image} {.metadata.labels.tier}";
    assert_eq!(cluster.ok(&["get", "deploy/web", "-o", paths], ""), "5 web:2 front");
    let wide = cluster.ok(&["get", "deploy", "-o", "wide"], "");
    assert!(wide.contains("CONTAINERS") && wide.contains("0/5"), "{wide}");
    assert!(cluster.ok(&["describe", "deploy", "web"], "").contains("5 desired"));
    assert!(!cluster.run(&["diff", "-f", "-"], WEB).stdout.is_empty());
    let dry = cluster.ok(&["create", "deployment", "dry", "--image=a", "--dry-run=server", "-o", "name"], "");
    assert_eq!(dry, "deployment.apps/dry\n");
    assert!(cluster.refused(&["get", "deploy", "dry"], "").contains("deployments.apps \"dry\" not found"));
    assert!(cluster.ok(&["delete", "-f", "-"], WEB).starts_with("deployment.apps \"web\" deleted"));
    assert!(cluster.refused(&["get", "deploy", "web"], "").contains("(NotFound)"));
}

#[test]
fn server_side_apply_knows_conflicts() {
    let cluster = cluster();
    let apply = ["apply", "--server-side", "-f", "-"];
    assert_eq!(cluster.ok(&apply, WEB), "deployment.apps/web serverside-applied\n");
    cluster.ok(&["scale", "deploy/web", "--replicas=5"], "");
    let refused = cluster.refused(&apply, WEB);
    assert!(
        refused
            .contains("conflict with \"kubectl\" using apps/v1 with subresource \"scale\": .spec.replicas"),
        "{refused}"
    );
    cluster.ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], WEB);
    assert_eq!(cluster.ok(&["get", "deploy/web", "-o", "jsonpath={.spec.replicas}"], ""), "3");
}

#[test]
fn typed_creates_are_read() {
    let cluster = cluster();
    cluster.ok(&["create", "configmap", "c", "--from-literal=a=b"], "");
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=a=b"], "");
    cluster.ok(&["create", "namespace", "n"], "");
    cluster.ok(&["create", "serviceaccount", "-n", "n", "x"], "");
    cluster.ok(&["create", "service", "nodeport", "np", "--tcp=80:8080"], "");
    assert_eq!(cluster.ok(&["get", "cm/c", "-o", "jsonpath={.data.a}"], ""), "b");
    assert_eq!(cluster.ok(&["get", "secret/s", "-o", "jsonpath={.data.a}"], ""), "Yg==");
    assert_eq!(cluster.ok(&["get", "svc/np", "-o", "jsonpath={.spec.ports[0].targetPort}"], ""), "8080");
}

#[test]
fn bad_input_is_refused_in_the_words_of_the_reference() {
    let cluster = cluster();
    let apply = ["apply", "-f", "-"];
    let unknown = WEB.replace("replicas: 3", "foo: 1");
    assert!(cluster.refused(&apply, &unknown).contains("strict decoding error: unknown field \"spec.foo\""));
    let wrong = WEB.replace("replicas: 3", "replicas: three");
    assert!(
        cluster.refused(&apply, &wrong).contains(
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        )
    );
    let selector = WEB.replace("matchLabels: {app: web}", "matchLabels: {app: other}");
    let refused = cluster.refused(&apply, &selector);
    assert!(refused.contains("`selector` does not match template `labels`"), "{refused}");
    assert!(
        cluster
            .refused(&["get", "nothing"], "")
            .contains("the server doesn't have a resource type \"nothing\"")
    );
    cluster.ok(&apply, WEB);
    let stale = WEB.replace("{name: web}", "{name: web, resourceVersion: \"1\"}");
    let refused = cluster.refused(&["replace", "-f", "-"], &stale);
    assert!(
        refused.contains("the object has been modified; please apply your changes to the latest version"),
        "{refused}"
    );
    let field = cluster.refused(&["get", "pods", "--field-selector", "foo=bar"], "");
    assert!(field.contains("field label not supported: foo"), "{field}");
}

#[test]
fn discovery_and_explanations() {
    let cluster = cluster();
    let resources = cluster.ok(&["api-resources", "-o", "name"], "");
    assert!(resources.lines().any(|line| line == "deployments.apps"), "{resources}");
    let text = cluster.ok(&["explain", "pod.spec.containers.image"], "");
    assert!(text.contains("FIELD: image <string>") && text.contains("Container image name"), "{text}");
    assert!(cluster.ok(&["version"], "").contains("Server Version: v1.36"));
    assert!(cluster.ok(&["get", "namespaces"], "").contains("kube-system"));
}

#[test]
fn strangers_are_turned_away() {
    let cluster = cluster();
    let text = std::fs::read_to_string(cluster.directory.path().join("kubeconfig")).unwrap();
    let stranger: Vec<&str> = text.lines().filter(|line| !line.contains("client-")).collect();
    std::fs::write(
        cluster.directory.path().join("kubeconfig"),
        stranger.join("\n").replace("\n  user:\n", "\n  user: {token: x}\n"),
    )
    .unwrap();
    // Who says that he is somebody has to prove it, even for what everybody may see.
    for path in ["/readyz", "/api/v1/pods"] {
        let refused = cluster.refused(&["get", "--raw", path], "");
        assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    }
}
