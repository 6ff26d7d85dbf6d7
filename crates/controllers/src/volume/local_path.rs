//! Volumes that are directories of one node: the class `local-path`, made for claims whose first pod was given to the
//! node, and taken away with the last claim.
//!
//! A directory is named after its volume, and that after the claim's uid, so that no name that a user chose ever leads
//! anywhere. What an object says of a path is only compared, never followed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::binder::Sources;
use super::plan::{self, Note};
use super::{
    IS_DEFAULT, OLDER_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, annotation, capacity,
    change_volume, requested, volume_name, volume_phase, volumes, waits_for_pod, writes,
};
use crate::error::{Error, Result};
use crate::events::Recorder;
use crate::informer::Change;
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

/// Who makes such volumes, as classes name it.
pub(super) const NAME: &str = "dray.io/local-path";
const CLASS: &str = "local-path";
/// Keeps a volume until its directory is gone.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// So many claims and volumes are looked at at the same time.
const WIDTH: usize = 4;

/// The directories of one node's volumes. What is called with a name is called in a thread that may wait.
pub trait Directories: fmt::Debug + Send + Sync {
    /// Where the directory of a name is, or would be. A name is a single part of a path.
    fn place(&self, name: &str) -> PathBuf;

    /// Makes a directory that everybody may write to, if it is not there.
    ///
    /// # Errors
    /// What the file system says.
    fn make(&self, name: &str) -> io::Result<()>;

    /// Removes a directory with all that it holds; one that is not there is no failure.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A node on which volumes can be made.
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    /// The node's name.
    pub node: String,
    /// Where they are.
    pub directories: Arc<dyn Directories>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    /// The class has to be there.
    Class,
    Claim(ObjectKey),
    Volume(ObjectKey),
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Class => formatter.write_str(CLASS),
            Item::Claim(key) | Item::Volume(key) => key.fmt(formatter),
        }
    }
}

/// The provisioner of one node.
pub(crate) struct Provisioner {
    client: Client,
    sources: Sources,
    local: LocalVolumes,
    queue: Arc<Queue<Item>>,
    recorder: Recorder,
}

impl Provisioner {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        sources: Sources,
        local: LocalVolumes,
        recorder: &Recorder,
    ) -> Provisioner {
        let queue = Queue::new("local volumes");
        sources.claims.on_change({
            let queue = queue.clone();
            move |change| {
                let claim = change.object();
                if !matches!(change, Change::Deleted(_)) && is_asked(claim) && volume_name(claim).is_empty() {
                    queue.add(Item::Claim(ObjectKey::of(&**claim)));
                }
            }
        });
        sources.volumes.on_change({
            let queue = queue.clone();
            move |change| {
                let volume = change.object();
                if annotation(&**volume, PROVISIONED_BY) == Some(NAME) {
                    queue.add(Item::Volume(ObjectKey::of(&**volume)));
                }
            }
        });
        Provisioner { client, sources, local, queue, recorder: recorder.of(NAME) }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.queue.add(Item::Class);
        self.sources.wait_complete().await;
        self.queue.run(WIDTH, |item| self.sync(item)).await
    }

    async fn sync(&self, item: Item) -> Result<Again> {
        match item {
            Item::Class => self.ensure_class().await?,
            Item::Claim(key) => {
                if let Some(claim) = self.sources.claims.get(&key) {
                    self.provision(&claim).await?;
                }
            }
            Item::Volume(key) => {
                if let Some(volume) = self.sources.volumes.get(&key) {
                    self.take_away(&volume).await?;
                }
            }
        }
        Ok(None)
    }

    /// Makes the class, if there is none of its name: how it was changed is how it stays.
    async fn ensure_class(&self) -> Result<()> {
        let class: StorageClass = serde_json::from_value(json!({
            "metadata": { "name": CLASS, "annotations": { IS_DEFAULT: "true" } },
            "provisioner": NAME, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        }))
        .unwrap_or_default();
        let api = Api::<StorageClass>::all(self.client.clone());
        match api.create(&PostParams::default(), &class).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => made.map(drop).map_err(Error::request("create", "StorageClass", CLASS)),
        }
    }

    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        if !is_asked(claim) || owner::is_terminating(claim) || !volume_name(claim).is_empty() {
            return Ok(());
        }
        let Some(class) = self.sources.class_of(claim).filter(|class| class.provisioner == NAME) else {
            return Ok(());
        };
        match annotation(claim, SELECTED_NODE) {
            Some(node) if node != self.local.node => return Ok(()),
            None if waits_for_pod(&class) => return Ok(()),
            _ => {}
        }
        let name = format!("pvc-{}", owner::uid(claim));
        if !is_name(&name) || self.sources.volumes.get(&ObjectKey::new("", name.clone())).is_some() {
            return Ok(());
        }
        if let Some(why) = refuse(claim) {
            let class = class.name_any();
            let message = format!("failed to provision volume with StorageClass {class:?}: {why}");
            self.tell(claim, Note::warning("ProvisioningFailed", message));
            return Ok(());
        }
        let key = ObjectKey::of(claim);
        let message = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.tell(claim, Note::normal("Provisioning", message));
        if let Err(error) = self.on_disk(&name, |directories, name| directories.make(name)).await {
            let class = class.name_any();
            let message = format!("failed to provision volume with StorageClass {class:?}: {error}");
            self.tell(claim, Note::warning("ProvisioningFailed", message));
            return Err(Error::Directory { volume: name, source: error });
        }
        let Some(volume) = self.volume(&name, claim, &class).await? else { return Ok(()) };
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(_) => {
                let message = format!("Successfully provisioned volume {name}");
                self.tell(claim, Note::normal("ProvisioningSucceeded", message));
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(Error::request("create", "PersistentVolume", name)(error)),
        }
    }

    /// The volume for a claim; none if the node is gone.
    async fn volume(
        &self,
        name: &str,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<Option<PersistentVolume>> {
        let node = &self.local.node;
        let found = Api::<Node>::all(self.client.clone()).get_metadata_opt(node).await;
        let Some(found) = found.map_err(Error::request("read", "Node", node))? else { return Ok(None) };
        let hostname = found.labels().get(HOSTNAME).unwrap_or(node);
        let spec = claim.spec.as_ref();
        let size = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get(super::STORAGE));
        let volume = json!({
            "metadata": {
                "name": name, "annotations": { PROVISIONED_BY: NAME }, "finalizers": [FINALIZER],
            },
            "spec": {
                "capacity": { "storage": size }, "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
                "volumeMode": "Filesystem", "storageClassName": class.name_any(),
                "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
                "claimRef": writes::reference(claim),
                "hostPath": { "path": self.local.directories.place(name), "type": "DirectoryOrCreate" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": HOSTNAME, "operator": "In", "values": [hostname] }] }] } },
            },
        });
        Ok(serde_json::from_value(volume).ok())
    }

    /// Whether a volume is one of this node's.
    fn is_ours(&self, volume: &PersistentVolume) -> bool {
        let name = volume.name_any();
        let path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|host| &host.path);
        annotation(volume, PROVISIONED_BY) == Some(NAME)
            && is_name(&name)
            && path.is_some_and(|path| self.local.directories.place(&name).as_os_str() == path.as_str())
    }

    /// Removes the directory of a volume that is released, and then the volume.
    async fn take_away(&self, volume: &PersistentVolume) -> Result<()> {
        if !self.is_ours(volume) {
            return Ok(());
        }
        let name = volume.name_any();
        let held = volume.finalizers().iter().any(|one| one == FINALIZER);
        let never_used = owner::is_terminating(volume) && volume_phase(volume) == "Available";
        if plan::policy(volume) != "Delete" {
            // What is to be kept is kept when the volume goes.
            return if held && owner::is_terminating(volume) { self.let_go(volume).await } else { Ok(()) };
        }
        if !plan::is_released(volume) && !never_used {
            return Ok(());
        }
        if owner::is_terminating(volume) && !held {
            return Ok(());
        }
        if let Err(error) = self.on_disk(&name, |directories, name| directories.remove(name)).await {
            let message = error.to_string();
            writes::write_phase(&self.client, volume, "Failed", &message).await?;
            self.tell(volume, Note::warning("VolumeFailedDelete", message));
            return Err(Error::Directory { volume: name, source: error });
        }
        if !owner::is_terminating(volume) {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid: volume.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            let deleted = volumes(&self.client).delete(&name, &parameters).await;
            let deleted = deleted.map(drop).map_err(Error::request("delete", "PersistentVolume", name));
            // The watch brings it back as one that is on its way out.
            return deleted.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) });
        }
        self.let_go(volume).await
    }

    async fn let_go(&self, volume: &PersistentVolume) -> Result<()> {
        let kept: Vec<&String> = volume.finalizers().iter().filter(|one| *one != FINALIZER).collect();
        let change = json!({ "metadata": { "finalizers": kept } });
        let done = change_volume(&self.client, volume, change).await;
        done.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
    }

    async fn on_disk(
        &self,
        name: &str,
        act: impl FnOnce(&dyn Directories, &str) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (directories, name) = (self.local.directories.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || act(&*directories, &name)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, object: &K, note: Note) {
        self.recorder.note(object, note.severity, note.reason, note.message);
    }
}

