//! MutatingAdmissionPolicy: expressions that change objects, by patches or by configurations that are applied.

use dray_cel::admission as cel;
use dray_machinery::{Cause, Reason, Status, apply, object, patch, schema};
use serde_json::Value;

use super::{
    Admission, Invocation, Resources,
    compiled::{Mutation, Scope},
    ignores_failures, invocations,
};
use crate::admission::{
    expressions::Facts,
    matching::{self, Shown, Subject},
    rounds::Rounds,
    webhooks::settle,
};

const RESOURCES: Resources = Resources {
    policies: "admissionregistration.k8s.io/mutatingadmissionpolicies",
    bindings: "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
};

/// Has the policies change an object.
pub(in crate::admission) async fn mutate(
    admission: &Admission<'_>,
    object: &mut Value,
    rounds: &mut Rounds,
) -> Result<(), Status> {
    if admission.snapshot.count(RESOURCES.bindings) == 0 {
        return Ok(());
    }
    let Some(subject) = matching::subject(admission, object) else { return Ok(()) };
    // What a delete is about cannot be changed.
    if subject.object.is_null() {
        return Ok(());
    }
    let second = rounds.is_second;
    rounds.policies.begin(second, object);
    let (invocations, wrong) = invocations(admission, &subject, &RESOURCES).await?;
    let mut refusals: Vec<String> =
        wrong.iter().map(|wrong| refusal(&wrong.policy, &wrong.binding, &wrong.message)).collect();
    for invocation in &invocations {
        let member = identity(invocation);
        if !rounds.policies.is_due(second, &member) {
            continue;
        }
        // Each sees what those before it have done.
        let Some(mut subject) = matching::subject(admission, object) else { return Ok(()) };
        let before = subject.object.clone();
        match change(admission, &mut subject, invocation).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) if ignores_failures(&invocation.policy) => continue,
            Err(why) => {
                refusals.push(refusal(&invocation.policy, &invocation.binding, &why));
                continue;
            }
        }
        if subject.object != before {
            let changed = subject.object.take();
            subject.take_back(object, changed);
            rounds.policies.changed();
            rounds.needs_second = true;
        }
        if invocation.policy["spec"]["reinvocationPolicy"] == "IfNeeded" {
            rounds.policies.asked(member);
        }
    }
    rounds.policies.end(object);
    let Some(first) = refusals.first() else { return Ok(()) };
    let mut status = admission.forbidden("");
    status.message.clone_from(first);
    status.reason = Reason::Invalid;
    status.causes = refusals
        .into_iter()
        .map(|message| Cause { reason: String::new(), message, field: String::new() })
        .collect();
    Err(status)
}

/// Tells invocations of a request apart.
fn identity(invocation: &Invocation) -> String {
    let params = &invocation.params;
    let names = [object::name(&invocation.policy), object::name(&invocation.binding)];
    [names[0], names[1], object::namespace(params), object::name(params)].join("/")
}

fn refusal(policy: &Value, binding: &Value, why: &str) -> String {
    let policy = object::name(policy);
    match object::name(binding) {
        "" => format!("policy '{policy}' denied request: {why}"),
        binding => format!("policy '{policy}' with binding '{binding}' denied request: {why}"),
    }
}

/// Makes the changes of a policy, in their order; tells whether its conditions hold.
async fn change(
    admission: &Admission<'_>,
    subject: &mut Subject,
    invocation: &Invocation,
) -> Result<bool, String> {
    let form = invocation.form;
    let told = |status: Status| status.to_string();
    let (object, old) = Shown::default().get(admission, subject, form).await.map_err(told)?;
    let mut changed = object.clone();
    for index in 0..invocation.compiled.mutations.len() {
        match mutated(admission, subject, invocation, index, (&changed, &old))? {
            Some(next) => changed = next,
            None => return Ok(false),
        }
    }
    // Who changes nothing loses nothing on the way there and back.
    if changed != object {
        let changed = matching::one_in_form(admission, changed, form, subject.form);
        subject.object = changed.await.map_err(told)?;
    }
    Ok(true)
}

/// What one of the changes makes of an object; none where the policy's conditions do not hold.
fn mutated(
    admission: &Admission<'_>,
    subject: &Subject,
    invocation: &Invocation,
    index: usize,
    (object, old): (&Value, &Value),
) -> Result<Option<Value>, String> {
    let (form, compiled) = (invocation.form, &invocation.compiled);
    let told = |status: Status| status.to_string();
    let facts = Facts::new(admission, subject, form, object.clone(), old.clone()).map_err(told)?;
    let scope = Scope::new(compiled, facts.activation(Some(&invocation.params)));
    if index == 0 && !scope.holds(ignores_failures(&invocation.policy))? {
        return Ok(None);
    }
    let changed = made(&scope, &compiled.mutations[index], &facts.object, form)?;
    settle(admission, &facts.object, changed, form).map(Some).map_err(told)
}

/// What an expression makes of an object.
fn made(
    scope: &Scope<'_>,
    mutation: &Mutation,
    object: &Value,
    form: matching::Form,
) -> Result<Value, String> {
    let made = scope.evaluate(&mutation.expression)?;
    let wrong = cel::misnamed(&made);
    if !wrong.is_empty() {
        return Err(format!("type mismatch: {}", wrong.join(", ")));
    }
    let json = made.to_json().map_err(|fault| fault.to_string())?;
    if !mutation.applies {
        return patch::json(object, &json).map_err(|status| status.to_string());
    }
    let mut changed = object.clone();
    apply::lay_over(&mut changed, &json, schema::find(form.schema()))
        .map_err(|why| format!("error applying patch: {why}"))?;
    Ok(changed)
}
