//! How many pods a metric asks for. All values are thousandths of what they measure.
//!
//! Pods that tell nothing are not simply left out: where the others would have pods go, they count as using all that is
//! meant for them, and where the others would have pods come, as using nothing, so that silence never moves anything.

use std::collections::{BTreeMap, BTreeSet};

use dray_machinery::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodCondition;
use serde::Deserialize;

use crate::labels::Labels;

/// A pod that starts may be busy with that for so long (the reference's `--horizontal-pod-autoscaler-cpu-initialization-period`).
const BUSY: SignedDuration = SignedDuration::from_secs(300);
/// A pod that was not ready before this had not been ready ever (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const EVER_READY: SignedDuration = SignedDuration::from_secs(30);

/// A pod, of which only what is calculated with is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) labels: Labels,
    deletion_timestamp: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    restart_policy: String,
    resources: Resources,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    start_time: Option<Timestamp>,
    conditions: Vec<PodCondition>,
}

impl Pod {
    fn ready(&self) -> Option<&PodCondition> {
        self.status.conditions.iter().find(|condition| condition.type_ == "Ready")
    }

    /// Whether it serves.
    pub(super) fn is_ready(&self) -> bool {
        self.status.phase == "Running" && self.ready().is_some_and(|condition| condition.status == "True")
    }
}

/// What was measured of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    /// Over so long.
    pub(super) window: SignedDuration,
}

pub(super) type Measures = BTreeMap<String, Measure>;

/// How far usage may be from its target before anything is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn allows(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// The share of what is requested that is used, in percent.
    pub(super) utilization: Option<i32>,
    /// The value, or the average of a pod.
    pub(super) value: i64,
}

/// Pods by how they count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Pod], measures: &Measures, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone();
        if pod.metadata.deletion_timestamp.is_some() || pod.status.phase == "Failed" {
            groups.ignored.insert(name);
            continue;
        }
        if pod.status.phase == "Pending" {
            groups.unready.insert(name);
            continue;
        }
        let Some(measure) = measures.get(&name) else {
            groups.missing.insert(name);
            continue;
        };
        if is_cpu && is_unready(pod, measure, now) {
            groups.unready.insert(name);
            continue;
        }
        groups.ready += 1;
    }
    groups
}

/// Whether what a pod uses of the CPU says nothing about what it serves.
fn is_unready(pod: &Pod, measure: &Measure, now: Timestamp) -> bool {
    let (Some(condition), Some(started)) = (pod.ready(), pod.status.start_time) else { return true };
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let is_unready = condition.status == "False";
    if now.duration_since(started) < BUSY {
        // A measure that began before the pod was ready tells of its start.
        return is_unready || measure.at.duration_since(since) < measure.window;
    }
    is_unready && since.duration_since(started) < EVER_READY
}

/// What pods ask for of a resource, or one container of each does.
fn requests(pods: &[Pod], resource: &str, container: &str) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let sidecars = pod.spec.init_containers.iter().filter(|one| one.restart_policy == "Always");
        let all = pod.spec.containers.iter().chain(sidecars);
        let mut sum = 0_i64;
        for one in all.filter(|one| container.is_empty() || one.name == container) {
            let request = one.resources.requests.get(resource).and_then(|text| text.parse::<Quantity>().ok());
            let Some(request) = request else {
                return Err(format!(
                    "missing request for {resource} in container {} of Pod {}",
                    one.name, pod.metadata.name
                ));
            };
            sum = sum.saturating_add(request.millis());
        }
        requests.insert(pod.metadata.name.clone(), sum);
    }
    Ok(requests)
}

fn rounded_up(replicas: f64) -> i32 {
    // A cast of what is too large gives the largest.
    replicas.ceil() as i32
}

fn total(measures: &Measures) -> i64 {
    measures.values().fold(0, |sum, measure| sum.saturating_add(measure.value))
}

