//! Pods of whatever owns them: made, deleted, taken and let go in one way for every controller, with what was asked for and
//! not seen yet remembered ([`Expectations`]). It must not know how many pods an owner wants, nor which.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::expectations::Expectations;
use crate::informer::{Change, Informer, Object};
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::queue::Queue;

/// So many pods are made or deleted in one go.
pub(crate) const BURST: usize = 500;
/// The first of the batches in which pods are made; each is twice the one before.
const FIRST_BATCH: usize = 1;

/// What can own pods.
pub(crate) trait Owner: Object + Resource<Scope = NamespaceResourceScope> {
    /// Which pods it wants; says what is wrong with its selector.
    fn selector(&self) -> std::result::Result<Selector, String>;

    /// Whether a pod that it selects can be its own by its name.
    fn can_own(&self, _pod: &Pod) -> bool {
        true
    }

    /// How an event tells of a pod that was made.
    fn tells_created(&self, pod: &str) -> String {
        format!("Created pod: {pod}")
    }

    /// How an event tells of a pod that was deleted.
    fn tells_deleted(&self, pod: &str) -> String {
        format!("Deleted pod: {pod}")
    }

    /// A finalizer that pods get with this owner and lose with it.
    const FINALIZER: Option<&'static str> = None;
}

/// The pods of the objects of one kind.
pub(crate) struct PodControl<O> {
    client: Client,
    owners: Arc<Informer<O>>,
    pods: Arc<Informer<Pod>>,
    expectations: Arc<Expectations>,
    recorder: Recorder,
}

impl<O: Owner> PodControl<O> {
    /// Subscribes to both informers, which must not run yet: the queue learns which owners to look at.
    pub(crate) fn new(
        client: Client,
        owners: Arc<Informer<O>>,
        pods: Arc<Informer<Pod>>,
        queue: &Arc<Queue<ObjectKey>>,
        recorder: Recorder,
    ) -> Self {
        let expectations = Arc::new(Expectations::default());
        owners.on_change({
            let (queue, expectations) = (queue.clone(), expectations.clone());
            move |change| {
                if let Change::Deleted(owner) = change {
                    expectations.forget(owner::uid(&***owner));
                }
                queue.add(ObjectKey::of(&**change.object()));
            }
        });
        pods.on_change({
            let (queue, expectations, owners) = (queue.clone(), expectations.clone(), owners.clone());
            move |change| pod_changed(&queue, &expectations, &owners, change)
        });
        Self { client, owners, pods, expectations, recorder }
    }

    /// Waits until all owners and pods are known.
    pub(crate) async fn wait_complete(&self) {
        self.owners.wait_complete().await;
        self.pods.wait_complete().await;
    }

    /// The owner of this name, as far as it is known.
    pub(crate) fn owner(&self, key: &ObjectKey) -> Option<Arc<O>> {
        self.owners.get(key)
    }

    /// Whether everything that was asked for has been seen, or will not be waited for.
    pub(crate) fn is_settled(&self, owner: &O) -> bool {
        self.expectations.are_met(owner::uid(owner))
    }

