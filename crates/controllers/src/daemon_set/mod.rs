//! DaemonSets: one pod on each node that is to have one.

mod backoff;
mod nodes;
mod plan;
mod status;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;

use self::backoff::Backoff;
use self::nodes::{Fit, fit, tolerations};
use self::plan::{Place, Strategy, Wanted, plan};
use crate::deployment::arithmetic::scaled;
use crate::error::Result;
use crate::events::{Recorder, Severity};
use crate::expectations;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::pods::{BURST, Owner, PodControl, of_template};
use crate::queue::{Again, Queue};
use crate::revisions::{OF_POD, Revisions};

/// So many DaemonSets are looked at at the same time.
const WIDTH: usize = 8;
/// So many old revisions are kept where nothing is said.
const LIMIT: i32 = 10;

impl Owner for DaemonSet {
    fn selector(&self) -> std::result::Result<Selector, String> {
        self.spec.as_ref().map_or(Err("there is none".to_owned()), |spec| Selector::new(&spec.selector))
    }
}

/// The controller of DaemonSets.
pub(crate) struct DaemonSets {
    client: Client,
    queue: Arc<Queue<ObjectKey>>,
    control: PodControl<DaemonSet>,
    nodes: Arc<Informer<Node>>,
    revisions: Revisions,
    backoff: Backoff,
    recorder: Recorder,
}

