//! Expressions of webhooks and policies: compiled once, and evaluated over what a request is about.

use std::{collections::HashMap, sync::Arc};

use dray_access::{Attributes, User, service_account};
use dray_cel::{
    Access, Activation, Authorizer, Decision, Environment, Fault, Program, ResourceAccess, ServiceAccount,
    Value as CelValue,
    admission::{self, Admission as Features},
    cost,
};
use dray_machinery::{Status, object};
use dray_store::Store;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Admission, Operation,
    matching::{Form, Subject},
};
use crate::{access, decode, review::user_info};

/// The release whose functions expressions may use.
pub(super) const MINOR: u32 = 36;
/// What stands in the place of too much: compiled expressions are thrown away when there are so many.
const KEPT: usize = 1024;

/// Match conditions that have been compiled, by their text.
#[derive(Default)]
pub(crate) struct Programs(Mutex<HashMap<String, Arc<Result<Program, String>>>>);

impl Programs {
    fn condition(&self, expression: &str) -> Arc<Result<Program, String>> {
        if let Some(known) = self.0.lock().get(expression) {
            return known.clone();
        }
        let made = Arc::new(condition(expression));
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(expression.to_owned(), made.clone());
        made
    }
}

/// Compiles a match condition.
pub(super) fn condition(expression: &str) -> Result<Program, String> {
    let environment = Environment::admission(MINOR, Features { authorizer: true, ..Features::default() });
    compile(expression, &environment, &["bool"])
}

/// Compiles an expression whose value has to be of one of these types.
pub(super) fn compile(
    expression: &str,
    environment: &Environment,
    types: &[&str],
) -> Result<Program, String> {
    let program = Program::compile(expression, environment).map_err(|error| error.to_string())?;
    let is = program.result().to_string();
    if is == "dyn" || types.iter().any(|of| is == *of) {
        return Ok(program);
    }
    Err(match types {
        [one] => format!("must evaluate to {one}"),
        many => format!("must evaluate to one of {many:?}"),
    })
}

/// Whoever is asked by expressions whether something is allowed.
struct Asker {
    access: Arc<access::Access>,
    store: Store,
    user: User,
}

impl Authorizer for Asker {
    fn authorize(&self, account: Option<&ServiceAccount>, verb: &str, of: &Access<'_>) -> Decision {
        let other = account.map(|account| service_account(&account.namespace, &account.name));
        let user = other.as_ref().unwrap_or(&self.user);
        let attributes = match of {
            Access::Path(path) => Attributes::path(verb, path),
            Access::Resource(of) => Attributes {
                verb,
                group: &of.group,
                resource: &of.resource,
                subresource: &of.subresource,
                namespace: &of.namespace,
                name: &of.name,
                fields: &of.field_selector,
                path: "",
            },
        };
        match self.access.decide(&self.store, user, &attributes) {
            Ok(decision) => Decision { allowed: decision.allowed, reason: decision.reason, error: None },
            Err(status) => Decision { error: Some(status.to_string()), ..Decision::default() },
        }
    }
}

/// What expressions see of a request, in one form.
pub(super) struct Facts {
    pub(super) request: Value,
    pub(super) object: Value,
    pub(super) old: Value,
    /// The namespace; null where there is none.
    pub(super) namespace: Value,
    authorizer: Arc<dyn Authorizer>,
    resource: ResourceAccess,
}

/// The options of a request, as admission shows them.
fn options(admission: &Admission<'_>) -> Value {
    let change = admission.change;
    if admission.operation == Operation::Connect {
        return Value::Null;
    }
    let query = &change.request.query;
    let kind = match admission.operation {
        Operation::Create => "CreateOptions",
        Operation::Update if decode::media(change.headers).contains("patch") => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete | Operation::Connect => "DeleteOptions",
    };
    let mut options = json!({});
    if admission.operation == Operation::Delete {
        if let Ok(sent @ Value::Object(_)) = decode::object(change.headers, change.body) {
            options = sent;
        }
    } else {
        for field in ["fieldManager", "fieldValidation"] {
            if !query.get(field).is_empty() {
                options[field] = json!(query.get(field));
            }
        }
        if kind == "PatchOptions" && query.flag("force") {
            options["force"] = json!(true);
        }
    }
    let dry: Vec<&str> = query.all("dryRun").collect();
    if !dry.is_empty() {
        options["dryRun"] = json!(dry);
    }
    options["kind"] = json!(kind);
    options["apiVersion"] = json!("meta.k8s.io/v1");
    options
}

