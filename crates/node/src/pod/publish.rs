//! Telling the cluster how a pod is.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::status::{OWN_CONDITIONS, patch};
use super::{RETRY, Worker};

impl Worker {
    /// Tells the cluster how the pod is, when that is news.
    pub(super) async fn publish(&mut self) {
        let status = self.status();
        let is_told = self.sent.as_ref() == Some(&status) && !self.was_overwritten(&status);
        if is_told && self.send_again.is_none() {
            return;
        }
        if self.send_again.is_some_and(|at| at > Instant::now()) && !self.terminating {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.identity.namespace);
        let patch = json!({ "metadata": { "uid": self.identity.uid }, "status": patch(&status) });
        let patched =
            api.patch_status(&self.identity.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        match patched {
            Ok(pod) => {
                self.sent = Some(status);
                self.sent_revision = revision(&pod);
                self.send_again = None;
            }
            // The pod is gone, or another has its name: the watch will tell.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                self.sent = Some(status);
                self.send_again = None;
            }
            Err(error) => {
                tracing::warn!(pod = self.identity.full_name(), %error, "cannot tell a pod's status");
                self.send_again = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Whether somebody else wrote another status over the one that was sent, as the cluster does with the pods of a
    /// node that it took for lost.
    fn was_overwritten(&self, status: &PodStatus) -> bool {
        if revision(&self.pod) <= self.sent_revision {
            return false;
        }
        let Some(seen) = &self.pod.status else { return true };
        let states = |status: &PodStatus| -> Vec<(String, String)> {
            let mut states: Vec<_> = status
                .conditions
                .iter()
                .flatten()
                .filter(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()))
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect();
            states.sort();
            states
        };
        seen.phase != status.phase
            || seen.pod_ip != status.pod_ip
            || states(seen) != states(status)
            || seen.container_statuses.as_ref().map(Vec::len)
                != status.container_statuses.as_ref().map(Vec::len)
    }
}

/// The revision of an object. Versions of this cluster's objects are numbers, and larger ones are newer.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
