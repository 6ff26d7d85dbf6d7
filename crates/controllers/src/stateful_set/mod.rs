//! StatefulSets: pods with numbers, each with its name and its volumes, made and replaced in order.

mod identity;
mod plan;
mod status;

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use self::identity::{Going, claims, go, owner_of_claim};
use self::plan::{Step, Strategy, Wanted, ordinal, plan, revision};
use crate::deployment::arithmetic::scaled;
use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::expectations;
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::pods::{Owner, PodControl};
use crate::queue::{Again, Queue};
use crate::revisions::{HASH, History, Revisions, template_of};

/// So many StatefulSets are looked at at the same time.
const WIDTH: usize = 16;
/// So many old revisions are kept where nothing is said.
const LIMIT: i32 = 10;

impl Owner for StatefulSet {
    fn selector(&self) -> std::result::Result<Selector, String> {
        self.spec.as_ref().map_or(Err("there is none".to_owned()), |spec| Selector::new(&spec.selector))
    }

    fn can_own(&self, pod: &Pod) -> bool {
        ordinal(&self.name_any(), pod).is_some()
    }

    fn tells_created(&self, pod: &str) -> String {
        format!("create Pod {pod} in StatefulSet {} successful", self.name_any())
    }

    fn tells_deleted(&self, pod: &str) -> String {
        format!("delete Pod {pod} in StatefulSet {} successful", self.name_any())
    }
}

/// The controller of StatefulSets.
pub(crate) struct StatefulSets {
    client: Client,
    queue: Arc<Queue<ObjectKey>>,
    control: PodControl<StatefulSet>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    revisions: Revisions,
    recorder: Recorder,
}

