//! Claims and volumes in use stay: what is asked to be deleted goes when no pod uses the claim, and no claim the volume.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;

use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
/// So many objects are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of the two finalizers.
pub(crate) struct Protection {
    client: Client,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    pods: Arc<Informer<Pod>>,
    /// Claims, and volumes, which have no namespace.
    queue: Arc<Queue<ObjectKey>>,
}

impl Protection {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        claims: Arc<Informer<PersistentVolumeClaim>>,
        volumes: Arc<Informer<PersistentVolume>>,
        pods: Arc<Informer<Pod>>,
    ) -> Protection {
        let queue = Queue::new("volume protection");
        claims.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        volumes.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        pods.on_change({
            let queue = queue.clone();
            move |change| {
                let pod = change.object();
                let namespace = pod.namespace().unwrap_or_default();
                for claim in pod.claims() {
                    queue.add(ObjectKey::new(namespace.clone(), claim));
                }
            }
        });
        Protection { client, claims, volumes, pods, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.claims.wait_complete().await;
        self.volumes.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get(&key) else { return Ok(None) };
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase != Some("Bound") {
                self.release(&Api::all(self.client.clone()), &*volume, VOLUME).await?;
            }
            return Ok(None);
        }
        let Some(claim) = self.claims.get(&key) else { return Ok(None) };
        let mut pods = self.pods.list(&key.namespace).into_iter().filter(|pod| !pod.is_finished());
        if !pods.any(|pod| pod.claims().any(|claim| claim == key.name)) {
            self.release(&Api::namespaced(self.client.clone(), &key.namespace), &*claim, CLAIM).await?;
        }
        Ok(None)
    }

    /// Takes the finalizer from an object that is on its way out.
    async fn release<K>(&self, api: &Api<K>, object: &K, finalizer: &str) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        if !owner::is_terminating(object) || !object.finalizers().iter().any(|one| one == finalizer) {
            return Ok(());
        }
        let kept: Vec<&String> = object.finalizers().iter().filter(|one| *one != finalizer).collect();
        // Only what was seen: somebody else may hold the object by now.
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.resource_version(), "finalizers": kept },
        }));
        match api.patch(&object.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = Error::request("release", K::kind(&()), ObjectKey::of(object))(error);
                if error.is_not_found() { Ok(()) } else { Err(error) }
            }
        }
    }
}
