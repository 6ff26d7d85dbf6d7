//! Deployments: ReplicaSets of one template after the other, and the way from the old to the new.

mod annotations;
pub(crate) mod arithmetic;
mod conditions;
mod progress;
mod rollout;
mod scale;
mod sets;
mod template;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};

use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::pods::{adopt, release};
use crate::queue::{Again, Queue};

/// So many Deployments are looked at at the same time.
const WIDTH: usize = 16;

/// The controller of Deployments.
pub(crate) struct Deployments {
    client: Client,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

/// A Deployment with its sets, in the middle of being looked at.
struct Rollout<'a> {
    controller: &'a Deployments,
    deployment: Deployment,
    /// All sets of the Deployment, as they are known or were last written.
    sets: Vec<ReplicaSet>,
}

impl Deployments {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        deployments: Arc<Informer<Deployment>>,
        sets: Arc<Informer<ReplicaSet>>,
        pods: Arc<Informer<Pod>>,
        recorder: &Recorder,
    ) -> Deployments {
        let queue = Queue::new("deployments");
        deployments.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        sets.on_change({
            let (queue, deployments) = (queue.clone(), deployments.clone());
            move |change| set_changed(&queue, &deployments, change)
        });
        pods.on_change({
            let (queue, deployments, sets) = (queue.clone(), deployments.clone(), sets.clone());
            move |change| {
                // Without surge, new pods have to wait until the last of the old ones is gone.
                if let Change::Deleted(pod) = change {
                    pod_gone(&queue, &deployments, &sets, pod);
                }
            }
        });
        let recorder = recorder.of("deployment-controller");
        Deployments { client, deployments, sets, pods, queue, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.deployments.wait_complete().await;
        self.sets.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(None) };
        let Some(spec) = &deployment.spec else { return Ok(None) };
        let selector = Selector::new(&spec.selector)
            .map_err(|reason| Error::Selector { object: key.to_string(), reason })?;
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.note(&*deployment, Severity::Warning, "SelectingAll", message.to_owned());
            return Ok(None);
        }
        let sets = self.claim(&deployment, &selector).await?;
        let mut rollout = Rollout { controller: self, deployment: (*deployment).clone(), sets };
        match rollout.go().await {
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => Ok(None),
            other => other,
        }
    }

    /// The sets of a Deployment: those that it owns and selects, and those that it can take.
    async fn claim(&self, deployment: &Deployment, selector: &Selector) -> Result<Vec<ReplicaSet>> {
        let namespace = deployment.namespace().unwrap_or_default();
        let api = Api::<PartialObjectMeta<ReplicaSet>>::namespaced(self.client.clone(), &namespace);
        let ending = owner::is_terminating(deployment);
        let mut claimed = Vec::new();
        for set in self.sets.owned_by(owner::uid(deployment)) {
            if selector.matches(set.metadata.labels.as_ref()) {
                claimed.push((*set).clone());
            } else if !ending {
                release(&api, &*set, owner::uid(deployment)).await?;
            }
        }
        if ending {
            return Ok(claimed);
        }
        let mut orphans = self.sets.orphans(&namespace);
        orphans
            .retain(|set| !owner::is_terminating(&**set) && selector.matches(set.metadata.labels.as_ref()));
        if orphans.is_empty() {
            return Ok(claimed);
        }
        // What is known of the Deployment may be old: one that is gone must not take anything.
        let fresh = Api::<Deployment>::namespaced(self.client.clone(), &namespace);
        let fresh = fresh.get_metadata(&deployment.name_any()).await.map_err(Error::request(
            "read",
            "Deployment",
            ObjectKey::of(deployment),
        ))?;
        if fresh.metadata.uid != deployment.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
            return Ok(claimed);
        }
        for set in orphans {
            // What it is after this, the watch tells, and it is looked at again.
            adopt(&api, &*set, deployment).await?;
        }
        Ok(claimed)
    }
}

fn set_changed(
    queue: &Queue<ObjectKey>,
    deployments: &Informer<Deployment>,
    change: &Change<'_, ReplicaSet>,
) {
    let set = change.object();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let deployment_of = |set: &ReplicaSet| {
        let owner = owner::controller(set).filter(|owner| owner.kind == "Deployment")?;
        Some(ObjectKey::new(namespace, owner.name.clone()))
    };
    let now = deployment_of(set);
    let before = change.old().and_then(|old| deployment_of(old));
    if before != now {
        before.into_iter().for_each(|key| queue.add(key));
    }
    if let Some(key) = now {
        queue.add(key);
    } else if !matches!(change, Change::Deleted(_)) && owner::controller(&**set).is_none() {
        for deployment in deployments.list(namespace) {
            let selector = deployment.spec.as_ref().and_then(|spec| Selector::new(&spec.selector).ok());
            if selector.is_some_and(|selector| selector.matches(set.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(&*deployment));
            }
        }
    }
}

fn pod_gone(
    queue: &Queue<ObjectKey>,
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
    pod: &Pod,
) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(set) = owner::controller(pod).filter(|owner| owner.kind == "ReplicaSet") else { return };
    let Some(set) = sets.get(&ObjectKey::new(namespace, set.name.clone())) else { return };
    let Some(owner) = owner::controller(&*set).filter(|owner| owner.kind == "Deployment") else { return };
    let key = ObjectKey::new(namespace, owner.name.clone());
    if deployments.get(&key).is_some_and(|deployment| rollout::recreates(&deployment)) {
        queue.add(key);
    }
}