impl Facts {
    /// What is seen of a subject in a form; `object` and `old` are in that form.
    pub(super) fn new(
        admission: &Admission<'_>,
        subject: &Subject,
        form: Form,
        object: Value,
        old: Value,
    ) -> Result<Facts, Status> {
        let request = admission.request();
        let mut told = json!({
            "kind": form.kind_value(), "resource": form.resource_value(),
            "requestKind": subject.form.kind_value(), "requestResource": subject.form.resource_value(),
            "name": subject.name, "operation": subject.operation,
            "userInfo": user_info(admission.user()), "dryRun": request.dry_run()?, "options": options(admission),
        });
        for (field, text) in [
            ("namespace", subject.namespace.as_str()),
            ("subResource", form.part_name()),
            ("requestSubResource", subject.form.part_name()),
        ] {
            if !text.is_empty() {
                told[field] = json!(text);
            }
        }
        let namespace = if request.namespace.is_empty() {
            Value::Null
        } else {
            admission.stored("core/namespaces", &request.namespace)?.unwrap_or_default()
        };
        let inner = admission.inner;
        let asker = Asker {
            access: inner.access.clone(),
            store: inner.store.clone(),
            user: admission.user().clone(),
        };
        Ok(Facts {
            request: told,
            object,
            old,
            namespace,
            authorizer: Arc::new(asker),
            resource: ResourceAccess {
                group: subject.form.resource.group.to_owned(),
                resource: subject.form.resource.plural.to_owned(),
                subresource: subject.form.part_name().to_owned(),
                namespace: subject.namespace.clone(),
                name: subject.name.clone(),
                ..ResourceAccess::default()
            },
        })
    }

    /// The variables that expressions have. `params` are there where a policy has some.
    pub(super) fn activation<'a>(&'a self, params: Option<&'a Value>) -> Activation<'a> {
        let namespace = match &self.namespace {
            Value::Null => Ok(CelValue::Null),
            namespace => CelValue::declared(namespace, admission::namespace()),
        };
        let activation = Activation::new()
            .with("object", CelValue::from_json(&self.object))
            .with("oldObject", CelValue::from_json(&self.old))
            .with_outcome("request", CelValue::declared(&self.request, admission::request()))
            .with_outcome("namespaceObject", namespace)
            .with("authorizer", CelValue::authorizer(self.authorizer.clone()))
            .with(
                "authorizer.requestResource",
                CelValue::resource_authorizer(self.authorizer.clone(), self.resource.clone()),
            );
        match params {
            Some(params) => activation.with("params", CelValue::from_json(params)),
            None => activation,
        }
    }
}

/// What a fault of an expression is told as.
pub(super) fn told(expression: &str, fault: &Fault) -> String {
    format!("expression '{expression}' resulted in error: {fault}")
}

/// Whether the match conditions of a webhook hold; `Err` says what went wrong, unless failures are ignored.
pub(super) fn conditions_hold(
    programs: &Programs,
    conditions: &Value,
    activation: &Activation<'_>,
    ignores_failures: bool,
) -> Result<bool, String> {
    let mut left = cost::PER_MATCH_CONDITIONS;
    let conditions = conditions.as_array().into_iter().flatten().map(|condition| {
        let expression = object::text(condition, &["expression"]);
        let program = programs.condition(expression);
        let program = program.as_ref().as_ref().map_err(|error| format!("compile error: {error}"))?;
        let evaluation = program.evaluate(activation, left.min(cost::PER_CALL));
        left = left.saturating_sub(evaluation.cost);
        match evaluation.value {
            Ok(CelValue::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("expression '{expression}' is no bool but {}", other.kind())),
            Err(fault) => Err(told(expression, &fault)),
        }
    });
    all_hold(conditions, ignores_failures)
}

/// Whether all of some conditions hold. What goes wrong in one counts only if no other says no.
pub(super) fn all_hold(
    conditions: impl Iterator<Item = Result<bool, String>>,
    ignores_failures: bool,
) -> Result<bool, String> {
    let mut wrong = Vec::new();
    for condition in conditions {
        match condition {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => wrong.push(why),
        }
    }
    match wrong.as_slice() {
        [] => Ok(true),
        _ if ignores_failures => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(conditions: Value, ignores_failures: bool, expected: Result<bool, &str>) {
        let object = json!({ "metadata": { "name": "web" } });
        let activation =
            Activation::new().with("object", CelValue::from_json(&object)).with("oldObject", CelValue::Null);
        let found = conditions_hold(&Programs::default(), &conditions, &activation, ignores_failures);
        assert_eq!(found, expected.map_err(str::to_owned), "{conditions}");
    }

    #[test]
    fn conditions_hold_together() {
        let of = |expressions: &[&str]| {
            Value::Array(expressions.iter().map(|text| json!({ "name": "x", "expression": text })).collect())
        };
        let (yes, no, broken) =
            ("object.metadata.name == 'web'", "oldObject != null", "object.spec.replicas > 1");
        check(of(&[]), false, Ok(true));
        check(of(&[yes, yes]), false, Ok(true));
        check(of(&[yes, no]), false, Ok(false));
        check(of(&[broken, no]), false, Ok(false));
        check(of(&[broken, yes]), true, Ok(false));
        let told = "expression 'object.spec.replicas > 1' resulted in error: no such key: spec";
        check(of(&[broken, yes]), false, Err(told));
    }

    #[test]
    fn conditions_are_yes_or_no() {
        assert!(condition("object.x").is_ok());
        assert_eq!(condition("'x'").unwrap_err(), "must evaluate to bool");
        assert!(condition("object.").unwrap_err().starts_with("compilation failed: "));
        assert!(condition("params.x").is_err());
        assert!(condition("authorizer.path('/').check('get').allowed()").is_ok());
    }
}
