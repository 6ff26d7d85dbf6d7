//! Pushing pods away: what is written about each, and its deletion. It must not know why it was chosen.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::ask::{Ask, Occupant};
use crate::model::Pod;
use crate::report;

/// How pushing pods away for another ended.
pub(crate) struct Pushed {
    pub(crate) ask: Arc<Ask>,
    /// Those who go.
    pub(crate) gone: Vec<Arc<Occupant>>,
    /// Whether all of them do.
    pub(crate) complete: bool,
}

/// Pushes pods away from a node.
pub(crate) async fn push(client: Client, ask: Arc<Ask>, victims: Vec<Arc<Occupant>>, node: String) -> Pushed {
    let mut gone = Vec::new();
    let mut complete = true;
    for victim in victims {
        match push_one(&client, &ask, &victim, &node).await {
            Ok(()) => gone.push(victim),
            Err(error) => {
                tracing::warn!(pod = victim.name, %error, "a pod was not pushed away");
                complete = false;
            }
        }
    }
    Pushed { ask, gone, complete }
}

async fn push_one(client: &Client, ask: &Ask, victim: &Occupant, node: &str) -> kube::Result<()> {
    let pods = Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), &victim.namespace);
    if !victim.terminating {
        let scheduler = ask.pod.scheduler();
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": Time(Timestamp::now()),
        });
        let patch = json!({ "metadata": { "uid": victim.uid }, "status": { "conditions": [condition] } });
        let patched =
            pods.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        if is_gone(&patched) {
            return Ok(());
        }
        patched?;
        let preconditions = Preconditions { uid: Some(victim.uid.to_string()), ..Preconditions::default() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = pods.delete(&victim.name, &parameters).await;
        if is_gone(&deleted) {
            return Ok(());
        }
        deleted?;
    }
    if let Err(error) = report::preempted(client, victim, ask, node).await {
        tracing::debug!(%error, "an event about a pod was not written");
    }
    Ok(())
}

/// Whether it was not there any more, or another was there by its name.
fn is_gone<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
}
