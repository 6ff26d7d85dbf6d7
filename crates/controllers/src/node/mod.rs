//! What follows from the state of nodes: conditions and taints, the end of pods on nodes that do not answer, and of
//! pods that nobody will ever look after again.

pub(crate) mod eviction;
pub(crate) mod lifecycle;
pub(crate) mod remains;

use kube::api::{DeleteParams, PartialObjectMeta, Preconditions};
use kube::{Api, Client, ResourceExt as _};

use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::model::Pod;

/// The namespace of the leases that nodes renew.
pub(crate) const LEASES: &str = "kube-node-lease";

/// Deletes a pod, with the time to end that it asks for or with none. One that is gone needs no deleting.
async fn delete_pod(client: &Client, pod: &Pod, at_once: bool) -> Result<()> {
    let key = ObjectKey::of(pod);
    let api = Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), &key.namespace);
    let parameters = DeleteParams {
        grace_period_seconds: at_once.then_some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let deleted = api.delete(&pod.name_any(), &parameters).await;
    match deleted.map_err(Error::request("delete", "Pod", key)) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