/// Whether the binder asks this provisioner for a claim's volume.
fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    [PROVISIONER, OLDER_PROVISIONER].iter().any(|name| annotation(claim, name) == Some(NAME))
}

/// Whether a name is one that a volume gets here: it never leads out of a directory.
fn is_name(name: &str) -> bool {
    let rest = name.strip_prefix("pvc-").unwrap_or_default();
    !rest.is_empty()
        && name.len() <= 63
        && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Why a directory cannot be what a claim asks for.
fn refuse(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    let copies = spec.data_source.is_some() || spec.data_source_ref.is_some();
    let reasons = [
        (spec.volume_mode.as_deref() == Some("Block"), "a directory cannot be a block device"),
        (spec.selector.is_some(), "claim.Spec.Selector is not supported"),
        (copies, "a new directory cannot begin with the data of another volume"),
        (spec.volume_attributes_class_name.is_some(), "directories have no attributes"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

/// Whether a volume is too small for its claim and can be made larger by saying so.
pub(super) fn grows(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    annotation(volume, PROVISIONED_BY) == Some(NAME) && capacity(volume) < requested(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::plan::examples::claim;

    #[test]
    fn names_stay_in_one_directory() {
        for (name, expected) in [
            ("pvc-0d1d9f2e-93f1-4c6f-9a0d-6f8b0f7a4c11", true),
            ("pvc-", false),
            ("pvc-..", false),
            ("pvc-a/b", false),
            ("pvc-../../etc", false),
            ("/etc", false),
            ("pvc-A", false),
        ] {
            assert_eq!(is_name(name), expected, "{name}");
        }
        assert!(!is_name(&format!("pvc-{}", "a".repeat(100))));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        for (spec, refused) in [
            (json!({}), false),
            (json!({ "accessModes": ["ReadWriteMany"] }), false),
            (json!({ "volumeMode": "Block" }), true),
            (json!({ "selector": {} }), true),
            (json!({ "dataSource": { "kind": "PersistentVolumeClaim", "name": "x" } }), true),
        ] {
            assert_eq!(refuse(&claim("data", spec)).is_some(), refused);
        }
    }
}
