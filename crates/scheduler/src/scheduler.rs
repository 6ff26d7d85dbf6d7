//! The loop: what is told changes the picture, and pods whose turn it is are placed. Binding and pushing away happen
//! beside it. It must not know how a node is chosen.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::ask::{Ask, Group, Occupant};
use crate::binding::{self, Bound, Failure, Waiter, Write, bind, bind_with_volumes};
use crate::config::{Config, Profile};
use crate::device_objects;
use crate::devices::Allocation;
use crate::error::{Error, Result};
use crate::hints::{self, Event};
use crate::inbox::{Change, Inbox};
use crate::model::{Node, Pod};
use crate::nominations::Nominations;
use crate::objects::{self, KINDS, Kind};
use crate::pending::Pending;
use crate::picture::Picture;
use crate::preempt::{self, Budgets};
use crate::push::{self, Pushed};
use crate::report::{self, Report, Reports};
use crate::volumes::Promise;
use crate::{decide, decide::Refusal};

/// So many pods are given to nodes at the same time.
const BINDINGS: usize = 256;

pub(crate) struct Scheduler {
    client: Client,
    /// By the names by which pods ask for them.
    profiles: HashMap<String, Arc<Profile>>,
    pub(crate) picture: Picture,
    pending: Pending,
    nominations: Nominations,
    pub(crate) budgets: Budgets,
    bindings: JoinSet<Bound>,
    /// Bindings that wait for volumes.
    slow_bindings: JoinSet<Bound>,
    /// Pods that wait for volumes, by uid.
    pub(crate) waiters: HashMap<Arc<str>, Waiter>,
    pushes: JoinSet<Pushed>,
    reports: Reports,
    /// Where the next search for a node begins.
    start: usize,
    /// What a list under way has brought.
    listed_nodes: Option<HashSet<String>>,
    listed_pods: Option<HashSet<String>>,
    complete_nodes: bool,
    complete_pods: bool,
    /// The other kinds of which a whole list has come.
    pub(crate) complete: HashSet<Kind>,
}

/// Gives pods to nodes until `shutdown`.
pub(crate) async fn run(
    client: Client,
    config: &Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let (reports, receiver) = report::channel();
    // Ends with the scheduler: a set aborts its tasks when it is dropped.
    let mut writing = JoinSet::new();
    writing.spawn(report::write(client.clone(), receiver));
    let watching = || watcher::Config::default().streaming_lists();
    let unfinished = "status.phase!=Succeeded,status.phase!=Failed";
    let pods = watcher(Api::<Pod>::all(client.clone()), watching().fields(unfinished)).default_backoff();
    let nodes = watcher(Api::<Node>::all(client.clone()), watching()).default_backoff();
    let mut pods = Inbox::new("Pods", pods);
    let mut nodes = Inbox::new("Nodes", nodes);
    let mut others = objects::follow(&client);
    let mut scheduler = Scheduler {
        client,
        profiles: config.profiles().into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect(),
        picture: Picture::default(),
        pending: Pending::default(),
        nominations: Nominations::default(),
        budgets: Budgets::default(),
        bindings: JoinSet::new(),
        slow_bindings: JoinSet::new(),
        waiters: HashMap::new(),
        pushes: JoinSet::new(),
        reports,
        start: 0,
        listed_nodes: None,
        listed_pods: None,
        complete_nodes: false,
        complete_pods: false,
        complete: HashSet::new(),
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let timer = scheduler.pending.next_timer();
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            change = nodes.receive() => scheduler.node_changed(change?),
            change = pods.receive() => scheduler.pod_changed(change?),
            told = others.next() => scheduler.told(told.ok_or(Error::WatchEnded { kind: "other objects" })?),
            Some(bound) = scheduler.bindings.join_next(), if !scheduler.bindings.is_empty() => {
                if let Some(bound) = ended(bound) {
                    scheduler.bound(bound);
                }
            }
            Some(bound) = scheduler.slow_bindings.join_next(), if !scheduler.slow_bindings.is_empty() => {
                if let Some(bound) = ended(bound) {
                    scheduler.bound(bound);
                }
            }
            Some(pushed) = scheduler.pushes.join_next(), if !scheduler.pushes.is_empty() => {
                if let Some(pushed) = ended(pushed) {
                    scheduler.pushed(&pushed);
                }
            }
            () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
        }
        // What has arrived meanwhile is part of the picture.
        while let Some(Some(told)) = others.next().now_or_never() {
            scheduler.told(told);
        }
        while let Some(change) = nodes.receive_waiting()? {
            scheduler.node_changed(change);
        }
        while let Some(change) = pods.receive_waiting()? {
            scheduler.pod_changed(change);
        }
        scheduler.pending.tick(Instant::now());
        scheduler.place_all();
    }
}

