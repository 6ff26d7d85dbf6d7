//! What is used of quotas, counted anew: of new and changed quotas at once, of others when something that they count
//! goes away or becomes less, and a little after the API server has charged them.
//!
//! The API server adds what is made as it is made. Only what it takes away from nobody is found out here: what is gone,
//! and what was charged and then not made.

use std::sync::Arc;
use std::time::Duration;

use dray_machinery::quantity::Quantity;
use dray_machinery::quota::{Amounts, Counted};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota, Service};
use kube::api::{ListParams, PostParams, Request};
use kube::core::DynamicObject;
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::garbage::Objects;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::kinds::Kind;
use crate::model::Pod;
use crate::queue::{Again, Queue};

/// So many quotas are looked at at the same time.
const WIDTH: usize = 4;
/// How long after the API server has charged a quota it is counted.
const SETTLED: Duration = Duration::from_secs(3);
/// Pods of lost nodes stop counting without anything happening to them.
const AGAIN: Duration = Duration::from_secs(300);
/// So many objects are read at a time.
const PAGE: u32 = 500;

/// The controller of quotas.
pub(crate) struct Quotas {
    client: Client,
    objects: Arc<Objects>,
    quotas: Arc<Informer<ResourceQuota>>,
    queue: Arc<Queue<ObjectKey>>,
}

/// What besides quotas it follows.
pub(crate) struct Sources {
    pub(crate) objects: Arc<Objects>,
    pub(crate) pods: Arc<Informer<Pod>>,
    pub(crate) services: Arc<Informer<Service>>,
    pub(crate) claims: Arc<Informer<PersistentVolumeClaim>>,
}

/// Has all quotas of a namespace looked at.
fn replenish(quotas: &Informer<ResourceQuota>, queue: &Queue<ObjectKey>, namespace: Option<&String>) {
    let Some(namespace) = namespace else { return };
    quotas.list(namespace).iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)));
}

impl Quotas {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, quotas: Arc<Informer<ResourceQuota>>, sources: &Sources) -> Quotas {
        let queue = Queue::new("quotas");
        quotas.on_change({
            let queue = queue.clone();
            move |change| {
                let key = ObjectKey::of(&**change.object());
                match change {
                    Change::Added(_) => queue.add(key),
                    Change::Updated { old, new } if old.spec != new.spec => queue.add(key),
                    Change::Updated { .. } => queue.add_after(key, SETTLED),
                    Change::Deleted(_) => {}
                }
            }
        });
        let of_namespace = || (queue.clone(), quotas.clone());
        sources.objects.on_removal({
            let (queue, quotas) = of_namespace();
            move |namespace| replenish(&quotas, &queue, Some(&namespace.to_owned()))
        });
        sources.objects.on_kinds({
            let (queue, quotas) = of_namespace();
            move || quotas.list_all().iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)))
        });
        sources.pods.on_change({
            let (queue, quotas) = of_namespace();
            move |change| {
                if change.old().is_some_and(|old| old.is_finished() != change.object().is_finished()) {
                    replenish(&quotas, &queue, change.object().metadata.namespace.as_ref());
                }
            }
        });
        sources.services.on_change({
            let (queue, quotas) = of_namespace();
            move |change| {
                if change.old().is_some_and(|old| old.spec != change.object().spec) {
                    replenish(&quotas, &queue, change.object().metadata.namespace.as_ref());
                }
            }
        });
        sources.claims.on_change({
            let (queue, quotas) = of_namespace();
            move |change| {
                let claim = change.object();
                if change.old().is_some_and(|old| old.spec != claim.spec || old.status != claim.status) {
                    replenish(&quotas, &queue, claim.metadata.namespace.as_ref());
                }
            }
        });
        Quotas { client, objects: sources.objects.clone(), quotas, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.quotas.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        if self.quotas.get(&key).is_none() {
            return Ok(None);
        }
        match self.count(&key).await {
            Ok(()) => Ok(Some(AGAIN)),
            Err(error) if error.is_not_found() || error.is_namespace_terminating() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn count(&self, key: &ObjectKey) -> Result<()> {
        // The newest, before anything is counted: what is charged meanwhile makes the write fail.
        let mut quota = self.read(key).await?;
        let hard = Amounts::read(&quota["spec"]["hard"]);
        let mut used = Amounts::read(&quota["status"]["used"]).only(|name| hard.get(name).is_some());
        for kind in self.objects.kinds().iter().filter(|kind| kind.namespaced) {
            let counted = Counted { group: &kind.resource.group, plural: &kind.resource.plural };
            if !hard.names().any(|name| counted.is_counted_by(name)) {
                continue;
            }
            let counted_here = self.used_by(kind, &quota, key).await?;
            for name in hard.names().filter(|name| counted.is_counted_by(name)) {
                used.set(name, counted_here.get(name).unwrap_or_else(|| Quantity::from_units(0)));
            }
        }
        let status = json!({ "hard": hard.to_value(), "used": used.to_value() });
        if Amounts::read(&quota["status"]["hard"]) == hard
            && Amounts::read(&quota["status"]["used"]) == used
            && quota["status"].is_object()
        {
            return Ok(());
        }
        quota["status"] = status;
        let request = Request::new(ResourceQuota::url_path(&(), Some(&key.namespace)));
        let body = quota.to_string().into_bytes();
        let written = match request.replace_subresource("status", &key.name, &PostParams::default(), body) {
            Ok(request) => self.client.request::<Value>(request).await.map(drop),
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        written.map_err(Error::request("write the status of", "ResourceQuota", key))
    }

    async fn read(&self, key: &ObjectKey) -> Result<Value> {
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &key.namespace);
        let quota = api.get(&key.name).await.map_err(Error::request("read", "ResourceQuota", key))?;
        let mut quota = serde_json::to_value(quota).unwrap_or_default();
        // Who manages what is the API's to keep.
        if let Some(metadata) = quota["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        Ok(quota)
    }

    /// What the objects of a kind use of a quota.
    async fn used_by(&self, kind: &Kind, quota: &Value, key: &ObjectKey) -> Result<Amounts> {
        let counted = Counted { group: &kind.resource.group, plural: &kind.resource.plural };
        let request = Request::new(DynamicObject::url_path(&kind.resource, Some(&key.namespace)));
        let mut used = Amounts::default();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = match request.list(&parameters) {
                Ok(request) => self.client.request::<Value>(request).await,
                Err(error) => Err(kube::Error::BuildRequest(error)),
            };
            let page = match page {
                // The list has become too old to be gone on with: it is begun again.
                Err(kube::Error::Api(status))
                    if status.code == 410 && parameters.continue_token.is_some() =>
                {
                    used = Amounts::default();
                    parameters.continue_token = None;
                    continue;
                }
                // Nothing is left of a kind that is served no more.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Amounts::default()),
                page => page.map_err(Error::request("list", kind.resource.kind.clone(), &key.namespace))?,
            };
            let items = page["items"].as_array().into_iter().flatten();
            for object in items.filter(|object| counted.is_in_scope(quota, object)) {
                used.add(&counted.usage(object));
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token.to_owned()),
                None => return Ok(used),
            }
        }
    }
}
