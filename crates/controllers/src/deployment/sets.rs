//! A Deployment's ReplicaSets: which is the new one, making it, and letting go of those that nobody needs.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::conditions::{self, PROGRESSING, condition, desired};
use super::rollout::{limits, replicas};
use super::{Rollout, annotations, arithmetic, template};
use crate::error::{Error, Result};
use crate::events::Severity;
use crate::key::ObjectKey;
use crate::owner;

impl Rollout<'_> {
    pub(super) fn key(&self) -> ObjectKey {
        ObjectKey::of(&self.deployment)
    }

    pub(super) fn set_api(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.controller.client.clone(), &self.key().namespace)
    }

    /// The set of the present template, the oldest if there are several, and all others.
    pub(super) fn split(&self) -> (Option<usize>, Vec<usize>) {
        let current = (0..self.sets.len())
            .filter(|&index| template::is_current(&self.deployment, &self.sets[index]))
            .min_by_key(|&index| {
                let set = &self.sets[index];
                (set.creation_timestamp().map(|time| time.0), set.name_any())
            });
        (current, (0..self.sets.len()).filter(|&index| Some(index) != current).collect())
    }

    /// The new set, made if `create` says so, with its revision, and the old ones.
    pub(super) async fn new_set(&mut self, create: bool) -> Result<(Option<usize>, Vec<usize>)> {
        let (current, old) = self.split();
        let newest = old.iter().map(|&index| annotations::revision(&self.sets[index])).max().unwrap_or(0);
        let revision = newest.saturating_add(1);
        if let Some(index) = current {
            self.keep_new_set(index, revision).await?;
            return Ok((current, old));
        }
        if !create {
            return Ok((None, old));
        }
        let made = self.create_set(revision).await?;
        Ok((made, old))
    }

    /// Brings the annotations of the new set, and what the Deployment says of it, up to date.
    async fn keep_new_set(&mut self, index: usize, revision: i64) -> Result<()> {
        let set = &self.sets[index];
        let wanted = annotations::of_new_set(&self.deployment, set.annotations(), revision);
        let wait = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let waits = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if *set.annotations() != wanted || wait != waits {
            let patch = json!({ "metadata": { "annotations": wanted }, "spec": { "minReadySeconds": wait } });
            self.patch_set(index, patch).await?;
        }
        let name = self.sets[index].name_any();
        let revision = annotations::revision(&self.sets[index]).to_string();
        let status = self.deployment.status.clone().unwrap_or_default();
        let unknown = conditions::find(&status, PROGRESSING).is_none();
        let found = (conditions::deadline(&self.deployment).is_some() && unknown)
            .then(|| (conditions::SET_FOUND, format!("Found new replica set {name:?}")));
        self.set_revision(revision, found).await
    }

    /// Writes revision and condition into the Deployment, if they are not there.
    async fn set_revision(&mut self, revision: String, progress: Option<(&str, String)>) -> Result<()> {
        let known = self.deployment.annotations().get(annotations::REVISION);
        if known == Some(&revision) && progress.is_none() {
            return Ok(());
        }
        self.deployment.annotations_mut().insert(annotations::REVISION.to_owned(), revision);
        let mut status = self.deployment.status.clone().unwrap_or_default();
        if let Some((reason, message)) = progress {
            conditions::set(&mut status, condition(PROGRESSING, "True", reason, message));
        }
        self.put_status(status).await
    }

    async fn create_set(&mut self, revision: i64) -> Result<Option<usize>> {
        let Some(spec) = self.deployment.spec.clone() else { return Ok(None) };
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template::hash(&spec.template, collisions.unwrap_or(0));
        let all = self.sets.iter().map(replicas).sum();
        let surge = limits(&self.deployment).surge;
        let wanted = desired(&self.deployment);
        let size = if super::rollout::recreates(&self.deployment) {
            wanted
        } else {
            arithmetic::new_set_size(wanted, surge, all, 0)
        };
        let mut pod_template = spec.template;
        let template_labels = pod_template.metadata.get_or_insert_default().labels.get_or_insert_default();
        template_labels.insert(template::HASH.to_owned(), hash.clone());
        let labels = template_labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(template::HASH.to_owned(), hash.clone());
        let mut own_annotations =
            annotations::of_new_set(&self.deployment, &annotations::Annotations::new(), revision);
        annotations::set_sizes(&mut own_annotations, wanted, wanted + surge);
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.name_any())),
                namespace: self.deployment.namespace(),
                labels: Some(labels),
                annotations: Some(own_annotations),
                owner_references: Some(vec![owner::reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(pod_template),
            }),
            status: None,
        };
        let failed = Error::request("create", "ReplicaSet", ObjectKey::of(&set));
        let made = match self.set_api().create(&PostParams::default(), &set).await.map_err(failed) {
            Ok(made) => made,
            Err(error) if error.is_already_exists() => match self.find_set(&set.name_any()).await? {
                Some(found) => found,
                None => return Err(error),
            },
            Err(error) if error.is_namespace_terminating() => return Ok(None),
            Err(error) => {
                let message =
                    format!("Failed to create new replica set {:?}: {}", set.name_any(), error.message());
                self.note_failure(&message).await?;
                return Err(error);
            }
        };
        let name = made.name_any();
        if size > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {size}");
            self.controller.recorder.note(&self.deployment, Severity::Normal, "ScalingReplicaSet", message);
        }
        self.sets.push(made);
        let created = conditions::deadline(&self.deployment)
            .map(|_| (conditions::SET_CREATED, format!("Created new replica set {name:?}")));
        self.set_revision(revision.to_string(), created).await?;
        Ok(Some(self.sets.len() - 1))
    }

    /// A set whose name was taken is ours if it is the same: what was made just now, and the watch has not brought
    /// yet. Of any other, the next name is to differ.
    async fn find_set(&mut self, name: &str) -> Result<Option<ReplicaSet>> {
        let found = self.set_api().get_opt(name).await;
        let found = found.map_err(Error::request("read", "ReplicaSet", name))?;
        let Some(found) = found else { return Ok(None) };
        let ours = owner::controller_uid(&found) == owner::uid(&self.deployment);
        if ours && template::is_current(&self.deployment, &found) {
            return Ok(Some(found));
        }
        let mut status = self.deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        self.put_status(status).await?;
        Ok(None)
    }

    async fn note_failure(&mut self, message: &str) -> Result<()> {
        self.controller.recorder.note(
            &self.deployment,
            Severity::Warning,
            conditions::SET_CREATE_FAILED,
            message.to_owned(),
        );
        if conditions::deadline(&self.deployment).is_none() {
            return Ok(());
        }
        let mut status = self.deployment.status.clone().unwrap_or_default();
        let failed = condition(PROGRESSING, "False", conditions::SET_CREATE_FAILED, message.to_owned());
        conditions::set(&mut status, failed);
        self.put_status(status).await
    }

    /// Deletes the oldest of the sets that have no pods, but for as many as can be gone back to.
    pub(super) async fn clean_up(&self, old: &[usize]) -> Result<()> {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return Ok(()) };
        let mut sets: Vec<&ReplicaSet> = old.iter().map(|&index| &self.sets[index]).collect();
        sets.retain(|set| !owner::is_terminating(*set));
        let excess = sets.len().saturating_sub(limit.max(0) as usize);
        sets.sort_by_key(|set| (annotations::revision(set), set.creation_timestamp().map(|time| time.0)));
        for set in sets.into_iter().take(excess) {
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation.unwrap_or(0);
            if status.replicas != 0 || replicas(set) != 0 || set.metadata.generation.unwrap_or(0) > observed {
                continue;
            }
            let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams::background().preconditions(preconditions);
            let deleted = self.set_api().delete(&set.name_any(), &parameters).await;
            let deleted = deleted.map_err(Error::request("delete", "ReplicaSet", ObjectKey::of(set)));
            match deleted {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
