//! What becomes of one object: by its owners as they really are, asked of the API where the watches do not know them.

use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::Status;
use serde_json::json;

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN, Work, owner_group};
use crate::definition::Definition;
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::kinds::Kind;
use crate::queue::Again;

/// What is known of an owner.
enum Owner {
    /// It is there, and stays.
    Solid,
    /// It is on its way out and waits for its dependents.
    Waiting,
    /// It is gone.
    Absent,
}

/// Whether an answer is about an object of this name.
fn names(status: &Status, name: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == name)
}

impl Collector {
    pub(super) async fn work(&self, work: Work) -> Result<Again> {
        // A kind that has just been added may have dependents that are not known yet.
        self.objects.wait_complete().await;
        match work {
            Work::Check(uid) => self.check(&uid).await?,
            Work::Orphan(uid) => self.orphan_dependents(&uid).await?,
        }
        Ok(None)
    }

    fn node(&self, uid: &str) -> Option<Node> {
        self.objects.graph.lock().get(uid).cloned()
    }

    fn failed(&self, action: &'static str, node: &Node) -> impl FnOnce(kube::Error) -> Error {
        let kind = self.objects.kind(node.kind).resource.kind.clone();
        Error::request(action, kind, ObjectKey::new(&node.namespace, &node.name))
    }

    /// The object as it is now; nothing if it is gone.
    async fn fresh(&self, uid: &str, node: &Node) -> Result<Option<ObjectMeta>> {
        let api = self.objects.kind(node.kind).api(&self.client, &node.namespace);
        match api.get_metadata(&node.name).await {
            Ok(object) if object.metadata.uid.as_deref() == Some(uid) => Ok(Some(object.metadata)),
            Ok(_) => Ok(None),
            // That a kind is not served says nothing about the object.
            Err(kube::Error::Api(status)) if status.code == 404 && names(&status, &node.name) => Ok(None),
            Err(error) => Err(self.failed("read", node)(error)),
        }
    }

