//! ReplicaSets, and ReplicationControllers, which are their older form: as many pods as are asked for.

pub(crate) mod rank;
mod status;

pub(crate) use status::available_in;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client};

use crate::error::Result;
use crate::events::Recorder;
use crate::expectations;
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::pods::{BURST, Owner, PodControl, of_template};
use crate::queue::{Again, Queue};

/// So many objects are looked at at the same time.
const WIDTH: usize = 16;

/// What asks for a number of equal pods.
pub(crate) trait Replicated: Owner {
    /// What the queue is called in the log.
    const QUEUE: &'static str;
    /// Who its events come from.
    const COMPONENT: &'static str;
    /// Whether its status tells how many pods are ending.
    const TELLS_TERMINATING: bool;

    /// How many pods it is to have.
    fn replicas(&self) -> usize;
    /// What the pods are made of.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Seconds that a pod has to be ready to be available.
    fn min_ready_seconds(&self) -> i32;
    /// Its status, in the newer form.
    fn status(&self) -> Option<ReplicaSetStatus>;
}

impl Owner for ReplicaSet {
    fn selector(&self) -> std::result::Result<Selector, String> {
        self.spec.as_ref().map_or(Err("there is none".to_owned()), |spec| Selector::new(&spec.selector))
    }
}

impl Replicated for ReplicaSet {
    const QUEUE: &'static str = "replicasets";
    const COMPONENT: &'static str = "replicaset-controller";
    const TELLS_TERMINATING: bool = true;

    fn replicas(&self) -> usize {
        count(self.spec.as_ref().and_then(|spec| spec.replicas))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref())
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone()
    }
}

impl Owner for ReplicationController {
    fn selector(&self) -> std::result::Result<Selector, String> {
        let labels: Option<&BTreeMap<_, _>> = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // Unlike a newer one, an empty one takes nothing.
        let labels = labels.filter(|labels| !labels.is_empty()).ok_or("there is none")?;
        Selector::new(&LabelSelector { match_labels: Some(labels.clone()), match_expressions: None })
    }
}

impl Replicated for ReplicationController {
    const QUEUE: &'static str = "replicationcontrollers";
    const COMPONENT: &'static str = "replication-controller";
    const TELLS_TERMINATING: bool = false;

    fn replicas(&self) -> usize {
        count(self.spec.as_ref().and_then(|spec| spec.replicas))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref())
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        let status = self.status.clone()?;
        let conditions = status.conditions.map(|conditions| {
            let newer = conditions.into_iter().map(|condition| ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            });
            newer.collect()
        });
        Some(ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        })
    }
}

/// One, where nothing is said.
fn count(replicas: Option<i32>) -> usize {
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

/// The controller of one of these kinds.
pub(crate) struct Replicas<K> {
    client: Client,
    sets: Arc<Informer<K>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
    control: PodControl<K>,
}

impl<K: Replicated> Replicas<K> {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        sets: Arc<Informer<K>>,
        pods: Arc<Informer<Pod>>,
        recorder: &Recorder,
    ) -> Self {
        let queue = Queue::new(K::QUEUE);
        let recorder = recorder.of(K::COMPONENT);
        let control = PodControl::new(client.clone(), sets.clone(), pods.clone(), &queue, recorder);
        Self { client, sets, pods, queue, control }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.control.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(set) = self.control.owner(&key) else { return Ok(None) };
        let settled = self.control.is_settled(&set);
        let pods = self.control.claim(&set).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let managed =
            if settled && !owner::is_terminating(&*set) { self.manage(&set, &active).await } else { Ok(()) };
        let again = self.update_status(&set, &pods, &active, managed.as_ref().err()).await?;
        managed?;
        Ok(again.or((!settled).then_some(expectations::TIMEOUT)))
    }

    /// Makes or deletes pods until there are as many as are wanted.
    async fn manage(&self, set: &K, active: &[Arc<Pod>]) -> Result<()> {
        let wanted = set.replicas();
        if active.len() < wanted {
            let body = serde_json::to_vec(&of_template(set, set.template()));
            let body = body.map_err(kube::Error::SerdeError);
            let body =
                body.map_err(crate::Error::request("encode a pod of", K::QUEUE, ObjectKey::of(set)))?;
            self.control.create(set, (wanted - active.len()).min(BURST), |_| Ok(body.clone())).await
        } else if active.len() > wanted {
            let count = (active.len() - wanted).min(BURST);
            let mut ranked = active.to_vec();
            if count < active.len() {
                rank::first_to_go(&mut ranked, &self.related(set), jiff::Timestamp::now());
            }
            ranked.truncate(count);
            self.control.delete(set, &ranked).await
        } else {
            Ok(())
        }
    }

    /// The active pods of all sets of the same owner, by whose places pods are ranked.
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = match owner::controller_uid(set) {
            "" => vec![Arc::new(set.clone())],
            uid => self.sets.owned_by(uid),
        };
        let pods = siblings.iter().flat_map(|sibling| self.pods.owned_by(owner::uid(&**sibling)));
        pods.filter(|pod| pod.is_active()).collect()
    }

    fn api(&self, set: &K) -> Api<kube::api::PartialObjectMeta<K>> {
        Api::namespaced(self.client.clone(), set.meta().namespace.as_deref().unwrap_or_default())
    }
}
