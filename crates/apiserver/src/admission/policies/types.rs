//! What is wrong with a policy's expressions when the objects are of the types that it names, which are not known when it is
//! put to use: warnings, in the reference's words, that change nothing of what it does. It must not know where policies are
//! stored or who reads the warnings.

use std::collections::BTreeSet;

use dray_cel::{Declared, Environment, Error, Program, Type, admission::Admission as Features};
use dray_machinery::{kinds, object, schema};
use dray_store::Snapshot;
use serde_json::{Map, Value, json};

use crate::{
    admission::expressions::MINOR,
    custom::{self, Table},
};

/// The most types of one rule that are looked at.
const MOST_TYPES: usize = 10;
/// The deepest that schemas are followed.
const DEEPEST: usize = 64;
const VARIABLES: &str = "variables.";
/// What of a schema is for people only, or for other readers.
const SILENT: [&str; 3] = ["description", "x-wire", "x-one-of"];

/// Group, version and name of a kind. They are sorted by them, too.
type Named = (String, String, String);

/// The kinds that there are, with what their objects look like.
pub(super) struct Types<'a> {
    table: &'a Table,
    snapshot: &'a Snapshot,
    built_in: Value,
}

fn texts<'a>(rule: &'a Value, field: &str) -> BTreeSet<&'a str> {
    rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

impl<'a> Types<'a> {
    pub(super) fn new(table: &'a Table, snapshot: &'a Snapshot) -> Types<'a> {
        Types { table, snapshot, built_in: schema::definitions() }
    }

    /// The kinds that a policy names without stars.
    fn named(&self, policy: &Value) -> BTreeSet<Named> {
        let mut found = BTreeSet::new();
        let rules = object::at(policy, &["spec", "matchConstraints", "resourceRules"]).as_array();
        for rule in rules.into_iter().flatten() {
            let (groups, versions) = (texts(rule, "apiGroups"), texts(rule, "apiVersions"));
            if groups.iter().chain(&versions).any(|text| text.contains('*')) {
                continue;
            }
            let mut resources = texts(rule, "resources");
            resources.retain(|resource| !resource.contains(['*', '/']));
            let mut count = 0;
            for group in &groups {
                for version in &versions {
                    for resource in &resources {
                        let custom = || Some(self.table.find(group, version, resource)?.kind);
                        let Some(kind) = kinds::find(group, version, resource).or_else(custom) else {
                            continue;
                        };
                        found.insert((kind.group.to_owned(), kind.version.to_owned(), kind.kind.to_owned()));
                        count += 1;
                        if count == MOST_TYPES {
                            return found;
                        }
                    }
                }
            }
        }
        found
    }

    /// How objects of a kind are declared; none where nothing is known of it.
    fn declared(&self, (group, version, kind): &Named) -> Option<Type> {
        let schema = match kinds::find_version(group, version, kind) {
            Some(row) => self.whole(&self.built_in[row.schema], &mut Vec::new()),
            None => {
                let custom = self.table.find_version(group, version, kind)?;
                let mut schema = custom::openapi::written(&custom, self.snapshot);
                if !schema.is_object() {
                    return None;
                }
                for field in ["apiVersion", "kind"] {
                    schema["properties"][field] = json!({ "type": "string" });
                }
                let metadata = self.whole(&self.built_in[schema::METADATA], &mut Vec::new());
                schema["properties"]["metadata"] = metadata;
                schema
            }
        };
        // Of what has no type nothing is known, and nothing can be wrong.
        Some(Declared::from_schema(&schema, true, kind).map_or(Type::Dyn, |declared| declared.cel_type()))
    }

    /// A schema with those that it refers to in their places. One that is in itself ends there.
    fn whole<'s>(&'s self, schema: &'s Value, above: &mut Vec<&'s str>) -> Value {
        let Some(words) = schema.as_object() else { return schema.clone() };
        if let Some(target) = schema["$ref"].as_str() {
            let name = target.rsplit('/').next().unwrap_or_default();
            if above.contains(&name) || above.len() == DEEPEST {
                return json!({});
            }
            above.push(name);
            let whole = self.whole(&self.built_in[name], above);
            above.pop();
            return whole;
        }
        let mut shown = Map::new();
        for (word, value) in words {
            let value = match word.as_str() {
                "properties" => {
                    let fields = value.as_object().into_iter().flatten();
                    fields.map(|(name, field)| (name.clone(), self.whole(field, above))).collect()
                }
                "items" | "additionalProperties" => self.whole(value, above),
                word if SILENT.contains(&word) => continue,
                _ => value.clone(),
            };
            shown.insert(word.clone(), value);
        }
        Value::Object(shown)
    }
}

/// The variables that a policy's expressions have when its objects are of a type.
fn environment(policy: &Value, of: &Type, params: &Type) -> Environment {
    let spec = &policy["spec"];
    let features = Features { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
    let mut environment = Environment::admission(MINOR, features);
    for name in ["object", "oldObject"] {
        environment = environment.with_variable(name, of.clone());
    }
    if features.params {
        environment = environment.with_variable("params", params.clone());
    }
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let program = Program::compile(object::text(variable, &["expression"]), &environment);
        let of = program.map_or(Type::Dyn, |program| program.result().clone());
        environment =
            environment.with_variable(&format!("{VARIABLES}{}", object::text(variable, &["name"])), of);
    }
    environment
}

