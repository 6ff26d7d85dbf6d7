//! ReplicaSets: as many pods as are asked for.

mod rank;
mod status;

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::expectations::{self, Expectations};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many pods are made or deleted in one go.
const BURST: usize = 500;
/// So many ReplicaSets are looked at at the same time.
const WIDTH: usize = 16;
/// The first of the batches in which pods are made; each is twice the one before.
const FIRST_BATCH: usize = 1;

/// The controller of ReplicaSets.
pub(crate) struct ReplicaSets {
    client: Client,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
    expectations: Arc<Expectations>,
    recorder: Recorder,
}

impl ReplicaSets {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        sets: Arc<Informer<ReplicaSet>>,
        pods: Arc<Informer<Pod>>,
        recorder: &Recorder,
    ) -> ReplicaSets {
        let queue = Queue::new("replicasets");
        let expectations = Arc::new(Expectations::default());
        sets.on_change({
            let (queue, expectations) = (queue.clone(), expectations.clone());
            move |change| {
                if let Change::Deleted(set) = change {
                    expectations.forget(owner::uid(&***set));
                }
                queue.add(ObjectKey::of(&**change.object()));
            }
        });
        pods.on_change({
            let (queue, expectations, sets) = (queue.clone(), expectations.clone(), sets.clone());
            move |change| pod_changed(&queue, &expectations, &sets, change)
        });
        let recorder = recorder.of("replicaset-controller");
        ReplicaSets { client, sets, pods, queue, expectations, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.sets.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(set) = self.sets.get(&key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        let uid = owner::uid(&*set);
        let met = self.expectations.are_met(uid);
        let selector = Selector::new(&spec.selector)
            .map_err(|reason| Error::Selector { object: key.to_string(), reason })?;
        let pods = self.claim(&set, &selector).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let managed =
            if met && !owner::is_terminating(&*set) { self.manage(&set, &active).await } else { Ok(()) };
        let again = self.update_status(&set, &pods, &active, managed.as_ref().err()).await?;
        managed?;
        Ok(again.or((!met).then_some(expectations::TIMEOUT)))
    }

    /// The pods of a set. One that it owns and does not select is let go; one that nobody owns and that it
    /// selects is taken.
    async fn claim(&self, set: &ReplicaSet, selector: &Selector) -> Result<Vec<Arc<Pod>>> {
        let namespace = set.namespace().unwrap_or_default();
        let pods = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &namespace);
        let ending = owner::is_terminating(set);
        let mut claimed = Vec::new();
        for pod in self.pods.owned_by(owner::uid(set)) {
            if selector.matches(pod.metadata.labels.as_ref()) {
                claimed.push(pod);
            } else if !ending {
                release(&pods, &*pod, owner::uid(set)).await?;
            }
        }
        if ending {
            return Ok(claimed);
        }
        let orphans: Vec<_> = self
            .pods
            .orphans(&namespace)
            .into_iter()
            .filter(|pod| !pod.is_terminating() && selector.matches(pod.metadata.labels.as_ref()))
            .collect();
        if orphans.is_empty() {
            return Ok(claimed);
        }
        // What is known of the set may be old: one that is gone must not take anything.
        let sets = Api::<ReplicaSet>::namespaced(self.client.clone(), &namespace);
        let fresh = sets.get_metadata(&set.name_any()).await.map_err(Error::request(
            "read",
            "ReplicaSet",
            ObjectKey::of(set),
        ))?;
        if fresh.metadata.uid != set.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
            return Ok(claimed);
        }
        for pod in orphans {
            if adopt(&pods, &*pod, set).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    /// Makes or deletes pods until there are as many as are wanted.
    async fn manage(&self, set: &ReplicaSet, active: &[Arc<Pod>]) -> Result<()> {
        let wanted = replicas(set);
        if active.len() < wanted {
            self.create_pods(set, (wanted - active.len()).min(BURST)).await
        } else if active.len() > wanted {
            self.delete_pods(set, active, (active.len() - wanted).min(BURST)).await
        } else {
            Ok(())
        }
    }

    /// Makes pods in batches that double, so that what fails for one is not tried for all.
    async fn create_pods(&self, set: &ReplicaSet, count: usize) -> Result<()> {
        let uid = owner::uid(set);
        let key = ObjectKey::of(set);
        let namespace = &key.namespace;
        let body = serde_json::to_vec(&new_pod(set)).map_err(kube::Error::SerdeError);
        let body = body.map_err(Error::request("encode a pod of", "ReplicaSet", &key))?;
        let request = Request::new(Pod::url_path(&(), Some(namespace)));
        let request = request.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest);
        let request = request.map_err(Error::request("create a pod of", "ReplicaSet", &key))?;
        self.expectations.expect(uid, count, HashSet::new());
        let mut left = count;
        let mut batch = FIRST_BATCH;
        while left > 0 {
            let size = batch.min(left);
            // As tasks of their own: the API's part of the work is done by whoever waits for it.
            let mut creations = JoinSet::new();
            for _ in 0..size {
                creations.spawn(post(self.client.clone(), request.clone()));
            }
            let results = creations.join_all().await;
            left -= size;
            batch *= 2;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(name) => {
                        let message = format!("Created pod: {name}");
                        self.recorder.note(set, Severity::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.expectations.created(uid, 1);
                        failure = Some(Error::request("create a pod of", "ReplicaSet", &key)(error));
                    }
                }
            }
            if let Some(error) = failure {
                self.expectations.created(uid, left);
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                let message = format!("Error creating: {}", error.message());
                self.recorder.note(set, Severity::Warning, "FailedCreate", message);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn delete_pods(&self, set: &ReplicaSet, active: &[Arc<Pod>], count: usize) -> Result<()> {
        let uid = owner::uid(set);
        let namespace = set.namespace().unwrap_or_default();
        let pods = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &namespace);
        let mut ranked = active.to_vec();
        if count < active.len() {
            rank::first_to_go(&mut ranked, &self.related(set), jiff::Timestamp::now());
        }
        ranked.truncate(count);
        let uids = ranked.iter().map(|pod| owner::uid(&**pod).to_owned()).collect();
        self.expectations.expect(uid, 0, uids);
        let deletions = ranked.iter().map(|pod| async {
            let result = delete(&pods, pod).await;
            match result {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.note(set, Severity::Normal, "SuccessfulDelete", message);
                    Ok(())
                }
                Err(error) => {
                    self.expectations.deleted(uid, owner::uid(&**pod));
                    if error.is_not_found() {
                        return Ok(());
                    }
                    let message = format!("Error deleting: {}", error.message());
                    self.recorder.note(set, Severity::Warning, "FailedDelete", message);
                    Err(error)
                }
            }
        });
        join_all(deletions).await.into_iter().collect()
    }

    /// The active pods of all sets of the same owner, by whose places pods are ranked.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let siblings = match owner::controller_uid(set) {
            "" => vec![Arc::new(set.clone())],
            uid => self.sets.owned_by(uid),
        };
        let pods = siblings.iter().flat_map(|sibling| self.pods.owned_by(owner::uid(&**sibling)));
        pods.filter(|pod| pod.is_active()).collect()
    }
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

