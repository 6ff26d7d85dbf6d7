//! HorizontalPodAutoscalers: as many pods as what they do asks for. Each is looked at from time to time, for what is measured
//! is nothing that could be followed.

mod behaviour;
mod calculate;
mod metrics;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dray_machinery::quantity::Quantity;
use dray_machinery::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::behaviour::{Bounds, History, Said};
use self::calculate::{Pod, Tolerance};
use self::metrics::Metrics;
use self::sources::Weighing;
use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::queue::{Again, Queue};
use crate::scale::{Found, Scale, Scales, group_of};

/// Each is looked at this often (the reference's `--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// So far may usage be from its target where nothing is said (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;
/// So many autoscalers are looked at at the same time.
const WIDTH: usize = 5;

/// The controller of autoscalers.
pub(crate) struct Autoscaler {
    client: Client,
    scalers: Arc<Informer<HorizontalPodAutoscaler>>,
    scales: Scales,
    histories: Arc<Mutex<HashMap<ObjectKey, History>>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

/// What is to be told of an autoscaler.
struct Report {
    conditions: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
    current: Option<i32>,
    desired: Option<i32>,
    metrics: Option<Vec<Value>>,
    rescaled: bool,
}

impl Report {
    fn new(scaler: &HorizontalPodAutoscaler, now: Timestamp) -> Report {
        let conditions = scaler.status.as_ref().and_then(|status| status.conditions.clone());
        let conditions = conditions.unwrap_or_default();
        Report { conditions, now, current: None, desired: None, metrics: None, rescaled: false }
    }

    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let message = Some(message.into());
        match self.conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) => {
                if known.status != status {
                    known.last_transition_time = Some(Time(self.now));
                    known.status = status.to_owned();
                }
                known.reason = Some(reason.to_owned());
                known.message = message;
            }
            None => self.conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message,
                last_transition_time: Some(Time(self.now)),
            }),
        }
    }

    fn said(&mut self, kind: &str, (holds, reason, message): Said) {
        self.condition(kind, holds, reason, message);
    }
}

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

