//! PodDisruptionBudgets: how many of the pods that each selects are healthy, how many must be, and how many may therefore
//! go at will. Evictions, which take of that, are the API server's.

mod plan;
mod scale;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use self::plan::{Count, Expected, count};
pub(crate) use self::scale::Owners;
pub(crate) use self::stale::Stale;
use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::queue::{Again, Queue};

const ALLOWED: &str = "DisruptionAllowed";
/// A budget whose pods could not be counted is looked at again after this long.
const RETRY: Duration = Duration::from_secs(10);
/// So many budgets are looked at at the same time.
const WIDTH: usize = 8;

/// The controller of budgets.
pub(crate) struct Budgets {
    client: Client,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    owners: Owners,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Budgets {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        budgets: Arc<Informer<PodDisruptionBudget>>,
        pods: Arc<Informer<Pod>>,
        owners: Owners,
        recorder: &Recorder,
    ) -> Budgets {
        let queue = Queue::new("disruption budgets");
        budgets.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        pods.on_change({
            let (queue, budgets) = (queue.clone(), budgets.clone());
            move |change| {
                let (pod, before) = (change.object(), change.old());
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for budget in budgets.list(namespace) {
                    let Some(selector) = selector(&budget) else { continue };
                    // Whom a change of labels took away matters as well.
                    let mut forms = before.into_iter().chain([pod]);
                    if forms.any(|pod| selector.matches(pod.metadata.labels.as_ref())) {
                        queue.add(ObjectKey::of(&*budget));
                    }
                }
            }
        });
        Budgets { client, budgets, pods, owners, queue, recorder: recorder.of("controllermanager") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.budgets.wait_complete().await;
        self.pods.wait_complete().await;
        self.owners.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(budget) = self.budgets.get(&key) else { return Ok(None) };
        let done = match self.try_sync(&key, &budget).await {
            Ok(Ok(again)) => Ok(again),
            // As long as nobody knows how many there are, none may go.
            Ok(Err(why)) => self.fail_safe(&budget, &why).await.map(|()| Some(RETRY)),
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.is_not_found() => Ok(None),
            other => other,
        }
    }

    /// Counts and writes; says why it cannot be counted.
    async fn try_sync(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
    ) -> Result<std::result::Result<Again, String>> {
        let selector = selector(budget);
        let mut pods = self.pods.list(&key.namespace);
        pods.retain(|pod| {
            selector.as_ref().is_some_and(|selector| selector.matches(pod.metadata.labels.as_ref()))
        });
        if pods.is_empty() {
            let message = "No matching pods found".to_owned();
            self.recorder.note(budget, Severity::Normal, "NoPods", message);
        }
        let scale = if plan::needs_scale(budget) {
            match self.owners.scale(&pods).await? {
                Ok(scale) => scale,
                Err(why) => {
                    let reason = "CalculateExpectedPodCountFailed";
                    let message = format!("Failed to calculate the number of expected pods: {why}");
                    self.recorder.note(budget, Severity::Warning, reason, message);
                    return Ok(Err(why));
                }
            }
        } else {
            scale::Scale::default()
        };
        if !scale.unmanaged.is_empty() {
            let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the \
                           status of the PDB cannot be calculated correctly, which may result in undefined behavior. \
                           To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer \
                           value."
                .to_owned();
            self.recorder.note(budget, Severity::Warning, "UnmanagedPods", message);
        }
        let expected = Expected::new(budget, pods.len(), scale.total);
        let now = Timestamp::now();
        let counted = count(budget, &pods, expected, now);
        for name in &counted.kept {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            pod.into_iter().for_each(|pod| {
                self.recorder.note(&**pod, Severity::Warning, "NotDeleted", message.clone());
            });
        }
        self.write(budget, &counted, now).await?;
        Ok(Ok(counted.again))
    }

    async fn write(&self, budget: &PodDisruptionBudget, counted: &Count, now: Timestamp) -> Result<()> {
        let generation = budget.metadata.generation;
        let allowed = counted.allowed();
        let (status, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        let known = budget.status.as_ref();
        let conditions = conditions(budget, generation, (status, reason, ""), now);
        let same = known.is_some_and(|known| {
            known.current_healthy.unwrap_or(0) == counted.healthy
                && known.desired_healthy.unwrap_or(0) == counted.expected.healthy
                && known.expected_pods.unwrap_or(0) == counted.expected.pods
                && known.disruptions_allowed.unwrap_or(0) == allowed
                && known.disrupted_pods.clone().unwrap_or_default() == counted.disrupted
                && known.observed_generation == generation
                && known.conditions.as_ref() == Some(&conditions)
        });
        if same {
            return Ok(());
        }
        let known = known.and_then(|known| known.disrupted_pods.as_ref());
        // In a patch, a field goes by being null.
        let gone = known.into_iter().flatten().map(|(name, _)| (name, Value::Null));
        let mut disrupted: BTreeMap<&String, Value> = gone.collect();
        disrupted.extend(counted.disrupted.iter().map(|(name, time)| (name, json!(time))));
        let status = json!({
            "observedGeneration": generation, "currentHealthy": counted.healthy,
            "desiredHealthy": counted.expected.healthy, "expectedPods": counted.expected.pods,
            "disruptionsAllowed": allowed, "disruptedPods": disrupted, "conditions": conditions,
        });
        self.patch(budget, status).await
    }

    async fn fail_safe(&self, budget: &PodDisruptionBudget, why: &str) -> Result<()> {
        let now = Timestamp::now();
        let generation = budget.status.as_ref().and_then(|status| status.observed_generation);
        let conditions = conditions(budget, generation, ("False", "SyncFailed", why), now);
        let known = budget.status.as_ref();
        if known.is_some_and(|known| {
            known.disruptions_allowed.unwrap_or(0) == 0 && known.conditions.as_ref() == Some(&conditions)
        }) {
            return Ok(());
        }
        self.patch(budget, json!({ "disruptionsAllowed": 0, "conditions": conditions })).await
    }

    /// Writes a status that rests on what was seen: evictions write it, too.
    async fn patch(&self, budget: &PodDisruptionBudget, status: Value) -> Result<()> {
        let key = ObjectKey::of(budget);
        let patch = Patch::Merge(json!({
            "metadata": { "uid": budget.metadata.uid, "resourceVersion": budget.metadata.resource_version },
            "status": status,
        }));
        let api =
            Api::<PartialObjectMeta<PodDisruptionBudget>>::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        written.map(drop).map_err(Error::request("write the status of", "PodDisruptionBudget", key))
    }
}

/// The pods that a budget is about; none where it has no selector, or one that cannot be read.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::new(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

/// The conditions of a budget, with the one that says whether pods may go.
fn conditions(
    budget: &PodDisruptionBudget,
    generation: Option<i64>,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Vec<Condition> {
    let known = budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = known.iter().find(|condition| condition.type_ == ALLOWED);
    let since =
        before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    let others = known.iter().filter(|condition| condition.type_ != ALLOWED).cloned();
    others.chain([condition]).collect()
}