/// What usage is, beside what it should be.
struct Usage {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

/// What usage is to be compared with.
enum Target {
    /// A share in percent of what each pod asks for.
    Share(i32, BTreeMap<String, i64>),
    /// A value for each pod.
    Average(i64),
}

impl Target {
    fn usage(&self, measures: &Measures) -> Result<Usage, String> {
        let (share, requests) = match self {
            Target::Average(target) => {
                let average = total(measures) / i64::try_from(measures.len().max(1)).unwrap_or(i64::MAX);
                let ratio = average as f64 / (*target).max(1) as f64;
                return Ok(Usage { ratio, utilization: None, average });
            }
            Target::Share(share, requests) => (*share, requests),
        };
        let (mut used, mut asked, mut count) = (0_i64, 0_i64, 0_i64);
        for (name, measure) in measures {
            if let Some(request) = requests.get(name) {
                used = used.saturating_add(measure.value);
                asked = asked.saturating_add(*request);
                count += 1;
            }
        }
        if asked == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let utilization = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
        let ratio = f64::from(utilization) / f64::from(share.max(1));
        Ok(Usage { ratio, utilization: Some(utilization), average: used / count.max(1) })
    }

    /// What a pod that tells nothing counts as using, where the others use too little.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Target::Average(target) => *target,
            Target::Share(_, requests) => requests.get(pod).copied().unwrap_or(0),
        }
    }
}

/// What is known when a metric of pods is weighed.
pub(super) struct Known<'a> {
    pub(super) current: i32,
    pub(super) pods: &'a [Pod],
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

impl Known<'_> {
    /// So many pods that each uses a share, in percent, of what it asks for of a resource.
    ///
    /// # Errors
    /// Why that cannot be said, in words.
    pub(super) fn by_share(
        &self,
        share: i32,
        resource: &str,
        container: &str,
        measures: Measures,
    ) -> Result<Proposal, String> {
        let is_cpu = resource == "cpu";
        self.weigh(is_cpu, measures, || Ok(Target::Share(share, requests(self.pods, resource, container)?)))
    }

    /// So many pods that each has a value.
    ///
    /// # Errors
    /// Why that cannot be said, in words.
    pub(super) fn by_average(
        &self,
        target: i64,
        is_cpu: bool,
        measures: Measures,
    ) -> Result<Proposal, String> {
        self.weigh(is_cpu, measures, || Ok(Target::Average(target)))
    }

    fn weigh(
        &self,
        is_cpu: bool,
        mut measures: Measures,
        target: impl FnOnce() -> Result<Target, String>,
    ) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let groups = group(self.pods, &measures, is_cpu, self.now);
        measures.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        let target = target()?;
        if measures.is_empty() {
            return Err("did not receive metrics for any ready pods".to_owned());
        }
        let usage = target.usage(&measures)?;
        let proposal = |replicas| Proposal { replicas, utilization: usage.utilization, value: usage.average };
        let starting = !groups.unready.is_empty() && usage.ratio > 1.0;
        if !starting && groups.missing.is_empty() {
            if self.tolerance.allows(usage.ratio) {
                return Ok(proposal(self.current));
            }
            return Ok(proposal(rounded_up(usage.ratio * groups.ready as f64)));
        }
        let guess = |value| Measure { value, at: self.now, window: SignedDuration::ZERO };
        for name in &groups.missing {
            let value = if usage.ratio < 1.0 { target.full(name) } else { 0 };
            measures.insert(name.clone(), guess(value));
        }
        for name in groups.unready.iter().filter(|_| starting) {
            measures.insert(name.clone(), guess(0));
        }
        let again = target.usage(&measures)?;
        let turned = (usage.ratio < 1.0 && again.ratio > 1.0) || (usage.ratio > 1.0 && again.ratio < 1.0);
        if self.tolerance.allows(again.ratio) || turned {
            return Ok(proposal(self.current));
        }
        let replicas = rounded_up(again.ratio * measures.len() as f64);
        let against =
            (again.ratio < 1.0 && replicas > self.current) || (again.ratio > 1.0 && replicas < self.current);
        Ok(proposal(if against { self.current } else { replicas }))
    }

    /// So many pods that one value, which all of them share, is what it should be.
    ///
    /// # Errors
    /// Why that cannot be said, in words.
    pub(super) fn by_value(&self, target: i64, value: i64) -> Result<Proposal, String> {
        let ratio = value as f64 / target.max(1) as f64;
        let proposal = |replicas| Ok(Proposal { replicas, utilization: None, value });
        if self.current == 0 {
            return proposal(rounded_up(ratio));
        }
        if self.tolerance.allows(ratio) {
            return proposal(self.current);
        }
        if self.pods.is_empty() {
            return Err(
                "unable to calculate ready pods: no pods returned by selector while calculating replica count"
                    .to_owned(),
            );
        }
        let ready = self.pods.iter().filter(|pod| pod.is_ready()).count();
        proposal(rounded_up(ratio * ready as f64))
    }
}

