//! The end of namespaces: everything in them goes, and then they do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Request};
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::garbage::Objects;
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::kinds::{self, Kind};
use crate::owner;
use crate::queue::{Again, Queue};

const FINALIZER: &str = "kubernetes";
/// So many namespaces are looked at at the same time.
const WIDTH: usize = 8;
/// What ends by itself tells when it has; after this long it is asked again all the same.
const PATIENCE: Duration = Duration::from_secs(15);

/// The controller of namespaces that are to end.
pub(crate) struct Namespaces {
    client: Client,
    namespaces: Arc<Informer<Namespace>>,
    objects: Arc<Objects>,
    queue: Arc<Queue<ObjectKey>>,
}

/// What is left of a namespace.
#[derive(Default)]
struct Rest {
    /// "pods. has 2 resource instances", as the reference tells it.
    kinds: Vec<String>,
    finalizers: Vec<String>,
}

impl Namespaces {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(
        client: Client,
        namespaces: Arc<Informer<Namespace>>,
        objects: Arc<Objects>,
    ) -> Namespaces {
        let queue = Queue::new("namespaces");
        namespaces.on_change({
            let queue = queue.clone();
            move |change| {
                if owner::is_terminating(&**change.object()) {
                    queue.add(ObjectKey::of(&**change.object()));
                }
            }
        });
        objects.on_removal({
            let (queue, namespaces) = (queue.clone(), namespaces.clone());
            move |namespace| {
                let key = ObjectKey::new("", namespace);
                if namespaces.get(&key).is_some_and(|namespace| owner::is_terminating(&*namespace)) {
                    queue.add(key);
                }
            }
        });
        Namespaces { client, namespaces, objects, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.namespaces.wait_complete().await;
        self.objects.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(None) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !owner::is_terminating(&*namespace) || !finalizers.iter().any(|one| one == FINALIZER) {
            return Ok(None);
        }
        // The watches may be behind in both directions: what counts is what the API lists.
        // Definitions may have added kinds since the start.
        let kinds = kinds::discover(&self.client).await?;
        let kinds = kinds.iter().filter(|kind| kind.namespaced && kind.deletes_collections);
        let rests = join_all(kinds.map(|kind| self.empty(kind, &key.name))).await;
        let mut rest = Rest::default();
        for one in rests {
            let one = one?;
            rest.kinds.extend(one.kinds);
            rest.finalizers.extend(one.finalizers);
        }
        if rest.kinds.is_empty() {
            self.finalize(&namespace, &finalizers).await?;
            return Ok(None);
        }
        self.write_conditions(&namespace, rest).await?;
        // Pods have their time to end: each that is gone brings this namespace here again.
        tracing::debug!(namespace = key.name, empty = self.objects.is_empty(&key.name), "not empty yet");
        Ok(Some(PATIENCE))
    }

    /// Deletes all objects of a kind; tells what is left.
    async fn empty(&self, kind: &Kind, namespace: &str) -> Result<Rest> {
        let api = kind.api(&self.client, namespace);
        let what = |action| Error::request(action, kind.resource.plural.clone(), namespace);
        let parameters = ListParams::default();
        let list = || async {
            match api.list_metadata(&parameters).await {
                Ok(list) => Ok(list.items),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => Ok(Vec::new()),
                Err(error) => Err(what("list")(error)),
            }
        };
        let before = list().await?;
        if before.is_empty() {
            return Ok(Rest::default());
        }
        if before.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
            let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            deleted.map_err(what("delete"))?;
        }
        let left = list().await?;
        if left.is_empty() {
            return Ok(Rest::default());
        }
        let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
        let mut rest = Rest::default();
        rest.kinds.push(format!("{name} has {} resource instances", left.len()));
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for finalizer in left.into_iter().flat_map(|object| object.metadata.finalizers.unwrap_or_default()) {
            *counts.entry(finalizer).or_default() += 1;
        }
        let told =
            counts.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
        rest.finalizers.extend(told);
        Ok(rest)
    }

    async fn finalize(&self, namespace: &Namespace, finalizers: &[String]) -> Result<()> {
        let key = ObjectKey::of(namespace);
        let left: Vec<_> = finalizers.iter().filter(|one| *one != FINALIZER).collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": key.name, "uid": namespace.metadata.uid }, "spec": { "finalizers": left },
        });
        let request = Request::new(Namespace::url_path(&(), None));
        let body = body.to_string().into_bytes();
        let finalized = match request.replace_subresource("finalize", &key.name, &PostParams::default(), body)
        {
            Ok(request) => self.client.request::<Value>(request).await.map(drop),
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        match finalized.map_err(Error::request("finalize", "Namespace", &key)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Says what keeps a namespace.
    async fn write_conditions(&self, namespace: &Namespace, rest: Rest) -> Result<()> {
        let condition = |kind: &str, yes: (&str, String), no: (&str, &str), is: bool| NamespaceCondition {
            type_: kind.to_owned(),
            status: if is { "True" } else { "False" }.to_owned(),
            reason: Some(if is { yes.0 } else { no.0 }.to_owned()),
            message: Some(if is { yes.1 } else { no.1.to_owned() }),
            last_transition_time: Some(Time(Timestamp::now())),
        };
        let mut conditions = vec![
            condition(
                "NamespaceDeletionDiscoveryFailure",
                ("", String::new()),
                ("ResourcesDiscovered", "All resources successfully discovered"),
                false,
            ),
            condition(
                "NamespaceDeletionGroupVersionParsingFailure",
                ("", String::new()),
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
                false,
            ),
            condition(
                "NamespaceDeletionContentFailure",
                ("", String::new()),
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
                false,
            ),
            condition(
                "NamespaceContentRemaining",
                ("SomeResourcesRemain", format!("Some resources are remaining: {}", rest.kinds.join(", "))),
                ("ContentRemoved", "All content successfully removed"),
                !rest.kinds.is_empty(),
            ),
            condition(
                "NamespaceFinalizersRemaining",
                (
                    "SomeFinalizersRemain",
                    format!(
                        "Some content in the namespace has finalizers remaining: {}",
                        rest.finalizers.join(", ")
                    ),
                ),
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
                !rest.finalizers.is_empty(),
            ),
        ];
        let known =
            namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        for condition in &mut conditions {
            let before = known.iter().find(|other| other.type_ == condition.type_);
            if let Some(before) = before.filter(|before| before.status == condition.status) {
                condition.last_transition_time.clone_from(&before.last_transition_time);
            }
        }
        if conditions == known {
            return Ok(());
        }
        let key = ObjectKey::of(namespace);
        let patch = json!({
            "metadata": { "uid": namespace.metadata.uid }, "status": { "conditions": conditions },
        });
        let api = Api::<Namespace>::all(self.client.clone());
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match written.map_err(Error::request("write the status of", "Namespace", &key)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