    /// The pods of an owner. One that it owns and does not select is let go; one that nobody owns and that it selects is
    /// taken.
    pub(crate) async fn claim(&self, owner: &O) -> Result<Vec<Arc<Pod>>> {
        let key = ObjectKey::of(owner);
        let selector =
            owner.selector().map_err(|reason| Error::Selector { object: key.to_string(), reason })?;
        let api = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &key.namespace);
        let ending = owner::is_terminating(owner);
        let mut claimed = Vec::new();
        for pod in self.pods.owned_by(owner::uid(owner)) {
            if selector.matches(pod.metadata.labels.as_ref()) {
                claimed.push(pod);
            } else if !ending {
                let patch = without_owner(&*pod, owner::uid(owner), O::FINALIZER);
                write_release(&api, &*pod, patch).await?;
            }
        }
        if ending {
            return Ok(claimed);
        }
        let orphans: Vec<_> = self
            .pods
            .orphans(&key.namespace)
            .into_iter()
            .filter(|pod| {
                let is_selected = selector.matches(pod.metadata.labels.as_ref());
                is_selected && !pod.is_terminating() && owner.can_own(pod)
            })
            .collect();
        if orphans.is_empty() || !self.is_alive(owner, &key).await? {
            return Ok(claimed);
        }
        for pod in orphans {
            if write_adoption(&api, &*pod, with_owner(&*pod, owner, O::FINALIZER)).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    /// What is known of an owner may be old: one that is gone must not take anything.
    async fn is_alive(&self, owner: &O, key: &ObjectKey) -> Result<bool> {
        let owners = Api::<O>::namespaced(self.client.clone(), &key.namespace);
        let fresh = owners.get_metadata(&key.name).await;
        let fresh = fresh.map_err(Error::request("read", kind::<O>(), key.clone()))?;
        Ok(fresh.metadata.uid == owner.meta().uid && fresh.metadata.deletion_timestamp.is_none())
    }

    /// Makes `count` pods, whose bodies `body` gives by their number, in batches that double, so that what fails for one is
    /// not tried for all.
    pub(crate) async fn create(
        &self,
        owner: &O,
        count: usize,
        body: impl Fn(usize) -> std::result::Result<Vec<u8>, serde_json::Error>,
    ) -> Result<()> {
        let uid = owner::uid(owner);
        let key = ObjectKey::of(owner);
        let failed = || Error::request("create a pod of", kind::<O>(), &key);
        let request = |number| {
            let request = Request::new(Pod::url_path(&(), Some(&key.namespace)));
            let body = body(number).map_err(kube::Error::SerdeError)?;
            request.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)
        };
        let mut requests =
            (0..count).map(request).collect::<kube::Result<Vec<_>>>().map_err(failed())?.into_iter();
        self.expectations.expect(uid, count, HashSet::new());
        let mut left = count;
        let mut batch = FIRST_BATCH;
        while left > 0 {
            let size = batch.min(left);
            // As tasks of their own: the API's part of the work is done by whoever waits for it.
            let mut creations = JoinSet::new();
            for request in requests.by_ref().take(size) {
                creations.spawn(post(self.client.clone(), request));
            }
            let results = creations.join_all().await;
            left -= size;
            batch *= 2;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(name) => {
                        let message = owner.tells_created(&name);
                        self.recorder.note(owner, Severity::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.expectations.created(uid, 1);
                        failure = Some(failed()(error));
                    }
                }
            }
            if let Some(error) = failure {
                self.expectations.created(uid, left);
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                let message = format!("Error creating: {}", error.message());
                self.recorder.note(owner, Severity::Warning, "FailedCreate", message);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Deletes pods. One that is gone already is success.
    pub(crate) async fn delete(&self, owner: &O, pods: &[Arc<Pod>]) -> Result<()> {
        let uid = owner::uid(owner);
        let api = Api::<PartialObjectMeta<Pod>>::namespaced(
            self.client.clone(),
            &owner.namespace().unwrap_or_default(),
        );
        let uids = pods.iter().map(|pod| owner::uid(&**pod).to_owned()).collect();
        self.expectations.expect(uid, 0, uids);
        let deletions = pods.iter().map(|pod| async {
            match delete(&api, pod).await {
                Ok(()) => {
                    let message = owner.tells_deleted(&pod.name_any());
                    self.recorder.note(owner, Severity::Normal, "SuccessfulDelete", message);
                    Ok(())
                }
                Err(error) => {
                    self.expectations.deleted(uid, owner::uid(&**pod));
                    if error.is_not_found() {
                        return Ok(());
                    }
                    let message = format!("Error deleting: {}", error.message());
                    self.recorder.note(owner, Severity::Warning, "FailedDelete", message);
                    Err(error)
                }
            }
        });
        join_all(deletions).await.into_iter().collect()
    }
}

/// What a kind is called in errors.
fn kind<O: Owner>() -> String {
    O::kind(&()).into_owned()
}

/// The pod that an owner makes of its template, with a name that the server chooses.
pub(crate) fn of_template<O: Owner>(owner: &O, template: Option<&PodTemplateSpec>) -> Value {
    let given = template.and_then(|template| template.metadata.clone()).unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", owner.name_any())),
        labels: given.labels,
        annotations: given.annotations,
        finalizers: given.finalizers,
        owner_references: Some(vec![owner::reference(owner)]),
        ..ObjectMeta::default()
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": template.and_then(|template| template.spec.as_ref()),
    })
}

/// Makes an object; gives its name, which is all that is read of the answer.
async fn post(client: Client, request: http::Request<Vec<u8>>) -> kube::Result<String> {
    #[derive(Deserialize)]
    struct Made {
        metadata: MadeMetadata,
    }
    #[derive(Deserialize)]
    struct MadeMetadata {
        name: String,
    }
    client.request::<Made>(request).await.map(|made| made.metadata.name)
}