impl DaemonSets {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        sets: Arc<Informer<DaemonSet>>,
        pods: Arc<Informer<Pod>>,
        nodes: Arc<Informer<Node>>,
        revisions: Arc<Informer<ControllerRevision>>,
        recorder: &Recorder,
    ) -> Self {
        let queue = Queue::new("daemonsets");
        nodes.on_change({
            let (queue, sets) = (queue.clone(), sets.clone());
            move |change| {
                // A node tells of itself all the time; few changes are about who runs there.
                let matters = |node: &Node| (node.metadata.labels.clone(), node.spec.clone());
                if let Change::Updated { old, new } = change
                    && matters(old) == matters(new)
                {
                    return;
                }
                for set in sets.list_all() {
                    queue.add(ObjectKey::of(&*set));
                }
            }
        });
        let recorder = recorder.of("daemonset-controller");
        let control = PodControl::new(client.clone(), sets, pods, &queue, recorder.clone());
        let revisions = Revisions::new(client.clone(), revisions, OF_POD);
        Self { client, queue, control, nodes, revisions, backoff: Backoff::default(), recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.control.wait_complete().await;
        self.nodes.wait_complete().await;
        self.revisions.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(set) = self.control.owner(&key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        if set.selector().is_ok_and(|selector| selector.is_everything()) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.note(&*set, Severity::Warning, "SelectingAll", message.to_owned());
            return Ok(None);
        }
        if owner::is_terminating(&*set) {
            return Ok(None);
        }
        let settled = self.control.is_settled(&set);
        let pods = self.control.claim(&set).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = self.revisions.history(&*set, &spec.template, collisions).await?;
        let hash =
            history.newest().and_then(|newest| self.revisions.hash(newest)).cloned().unwrap_or_default();
        let (places, strays) = self.places(&set, &pods);
        let desired = places.iter().filter(|place| place.fit == Fit::Runs).count();
        let wanted = wanted(&set, &hash, desired);
        let now = Timestamp::now();
        let mut plan = if settled { plan(&wanted, &places, now) } else { plan::Plan::default() };
        self.spare_failed(&set, &mut plan);
        if settled {
            // Those of nodes that are gone.
            plan.delete.extend(strays.into_iter().filter(|pod| !pod.is_terminating()));
        }
        let done = self.carry_out(&set, &hash, &plan).await;
        let again = self.update_status(&set, &wanted, &places, history.collisions, now).await?;
        done?;
        let of_pod = |pod: &Arc<Pod>| pod.metadata.labels.as_ref()?.get(OF_POD).cloned();
        let needed: HashSet<String> = pods.iter().filter_map(of_pod).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(LIMIT)).unwrap_or(0);
        self.revisions.truncate(&*set, &history, &needed, limit).await?;
        let again = [again, plan.again].into_iter().flatten().min();
        Ok(again.or((!settled).then_some(expectations::TIMEOUT)))
    }

    /// Keeps pods that failed for a while, where that happens again and again.
    fn spare_failed(&self, set: &DaemonSet, plan: &mut plan::Plan) {
        let now = Instant::now();
        let again = &mut plan.again;
        plan.delete.retain(|pod| {
            let (key, node) = (ObjectKey::of(&**pod), &pod.spec.node_name);
            match pod.status.phase.as_str() {
                "Failed" => {
                    if let Some(left) = self.backoff.left(owner::uid(set), node, now) {
                        *again = Some(again.map_or(left, |again| again.min(left)));
                        return false;
                    }
                    let message =
                        format!("Found failed daemon pod {key} on node {node}, will try to kill it");
                    self.recorder.note(set, Severity::Warning, "FailedDaemonPod", message);
                }
                "Succeeded" => {
                    let message =
                        format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
                    self.recorder.note(set, Severity::Normal, "SucceededDaemonPod", message);
                }
                _ => {}
            }
            true
        });
    }

    /// Every node with the set's pods on it or meant for it, and the pods of nodes that there are not.
    fn places(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> (Vec<Place>, Vec<Arc<Pod>>) {
        let template = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
        let mut of_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            let node = match pod.spec.node_name.as_str() {
                "" => &pod.spec.meant_for,
                node => node,
            };
            of_node.entry(node.to_owned()).or_default().push(pod.clone());
        }
        let places = self.nodes.list_all().into_iter().map(|node| {
            let name = node.name_any();
            let mut pods = of_node.remove(&name).unwrap_or_default();
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            pods.sort_by_key(|pod| (pod.spec.node_name.is_empty(), created(pod), pod.name_any()));
            Place { fit: fit(&template, &node), node: name, pods }
        });
        let places = places.collect();
        (places, of_node.into_values().flatten().collect())
    }

    async fn carry_out(&self, set: &DaemonSet, hash: &str, plan: &plan::Plan) -> Result<()> {
        let deleted = if plan.delete.is_empty() {
            Ok(())
        } else {
            self.control.delete(set, &plan.delete[..plan.delete.len().min(BURST)]).await
        };
        let count = plan.create.len().min(BURST);
        if count > 0 {
            let template = set.spec.as_ref().map(|spec| &spec.template);
            let body = |number: usize| {
                serde_json::to_vec(&of_template(set, Some(&for_node(template, &plan.create[number], hash))))
            };
            self.control.create(set, count, body).await?;
        }
        deleted
    }
}

/// The template of a pod that only one node takes.
fn for_node(template: Option<&PodTemplateSpec>, node: &str, hash: &str) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(OF_POD.to_owned(), hash.to_owned());
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let is_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let only = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![is_node]) };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let of_nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    of_nodes.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![only] });
    template
}

fn wanted<'a>(set: &DaemonSet, hash: &'a str, desired: usize) -> Wanted<'a> {
    let spec = set.spec.as_ref();
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let desired = i32::try_from(desired).unwrap_or(i32::MAX);
    let of = |value: Option<&IntOrString>| usize::try_from(scaled(value, desired, true)).unwrap_or(0);
    let surge = of(rolling.and_then(|rolling| rolling.max_surge.as_ref()));
    let strategy = match strategy.and_then(|strategy| strategy.type_.as_deref()) {
        Some("OnDelete") => Strategy::OnDelete,
        _ if surge > 0 => Strategy::Surge(surge),
        _ => match rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
            None => Strategy::Unavailable(1),
            some => Strategy::Unavailable(of(some)),
        },
    };
    Wanted { hash, wait: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0).max(0), strategy }
}
