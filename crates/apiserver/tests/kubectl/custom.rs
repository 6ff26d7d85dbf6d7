//! A kind of one's own, from its definition to its end, as users of kubectl have it.

use crate::support::cluster;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    additionalPrinterColumns:
    - {name: Spec, type: string, description: The cron spec, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.image}]
    schema:
      openAPIV3Schema:
        type: object
        description: What is done again and again.
        required: [spec]
        properties:
          spec:
            type: object
            required: [cronSpec]
            properties:
              cronSpec: {type: string, pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$', description: When it is done.}
              image: {type: string}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
            x-kubernetes-validations:
            - {rule: "!has(self.image) || self.image != 'bad' || self.replicas < 2", message: a bad image runs once at most}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
"#;

const OBJECT: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine, labels: {app: cron}}
spec: {cronSpec: "* * * * */5", image: my-image}
"#;

#[test]
fn a_kind_of_ones_own() {
    let cluster = cluster();
    let apply = ["apply", "-f", "-"];
    let name = "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com";
    assert_eq!(cluster.ok(&apply, DEFINITION), format!("{name} created\n"));
    let waited = cluster
        .ok(&["wait", "--for=condition=Established", "--timeout=30s", "crd/crontabs.stable.example.com"], "");
    assert_eq!(waited, format!("{name} condition met\n"));
    assert_eq!(cluster.ok(&apply, DEFINITION), format!("{name} unchanged\n"));
    let resources = cluster.ok(&["api-resources", "--api-group=stable.example.com"], "");
    assert!(resources.contains("crontabs") && resources.contains("ct"), "{resources}");

    assert_eq!(cluster.ok(&apply, OBJECT), "crontab.stable.example.com/mine created\n");
    assert_eq!(cluster.ok(&apply, OBJECT), "crontab.stable.example.com/mine unchanged\n");
    let told = cluster.ok(&["explain", "crontab.spec"], "");
    assert!(
        told.contains("GROUP:      stable.example.com") && told.contains("cronSpec\t<string> -required-"),
        "{told}"
    );
    assert!(told.contains("When it is done."), "{told}");
    let told = cluster.ok(&["explain", "crontab.metadata.labels"], "");
    assert!(told.contains("FIELD: labels <map[string]string>"), "{told}");

    let table = cluster.ok(&["get", "ct"], "");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "SPEC", "REPLICAS", "AGE"]);
    assert_eq!(lines[1][..7], ["mine", "*", "*", "*", "*", "*/5", "1"]);
    let wide = cluster.ok(&["get", "crontabs", "-o", "wide"], "");
    assert!(wide.contains("IMAGE") && wide.contains("my-image"), "{wide}");
    assert!(cluster.ok(&["get", "all"], "").contains("crontab.stable.example.com/mine"));
    let selected =
        |selector: &str| cluster.ok(&["get", "ct", "--field-selector", selector, "-o", "name"], "");
    assert_eq!(selected("spec.image=my-image"), "crontab.stable.example.com/mine\n");
    assert_eq!(selected("spec.image=other"), "");

    assert_eq!(
        cluster.ok(&["scale", "ct/mine", "--replicas=3"], ""),
        "crontab.stable.example.com/mine scaled\n"
    );
    assert_eq!(
        cluster.ok(&["get", "ct/mine", "-o", "jsonpath={.spec.replicas} {.metadata.generation}"], ""),
        "3 2"
    );
    cluster.ok(&["patch", "ct/mine", "--type=merge", "-p", r#"{"spec":{"image":"two"}}"#], "");
    cluster.ok(
        &["patch", "ct/mine", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/replicas","value":2}]"#],
        "",
    );
    cluster.ok(
        &["patch", "ct/mine", "--subresource=status", "--type=merge", "-p", r#"{"status":{"replicas":2}}"#],
        "",
    );
    let paths = "jsonpath={.spec.image} {.spec.replicas} {.status.replicas} {.metadata.generation}";
    assert_eq!(cluster.ok(&["get", "ct/mine", "-o", paths], ""), "two 2 2 4");
    cluster.ok(&["label", "ct/mine", "tier=x"], "");
    cluster.ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], OBJECT);
    assert!(cluster.ok(&["describe", "ct", "mine"], "").contains("Cron Spec:"));

    let wrong = OBJECT.replace("* * * * */5", "often").replace("name: mine", "name: other");
    let refused = cluster.refused(&apply, &wrong);
    assert!(
        refused.contains("The CronTab \"other\" is invalid: spec.cronSpec: Invalid value: \"often\": spec.cronSpec in body should match"),
        "{refused}"
    );
    let refused = cluster
        .refused(&["patch", "ct/mine", "--type=merge", "-p", r#"{"spec":{"image":"bad","replicas":2}}"#], "");
    assert!(refused.contains("a bad image runs once at most"), "{refused}");
    let unknown = OBJECT.replace("image: my-image", "imag: x");
    let refused = cluster.refused(&apply, &unknown);
    assert!(refused.contains("unknown field \"spec.imag\""), "{refused}");
    let broken = DEFINITION.replace("type: object\n        description", "description");
    let refused = cluster.refused(&apply, &broken);
    assert!(
        refused
            .contains("spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root"),
        "{refused}"
    );

    assert!(
        cluster.ok(&["delete", "ct", "mine"], "").starts_with("crontab.stable.example.com \"mine\" deleted")
    );
    cluster.ok(&apply, OBJECT);
    let gone = cluster.ok(&["delete", "crd", "crontabs.stable.example.com"], "");
    assert!(
        gone.starts_with(
            "customresourcedefinition.apiextensions.k8s.io \"crontabs.stable.example.com\" deleted"
        ),
        "{gone}"
    );
    // What kubectl remembers of the kind is of no use any more.
    let none = cluster.refused(&["get", "crontabs"], "");
    assert!(none.contains("the server could not find the requested resource"), "{none}");
}
