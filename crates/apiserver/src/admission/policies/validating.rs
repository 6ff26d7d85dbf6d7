//! ValidatingAdmissionPolicy: expressions that say what may not be.

use std::collections::BTreeMap;

use dray_cel::Value as CelValue;
use dray_machinery::{Cause, Reason, Status, object};
use serde_json::{Value, json};

use super::{
    Admission, Invocation, Resources,
    compiled::{Scope, Validation},
    ignores_failures, invocations,
};
use crate::admission::{
    expressions::Facts,
    matching::{self, Shown, Subject},
};

const RESOURCES: Resources = Resources {
    policies: "admissionregistration.k8s.io/validatingadmissionpolicies",
    bindings: "admissionregistration.k8s.io/validatingadmissionpolicybindings",
};
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";
/// The most failures that the audit log is told of.
const MOST_FAILURES: usize = 50;
/// The longest message that an expression makes, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// The longest annotation of the audit log, in bytes.
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// A rule that is not kept.
struct Decision {
    /// The place of the rule in its policy.
    index: usize,
    message: String,
    reason: Reason,
}

/// What an evaluation of a policy comes to.
#[derive(Default)]
struct Outcome {
    decisions: Vec<Decision>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made, which refuse whatever the binding says.
    failures: Vec<String>,
}

fn evaluate(
    admission: &Admission<'_>,
    subject: &Subject,
    invocation: &Invocation,
    (object, old): (Value, Value),
) -> Result<Outcome, Status> {
    let facts = Facts::new(admission, subject, invocation.form, object, old)?;
    let scope = Scope::new(&invocation.compiled, facts.activation(Some(&invocation.params)));
    let ignores = ignores_failures(&invocation.policy);
    let mut outcome = Outcome::default();
    let failed = |index: usize, message: String| Decision { index, message, reason: Reason::Invalid };
    match scope.holds(ignores) {
        Ok(true) => {}
        Ok(false) => return Ok(outcome),
        Err(why) => {
            outcome.decisions.push(failed(0, why));
            return Ok(outcome);
        }
    }
    let rules = invocation.policy["spec"]["validations"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, (validation, rule)) in invocation.compiled.validations.iter().zip(rules).enumerate() {
        match scope.evaluate(&validation.expression) {
            Ok(CelValue::Bool(true)) => {}
            Ok(_) => {
                let message = message(&scope, validation, rule);
                outcome.decisions.push(Decision { index, message, reason: reason(rule) });
            }
            Err(why) if !ignores => outcome.decisions.push(failed(index, why)),
            Err(_) => {}
        }
    }
    for (key, expression) in &invocation.compiled.annotations {
        let text = &expression.text;
        match scope.evaluate(expression) {
            Ok(CelValue::Null) => {}
            Ok(CelValue::String(value)) => {
                if !value.trim().is_empty() {
                    outcome.annotations.push((key.clone(), value.trim().to_owned()));
                }
            }
            Ok(other) if !ignores => outcome.failures.push(format!(
                "valueExpression '{text}' resulted in unsupported return type: {}. Return type must be either string \
                 or null.",
                other.kind()
            )),
            Err(why) if !ignores => outcome.failures.push(why),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(outcome)
}

fn reason(rule: &Value) -> Reason {
    match object::text(rule, &["reason"]) {
        "Unauthorized" => Reason::Unauthorized,
        "Forbidden" => Reason::Forbidden,
        "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
        _ => Reason::Invalid,
    }
}

fn code(reason: Reason) -> u16 {
    match reason {
        Reason::Unauthorized => 401,
        Reason::Forbidden => 403,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    }
}

/// What is told of a rule that is not kept: what its expression makes, what it says, or the rule itself.
fn message(scope: &Scope<'_>, validation: &Validation, rule: &Value) -> String {
    let made = validation.message.as_ref().and_then(|message| scope.evaluate(message).ok());
    let made = made
        .as_ref()
        .and_then(CelValue::as_str)
        .map(str::trim)
        .filter(|text| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n'));
    match made.unwrap_or_else(|| object::text(rule, &["message"]).trim()) {
        "" => format!("failed expression: {}", validation.expression.text),
        message => message.to_owned(),
    }
}

/// Why a request is refused.
struct Denial {
    by: String,
    message: String,
    reason: Reason,
}

fn by(policy: &Value, binding: &Value) -> String {
    let policy = object::name(policy);
    match object::name(binding) {
        "" => format!("ValidatingAdmissionPolicy '{policy}'"),
        binding => format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}'"),
    }
}

/// Judges an object by the policies.
pub(in crate::admission) async fn validate(admission: &Admission<'_>, object: &Value) -> Result<(), Status> {
    if admission.snapshot.count(RESOURCES.bindings) == 0 {
        return Ok(());
    }
    let Some(subject) = matching::subject(admission, object) else { return Ok(()) };
    let (invocations, wrong) = invocations(admission, &subject, &RESOURCES).await?;
    let mut denials: Vec<Denial> = wrong
        .into_iter()
        .map(|wrong| Denial {
            by: by(&wrong.policy, &wrong.binding),
            message: wrong.message,
            reason: Reason::Invalid,
        })
        .collect();
    let mut shown = Shown::default();
    let mut failures = Vec::new();
    let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for invocation in &invocations {
        let seen = shown.get(admission, &subject, invocation.form).await?;
        let outcome = evaluate(admission, &subject, invocation, seen)?;
        let by = by(&invocation.policy, &invocation.binding);
        let (policy, binding) = (object::name(&invocation.policy), object::name(&invocation.binding));
        let actions = &invocation.binding["spec"]["validationActions"];
        for decision in outcome.decisions {
            for action in actions.as_array().into_iter().flatten().filter_map(Value::as_str) {
                match action {
                    "Deny" => denials.push(Denial {
                        by: by.clone(),
                        message: decision.message.clone(),
                        reason: decision.reason,
                    }),
                    "Warn" => admission.warn(format!("Validation failed for {by}: {}", decision.message)),
                    "Audit" => failures.push(json!({
                        "message": decision.message, "policy": policy, "binding": binding,
                        "expressionIndex": decision.index, "validationActions": actions,
                    })),
                    _ => {}
                }
            }
        }
        for message in outcome.failures {
            denials.push(Denial { by: by.clone(), message, reason: Reason::Invalid });
        }
        for (key, mut value) in outcome.annotations {
            // Texts end where a character does.
            while value.len() > LONGEST_ANNOTATION {
                value.pop();
            }
            let values = annotations.entry(format!("{policy}/{key}")).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    for (key, values) in annotations {
        admission.annotate(key, values.join(", "));
    }
    if !failures.is_empty() {
        failures.truncate(MOST_FAILURES);
        admission.annotate(FAILURES.to_owned(), Value::Array(failures).to_string());
    }
    let Some(first) = denials.into_iter().next() else { return Ok(()) };
    let message = format!("{} denied request: {}", first.by, first.message);
    let mut status = admission.forbidden(&message);
    status.reason = first.reason;
    status.code = code(first.reason);
    status.causes.push(Cause { reason: String::new(), message, field: String::new() });
    Err(status)
}
