//! Claims and volumes in use stay: what is asked to be deleted goes when no pod uses the claim, and no claim the volume.

use std::sync::Arc;

use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;

use crate::error::{Error, Result};
use crate::informer::Change;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};
use crate::volume::binder::Sources;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
/// So many objects are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of the two finalizers.
pub(crate) struct Protection {
    client: Client,
    sources: Sources,
    /// Claims, and volumes, which have no namespace.
    queue: Arc<Queue<ObjectKey>>,
}

impl Protection {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, sources: Sources) -> Protection {
        let queue = Queue::new("volume protection");
        sources.claims.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        sources.volumes.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        sources.pods.on_change({
            let queue = queue.clone();
            move |change| {
                let pod = change.object();
                // Only a pod that goes or ends lets go of a claim.
                if matches!(change, Change::Deleted(_)) || pod.is_terminating() || pod.is_finished() {
                    let namespace = pod.namespace().unwrap_or_default();
                    pod.claims().for_each(|claim| queue.add(ObjectKey::new(namespace.clone(), claim)));
                }
            }
        });
        Protection { client, sources, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.sources.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        if key.namespace.is_empty() {
            let Some(volume) = self.sources.volumes.get(&key) else { return Ok(None) };
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            let api = Api::all(self.client.clone());
            self.protect(&api, &*volume, VOLUME, async || Ok(phase == Some("Bound"))).await?;
            return Ok(None);
        }
        let Some(claim) = self.sources.claims.get(&key) else { return Ok(None) };
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = owner::uid(&*claim);
        self.protect(&api, &*claim, CLAIM, async || self.is_used(&key, uid).await).await?;
        Ok(None)
    }

    /// Whether a pod uses a claim. The watch may be behind, so that who finds nobody asks once more.
    async fn is_used(&self, key: &ObjectKey, uid: &str) -> Result<bool> {
        if self.sources.pods.list(&key.namespace).iter().any(|pod| uses(pod, key, uid, &self.sources)) {
            return Ok(true);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await;
        let pods = pods.map_err(Error::request("list", "Pod", &key.namespace))?;
        Ok(pods.iter().any(|pod| uses(pod, key, uid, &self.sources)))
    }

    /// Gives an object its finalizer, and takes it away from one that is on its way out and not used.
    async fn protect<K>(
        &self,
        api: &Api<K>,
        object: &K,
        finalizer: &str,
        is_used: impl AsyncFnOnce() -> Result<bool>,
    ) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let held = object.finalizers().iter().any(|one| one == finalizer);
        let wanted = !owner::is_terminating(object) || (held && is_used().await?);
        if held == wanted {
            return Ok(());
        }
        let others = object.finalizers().iter().map(String::as_str).filter(|one| *one != finalizer);
        let finalizers: Vec<&str> = others.chain(wanted.then_some(finalizer)).collect();
        // Only what was seen: somebody else may hold the object by now.
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers },
        }));
        match api.patch(&object.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = Error::request("protect", K::kind(&()), ObjectKey::of(object))(error);
                if error.is_not_found() { Ok(()) } else { Err(error) }
            }
        }
    }
}

/// Whether a pod uses a claim. One that has no node yet does not: it will not start with a claim that is to go.
fn uses(pod: &Pod, claim: &ObjectKey, uid: &str, sources: &Sources) -> bool {
    let is_made_for = |pod: &Pod| {
        let known = sources.claims.get(claim);
        known.is_some_and(|known| {
            owner::uid(&*known) == uid && owner::controller_uid(&*known) == owner::uid(pod)
        })
    };
    // A claim that is made for a pod goes with it, though the pod waits for its claims' end.
    let is_shut_down =
        pod.is_finished() || (pod.is_terminating() && pod.metadata.deletion_grace_period_seconds == Some(0));
    !pod.spec.node_name.is_empty()
        && pod.spec.volumes.iter().any(|volume| match &volume.persistent_volume_claim {
            Some(source) => source.claim_name == claim.name,
            None => {
                format!("{}-{}", pod.name_any(), volume.name) == claim.name
                    && !is_shut_down
                    && is_made_for(pod)
            }
        })
}