impl Autoscaler {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(
        client: Client,
        scalers: Arc<Informer<HorizontalPodAutoscaler>>,
        scales: Scales,
        recorder: &Recorder,
    ) -> Autoscaler {
        let queue = Queue::new("autoscalers");
        let histories = Arc::new(Mutex::new(HashMap::<ObjectKey, History>::new()));
        scalers.on_change({
            let (queue, histories) = (queue.clone(), histories.clone());
            move |change| {
                let key = ObjectKey::of(&**change.object());
                match change {
                    Change::Deleted(_) => drop(histories.lock().remove(&key)),
                    Change::Added(_) => queue.add(key),
                    // What this controller writes is no reason to look again.
                    Change::Updated { old, new } if old.spec != new.spec => queue.add(key),
                    Change::Updated { .. } => {}
                }
            }
        });
        let recorder = recorder.of("horizontal-pod-autoscaler");
        Autoscaler { client, scalers, scales, histories, queue, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.scalers.wait_complete().await;
        self.scales.objects.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(scaler) = self.scalers.get(&key) else { return Ok(None) };
        let spec = &scaler.spec;
        let mut report = Report::new(&scaler, Timestamp::now());
        self.look(&key, &scaler, spec, &mut report).await;
        match self.write(&key, &scaler, report).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Some(PERIOD)),
        }
    }

    fn warn(&self, scaler: &HorizontalPodAutoscaler, reason: &'static str, message: impl Into<String>) {
        self.recorder.note(scaler, Severity::Warning, reason, message.into());
    }

    /// Looks at an autoscaler and does what it asks for.
    async fn look(
        &self,
        key: &ObjectKey,
        scaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        report: &mut Report,
    ) {
        let target = &spec.scale_target_ref;
        let group = group_of(target.api_version.as_deref().unwrap_or_default());
        let place = ObjectKey::new(&key.namespace, &target.name);
        let scale = match self.scales.get(group, &target.kind, &place).await {
            Ok(Found::Scale(scale)) => scale,
            Ok(Found::NoObject(why) | Found::NoScale(why)) => return self.no_scale(scaler, report, &why),
            Err(error) => return self.no_scale(scaler, report, &error.message()),
        };
        let words = "the HPA controller was able to get the target's current scale";
        report.condition(ABLE, true, "SucceededGetScale", words);
        let current = scale.replicas;
        report.current = Some(current);
        self.histories.lock().entry(key.clone()).or_default().begin(current, report.now);
        let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let (desired, reason) = if current == 0 && least != 0 {
            let words = "scaling is disabled since the replica count of the target is zero";
            report.condition(ACTIVE, false, "ScalingDisabled", words);
            (0, String::new())
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let Some(found) = self.weigh(key, scaler, spec, &scale, report).await else { return };
            found
        };
        report.desired = Some(desired);
        if desired == current {
            return;
        }
        if let Err(error) = self.scales.set(group, &target.kind, &place, &scale, desired).await {
            let why = error.message();
            self.warn(
                scaler,
                "FailedRescale",
                format!("New size: {desired}; reason: {reason}; error: {why}"),
            );
            let words = format!("the HPA controller was unable to update the target scale: {why}");
            report.condition(ABLE, false, "FailedUpdateScale", words);
            report.desired = None;
            return;
        }
        let words = format!("the HPA controller was able to update the target scale to {desired}");
        report.condition(ABLE, true, "SucceededRescale", words);
        report.rescaled = true;
        let message = format!("New size: {desired}; reason: {reason}");
        self.recorder.note(scaler, Severity::Normal, "SuccessfulRescale", message);
        let mut histories = self.histories.lock();
        let history = histories.entry(key.clone()).or_default();
        history.note_change(spec.behavior.as_ref(), (current, desired), report.now);
    }

    fn no_scale(&self, scaler: &HorizontalPodAutoscaler, report: &mut Report, why: &str) {
        self.warn(scaler, "FailedGetScale", why);
        let words = format!("the HPA controller was unable to get the target's current scale: {why}");
        report.condition(ABLE, false, "FailedGetScale", words);
    }

    /// Asks the metrics how many pods there should be, and says why; none where that cannot be known.
    async fn weigh(
        &self,
        key: &ObjectKey,
        scaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        report: &mut Report,
    ) -> Option<(i32, String)> {
        let metrics = Metrics { client: &self.client, namespace: &key.namespace };
        let pods = match self.pods(key, &metrics, scale).await {
            Ok(pods) => pods,
            Err((reason, why)) => {
                self.warn(scaler, reason, &why);
                report.condition(ACTIVE, false, reason, &why);
                self.warn(scaler, "FailedComputeMetricsReplicas", why);
                return None;
            }
        };
        let behavior = spec.behavior.as_ref();
        let tolerance = |rules: Option<&HPAScalingRules>| {
            let given = rules.and_then(|rules| rules.tolerance.as_ref());
            let given = given.and_then(|text| text.0.parse::<Quantity>().ok());
            given.map_or(TOLERANCE, |quantity| quantity.approximate())
        };
        let weighing = Weighing {
            metrics,
            scales: &self.scales,
            scale,
            pods: &pods,
            tolerance: Tolerance {
                up: tolerance(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
                down: tolerance(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
            },
            now: report.now,
        };
        let (outcome, failures) = weighing.weigh(spec.metrics.as_deref().unwrap_or_default()).await;
        for (reason, why) in failures {
            self.warn(scaler, reason, why);
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(((reason, why), words, statuses)) => {
                let why = format!("the HPA was unable to compute the replica count: {why}");
                report.condition(ACTIVE, false, reason, why);
                report.metrics = Some(statuses);
                self.warn(scaler, "FailedComputeMetricsReplicas", words);
                return None;
            }
        };
        let words =
            format!("the HPA was able to successfully calculate a replica count from {}", outcome.metric);
        report.condition(ACTIVE, true, "ValidMetricFound", words);
        report.metrics = Some(outcome.statuses);
        let current = scale.replicas;
        let bounds = Bounds { current, least: spec.min_replicas.unwrap_or(1), most: spec.max_replicas };
        let decision = {
            let mut histories = self.histories.lock();
            let history = histories.entry(key.clone()).or_default();
            history.decide(behavior, bounds, outcome.replicas, report.now)
        };
        report.said(ABLE, decision.able);
        report.said(LIMITED, decision.limited);
        let reason = if outcome.replicas > current {
            format!("{} above target", outcome.metric)
        } else {
            "All metrics below target".to_owned()
        };
        Some((decision.replicas, reason))
    }

    /// The pods of a target, which no other autoscaler is about.
    async fn pods(
        &self,
        key: &ObjectKey,
        metrics: &Metrics<'_>,
        scale: &Scale,
    ) -> std::result::Result<Vec<Pod>, (&'static str, String)> {
        if scale.selector.is_empty() {
            return Err(("InvalidSelector", "the HPA target's scale is missing a selector".to_owned()));
        }
        let wrong =
            |why| format!("couldn't convert selector into a corresponding internal selector object: {why}");
        LabelSelector::parse(&scale.selector).map_err(|why| ("InvalidSelector", wrong(why)))?;
        let pods = metrics.pods(&scale.selector).await;
        let pods = pods.map_err(|why| ("FailedGetPods", format!("unable to get pods: {why}")))?;
        let mut others: Vec<String> = {
            let mut histories = self.histories.lock();
            histories.entry(key.clone()).or_default().selector.clone_from(&scale.selector);
            let same = histories.iter().filter(|(other, _)| other.namespace == key.namespace);
            let about = |selector: &str| {
                let selector = LabelSelector::parse(selector).ok().filter(|one| !one.is_everything());
                selector.is_some_and(|selector| {
                    let labels = pods.iter().map(|pod| &pod.metadata.labels);
                    labels
                        .into_iter()
                        .any(|labels| selector.matches(|key| labels.get(key).map(String::as_str)))
                })
            };
            same.filter(|(_, history)| about(&history.selector)).map(|(other, _)| other.to_string()).collect()
        };
        others.sort();
        if others.len() > 1 {
            let words = format!(
                "pods by selector {} are controlled by multiple HPAs: [{}]",
                scale.selector,
                others.join(" ")
            );
            return Err(("AmbiguousSelector", words));
        }
        Ok(pods)
    }

    async fn write(&self, key: &ObjectKey, scaler: &HorizontalPodAutoscaler, report: Report) -> Result<()> {
        let known = scaler.status.as_ref();
        let known = known.and_then(|status| serde_json::to_value(status).ok()).unwrap_or(json!({}));
        let mut status = known.clone();
        status["conditions"] = json!(report.conditions);
        // Without a desired number there has to be one all the same.
        if status["desiredReplicas"].is_null() {
            status["desiredReplicas"] = json!(report.desired.or(report.current).unwrap_or(0));
        }
        for (field, value) in [
            ("currentReplicas", report.current.map(|count| json!(count))),
            ("desiredReplicas", report.desired.map(|count| json!(count))),
            ("currentMetrics", report.metrics.map(|metrics| json!(metrics))),
            ("lastScaleTime", report.rescaled.then(|| json!(Time(report.now)))),
        ] {
            if let Some(value) = value {
                status[field] = value;
            }
        }
        if status == known {
            return Ok(());
        }
        let patch = Patch::Merge(json!({ "metadata": { "uid": scaler.metadata.uid }, "status": status }));
        let api = Api::<PartialObjectMeta<HorizontalPodAutoscaler>>::namespaced(
            self.client.clone(),
            &key.namespace,
        );
        let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        written.map(drop).map_err(Error::request("write the status of", "HorizontalPodAutoscaler", key))
    }
}