    /// Deletes an object that no owner holds any more.
    async fn check(&self, uid: &str) -> Result<()> {
        let Some(known) = self.node(uid) else { return Ok(()) };
        if known.owners.is_empty() && !known.waits() {
            return Ok(());
        }
        let Some(metadata) = self.fresh(uid, &known).await? else { return Ok(()) };
        let node = Node::new(known.kind, &metadata);
        if node.waits() {
            return self.wait_for_dependents(uid, &node, &metadata).await;
        }
        if node.terminating || node.owners.is_empty() {
            return Ok(());
        }
        let (mut solid, mut waiting, mut absent) = (false, Vec::new(), Vec::new());
        for owner in &node.owners {
            match self.owner(&node, owner).await? {
                Owner::Solid => solid = true,
                Owner::Waiting => waiting.push(owner.uid.clone()),
                Owner::Absent => absent.push(owner.uid.clone()),
            }
        }
        if solid {
            if waiting.is_empty() && absent.is_empty() {
                return Ok(());
            }
            let stay =
                |owner: &&OwnerReference| !waiting.contains(&owner.uid) && !absent.contains(&owner.uid);
            let owners: Vec<_> = node.owners.iter().filter(stay).collect();
            return self.set_owners(&node, &metadata, json!(owners)).await;
        }
        if !waiting.is_empty() && self.objects.graph.lock().has_dependents(uid) {
            let dependents = self.objects.graph.lock().dependents(uid);
            if dependents.iter().any(|(_, dependent)| dependent.waits()) {
                // Two that wait for each other would wait for ever.
                let mut owners = node.owners.clone();
                owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
                self.set_owners(&node, &metadata, json!(owners)).await?;
            }
            return self.delete(&node, &metadata, PropagationPolicy::Foreground).await;
        }
        let policy = if node.orphan {
            PropagationPolicy::Orphan
        } else if node.foreground {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(&node, &metadata, policy).await
    }

    async fn owner(&self, node: &Node, owner: &OwnerReference) -> Result<Owner> {
        let state = |owner: &Node| if owner.waits() { Owner::Waiting } else { Owner::Solid };
        if let Some(known) = self.node(&owner.uid) {
            return Ok(match known.namespace.as_str() {
                "" => state(&known),
                namespace if namespace == node.namespace => state(&known),
                // What of a namespace owns an object of the whole cluster, the reference does not collect either.
                _ if node.namespace.is_empty() => Owner::Solid,
                // One of another namespace cannot own it.
                _ => Owner::Absent,
            });
        }
        let Some((kind, row)) = self.objects.find(owner_group(owner), &owner.kind) else {
            // Whether an owner of a kind that is not served exists, nobody knows.
            return Ok(Owner::Solid);
        };
        if !row.served {
            // Where there is no definition, there is no object either.
            let gone = row.definition.is_some() && !self.is_defined(&row.kind).await?;
            return Ok(if gone { Owner::Absent } else { Owner::Solid });
        }
        let row = row.kind;
        if row.namespaced && node.namespace.is_empty() {
            return Ok(Owner::Solid);
        }
        let namespace = if row.namespaced { node.namespace.clone() } else { String::new() };
        let sought = Node { kind, namespace, name: owner.name.clone(), owners: Vec::new(), ..node.clone() };
        let found = self.fresh(&owner.uid, &sought).await?;
        Ok(found.map_or(Owner::Absent, |metadata| state(&Node::new(kind, &metadata))))
    }

    async fn is_defined(&self, kind: &Kind) -> Result<bool> {
        let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
        let found = Api::<Definition>::all(self.client.clone()).get_metadata_opt(&name).await;
        let found = found.map_err(Error::request("read", "CustomResourceDefinition", &name))?;
        Ok(found.is_some())
    }

    /// Lets an object go that waits for its dependents, when none is left that holds it; has them looked at otherwise.
    async fn wait_for_dependents(&self, uid: &str, node: &Node, metadata: &ObjectMeta) -> Result<()> {
        let dependents = self.objects.graph.lock().dependents(uid);
        let blocks = |dependent: &Node| {
            let mut owners = dependent.owners.iter();
            owners.any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        let blocking: Vec<_> = dependents.into_iter().filter(|(_, dependent)| blocks(dependent)).collect();
        if blocking.is_empty() {
            return self.remove_finalizer(node, metadata, FOREGROUND).await;
        }
        for (dependent, node) in blocking {
            if !node.waits() {
                self.objects.queue.add(Work::Check(dependent));
            }
        }
        Ok(())
    }

    /// Takes an object from its dependents, so that it can go and they stay.
    async fn orphan_dependents(&self, uid: &str) -> Result<()> {
        let Some(known) = self.node(uid) else { return Ok(()) };
        let dependents = self.objects.graph.lock().dependents(uid);
        let released = dependents.iter().map(|(dependent, node)| async move {
            let Some(metadata) = self.fresh(dependent, node).await? else { return Ok(()) };
            let owners = metadata.owner_references.iter().flatten();
            let owners: Vec<_> = owners.filter(|owner| owner.uid != uid).collect();
            self.set_owners(node, &metadata, json!(owners)).await
        });
        join_all(released).await.into_iter().collect::<Result<()>>()?;
        let Some(metadata) = self.fresh(uid, &known).await? else { return Ok(()) };
        self.remove_finalizer(&known, &metadata, ORPHAN).await
    }

    async fn set_owners(&self, node: &Node, metadata: &ObjectMeta, owners: serde_json::Value) -> Result<()> {
        self.patch(node, metadata, json!({ "ownerReferences": owners })).await
    }

    async fn remove_finalizer(&self, node: &Node, metadata: &ObjectMeta, finalizer: &str) -> Result<()> {
        let finalizers = metadata.finalizers.iter().flatten();
        let left: Vec<_> = finalizers.filter(|other| *other != finalizer).collect();
        self.patch(node, metadata, json!({ "finalizers": left })).await
    }

    /// Changes the metadata of an object as long as it is what we know of it. One that is gone needs no change.
    async fn patch(&self, node: &Node, metadata: &ObjectMeta, mut change: serde_json::Value) -> Result<()> {
        change["uid"] = json!(metadata.uid);
        change["resourceVersion"] = json!(metadata.resource_version);
        let api = self.objects.kind(node.kind).api(&self.client, &node.namespace);
        let patch = Patch::Merge(json!({ "metadata": change }));
        let patched = api.patch_metadata(&node.name, &PatchParams::default(), &patch).await;
        match patched.map_err(self.failed("change", node)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete(&self, node: &Node, metadata: &ObjectMeta, policy: PropagationPolicy) -> Result<()> {
        let preconditions = Preconditions {
            uid: metadata.uid.clone(),
            // What it is decided by must still be so.
            resource_version: metadata.resource_version.clone(),
        };
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api = self.objects.kind(node.kind).api(&self.client, &node.namespace);
        let deleted = api.delete(&node.name, &parameters).await;
        match deleted.map_err(self.failed("delete", node)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
