//! Kinds of one's own as users of kubectl see them who have it read the document of version 2: those of versions before 1.24
//! read no other, and check by it what they send. The kinds are of the forms that the conformance suite tries.

use crate::support::{Cluster, cluster};

/// A kind, and what its schema says.
struct Tried {
    suffix: &'static str,
    kind: &'static str,
    schema: &'static str,
}

const FOO: Tried = Tried {
    suffix: "foo",
    kind: "Foo",
    schema: r#"{type: object, description: Foo for tests, properties: {
  spec: {type: object, description: What is wanted of Foo, properties: {
    bars: {type: array, description: All bars, items: {type: object, required: [name], properties: {
      name: {type: string, description: Name of a bar},
      age: {type: string, description: Age of a bar, nullable: true},
      port: {x-kubernetes-int-or-string: true, description: Where it listens},
      feeling: {type: string, enum: [Great, Down]},
      bazs: {type: array, description: All bazs, items: {type: string, pattern: "^[a-z]+$"}}}}}}},
  status: {type: object, description: What Foo is}}}"#,
};
const EMPTY: Tried = Tried {
    suffix: "empty",
    kind: "Empty",
    schema: "{type: object, x-kubernetes-preserve-unknown-fields: true}",
};
const ROOT: Tried = Tried {
    suffix: "root",
    kind: "Root",
    schema: r#"{type: object, description: any field, x-kubernetes-preserve-unknown-fields: true, properties: {
  spec: {type: object, properties: {dummy: {type: object}}}}}"#,
};
const NESTED: Tried = Tried {
    suffix: "nested",
    kind: "Nested",
    schema: r#"{type: object, description: any field in the spec, properties: {
  spec: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {dummy: {type: object}}},
  pod: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}"#,
};

impl Tried {
    fn plural(&self) -> String {
        format!("{}.{}.example.com", self.name(), self.suffix)
    }

    /// Its name without the group, which older commands do not explain.
    fn name(&self) -> String {
        format!("{}s", self.kind.to_lowercase())
    }

    fn define(&self, cluster: &Cluster) {
        let Tried { suffix, kind, schema } = self;
        let definition = format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}}}\nspec: {{group: \
             {suffix}.example.com, scope: Namespaced, names: {{plural: {names}, kind: {kind}}}, versions: [{{name: v1, \
             served: true, storage: true, schema: {{openAPIV3Schema: {schema}}}}}]}}",
            plural = self.plural(),
            names = self.name(),
        );
        cluster.ok(&["create", "-f", "-"], &definition);
        let name = format!("crd/{}", self.plural());
        cluster.ok(&["wait", "--for=condition=Established", "--timeout=30s", &name], "");
    }

    /// An object of it.
    fn object(&self, rest: &str) -> String {
        format!(
            r#"{{"kind":"{}","apiVersion":"{}.example.com/v1","metadata":{{"name":"one"}},{rest}}}"#,
            self.kind, self.suffix
        )
    }

    /// Makes an object in both ways and deletes it.
    #[track_caller]
    fn is_taken(&self, cluster: &Cluster, rest: &str) {
        for verb in ["create", "apply"] {
            cluster.ok(&[verb, "-f", "-"], &self.object(rest));
            cluster.ok(&["delete", &self.plural(), "one"], "");
        }
    }

    #[track_caller]
    fn is_refused(&self, cluster: &Cluster, rest: &str, why: [&str; 2]) {
        for verb in ["create", "apply"] {
            let refused = cluster.refused(&[verb, "-f", "-"], &self.object(rest));
            assert!(why.iter().any(|why| refused.contains(why)), "{refused}");
        }
    }
}

/// Explains by the document of version 2, which the newer command reads where it is told to.
fn explain<'a>(cluster: &Cluster, path: &'a str) -> Vec<&'a str> {
    let newer = cluster.ok(&["explain", "--help"], "").contains("plaintext-openapiv2");
    let mut arguments = vec!["explain", path];
    if newer {
        arguments.push("--output=plaintext-openapiv2");
    }
    arguments
}

#[track_caller]
fn tells(cluster: &Cluster, path: &str, expected: &[&str]) {
    let told = cluster.ok(&explain(cluster, path), "");
    let mut rest = told.as_str();
    for part in expected {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not in its place in {told}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn custom_kinds_are_explained_and_checked_by_the_document_of_version_2() {
    let cluster = cluster();
    for tried in [&FOO, &EMPTY, &ROOT, &NESTED] {
        tried.define(&cluster);
    }
    FOO.is_taken(
        &cluster,
        r#""spec":{"bars":[{"name":"x","port":80,"bazs":["y"]},{"name":"z","port":"http"}]}"#,
    );
    FOO.is_refused(
        &cluster,
        r#""spec":{"foo":true}"#,
        ["unknown field \"foo\"", "unknown field \"spec.foo\""],
    );
    let missing = ["missing required field \"name\"", "spec.bars[0].name: Required value"];
    FOO.is_refused(&cluster, r#""spec":{"bars":[{"age":"10"}]}"#, missing);
    for tried in [&EMPTY, &ROOT] {
        tried.is_taken(&cluster, r#""a":{"b":[{"c":"d"}]}"#);
    }
    NESTED.is_taken(&cluster, r#""spec":{"a":null,"b":[{"c":"d"}]}"#);
    NESTED.is_taken(&cluster, r#""pod":{"kind":"Pod","apiVersion":"v1","spec":{"any":1}}"#);

    let foos = FOO.name();
    let at = |path: &str| format!("{foos}{path}");
    tells(
        &cluster,
        &foos,
        &[
            "KIND:",
            "Foo",
            "DESCRIPTION:",
            "Foo for tests",
            "FIELDS:",
            "apiVersion",
            "<string>",
            "APIVersion defines",
            "metadata",
            "Standard object's metadata",
            "spec",
            "<Object>",
            "What is wanted of Foo",
        ],
    );
    tells(
        &cluster,
        &at(".metadata"),
        &[
            "DESCRIPTION:",
            "Standard object's metadata",
            "FIELDS:",
            "creationTimestamp",
            "<string>",
            "CreationTimestamp is a timestamp",
        ],
    );
    tells(
        &cluster,
        &at(".spec"),
        &["DESCRIPTION:", "What is wanted of Foo", "FIELDS:", "bars", "<[]Object>", "All bars"],
    );
    tells(
        &cluster,
        &at(".spec.bars"),
        &[
            "RESOURCE:",
            "bars",
            "<[]Object>",
            "DESCRIPTION:",
            "All bars",
            "FIELDS:",
            "age",
            "<>",
            "Age of a bar",
            "bazs",
            "<[]string>",
            "All bazs",
            "name",
            "<string> -required-",
            "Name of a bar",
        ],
    );
    let absent = cluster.refused(&explain(&cluster, &at(".spec.bars2")), "");
    assert!(absent.contains("field \"bars2\" does not exist"), "{absent}");
    tells(&cluster, &EMPTY.name(), &["KIND:", "Empty", "DESCRIPTION:", "<empty>"]);
    tells(&cluster, &ROOT.name(), &["KIND:", "Root"]);
    tells(&cluster, &NESTED.name(), &["DESCRIPTION:", "any field in the spec", "spec"]);
}