fn pod_changed<O: Owner>(
    queue: &Queue<ObjectKey>,
    expectations: &Expectations,
    owners: &Informer<O>,
    change: &Change<'_, Pod>,
) {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let owner_of = |pod: &Pod| {
        let owner = owner::controller(pod)
            .filter(|owner| owner.kind == O::kind(&()) && owner.api_version == O::api_version(&()))?;
        Some((owner.uid.clone(), ObjectKey::new(namespace, owner.name.clone())))
    };
    let before = change.old().and_then(|old| owner_of(old));
    let now = owner_of(pod);
    if let (Some((uid, key)), true) = (&before, before != now) {
        expectations.deleted(uid, owner::uid(&**pod));
        queue.add(key.clone());
    }
    let Some((uid, key)) = now else {
        // Someone may want it, if nobody has it.
        if owner::controller(&**pod).is_none() && !matches!(change, Change::Deleted(_)) {
            for owner in owners.list(namespace) {
                if owner.selector().is_ok_and(|selector| selector.matches(pod.metadata.labels.as_ref())) {
                    queue.add(ObjectKey::of(&*owner));
                }
            }
        }
        return;
    };
    match change {
        Change::Added(_) => expectations.created(&uid, 1),
        _ if pod.is_terminating() => expectations.deleted(&uid, owner::uid(&**pod)),
        Change::Deleted(_) => expectations.deleted(&uid, owner::uid(&**pod)),
        Change::Updated { .. } => {}
    }
    queue.add(key);
}

async fn delete(pods: &Api<PartialObjectMeta<Pod>>, pod: &Pod) -> Result<()> {
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams::default().preconditions(preconditions);
    let deleted = pods.delete(&pod.name_any(), &parameters).await;
    deleted.map(drop).map_err(Error::request("delete", "Pod", ObjectKey::of(pod)))
}

/// Makes an object nobody's. One that is gone is nobody's.
pub(crate) async fn release<K, O>(api: &Api<PartialObjectMeta<K>>, object: &O, owner: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: Resource<DynamicType = ()>,
{
    write_release(api, object, without_owner(object, owner, None)).await
}

async fn write_release<K, O>(api: &Api<PartialObjectMeta<K>>, object: &O, patch: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: Resource<DynamicType = ()>,
{
    match set_owners(api, object, patch).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}

/// The change that takes an owner away, and the finalizer that came with it.
fn without_owner<O: Resource<DynamicType = ()>>(object: &O, owner: &str, finalizer: Option<&str>) -> Value {
    let metadata = object.meta();
    let owners = metadata.owner_references.iter().flatten().filter(|other| other.uid != owner);
    let owners: Vec<_> = owners.collect();
    let mut patch = json!({ "metadata": { "uid": metadata.uid, "ownerReferences": owners } });
    if let Some(finalizer) = finalizer {
        let finalizers: Vec<_> =
            metadata.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
        patch["metadata"]["finalizers"] = json!(finalizers);
        patch["metadata"]["resourceVersion"] = json!(metadata.resource_version);
    }
    patch
}

/// Makes an object an owner's; tells whether that went well, which it does not when the object is gone.
pub(crate) async fn adopt<K, O, P>(api: &Api<PartialObjectMeta<K>>, object: &O, owner: &P) -> Result<bool>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: Resource<DynamicType = ()>,
    P: Resource<DynamicType = ()>,
{
    write_adoption(api, object, with_owner(object, owner, None)).await
}

async fn write_adoption<K, O>(api: &Api<PartialObjectMeta<K>>, object: &O, patch: Value) -> Result<bool>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: Resource<DynamicType = ()>,
{
    match set_owners(api, object, patch).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The change that gives an object an owner, and the finalizer that comes with it.
fn with_owner<O, P>(object: &O, owner: &P, finalizer: Option<&str>) -> Value
where
    O: Resource<DynamicType = ()>,
    P: Resource<DynamicType = ()>,
{
    let metadata = object.meta();
    let mut owners = metadata.owner_references.clone().unwrap_or_default();
    owners.push(owner::reference(owner));
    let version = &metadata.resource_version;
    let mut patch = json!({ "metadata": {
        "uid": metadata.uid, "resourceVersion": version, "ownerReferences": owners,
    } });
    if let Some(finalizer) = finalizer {
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|other| other == finalizer) {
            finalizers.push(finalizer.to_owned());
        }
        patch["metadata"]["finalizers"] = json!(finalizers);
    }
    patch
}

async fn set_owners<K, O>(api: &Api<PartialObjectMeta<K>>, object: &O, patch: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: Resource<DynamicType = ()>,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let kind = O::kind(&()).into_owned();
    patched.map(drop).map_err(Error::request("change the owner of", kind, ObjectKey::of(object)))
}
