//! Evictions: a pod is deleted if no PodDisruptionBudget is hurt by that. What is allowed is for the controller of budgets
//! to say; here one of what it allows is taken, before the pod goes.

use bytes::Bytes;
use dray_machinery::{Cause, Reason, Status, kinds, object, selector::LabelSelector, time};
use dray_store::{Entry, Error, Key};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    admission::Operation,
    decode,
    read::check_preconditions,
    remove::Options,
    request::ResourceRequest,
    respond::{self, Answer},
    server::Inner,
    write::{Change, draft, store_failure},
};

const BUDGETS: &str = "policy/poddisruptionbudgets";
/// How often a write is tried again when another came first.
const ATTEMPTS: usize = 20;
/// So many pods may be expected to go at the same time.
const MOST_DISRUPTED: usize = 2000;
/// What a pod is told that goes.
const TARGET: &str = "DisruptionTarget";
const ALLOWED: &str = "DisruptionAllowed";

/// What the budgets say of a pod.
enum Verdict {
    /// It may go.
    May,
    /// It may go as it is now: were it to become healthy, it would count.
    MayAsItIs(String),
}

impl Inner {
    /// POST of an eviction.
    pub(crate) async fn evict(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let eviction = decode::object(change.headers, change.body)?;
        let name = object::name(&eviction);
        if !name.is_empty() && name != change.request.name {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Eviction object: {} != {name}",
                change.request.name
            )));
        }
        let eviction = self.admit_request(change, Operation::Create, eviction).await?;
        let mut options = Options::from_value(&eviction["deleteOptions"])?;
        options.dry |= change.request.dry_run()?;
        let request = ResourceRequest { subresource: None, ..change.request.clone() };
        let nothing = Bytes::new();
        let inner = Change::new(
            &request,
            change.user,
            change.headers,
            &nothing,
            change.accept,
            change.manager.clone(),
        );
        if !self.evict_uncounted(&inner, &options).await? {
            self.evict_counted(&inner, &options).await?;
        }
        let success =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
        Ok(respond::value(StatusCode::CREATED, change.accept.encoding, &success))
    }

    /// Deletes a pod that no budget counts; whether it was one.
    async fn evict_uncounted(&self, change: &Change<'_>, options: &Options) -> Result<bool, Status> {
        for _ in 0..ATTEMPTS {
            let (_, pod) = self.pod(change)?;
            let phase = object::text(&pod, &["status", "phase"]);
            let has_ended = matches!(phase, "Succeeded" | "Failed") || object::is_terminating(&pod);
            if !has_ended && phase != "Pending" {
                return Ok(false);
            }
            // One that has ended stays so; one that waits might have begun to run meanwhile.
            let fixed = has_ended || options.names_version();
            let version = object::meta(&pod, "resourceVersion");
            let options = if fixed { options.clone() } else { options.of_version(version) };
            match self.condemn(change, options).await {
                Err(status) if status.code == 409 && !fixed => {}
                done => return done.map(|()| true),
            }
        }
        Err(Status::modified("", "pods", &change.request.name))
    }

    async fn evict_counted(&self, change: &Change<'_>, options: &Options) -> Result<(), Status> {
        let (_, pod) = self.pod(change)?;
        let budgets = self.budgets(&change.request.namespace, &pod)?;
        let verdict = match budgets.as_slice() {
            [] => Verdict::May,
            [name] => self.ask_budget(change, name, &pod, options.dry).await?,
            _ => {
                return Err(Status::new(
                    500,
                    Reason::Unknown,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let Verdict::MayAsItIs(budget) = verdict else { return self.condemn(change, options.clone()).await };
        let as_it_is = options.of_version(object::meta(&pod, "resourceVersion"));
        match self.condemn(change, as_it_is).await {
            Err(status) if status.code == 409 && !options.names_version() => Err(still_processed(&budget)),
            done => done,
        }
    }

    fn pod(&self, change: &Change<'_>) -> Result<(Entry, Value), Status> {
        let request = change.request;
        let entry = self.store.get(&self.key(request, &request.name)).ok_or_else(|| request.not_found())?;
        let pod = respond::parse_as(request.kind, entry.json())?;
        Ok((entry, pod))
    }

    /// The names of the budgets that count a pod.
    fn budgets(&self, namespace: &str, pod: &Value) -> Result<Vec<String>, Status> {
        let snapshot = self.store.snapshot();
        let mut names = Vec::new();
        for (_, entry) in snapshot.range(BUDGETS, &format!("{namespace}/"), None) {
            let budget = respond::parse(entry.json())?;
            let selector = LabelSelector::from_value(object::at(&budget, &["spec", "selector"]));
            if selector.map_err(Status::internal)?.matches_object(pod) {
                names.push(object::name(&budget).to_owned());
            }
        }
        Ok(names)
    }

    /// Takes one of what a budget allows, where a pod counts.
    async fn ask_budget(
        &self,
        change: &Change<'_>,
        name: &str,
        pod: &Value,
        dry: bool,
    ) -> Result<Verdict, Status> {
        let key = Key::new(BUDGETS, format!("{}/{name}", change.request.namespace));
        let kind =
            kinds::find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::no_such_resource)?;
        for _ in 0..ATTEMPTS {
            // One that is gone protects nothing.
            let Some(entry) = self.store.get(&key) else { return Ok(Verdict::May) };
            let mut budget = respond::parse_as(kind, entry.json())?;
            if !is_ready(pod) && may_go_unready(&budget) {
                return Ok(Verdict::MayAsItIs(name.to_owned()));
            }
            take(&mut budget, object::name(pod))?;
            if dry {
                return Ok(Verdict::May);
            }
            match self.store.update(key.clone(), draft(kind, &budget)?, entry.revision()).await {
                Ok(_) => return Ok(Verdict::May),
                Err(Error::Conflict { .. }) => {}
                Err(Error::NotFound { .. }) => return Ok(Verdict::May),
                Err(error) => return Err(store_failure(kind, name, error)),
            }
        }
        let message = format!("Timeout: couldn't update PodDisruptionBudget {name:?} due to conflicts");
        let mut status = Status::new(504, Reason::Timeout, message);
        status.retry_after = Some(10);
        Err(status)
    }

    /// Writes into a pod why it goes, and deletes it.
    async fn condemn(&self, change: &Change<'_>, mut options: Options) -> Result<(), Status> {
        let request = change.request;
        for _ in 0..ATTEMPTS {
            let (entry, mut pod) = self.pod(change)?;
            check_preconditions(request, &pod, &options.preconditions)?;
            if options.dry || !mark(&mut pod) {
                return self.delete_with(change, &options).await.map(drop);
            }
            let draft = self.draft(request, &pod).await?;
            match self.store.update(self.key(request, &request.name), draft, entry.revision()).await {
                Ok(entry) => {
                    if options.names_version() {
                        let pod = respond::parse_as(request.kind, entry.json())?;
                        options = options.of_version(object::meta(&pod, "resourceVersion"));
                    }
                    return self.delete_with(change, &options).await.map(drop);
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(store_failure(request.kind, &request.name, error)),
            }
        }
        Err(Status::modified("", "pods", &request.name))
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = object::at(pod, &["status", "conditions"]).as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Notes in a pod's status that it goes; whether that was not noted yet.
fn mark(pod: &mut Value) -> bool {
    let conditions = object::child(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return false };
    if conditions.iter().any(|condition| condition["type"] == TARGET && condition["status"] == "True") {
        return false;
    }
    conditions.retain(|condition| condition["type"] != TARGET);
    conditions.push(json!({
        "type": TARGET, "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastTransitionTime": time::now(),
    }));
    true
}

fn number(budget: &Value, field: &str) -> i64 {
    object::at(budget, &["status", field]).as_i64().unwrap_or(0)
}

/// Whether a pod that is not ready may go without being counted.
fn may_go_unready(budget: &Value) -> bool {
    let always = object::text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    let desired = number(budget, "desiredHealthy");
    always || (desired > 0 && number(budget, "currentHealthy") >= desired)
}

fn too_many(cause: String) -> Status {
    let words = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, Reason::TooManyRequests, words);
    status.causes.push(Cause { reason: "DisruptionBudget".into(), message: cause, field: String::new() });
    status
}

fn still_processed(name: &str) -> Status {
    too_many(format!("The disruption budget {name} is still being processed by the server."))
}

/// Takes one of what a budget allows, for a pod.
fn take(budget: &mut Value, pod: &str) -> Result<(), Status> {
    let name = object::name(budget).to_owned();
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if number(budget, "observedGeneration") < generation {
        return Err(still_processed(&name));
    }
    let forbidden = |why: &str| Status::forbidden("policy", "poddisruptionbudgets", &name, why);
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = object::at(budget, &["status", "disruptedPods"]).as_object();
    if disrupted.is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(too_many(why_not(budget, &name)));
    }
    let status = object::child(budget, "status");
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if disrupted.is_object() {
        disrupted[pod] = json!(time::now());
    }
    if allowed == 1 {
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        let conditions = conditions.as_array_mut().into_iter().flatten();
        for condition in conditions.filter(|condition| condition["type"] == ALLOWED) {
            condition["status"] = json!("False");
            condition["reason"] = json!("InsufficientPods");
            condition["lastTransitionTime"] = json!(time::now());
        }
    }
    Ok(())
}

/// Why a budget allows nothing.
fn why_not(budget: &Value, name: &str) -> String {
    let (desired, current) = (number(budget, "desiredHealthy"), number(budget, "currentHealthy"));
    if current <= desired {
        return format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        );
    }
    let conditions = object::at(budget, &["status", "conditions"]).as_array();
    let failed = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == ALLOWED && condition["reason"] == "SyncFailed");
    let words = format!("The disruption budget {name} does not allow evicting pods currently");
    match failed {
        Some(failed) => format!("{words} because it failed sync: {}", object::text(failed, &["message"])),
        None => words,
    }
}
