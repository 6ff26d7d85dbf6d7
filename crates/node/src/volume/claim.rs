//! What lies behind a PersistentVolumeClaim: the volume that it was bound to, of a kind that a node can mount by itself.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;

use super::{Place, Root, host_path};
use crate::context::Context;
use crate::error::blocking;
use crate::{Error, Result};

/// The claim that a volume of a pod stands for.
pub(super) struct Wanted {
    name: String,
    read_only: bool,
    /// It was made for the pod and belongs to it.
    is_own: bool,
}

impl Wanted {
    /// None for a volume of another kind.
    pub(super) fn of(pod: &Pod, volume: &Volume) -> Option<Wanted> {
        if let Some(claim) = &volume.persistent_volume_claim {
            let read_only = claim.read_only == Some(true);
            return Some(Wanted { name: claim.claim_name.clone(), read_only, is_own: false });
        }
        volume.ephemeral.as_ref()?;
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        Some(Wanted { name: format!("{pod}-{}", volume.name), read_only: false, is_own: true })
    }
}

/// Finds the volume of a claim.
///
/// # Errors
/// In the kubelet's words, where the claim or its volume is not there, not bound, or of a kind that is not supported.
pub(super) async fn find(context: &Context, pod: &Pod, wanted: &Wanted) -> Result<Root> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = &wanted.name;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let claim = api.get(name).await.map_err(|error| match error {
        kube::Error::Api(answer) if answer.code == 404 => {
            Error::pod(format!("persistentvolumeclaim {name:?} not found"))
        }
        error => Error::api("get persistentvolumeclaim", format!("{namespace}/{name}"))(error),
    })?;
    if wanted.is_own && !is_owned(&claim, pod) {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(Error::pod(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        )));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(Error::pod(format!("can't start pod because PVC {name:?} is being deleted")));
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|_| bound);
    let Some(volume) = volume else { return Err(Error::pod(format!("PVC {name:?} is not bound"))) };
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let found = api.get(volume).await.map_err(Error::api("get persistentvolume", volume))?;
    let holder =
        found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|claim| claim.uid.as_ref());
    if holder.is_none() || holder != claim.metadata.uid.as_ref() {
        return Err(Error::pod(format!(
            "the volume {volume:?} is bound to another claim than {namespace}/{name}"
        )));
    }
    let mut root = open(&found).await?;
    root.read_only |= wanted.read_only;
    Ok(root)
}

fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

async fn open(volume: &PersistentVolume) -> Result<Root> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &volume.spec else {
        return Err(Error::pod(format!("the volume {name:?} has no source")));
    };
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    if let Some(host) = spec.host_path.clone() {
        return blocking(move || {
            let root = host_path(&host)?;
            if is_block { root.into_device() } else { Ok(root) }
        })
        .await;
    }
    if let Some(local) = &spec.local {
        let path = PathBuf::from(&local.path);
        return blocking(move || {
            if !path.exists() {
                return Err(Error::pod(format!("path {:?} does not exist", path.display())));
            }
            let root = Root { place: Place::Path(path), read_only: false };
            if is_block { root.into_device() } else { Ok(root) }
        })
        .await;
    }
    Err(Error::pod(format!("no volume plugin matched the volume {name:?}")))
}

impl Root {
    /// The same as a device, where it is one.
    fn into_device(self) -> Result<Root> {
        let Place::Path(path) = self.place else { return Ok(self) };
        if !is_device(&path) {
            return Err(Error::pod(format!("{} is no block device", path.display())));
        }
        Ok(Root { place: Place::Device(path), read_only: self.read_only })
    }
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}