/// What a task gave; a panic goes on here.
fn ended<T>(result: std::result::Result<T, JoinError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
            None
        }
    }
}

impl Scheduler {
    /// Has pods tried again to which an event may mean something.
    pub(crate) fn wake(&mut self, event: Event<'_>) {
        let picture = &self.picture;
        self.pending.wake(Instant::now(), |ask, by| hints::worth(picture, ask, by, event));
    }

    fn node_changed(&mut self, change: Change<Node>) {
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        match change {
            Change::Apply(node) => {
                if let Some(listed) = &mut self.listed_nodes {
                    listed.insert(name(&node));
                }
                let change = self.picture.apply_node(&node);
                if let Some(index) = self.picture.find_node(&name(&node)) {
                    self.wake(Event::Node { index, change });
                }
            }
            Change::Delete(node) => self.remove_node(&name(&node)),
            Change::ListBegins => self.listed_nodes = Some(HashSet::new()),
            Change::ListEnds => {
                let listed = self.listed_nodes.take().unwrap_or_default();
                for name in self.picture.node_names() {
                    if !listed.contains(&name) {
                        self.remove_node(&name);
                    }
                }
                self.complete_nodes = true;
            }
        }
    }

    fn remove_node(&mut self, name: &str) {
        self.picture.remove_node(name);
        self.wake(Event::NodeGone);
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Apply(pod) => {
                if let Some(listed) = &mut self.listed_pods {
                    listed.insert(pod.uid().to_owned());
                }
                self.apply_pod(pod);
            }
            Change::Delete(pod) => self.remove_pod(pod.uid()),
            Change::ListBegins => self.listed_pods = Some(HashSet::new()),
            Change::ListEnds => {
                let listed = self.listed_pods.take().unwrap_or_default();
                let placed = self.picture.placed_uids().into_iter().map(|uid| uid.to_string());
                for uid in placed.chain(self.pending.uids()) {
                    if !listed.contains(&uid) {
                        self.remove_pod(&uid);
                    }
                }
                self.complete_pods = true;
            }
        }
    }

    fn apply_pod(&mut self, pod: Pod) {
        if pod.is_finished() {
            return self.remove_pod(pod.uid());
        }
        if !pod.spec.node_name.is_empty() {
            return self.place(&pod);
        }
        let Some(profile) = self.profiles.get(pod.scheduler()).cloned() else { return };
        // One that is being bound stays in the picture until that is told.
        if self.picture.is_placed(pod.uid()) {
            return;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return self.remove_pod(pod.uid());
        }
        if !pod.spec.scheduling_gates.is_empty() {
            if self.pending.gate(pod.uid()) {
                self.report(Report::Gated { pod: Arc::new(pod) });
            }
            return;
        }
        let ask = Ask::new(pod, profile);
        let nominated = &ask.pod.status.nominated_node_name;
        if !nominated.is_empty() && self.nominations.node(ask.uid()).is_none() {
            self.nominations.set(ask.occupant.clone(), nominated);
        }
        self.pending.apply(ask);
    }

    /// Counts a pod that has a node.
    fn place(&mut self, pod: &Pod) {
        self.pending.remove(pod.uid());
        self.nominations.remove(pod.uid());
        let occupant = Arc::new(Occupant::new(pod));
        let old = self.picture.place(occupant.clone(), &pod.spec.node_name);
        match old {
            Some(old) if *old == *occupant => {}
            Some(old) => {
                let index = self.picture.find_node(&pod.spec.node_name);
                let relaxed = old.requests != occupant.requests || old.terminating != occupant.terminating;
                if let (true, Some(index)) = (relaxed || old.labels != occupant.labels, index) {
                    self.wake(Event::PodGone { index, pod: &old });
                }
                if old.labels != occupant.labels {
                    self.wake(Event::PodPlaced(&occupant));
                }
            }
            // It may be the neighbour that others wait for.
            None => self.wake(Event::PodPlaced(&occupant)),
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.pending.remove(uid);
        if self.nominations.remove(uid) {
            self.wake(Event::NominationGone);
        }
        self.forget(uid);
    }

    /// Counts a pod no more.
    fn forget(&mut self, uid: &str) {
        self.break_promise(uid, false);
        let Some((index, _)) = self.picture.placed(uid) else { return };
        if let Some(pod) = self.picture.remove(uid) {
            self.wake(Event::PodGone { index, pod: &pod });
        }
    }

    /// What was promised to a pod is free again. Devices that its claims have got by now are theirs.
    fn break_promise(&mut self, uid: &str, kept: bool) {
        let Some(waiter) = self.waiters.remove(uid) else { return };
        for (volume, _) in &waiter.promise.found {
            self.picture.volumes.promised.remove(volume);
        }
        if !kept {
            for key in &waiter.devices {
                self.picture.devices.promised.remove(key);
            }
        }
    }

    /// Has a pod given to a node, where it counts from now on.
    fn assign(&mut self, ask: Arc<Ask>, node: String) {
        let Some((promise, allocation)) = self.promise(&ask, &node) else {
            // Another pod of its group was faster.
            self.forget(ask.uid());
            self.pending.retry(ask.uid(), Instant::now(), true);
            return;
        };
        self.picture.place(ask.occupant.clone(), &node);
        self.wake(Event::PodPlaced(&ask.occupant));
        let client = self.client.clone();
        if promise.is_empty() && allocation.is_empty() {
            self.bindings.spawn(bind(client, ask, node));
            return;
        }
        let Picture { volumes, devices, .. } = &mut self.picture;
        let mut writes = binding::writes(volumes, &promise, &node);
        let claims = device_objects::writes(devices, &allocation, &ask, &node);
        writes.extend(claims.into_iter().map(Write::Devices));
        volumes.promised.extend(promise.found.iter().cloned());
        let keys = allocation.claims.iter().map(|(key, _)| key.clone()).collect();
        devices.promised.extend(allocation.claims);
        let (mut waiter, told) = Waiter::new(promise, keys, node.clone());
        waiter.look(volumes);
        self.waiters.insert(ask.occupant.uid.clone(), waiter);
        self.slow_bindings.spawn(bind_with_volumes(client, ask, node, writes, told));
    }

    /// What is to be done about a pod's volumes and devices before it can have a node.
    fn promise(&self, ask: &Ask, node: &str) -> Option<(Promise, Allocation)> {
        if ask.occupant.claims.is_empty() && ask.pod.spec.resource_claims.is_empty() {
            return Some((Promise::default(), Allocation::default()));
        }
        let Picture { volumes, devices, .. } = &self.picture;
        let node = self.picture.find_node(node).and_then(|index| self.picture.node(index))?;
        let promise = volumes.promise(&volumes.needs(ask).ok()?, &node.facts)?;
        Some((promise, devices.allocate(&devices.needs(ask).ok()?, &node.facts)?))
    }

    /// Finds nodes for as many of a group as have to be placed together, or for none.
    fn place_group(&mut self, group: &Group, first: &Arc<Ask>) {
        let members = self.pending.take_group(group, first);
        let placed = self.picture.count_group(group);
        let nodes = self.picture.count();
        if placed + members.len() < group.least {
            let (name, there) = (&group.name, placed + members.len());
            let why = format!("pod group {name:?} has {there} of at least {} pods", group.least);
            for ask in &members {
                self.wait(ask, hints::NOTHING, format!("0/{nodes} nodes are available: {why}."), None);
            }
            return;
        }
        let mut found = Vec::new();
        let mut refused = Vec::new();
        for ask in members {
            match decide::decide(&mut self.picture, &self.nominations, &ask, &mut self.start) {
                Ok(index) => {
                    let name =
                        self.picture.node(index).map(|node| node.name().to_owned()).unwrap_or_default();
                    // The next one is to see it.
                    self.picture.place(ask.occupant.clone(), &name);
                    found.push((ask, name));
                }
                Err(refusal) => refused.push((ask, refusal)),
            }
        }
        if placed + found.len() >= group.least {
            found.into_iter().for_each(|(ask, node)| self.assign(ask, node));
            refused.iter().for_each(|(ask, refusal)| self.refused(ask, refusal));
            return;
        }
        let by = refused.iter().fold(0, |by, (_, refusal)| by | refusal.by);
        let fit = placed + found.len();
        for (ask, _) in &found {
            self.picture.remove(ask.uid());
        }
        for (ask, _) in &found {
            let name = &group.name;
            let why =
                format!("only {fit} of at least {} pods of pod group {name:?} find a node", group.least);
            self.wait(ask, by, format!("0/{nodes} nodes are available: {why}."), None);
        }
        for (ask, refusal) in &refused {
            self.wait(ask, by, refusal.message(), None);
        }
    }

    /// Has a pod wait for a change, and says why.
    fn wait(&mut self, ask: &Ask, by: u32, message: String, nominated: Option<String>) {
        let said = format!("{message}{}", nominated.as_deref().unwrap_or_default());
        if self.pending.park(ask.uid(), by, &said, Instant::now()) {
            let pod = ask.pod.clone();
            self.report(Report::Failed { pod, message, reason: "Unschedulable", nominated });
        }
    }

    /// Finds nodes for all pods whose turn it is.
    fn place_all(&mut self) {
        // Half a picture would fill nodes twice.
        if !(self.complete_nodes && self.complete_pods && self.complete.len() == KINDS.len()) {
            return;
        }
        while self.bindings.len() < BINDINGS {
            let Some(ask) = self.pending.next() else { return };
            if let Some(group) = &ask.group {
                self.place_group(group, &ask);
                continue;
            }
            match decide::decide(&mut self.picture, &self.nominations, &ask, &mut self.start) {
                Ok(index) => {
                    let Some(node) = self.picture.node(index).map(|node| node.name().to_owned()) else {
                        continue;
                    };
                    self.assign(ask, node);
                }
                Err(refusal) => self.refused(&ask, &refusal),
            }
        }
    }

    /// No node takes a pod: others are pushed away for it, or it waits.
    fn refused(&mut self, ask: &Arc<Ask>, refusal: &Refusal) {
        let mut message = refusal.message();
        let mut nominated = None;
        let mut push = None;
        if refusal.nodes > 0 {
            let (nominations, start) = (&self.nominations, self.start);
            match preempt::plan(&mut self.picture, nominations, &self.budgets, ask, refusal, start) {
                Ok(plan) => {
                    let name = self.picture.node(plan.node).map(|node| node.name().to_owned());
                    push = name.map(|name| (plan.victims, name));
                }
                Err(why) => {
                    message = format!("{message} preemption: {why}");
                    // While those go for whom it waits, what is kept for it stays.
                    let waits = why.starts_with("not eligible due to a terminating");
                    if !waits && self.nominations.remove(ask.uid()) {
                        nominated = Some(String::new());
                        self.wake(Event::NominationGone);
                    }
                }
            }
        }
        if let Some((_, node)) = &push {
            nominated = Some(node.clone());
        }
        self.wait(ask, refusal.by, message, nominated);
        if let Some((victims, node)) = push {
            for pod in self.nominations.less_urgent(&node, ask.priority()) {
                self.nominations.remove(&pod.uid);
                self.report(Report::Unnominated { pod });
            }
            self.nominations.set(ask.occupant.clone(), &node);
            self.pending.busy(ask.uid());
            self.pushes.spawn(push::push(self.client.clone(), ask.clone(), victims, node));
        }
    }

    /// Others have been pushed away for a pod: they are on their way, and it is tried again.
    fn pushed(&mut self, pushed: &Pushed) {
        for victim in &pushed.gone {
            let Some((index, pod)) = self.picture.placed(&victim.uid) else { continue };
            let name = self.picture.node(index).map(|node| node.name().to_owned()).unwrap_or_default();
            let going = pod.going();
            self.picture.place(Arc::new(going), &name);
        }
        self.pending.retry(pushed.ask.uid(), Instant::now(), !pushed.complete);
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { ask, node, result } = bound;
        let error = match result {
            Ok(()) => {
                self.break_promise(ask.uid(), true);
                self.pending.remove(ask.uid());
                self.nominations.remove(ask.uid());
                self.report(Report::Scheduled { pod: ask.pod.clone(), node });
                return;
            }
            Err(error) => error,
        };
        self.forget(ask.uid());
        self.pending.retry(ask.uid(), Instant::now(), true);
        if error.is_passing() {
            tracing::debug!(pod = ask.pod.name(), %node, %error, "a pod was not bound");
            return;
        }
        tracing::warn!(pod = ask.pod.name(), %node, %error, "a pod was not bound");
        let message = match &error {
            Failure::Api(_) => format!("binding to node {node:?} failed: {error}"),
            Failure::Volumes(_) => format!("running PreBind plugin \"VolumeBinding\": {error}"),
        };
        let pod = ask.pod.clone();
        self.report(Report::Failed { pod, message, reason: "SchedulerError", nominated: None });
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("a report was dropped: too many wait to be written");
        }
    }
}