/// So many pods that each has its share of one value; `running` are there.
pub(super) fn by_part(target: i64, value: i64, running: i32, tolerance: Tolerance) -> Proposal {
    let target = target.max(1) as f64;
    let ratio = value as f64 / (target * f64::from(running));
    let replicas =
        if running > 0 && tolerance.allows(ratio) { running } else { rounded_up(value as f64 / target) };
    let average = if running > 0 { (value as f64 / f64::from(running)).ceil() as i64 } else { 0 };
    Proposal { replicas, utilization: None, value: average }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, change: Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z" }] },
        });
        for (part, fields) in change.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                pod[part][field] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn pods(count: usize) -> Vec<Pod> {
        (0..count).map(|number| pod(&number.to_string(), json!({}))).collect()
    }

    fn measures(values: &[i64]) -> Measures {
        let window = SignedDuration::from_secs(60);
        let all = values.iter().enumerate();
        all.map(|(number, value)| (number.to_string(), Measure { value: *value, at: now(), window }))
            .collect()
    }

    fn known(pods: &[Pod], current: i32) -> Known<'_> {
        Known { current, pods, tolerance: TOLERANCE, now: now() }
    }

    #[test]
    fn usage_moves_the_number_of_pods() {
        for (values, share, expected, utilization) in [
            (&[300, 500, 700][..], 30, 5, 50),
            (&[300, 500, 700], 60, 3, 50),
            (&[300, 500, 700], 50, 3, 50),
            // Within a tenth of what it should be.
            (&[300, 500, 700], 46, 3, 50),
            (&[100, 100, 100], 50, 1, 10),
        ] {
            let all = pods(3);
            let found = known(&all, 3).by_share(share, "cpu", "", measures(values)).unwrap();
            assert_eq!(
                (found.replicas, found.utilization),
                (expected, Some(utilization)),
                "{values:?} {share}"
            );
        }
        let all = pods(4);
        let found = known(&all, 4).by_average(15_000, false, measures(&[20_000, 20_000, 10_000, 30_000]));
        assert_eq!(found.unwrap(), Proposal { replicas: 6, utilization: None, value: 20_000 });
    }

    #[test]
    fn who_tells_nothing_moves_nothing() {
        let all = pods(4);
        // Two of four use a tenth of their target; were the others as busy as they may be, four are enough and three are not.
        let found = known(&all, 4).by_share(100, "cpu", "", measures(&[100, 100])).unwrap();
        assert_eq!(found.replicas, 3);
        // Two use three times as much; were the others idle, six are needed, not twelve.
        let found = known(&all, 4).by_share(100, "cpu", "", measures(&[3000, 3000])).unwrap();
        assert_eq!(found.replicas, 6);
        // What would turn the direction is left.
        let found = known(&all, 4).by_share(100, "cpu", "", measures(&[1500])).unwrap();
        assert_eq!(found.replicas, 4);
    }

    #[test]
    fn who_is_not_ready_counts_only_against_more() {
        let unready = json!({ "status": { "startTime": "2026-01-01T00:59:00Z", "conditions": [
            { "type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:59:10Z" }] } });
        let mut all = pods(2);
        all.push(pod("2", unready));
        let found = known(&all, 3).by_share(50, "cpu", "", measures(&[1000, 1000, 5000])).unwrap();
        // Two thirds of 100 percent are 66, and that by 50 for three pods is four.
        assert_eq!((found.replicas, found.utilization), (4, Some(100)));
        // Of memory, one that is not ready uses as much as any.
        let found = known(&all, 3).by_average(1000, false, measures(&[1000, 1000, 4000])).unwrap();
        assert_eq!(found.replicas, 6);
        let gone = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:59:00Z" } });
        let failed = json!({ "status": { "phase": "Failed" } });
        let rest = [pod("0", json!({})), pod("1", gone), pod("2", failed)];
        let found = known(&rest, 3).by_average(1000, false, measures(&[2000, 9000, 9000])).unwrap();
        assert_eq!((found.replicas, found.value), (2, 2000));
    }

    #[test]
    fn groups_of_pods() {
        let started = |start: &str, ready: &str, since: &str| {
            json!({ "status": { "startTime": start, "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": since }] } })
        };
        for (change, unready) in [
            (json!({}), false),
            // A measure of a minute that began before it was ready.
            (started("2026-01-01T00:58:00Z", "True", "2026-01-01T00:59:30Z"), true),
            (started("2026-01-01T00:58:00Z", "True", "2026-01-01T00:58:30Z"), false),
            // Never ready, and ready once.
            (started("2026-01-01T00:00:00Z", "False", "2026-01-01T00:00:10Z"), true),
            (started("2026-01-01T00:00:00Z", "False", "2026-01-01T00:20:00Z"), false),
            (json!({ "status": { "conditions": [] } }), true),
            (json!({ "status": { "phase": "Pending" } }), true),
        ] {
            let all = [pod("0", change.clone())];
            assert_eq!(
                group(&all, &measures(&[1]), true, now()).unready.len(),
                usize::from(unready),
                "{change}"
            );
        }
        assert_eq!(group(&pods(2), &measures(&[1]), true, now()).missing.len(), 1);
    }

    #[test]
    fn what_cannot_be_said() {
        let none = [pod("0", json!({ "spec": { "containers": [{ "name": "c" }] } }))];
        let said = known(&none, 1).by_share(50, "cpu", "", measures(&[1])).unwrap_err();
        assert_eq!(said, "missing request for cpu in container c of Pod 0");
        let said = known(&[], 1).by_average(1, false, measures(&[1])).unwrap_err();
        assert_eq!(said, "no pods returned by selector while calculating replica count");
        let said = known(&pods(1), 1).by_average(1, false, Measures::new()).unwrap_err();
        assert_eq!(said, "did not receive metrics for any ready pods");
    }

    #[test]
    fn values_of_others() {
        let all = pods(3);
        assert_eq!(known(&all, 3).by_value(10_000, 20_000).unwrap().replicas, 6);
        assert_eq!(known(&all, 3).by_value(10_000, 10_500).unwrap().replicas, 3);
        assert_eq!(known(&[], 0).by_value(10_000, 15_000).unwrap().replicas, 2);
        assert_eq!(
            by_part(10_000, 50_000, 3, TOLERANCE),
            Proposal { replicas: 5, utilization: None, value: 16_667 }
        );
        assert_eq!(by_part(10_000, 31_000, 3, TOLERANCE).replicas, 3);
        assert_eq!(
            by_part(10_000, 31_000, 0, TOLERANCE),
            Proposal { replicas: 4, utilization: None, value: 0 }
        );
    }
}
