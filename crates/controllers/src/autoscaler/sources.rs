//! From the metrics that an autoscaler names to a number of pods: each is asked, the highest answer counts, and fewer
//! pods only where all of them have answered.

use dray_machinery::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, MetricIdentifier, MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use serde_json::{Value, json};

use dray_machinery::selector::LabelSelector;

use super::calculate::{Known, Pod, Proposal, Tolerance, by_part};
use super::metrics::{Described, Metrics};
use crate::scale::{Scale, Scales, group_of, qualified};

/// Why a metric cannot be weighed: the reason of the condition and of the event, and the words of both.
pub(super) type Failure = (&'static str, String);

/// What a metric came to.
struct Weighed {
    proposal: Proposal,
    /// What it is called where it has the pods increase.
    name: String,
    /// As the status tells it.
    status: Value,
}

/// What all metrics came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) replicas: i32,
    /// The metric that decided.
    pub(super) metric: String,
    pub(super) statuses: Vec<Value>,
}

/// Who is asked about metrics, and about what.
pub(super) struct Weighing<'a> {
    pub(super) metrics: Metrics<'a>,
    pub(super) scales: &'a Scales,
    pub(super) scale: &'a Scale,
    pub(super) pods: &'a [Pod],
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

fn value_of(text: Option<&Text>) -> Option<i64> {
    text.and_then(|text| text.0.parse::<Quantity>().ok()).map(|quantity| quantity.millis())
}

/// Thousandths as a quantity.
fn quantity(millis: i64) -> String {
    // A quantity that was read is written in its shortest form.
    let text = format!("{millis}m");
    text.parse::<Quantity>().map_or(text, |quantity| quantity.to_string())
}

fn selector_text(selector: Option<&Selector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    let value = serde_json::to_value(selector).map_err(|error| error.to_string())?;
    Ok(LabelSelector::from_value(&value)?.to_string())
}

/// A metric in words.
fn named(metric: &MetricIdentifier) -> String {
    let selector = selector_text(metric.selector.as_ref()).unwrap_or_default();
    format!("{}({})", metric.name, if metric.selector.is_some() { &selector } else { "nil" })
}

fn identifier(metric: &MetricIdentifier) -> Value {
    let mut identifier = json!({ "name": metric.name });
    if let Some(selector) = &metric.selector {
        identifier["selector"] = json!(selector);
    }
    identifier
}

