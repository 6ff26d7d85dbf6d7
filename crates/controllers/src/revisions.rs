//! What an object's template was before: ControllerRevisions, by which StatefulSets and DaemonSets know which of their pods
//! are of which template, and `kubectl rollout undo` finds the way back. It must not know what pods there are.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::owner;
use crate::pods::Owner;
use crate::short_name::short_name;

/// The label of a StatefulSet's revision that has the short name of its template.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";
/// The label of a pod that names its revision, and the one of a DaemonSet's revision that has the short name of its template.
pub(crate) const OF_POD: &str = "controller-revision-hash";

/// The revisions of the objects of one kind.
pub(crate) struct Revisions {
    client: Client,
    known: Arc<Informer<ControllerRevision>>,
    /// The label that has the short name of a revision's template.
    label: &'static str,
}

/// The revisions of one object, oldest first; the last is the one of its template.
pub(crate) struct History {
    all: Vec<Arc<ControllerRevision>>,
    /// How often two templates had the same short name.
    pub(crate) collisions: Option<i32>,
}

impl History {
    /// The one of the template that is asked for.
    pub(crate) fn newest(&self) -> Option<&ControllerRevision> {
        self.all.last().map(|revision| &**revision)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&ControllerRevision> {
        self.all.iter().find(|revision| revision.metadata.name.as_deref() == Some(name)).map(|found| &**found)
    }
}

impl Revisions {
    pub(crate) fn new(client: Client, known: Arc<Informer<ControllerRevision>>, label: &'static str) -> Self {
        Self { client, known, label }
    }

    /// The short name of a revision's template.
    pub(crate) fn hash<'r>(&self, revision: &'r ControllerRevision) -> Option<&'r String> {
        revision.labels().get(self.label)
    }

    pub(crate) async fn wait_complete(&self) {
        self.known.wait_complete().await;
    }

    /// The history of an object, with a revision of its template: a new one, or an old one that is the newest again.
    pub(crate) async fn history<O: Owner>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
    ) -> Result<History> {
        let mut all = self.known.owned_by(owner::uid(owner));
        all.sort_by_key(|revision| (revision.revision, revision.name_any()));
        let data = data_of(template);
        let next = all.last().map_or(1, |last| last.revision + 1);
        let equal = all.iter().rposition(|revision| is_of(revision, template));
        match equal {
            Some(place) if place + 1 == all.len() => return Ok(History { all, collisions }),
            Some(place) => {
                let again = all.remove(place);
                all.push(Arc::new(self.renumber(&again, next).await?));
                return Ok(History { all, collisions });
            }
            None => {}
        }
        let mut count = collisions;
        loop {
            let hash = short_name(data.0.to_string().as_bytes(), count.unwrap_or(0));
            let revision = new_revision(owner, template, &data, (self.label, &hash), next);
            let name = revision.name_any();
            let api = self.api(owner);
            match api.create(&PostParams::default(), &revision).await {
                Ok(made) => {
                    all.push(Arc::new(made));
                    return Ok(History { all, collisions: count });
                }
                Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                    let key = ObjectKey::new(owner.namespace().unwrap_or_default(), name.clone());
                    let there = api.get(&name).await;
                    let there = there.map_err(Error::request("read", "ControllerRevision", key))?;
                    if is_of(&there, template) && owner::controller_uid(&there) == owner::uid(owner) {
                        all.push(Arc::new(there));
                        return Ok(History { all, collisions: count });
                    }
                    count = Some(count.unwrap_or(0) + 1);
                }
                Err(error) => {
                    let failed =
                        Error::request("create a ControllerRevision of", kind::<O>(), ObjectKey::of(owner));
                    return Err(failed(error));
                }
            }
        }
    }

    /// Deletes the oldest revisions that no pod and nobody needs, beyond `limit` of them.
    pub(crate) async fn truncate<O: Owner>(
        &self,
        owner: &O,
        history: &History,
        needed: &HashSet<String>,
        limit: usize,
    ) -> Result<()> {
        let newest = history.newest().map(|revision| revision.name_any());
        let old: Vec<_> = history
            .all
            .iter()
            .filter(|revision| {
                let name = revision.name_any();
                let hash = self.hash(revision);
                let is_needed = needed.contains(&name) || hash.is_some_and(|hash| needed.contains(hash));
                Some(&name) != newest.as_ref() && !is_needed
            })
            .collect();
        for revision in old.iter().take(old.len().saturating_sub(limit)) {
            match self.api(owner).delete(&revision.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(gone)) if gone.code == 404 => {}
                Err(error) => {
                    let key = ObjectKey::of(&***revision);
                    return Err(Error::request("delete", "ControllerRevision", key)(error));
                }
            }
        }
        Ok(())
    }

    async fn renumber(&self, revision: &ControllerRevision, number: i64) -> Result<ControllerRevision> {
        let api = Api::<ControllerRevision>::namespaced(
            self.client.clone(),
            &revision.namespace().unwrap_or_default(),
        );
        let patch = Patch::Merge(json!({ "revision": number }));
        let patched = api.patch(&revision.name_any(), &PatchParams::default(), &patch).await;
        patched.map_err(Error::request("renumber", "ControllerRevision", ObjectKey::of(revision)))
    }

    fn api<O: Owner>(&self, owner: &O) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), &owner.namespace().unwrap_or_default())
    }
}

fn kind<O: Owner>() -> String {
    O::kind(&()).into_owned()
}

fn new_revision<O: Owner>(
    owner: &O,
    template: &PodTemplateSpec,
    data: &RawExtension,
    (label, hash): (&str, &str),
    number: i64,
) -> ControllerRevision {
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    let mut labels = labels.unwrap_or_default();
    labels.insert(label.to_owned(), hash.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name_any())),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owner::reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(data.clone()),
        revision: number,
    }
}

/// A template as a revision has it: a patch that makes an object's template this one.
fn data_of(template: &PodTemplateSpec) -> RawExtension {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    // Tools compare texts, and theirs name the time that no template has.
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.insert("creationTimestamp".to_owned(), Value::Null);
    }
    RawExtension(json!({ "spec": { "template": template } }))
}

/// Whether a revision stands for a template.
fn is_of(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).as_ref() == Some(template)
}

/// The template that a revision stands for.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template: Value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}