impl StatefulSets {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        sets: Arc<Informer<StatefulSet>>,
        pods: Arc<Informer<Pod>>,
        claims: Arc<Informer<PersistentVolumeClaim>>,
        revisions: Arc<Informer<ControllerRevision>>,
        recorder: &Recorder,
    ) -> Self {
        let queue = Queue::new("statefulsets");
        let recorder = recorder.of("statefulset-controller");
        let control = PodControl::new(client.clone(), sets, pods, &queue, recorder.clone());
        let revisions = Revisions::new(client.clone(), revisions, HASH);
        Self { client, queue, control, claims, revisions, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.control.wait_complete().await;
        self.claims.wait_complete().await;
        self.revisions.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(set) = self.control.owner(&key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        let settled = self.control.is_settled(&set);
        let pods = self.control.claim(&set).await?;
        let before = set.status.clone().unwrap_or_default();
        if owner::is_terminating(&*set) {
            return Ok(None);
        }
        let history = self.revisions.history(&*set, &spec.template, before.collision_count).await?;
        let Some(update) = history.newest().map(|newest| newest.name_any()) else { return Ok(None) };
        let current = before.current_revision.filter(|name| history.named(name).is_some());
        let current = current.unwrap_or_else(|| update.clone());
        let name = set.name_any();
        let wanted = wanted(&set, &name, &current, &update);
        let now = Timestamp::now();
        let plan = if settled { plan(&wanted, &pods, now) } else { plan::Plan::default() };
        let done = self.carry_out(&set, &wanted, &history, plan.steps).await;
        self.keep_claims(&set, &wanted, &pods).await?;
        let again = self.update_status(&set, &wanted, &pods, history.collisions, now).await?;
        done?;
        let needed: HashSet<String> =
            pods.iter().map(|pod| revision(pod).to_owned()).chain([current, update]).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(LIMIT)).unwrap_or(0);
        self.revisions.truncate(&*set, &history, &needed, limit).await?;
        let again = [again, plan.again].into_iter().flatten().min();
        Ok(again.or((!settled).then_some(expectations::TIMEOUT)))
    }

    async fn carry_out(
        &self,
        set: &StatefulSet,
        wanted: &Wanted<'_>,
        history: &History,
        steps: Vec<Step>,
    ) -> Result<()> {
        let mut gone = Vec::new();
        let mut new = Vec::new();
        for step in steps {
            match step {
                Step::Delete(pod) => {
                    self.tell_of_end(set, &pod);
                    gone.push(pod);
                }
                Step::Create { ordinal, revision } => {
                    self.make_claims(set, ordinal).await?;
                    let template = history.named(&revision).and_then(template_of);
                    let template = template.or_else(|| set.spec.as_ref().map(|spec| spec.template.clone()));
                    new.push(identity::pod(set, template.unwrap_or_default(), &revision, ordinal));
                }
            }
        }
        let number = |pod: &Pod| ordinal(wanted.name, pod);
        let end = wanted.start.saturating_add(wanted.replicas);
        for pod in gone.iter().filter(|pod| number(pod).is_some_and(|number| number >= end)) {
            // Claims that go with a pod that is one too many are its own before it goes.
            self.give_claims(set, pod, go(set, Going::WhenScaled)).await?;
        }
        if !gone.is_empty() {
            self.control.delete(set, &gone).await?;
        }
        if new.is_empty() {
            return Ok(());
        }
        self.control.create(set, new.len(), |number| serde_json::to_vec(&new[number])).await
    }

    /// Tells of a pod that goes because it has ended.
    fn tell_of_end(&self, set: &StatefulSet, pod: &Pod) {
        let (severity, reason, what) = match pod.status.phase.as_str() {
            "Failed" => (Severity::Warning, "RecreatingFailedPod", "failed"),
            "Succeeded" => (Severity::Normal, "RecreatingTerminatedPod", "terminated"),
            _ => return,
        };
        let message =
            format!("StatefulSet {} is recreating {what} Pod {}", ObjectKey::of(set), pod.name_any());
        self.recorder.note(set, severity, reason, message);
    }

    /// Makes the claims of a number that there are not.
    async fn make_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<()> {
        let namespace = set.namespace().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
        for claim in claims(set, ordinal) {
            let (claim_name, name) = (claim.name_any(), set.name_any());
            if self.claims.get(&ObjectKey::new(&namespace, claim_name.clone())).is_some() {
                continue;
            }
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let message = format!(
                        "create Claim {claim_name} Pod {name}-{ordinal} in StatefulSet {name} success"
                    );
                    self.recorder.note(set, Severity::Normal, "SuccessfulCreate", message);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    let error = Error::request("create a claim of", "StatefulSet", ObjectKey::of(set))(error);
                    let message = format!(
                        "create Claim {claim_name} for Pod {name}-{ordinal} in StatefulSet {name} failed error: {}",
                        error.message()
                    );
                    self.recorder.note(set, Severity::Warning, "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Claims of pods that stay are the set's, where they go with it, and nobody's pod's.
    async fn keep_claims(&self, set: &StatefulSet, wanted: &Wanted<'_>, pods: &[Arc<Pod>]) -> Result<()> {
        let end = wanted.start.saturating_add(wanted.replicas);
        for pod in pods {
            if ordinal(wanted.name, pod).is_some_and(|number| (wanted.start..end).contains(&number)) {
                self.give_claims(set, pod, false).await?;
            }
        }
        Ok(())
    }

    /// Writes the owners of a pod's claims, if they are others.
    async fn give_claims(&self, set: &StatefulSet, pod: &Pod, to_pod: bool) -> Result<()> {
        let Some(ordinal) = ordinal(&set.name_any(), pod) else { return Ok(()) };
        let namespace = set.namespace().unwrap_or_default();
        let api =
            Api::<PartialObjectMeta<PersistentVolumeClaim>>::namespaced(self.client.clone(), &namespace);
        for template in identity::claim_templates(set) {
            let key = ObjectKey::new(&namespace, identity::claim_name(set, template, ordinal));
            let Some(claim) = self.claims.get(&key) else { continue };
            let ours = [owner::uid(set), owner::uid(pod)];
            let before = claim.metadata.owner_references.clone().unwrap_or_default();
            let mut owners: Vec<_> =
                before.iter().filter(|other| !ours.contains(&other.uid.as_str())).cloned().collect();
            // Of two owners the last to go would count.
            if to_pod {
                owners.push(owner_of_claim(pod));
            } else if go(set, Going::WhenDeleted) {
                owners.push(owner_of_claim(set));
            }
            if owners == before {
                continue;
            }
            let patch = Patch::Merge(json!({
                "metadata": { "uid": claim.metadata.uid, "ownerReferences": owners },
            }));
            match api.patch(&key.name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(Error::request("change the owner of", "PersistentVolumeClaim", key)(error));
                }
            }
        }
        Ok(())
    }
}

fn wanted<'a>(set: &StatefulSet, name: &'a str, current: &'a str, update: &'a str) -> Wanted<'a> {
    let spec = set.spec.as_ref();
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    let strategy = match strategy.and_then(|strategy| strategy.type_.as_deref()) {
        Some("OnDelete") => Strategy::OnDelete,
        _ => Strategy::Rolling {
            partition: rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0),
            unavailable: unavailable(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), replicas),
        },
    };
    Wanted {
        name,
        start: spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0).max(0),
        replicas,
        ordered: spec.and_then(|spec| spec.pod_management_policy.as_deref()) != Some("Parallel"),
        wait: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0).max(0),
        strategy,
        current,
        update,
    }
}

/// How many may be missing: one where nothing is said, and never none.
fn unavailable(given: Option<&IntOrString>, replicas: i32) -> usize {
    let count = given.map_or(1, |given| scaled(Some(given), replicas, true));
    usize::try_from(count).unwrap_or(1).max(1)
}