/// How many pods a set is to have.
pub(crate) fn replicas(set: &ReplicaSet) -> usize {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0) as usize
}

fn pod_changed(
    queue: &Queue<ObjectKey>,
    expectations: &Expectations,
    sets: &Informer<ReplicaSet>,
    change: &Change<'_, Pod>,
) {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let set_of = |pod: &Pod| {
        let owner = owner::controller(pod).filter(|owner| owner.kind == "ReplicaSet")?;
        Some((owner.uid.clone(), ObjectKey::new(namespace, owner.name.clone())))
    };
    let before = change.old().and_then(|old| set_of(old));
    let now = set_of(pod);
    if let (Some((uid, key)), true) = (&before, before != now) {
        expectations.deleted(uid, owner::uid(&**pod));
        queue.add(key.clone());
    }
    let Some((uid, key)) = now else {
        // Someone may want it.
        if !matches!(change, Change::Deleted(_)) {
            for set in sets.list(namespace) {
                let selector = set.spec.as_ref().and_then(|spec| Selector::new(&spec.selector).ok());
                if selector.is_some_and(|selector| selector.matches(pod.metadata.labels.as_ref())) {
                    queue.add(ObjectKey::of(&*set));
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

/// The pod that a set makes.
fn new_pod(set: &ReplicaSet) -> Value {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let given = template.and_then(|template| template.metadata.clone()).unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.name_any())),
        labels: given.labels,
        annotations: given.annotations,
        finalizers: given.finalizers,
        owner_references: Some(vec![owner::reference(set)]),
        ..ObjectMeta::default()
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": template.and_then(|template| template.spec.as_ref()),
    })
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
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: kube::Resource<DynamicType = ()>,
{
    let owners = object.meta().owner_references.iter().flatten().filter(|other| other.uid != owner);
    let owners: Vec<_> = owners.collect();
    let patch = json!({ "metadata": { "uid": object.meta().uid, "ownerReferences": owners } });
    match set_owners(api, object, patch).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}

/// Makes an object an owner's; tells whether that went well, which it does not when the object is gone.
pub(crate) async fn adopt<K, O, P>(api: &Api<PartialObjectMeta<K>>, object: &O, owner: &P) -> Result<bool>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: kube::Resource<DynamicType = ()>,
    P: kube::Resource<DynamicType = ()>,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(owner::reference(owner));
    let version = &object.meta().resource_version;
    let patch = json!({ "metadata": {
        "uid": object.meta().uid, "resourceVersion": version, "ownerReferences": owners,
    } });
    match set_owners(api, object, patch).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn set_owners<K, O>(api: &Api<PartialObjectMeta<K>>, object: &O, patch: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
    PartialObjectMeta<K>: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    O: kube::Resource<DynamicType = ()>,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let kind = O::kind(&()).into_owned();
    patched.map(drop).map_err(Error::request("change the owner of", kind, ObjectKey::of(object)))
}