/// The warnings about a policy, as its status has them.
pub(super) fn warnings(policy: &Value, types: &Types<'_>) -> Vec<Value> {
    let wanted = &policy["spec"]["paramKind"];
    let (group, version) = {
        let version = object::text(wanted, &["apiVersion"]);
        version.split_once('/').unwrap_or(("", version))
    };
    let params = (group.to_owned(), version.to_owned(), object::text(wanted, &["kind"]).to_owned());
    let params = if wanted.is_object() { types.declared(&params) } else { None }.unwrap_or(Type::Dyn);
    let declared = types.named(policy).into_iter().filter_map(|named| {
        let of = types.declared(&named)?;
        Some((named, environment(policy, &of, &params)))
    });
    let declared: Vec<(Named, Environment)> = declared.collect();
    let mut warnings = Vec::new();
    let validations = policy["spec"]["validations"].as_array();
    for (index, validation) in validations.into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = object::text(validation, &[field]);
            if text.is_empty() {
                continue;
            }
            let told: Vec<String> = declared
                .iter()
                .filter_map(|((group, version, kind), environment)| {
                    match Program::compile(text, environment) {
                        Err(Error::Compilation(issues)) => {
                            Some(format!("{group}/{version}, Kind={kind}: {issues}\n"))
                        }
                        _ => None,
                    }
                })
                .collect();
            if !told.is_empty() {
                let path = format!("spec.validations[{index}].{field}");
                warnings.push(json!({ "fieldRef": path, "warning": told.join("\n") }));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_store::{Limits, Store};

    fn policy(resources: Value, spec: Value) -> Value {
        let rule = json!({ "apiGroups": ["", "apps"], "apiVersions": ["v1"], "resources": resources });
        let mut policy = json!({ "spec": spec });
        policy["spec"]["matchConstraints"] = json!({ "resourceRules": [rule] });
        policy
    }

    /// The warnings of a policy, as "FIELD WARNING".
    fn warned(policy: &Value) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let (table, snapshot) = (Table::default(), store.snapshot());
        let found = warnings(policy, &Types::new(&table, &snapshot));
        drop(snapshot);
        store.close();
        let text = |warning: &Value, field: &str| warning[field].as_str().unwrap().to_owned();
        found.iter().map(|one| format!("{} {}", text(one, "fieldRef"), text(one, "warning"))).collect()
    }

    #[test]
    fn expressions_are_held_to_the_types_that_a_policy_names() {
        let of = |expression: &str| json!({ "validations": [{ "expression": expression }] });
        let deployments = || json!(["deployments"]);
        for (resources, spec, expected) in [
            (deployments(), of("object.spec.replicas > 1"), ""),
            (deployments(), of("object.metadata.labels['a'] == oldObject.metadata.name"), ""),
            (deployments(), of("object.spec.strategy.rollingUpdate.maxSurge == 1"), ""),
            (deployments(), of("has(object.spec.template.spec.containers[0].image)"), ""),
            (json!(["deployments/scale", "*"]), of("object.nothing == 1"), ""),
            (json!(["nothings"]), of("object.nothing == 1"), ""),
            (
                deployments(),
                of("object.spec.replicas > 'a'"),
                "spec.validations[0].expression apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload \
                 for '_>_' applied to '(int, string)'\n | object.spec.replicas > 'a'\n | .....................^\n",
            ),
            (
                json!(["pods", "deployments"]),
                of("object.nothing == 1"),
                "spec.validations[0].expression /v1, Kind=Pod: ERROR: <input>:1:7: undefined field 'nothing'\n | \
                 object.nothing == 1\n | ......^\n\napps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'nothing'\n | \
                 object.nothing == 1\n | ......^\n",
            ),
            (
                deployments(),
                json!({ "variables": [{ "name": "size", "expression": "object.spec.replicas" }],
                    "validations": [{ "expression": "variables.size == 1", "messageExpression": "variables.size + 'x'" }] }),
                "spec.validations[0].messageExpression apps/v1, Kind=Deployment: ERROR: <input>:1:16: found no matching \
                 overload for '_+_' applied to '(int, string)'\n | variables.size + 'x'\n | ...............^\n",
            ),
            (
                deployments(),
                json!({ "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
                    "validations": [{ "expression": "params.data['a'] == 'b' && params.date == 'c'" }] }),
                "spec.validations[0].expression apps/v1, Kind=Deployment: ERROR: <input>:1:34: undefined field 'date'\n | \
                 params.data['a'] == 'b' && params.date == 'c'\n | .................................^\n",
            ),
            (
                deployments(),
                json!({ "paramKind": { "apiVersion": "example.com/v1", "kind": "Nothing" },
                    "validations": [{ "expression": "params.any == 1 && authorizer.path('/').check('get').allowed()" }] }),
                "",
            ),
        ] {
            let policy = policy(resources, spec);
            assert_eq!(warned(&policy).join("|"), expected, "{policy}");
        }
    }

    #[test]
    fn schemas_that_are_in_themselves_end() {
        let mut policy = policy(
            json!(["customresourcedefinitions"]),
            json!({ "validations": [{
                "expression": "object.spec.versions[0].schema.openAPIV3Schema.type == 'object' && object.spec.groop == ''" }] }),
        );
        policy["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["apiextensions.k8s.io"]);
        let warned = warned(&policy);
        assert!(warned.len() == 1 && warned[0].contains("undefined field 'groop'"), "{warned:?}");
    }
}
