//! Giving pods to nodes: what is written about their volumes before, the wait until those are bound, and the binding
//! itself. It must not know why a node was chosen.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{PartialObjectMeta, Patch, PatchParams, PostParams, Request};
use kube::{Api, Client, Resource as _};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::ask::Ask;
use crate::device_objects::ClaimWrite;
use crate::model::Pod;
use crate::storage::{PersistentVolume, PersistentVolumeClaim, SELECTED_NODE};
use crate::volumes::{ClaimKey, Promise, Volumes};

/// Volumes have to be bound within this time, as in the reference.
const VOLUMES_WITHIN: Duration = Duration::from_secs(600);

/// Why a pod was not given to a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API refused it.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Its volumes were not bound.
    #[error("binding volumes: {0}")]
    Volumes(String),
}

impl Failure {
    /// Whether the pod, or what was to be changed, is not as it was: the watch tells how it is.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Failure::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// How giving a pod to a node ended.
pub(crate) struct Bound {
    pub(crate) ask: Arc<Ask>,
    pub(crate) node: String,
    pub(crate) result: Result<(), Failure>,
}

/// Gives a pod to a node.
pub(crate) async fn bind(client: Client, ask: Arc<Ask>, node: String) -> Bound {
    let result = bind_pod(&client, &ask, &node).await.map_err(Failure::Api);
    Bound { ask, node, result }
}

async fn bind_pod(client: &Client, ask: &Ask, node: &str) -> kube::Result<()> {
    let pod = &ask.pod;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid() },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let request = Request::new(Pod::url_path(&(), Some(pod.namespace()))).create_subresource(
        "binding",
        pod.name(),
        &PostParams::default(),
        binding.to_string().into_bytes(),
    );
    let request = request.map_err(kube::Error::BuildRequest)?;
    client.request::<IgnoredAny>(request).await.map(drop)
}

/// Something that is written about a volume or a claim.
#[derive(Debug)]
pub(crate) enum Write {
    /// A volume becomes a claim's.
    Volume { name: String, patch: Value },
    /// A volume is to be made for a claim.
    Claim { key: ClaimKey, patch: Value },
    /// A claim gets devices, or one more pod.
    Devices(ClaimWrite),
}

/// What is to be written so that a promise is kept.
pub(crate) fn writes(volumes: &Volumes, promise: &Promise, node: &str) -> Vec<Write> {
    let mut writes = Vec::new();
    for (name, key) in &promise.found {
        let (Some(volume), Some(claim)) = (volumes.volumes.get(name), volumes.claims.get(key)) else {
            continue;
        };
        let patch = json!({
            "metadata": {
                "resourceVersion": volume.version,
                "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" },
            },
            "spec": { "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": key.0, "name": key.1,
                "uid": claim.uid, "resourceVersion": claim.version,
            } },
        });
        writes.push(Write::Volume { name: name.clone(), patch });
    }
    for key in &promise.made {
        let Some(claim) = volumes.claims.get(key).filter(|claim| claim.node.is_none()) else { continue };
        let patch = json!({ "metadata": {
            "resourceVersion": claim.version, "annotations": { SELECTED_NODE: node } } });
        writes.push(Write::Claim { key: key.clone(), patch });
    }
    writes
}

/// Gives a pod to a node once its volumes are bound, which `bound` tells.
pub(crate) async fn bind_with_volumes(
    client: Client,
    ask: Arc<Ask>,
    node: String,
    writes: Vec<Write>,
    bound: oneshot::Receiver<Result<(), String>>,
) -> Bound {
    let result = async {
        for write in &writes {
            match write {
                Write::Volume { name, patch } => {
                    let volumes = Api::<PartialObjectMeta<PersistentVolume>>::all(client.clone());
                    merge(&volumes, name, patch).await?;
                }
                Write::Claim { key: (namespace, name), patch } => {
                    let claims = Api::<PartialObjectMeta<PersistentVolumeClaim>>::namespaced(
                        client.clone(),
                        namespace,
                    );
                    merge(&claims, name, patch).await?;
                }
                Write::Devices(write) => write_claim(&client, write).await?,
            }
        }
        match tokio::time::timeout(VOLUMES_WITHIN, bound).await {
            Ok(Ok(told)) => told.map_err(Failure::Volumes)?,
            // Nobody looks at the volumes any more.
            Ok(Err(_)) => return Err(Failure::Volumes("the pod is gone".to_owned())),
            Err(_) => return Err(Failure::Volumes("context deadline exceeded".to_owned())),
        }
        bind_pod(&client, &ask, &node).await.map_err(Failure::Api)
    };
    let result = result.await;
    Bound { ask, node, result }
}

async fn merge<K>(api: &Api<PartialObjectMeta<K>>, name: &str, patch: &Value) -> Result<(), Failure>
where
    PartialObjectMeta<K>: Clone + DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).map_err(Failure::Api)
}

/// Writes what a claim of devices gets.
async fn write_claim(client: &Client, write: &ClaimWrite) -> Result<(), Failure> {
    let (namespace, name) = &write.key;
    let claims = Api::<PartialObjectMeta<ResourceClaim>>::namespaced(client.clone(), namespace);
    let mut version = write.version.clone();
    if let Some(finalizers) = &write.finalizers {
        let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } });
        let patched = claims.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        version = patched.metadata.resource_version.unwrap_or_default();
    }
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": write.status });
    claims
        .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(Failure::Api)
}

/// A pod that has a node as soon as its volumes are bound.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) promise: Promise,
    pub(crate) node: String,
    /// Claims that get devices.
    pub(crate) devices: Vec<ClaimKey>,
    /// Claims that have been seen to wait for their volume on the node.
    seen: Vec<ClaimKey>,
    tell: Option<oneshot::Sender<Result<(), String>>>,
}

impl Waiter {
    pub(crate) fn new(
        promise: Promise,
        devices: Vec<ClaimKey>,
        node: String,
    ) -> (Waiter, oneshot::Receiver<Result<(), String>>) {
        let (tell, told) = oneshot::channel();
        (Waiter { promise, devices, node, seen: Vec::new(), tell: Some(tell) }, told)
    }

    /// Looks whether all volumes are bound, or one cannot be.
    pub(crate) fn look(&mut self, volumes: &Volumes) {
        let mut all = true;
        let mut wrong = None;
        for key in self.promise.claims() {
            let Some(claim) = volumes.claims.get(key) else {
                wrong = Some(format!("persistentvolumeclaim {:?} not found", key.1));
                break;
            };
            if claim.bound && !claim.volume.is_empty() {
                continue;
            }
            all = false;
            if claim.node.as_deref() == Some(&self.node) {
                if !self.seen.contains(key) {
                    self.seen.push(key.clone());
                }
            } else if self.seen.contains(key) {
                // Whoever makes volumes could make none there.
                wrong = Some(format!("provisioning failed for PVC {:?}", key.1));
                break;
            }
        }
        let told = match wrong {
            Some(why) => Err(why),
            None if all => Ok(()),
            None => return,
        };
        if let Some(tell) = self.tell.take() {
            // Who waited may have given up.
            let _ = tell.send(told);
        }
    }
}