impl Weighing<'_> {
    fn known(&self) -> Known<'_> {
        Known { current: self.scale.replicas, pods: self.pods, tolerance: self.tolerance, now: self.now }
    }

    /// Asks for all metrics. What failed is told beside it.
    ///
    /// # Errors
    /// The first failure, if it says nothing about the number of pods, and all in words.
    pub(super) async fn weigh(
        &self,
        specs: &[MetricSpec],
    ) -> (Result<Outcome, (Failure, String, Vec<Value>)>, Vec<Failure>) {
        let mut best: Option<(i32, String)> = None;
        let mut statuses = Vec::new();
        let mut failures: Vec<Failure> = Vec::new();
        for spec in specs {
            match self.weigh_one(spec).await {
                Ok(weighed) => {
                    statuses.push(weighed.status);
                    let replicas = weighed.proposal.replicas;
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                        best = Some((replicas, weighed.name));
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        let fewer = best.as_ref().is_none_or(|(replicas, _)| *replicas < self.scale.replicas);
        let outcome = match (best, failures.first()) {
            (_, Some(first)) if fewer => {
                let words = format!(
                    "invalid metrics ({} invalid out of {}), first error is: {}",
                    failures.len(),
                    specs.len(),
                    first.1
                );
                Err((first.clone(), words, statuses))
            }
            (Some((replicas, metric)), _) => Ok(Outcome { replicas, metric, statuses }),
            (None, _) => {
                let words = "no metrics are given".to_owned();
                Err((("InvalidMetricSourceType", words.clone()), words, statuses))
            }
        };
        (outcome, failures)
    }

    async fn weigh_one(&self, spec: &MetricSpec) -> Result<Weighed, Failure> {
        if let Some(source) = &spec.resource {
            let weighed = self.resource(&source.name, "", &source.target).await;
            return self.of_resource(
                weighed,
                "FailedGetResourceMetric",
                "resource",
                |current| json!({ "name": source.name, "current": current }),
            );
        }
        if let Some(source) = &spec.container_resource {
            let weighed = self.resource(&source.name, &source.container, &source.target).await;
            let reason = "FailedGetContainerResourceMetric";
            return self.of_resource(
                weighed,
                reason,
                "containerResource",
                |current| json!({ "name": source.name, "container": source.container, "current": current }),
            );
        }
        if let Some(source) = &spec.pods {
            let weighed = self.of_pods(&source.metric, &source.target).await;
            let failed = |why| ("FailedGetPodsMetric", format!("failed to get pods metric value: {why}"));
            return weighed.map_err(failed);
        }
        if let Some(source) = &spec.object {
            let weighed = self.of_object(&source.metric, &source.described_object, &source.target).await;
            let failed = |why| ("FailedGetObjectMetric", format!("failed to get object metric value: {why}"));
            return weighed.map_err(failed);
        }
        if let Some(source) = &spec.external {
            let weighed = self.external(&source.metric, &source.target).await;
            let name = &source.metric.name;
            let failed =
                |why| ("FailedGetExternalMetric", format!("failed to get {name} external metric: {why}"));
            return weighed.map_err(failed);
        }
        Err(("InvalidMetricSourceType", format!("unknown metric source type {:?}", spec.type_)))
    }

    async fn resource(
        &self,
        name: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<(Proposal, String, Value), String> {
        let measures = self.metrics.resource(name, &self.scale.selector, container);
        let failed = |why: String| format!("failed to get {name} utilization: {why}");
        if let Some(average) = value_of(target.average_value.as_ref()) {
            let measures = measures.await.map_err(failed)?;
            let proposal = self.known().by_average(average, name == "cpu", measures).map_err(failed)?;
            let current = json!({ "averageValue": quantity(proposal.value) });
            return Ok((proposal, format!("{name} resource"), current));
        }
        let share = target.average_utilization.ok_or(
            "invalid resource metric source: neither an average utilization target nor an average value target was set",
        )?;
        let measures = measures.await.map_err(failed)?;
        let proposal = self.known().by_share(share, name, container, measures).map_err(failed)?;
        let current = json!({
            "averageUtilization": proposal.utilization, "averageValue": quantity(proposal.value),
        });
        let of = if container.is_empty() { "resource" } else { "container resource" };
        Ok((proposal, format!("{name} {of} utilization (percentage of request)"), current))
    }

    fn of_resource(
        &self,
        weighed: Result<(Proposal, String, Value), String>,
        reason: &'static str,
        field: &str,
        status: impl Fn(Value) -> Value,
    ) -> Result<Weighed, Failure> {
        let (proposal, name, current) = weighed.map_err(|why| (reason, why))?;
        let kind = if field == "resource" { "Resource" } else { "ContainerResource" };
        Ok(Weighed { proposal, name, status: json!({ "type": kind, field: status(current) }) })
    }

    async fn of_pods(&self, metric: &MetricIdentifier, target: &MetricTarget) -> Result<Weighed, String> {
        let average = value_of(target.average_value.as_ref())
            .ok_or("invalid pods metric source: there is no average value")?;
        let selector = selector_text(metric.selector.as_ref())?;
        let measures = self.metrics.of_pods(&metric.name, &self.scale.selector, &selector).await?;
        let proposal = self.known().by_average(average, false, measures)?;
        let current = json!({ "averageValue": quantity(proposal.value) });
        let status = json!({ "type": "Pods", "pods": { "metric": identifier(metric), "current": current } });
        Ok(Weighed { proposal, name: format!("pods metric {}", metric.name), status })
    }

    async fn of_object(
        &self,
        metric: &MetricIdentifier,
        object: &CrossVersionObjectReference,
        target: &MetricTarget,
    ) -> Result<Weighed, String> {
        let selector = selector_text(metric.selector.as_ref())?;
        let group = group_of(object.api_version.as_deref().unwrap_or_default());
        let kind = self.scales.kind(group, &object.kind);
        let kind = kind.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", object.kind))?;
        let resource = qualified(group, &kind.resource.plural);
        let place = Described { resource: &resource, name: &object.name };
        let value = self.metrics.of_object(&metric.name, &place, &selector).await;
        let value = value.map_err(|why| {
            format!(
                "unable to get metric {}: {why} on {} {}/{}",
                metric.name, object.kind, self.metrics.namespace, object.name
            )
        })?;
        let (proposal, name, current) = match (value_of(target.value.as_ref()), target.type_.as_str()) {
            (Some(wanted), "Value") => {
                let proposal = self.known().by_value(wanted, value)?;
                let name = format!("{} metric {}", object.kind, metric.name);
                (proposal, name, json!({ "value": quantity(proposal.value) }))
            }
            _ => {
                let average = value_of(target.average_value.as_ref()).ok_or(
                    "invalid object metric source: neither a value target nor an average value target was set",
                )?;
                let proposal = by_part(average, value, self.scale.current, self.tolerance);
                let name = format!("{} metric {}", object.kind, metric.name);
                (proposal, name, json!({ "averageValue": quantity(proposal.value) }))
            }
        };
        let status = json!({ "type": "Object", "object": {
            "metric": identifier(metric), "describedObject": object, "current": current } });
        Ok(Weighed { proposal, name, status })
    }

    async fn external(&self, metric: &MetricIdentifier, target: &MetricTarget) -> Result<Weighed, String> {
        let selector = selector_text(metric.selector.as_ref())?;
        let value = self.metrics.external(&metric.name, &selector).await?;
        let (proposal, current) = if let Some(average) = value_of(target.average_value.as_ref()) {
            let proposal = by_part(average, value, self.scale.current, self.tolerance);
            (proposal, json!({ "averageValue": quantity(proposal.value) }))
        } else {
            let wanted = value_of(target.value.as_ref()).ok_or(
                "invalid external metric source: neither a value target nor an average value target was set",
            )?;
            let proposal = self.known().by_value(wanted, value)?;
            (proposal, json!({ "value": quantity(proposal.value) }))
        };
        let status =
            json!({ "type": "External", "external": { "metric": identifier(metric), "current": current } });
        Ok(Weighed { proposal, name: format!("external metric {}", named(metric)), status })
    }
}
