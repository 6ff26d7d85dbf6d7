//! A client of the metrics APIs: what containers use, what pods and other objects tell of themselves, and what is told by
//! others. Whoever serves them is asked through the API like anybody.

use dray_machinery::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{ListParams, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::calculate::{Measure, Measures, Pod};

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// Versions of the custom metrics that are understood, the best first.
const VERSIONS: &[&str] = &["v1beta2", "v1beta1"];
/// Over so long something was measured of which nobody says over how long.
const WINDOW: i64 = 60;
/// The longest time that is believed.
const LONGEST: i64 = 86_400;

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Name,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Name,
    timestamp: Timestamp,
    /// `window` in the older version.
    #[serde(alias = "window")]
    window_seconds: Option<i64>,
    value: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: String,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

/// An object of which something is told: its resource, with its group, and its name.
pub(super) struct Described<'a> {
    pub(super) resource: &'a str,
    pub(super) name: &'a str,
}

/// The metrics of a namespace.
pub(super) struct Metrics<'a> {
    pub(super) client: &'a Client,
    pub(super) namespace: &'a str,
}

fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

/// A part of a path or of a query.
fn part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            part.push(char::from(byte));
        } else {
            part.push_str(&format!("%{byte:02X}"));
        }
    }
    part
}

fn millis(text: &str) -> Result<i64, String> {
    text.parse::<Quantity>().map(|quantity| quantity.millis()).map_err(|error| format!("{text:?}: {error}"))
}

/// A length of time as Go writes it, "1m30.5s"; what cannot be read is `WINDOW`.
fn window(text: &str) -> SignedDuration {
    let usual = SignedDuration::from_secs(WINDOW);
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return usual,
        };
        let Ok(number) = number.parse::<f64>() else { return usual };
        seconds += number * factor;
        rest = after;
    }
    let is_believed = !text.is_empty() && seconds <= LONGEST as f64;
    SignedDuration::try_from_secs_f64(seconds).ok().filter(|_| is_believed).unwrap_or(usual)
}

impl Metrics<'_> {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> kube::Result<T> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// The pods that a selector takes.
    ///
    /// # Errors
    /// What the API says.
    pub(super) async fn pods(&self, selector: &str) -> Result<Vec<Pod>, String> {
        let path = format!("/api/v1/namespaces/{}/pods", part(self.namespace));
        let request = Request::new(path).list(&ListParams::default().labels(selector));
        let request = request.map_err(|error| error.to_string())?;
        let list = self.client.request::<List<Pod>>(request).await;
        list.map(|list| list.items).map_err(words)
    }

    /// What pods use of a resource, or one container of each does.
    ///
    /// # Errors
    /// Why that cannot be known, in words.
    pub(super) async fn resource(
        &self,
        resource: &str,
        selector: &str,
        container: &str,
    ) -> Result<Measures, String> {
        let failed = |why: String| {
            format!(
                "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {why}"
            )
        };
        let path = format!("{RESOURCE}/namespaces/{}/pods", part(self.namespace));
        let request = Request::new(path).list(&ListParams::default().labels(selector));
        let request = request.map_err(|error| failed(error.to_string()))?;
        let list = self.client.request::<List<PodMetrics>>(request).await;
        let list = list.map_err(|error| failed(words(error)))?;
        if list.items.is_empty() {
            return Err(format!(
                "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
            ));
        }
        let mut measures = Measures::new();
        for pod in list.items {
            let value = match used(&pod, resource, container) {
                Used::Millis(value) => value,
                Used::Unknown => continue,
                Used::NoContainer => {
                    return Err(format!(
                        "unable to get metrics for resource {resource}: failed to get container metrics: container \
                         {container} not present in metrics for pod {}/{}",
                        self.namespace, pod.metadata.name
                    ));
                }
            };
            let measure = Measure { value, at: pod.timestamp, window: window(&pod.window) };
            measures.insert(pod.metadata.name, measure);
        }
        Ok(measures)
    }

    /// The version of the custom metrics API that is served and understood.
    async fn custom(&self) -> Result<String, String> {
        let group = self.get::<Group>(CUSTOM).await.map_err(words)?;
        let is_served = |version: &&&str| group.versions.iter().any(|one| one.version == ***version);
        let version = VERSIONS.iter().find(is_served);
        version
            .map(|version| format!("{CUSTOM}/{version}"))
            .ok_or_else(|| "no version of it is known".to_owned())
    }

    /// What pods tell of themselves.
    ///
    /// # Errors
    /// Why that cannot be known, in words.
    pub(super) async fn of_pods(
        &self,
        metric: &str,
        selector: &str,
        metric_selector: &str,
    ) -> Result<Measures, String> {
        let failed = |why: String| {
            format!("unable to get metric {metric}: unable to fetch metrics from custom metrics API: {why}")
        };
        let base = self.custom().await.map_err(failed)?;
        let place = Described { resource: "pods", name: "*" };
        let path = self.custom_path(
            &base,
            &place,
            metric,
            &[("labelSelector", selector), ("metricLabelSelector", metric_selector)],
        );
        let list = self.get::<List<MetricValue>>(&path).await.map_err(|error| failed(words(error)))?;
        if list.items.is_empty() {
            return Err(format!(
                "unable to get metric {metric}: no metrics returned from custom metrics API"
            ));
        }
        let mut measures = Measures::new();
        for told in list.items {
            let seconds = told.window_seconds.unwrap_or(WINDOW).clamp(0, LONGEST);
            let measure = Measure {
                value: millis(&told.value).map_err(failed)?,
                at: told.timestamp,
                window: SignedDuration::from_secs(seconds),
            };
            measures.insert(told.described_object.name, measure);
        }
        Ok(measures)
    }

    /// What another object tells.
    ///
    /// # Errors
    /// Why that cannot be known, in words.
    pub(super) async fn of_object(
        &self,
        metric: &str,
        object: &Described<'_>,
        metric_selector: &str,
    ) -> Result<i64, String> {
        let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        let base = self.custom().await.map_err(failed)?;
        let path = self.custom_path(&base, object, metric, &[("metricLabelSelector", metric_selector)]);
        let list = self.get::<List<MetricValue>>(&path).await.map_err(|error| failed(words(error)))?;
        match list.items.as_slice() {
            [told] => millis(&told.value).map_err(failed),
            several => Err(failed(format!("expected exactly one value, got {}", several.len()))),
        }
    }

    fn custom_path(&self, base: &str, place: &Described<'_>, metric: &str, query: &[(&str, &str)]) -> String {
        let (namespace, metric) = (part(self.namespace), part(metric));
        // A namespace tells of itself only.
        let mut path = if place.resource == "namespaces" {
            format!("{base}/namespaces/{namespace}/metrics/{metric}")
        } else {
            // The star of all pods is a part of the path as it is.
            let name = if place.name == "*" { "*".to_owned() } else { part(place.name) };
            format!("{base}/namespaces/{namespace}/{}/{name}/{metric}", part(place.resource))
        };
        let given = query.iter().filter(|(_, value)| !value.is_empty());
        for (index, (name, value)) in given.enumerate() {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str(&format!("{name}={}", part(value)));
        }
        path
    }

    /// The sum of what others tell.
    ///
    /// # Errors
    /// Why that cannot be known, in words.
    pub(super) async fn external(&self, metric: &str, selector: &str) -> Result<i64, String> {
        let failed = |why: String| {
            format!(
                "unable to get external metric {}/{metric}/{selector}: unable to fetch metrics from external metrics API: \
                 {why}",
                self.namespace
            )
        };
        let path = format!("{EXTERNAL}/namespaces/{}/{}", part(self.namespace), part(metric));
        let mut parameters = ListParams::default();
        if !selector.is_empty() {
            parameters = parameters.labels(selector);
        }
        let request = Request::new(path).list(&parameters).map_err(|error| failed(error.to_string()))?;
        let list = self.client.request::<List<ExternalValue>>(request).await;
        let list = list.map_err(|error| failed(words(error)))?;
        if list.items.is_empty() {
            return Err(format!(
                "unable to get external metric {}/{metric}/{selector}: no metrics returned from external metrics API",
                self.namespace
            ));
        }
        list.items
            .iter()
            .try_fold(0_i64, |sum, told| Ok(sum.saturating_add(millis(&told.value).map_err(failed)?)))
    }
}

/// What a pod uses.
enum Used {
    Millis(i64),
    /// Nobody told.
    Unknown,
    NoContainer,
}

fn used(pod: &PodMetrics, resource: &str, container: &str) -> Used {
    let of = |one: &ContainerMetrics| one.usage.get(resource).and_then(|text| millis(text).ok());
    if container.is_empty() {
        let all: Option<Vec<i64>> = pod.containers.iter().map(of).collect();
        return match all {
            Some(values) if !values.is_empty() => {
                Used::Millis(values.iter().fold(0, |sum: i64, value| sum.saturating_add(*value)))
            }
            _ => Used::Unknown,
        };
    }
    match pod.containers.iter().find(|one| one.name == container) {
        None => Used::NoContainer,
        Some(one) => of(one).map_or(Used::Unknown, Used::Millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1m0s", 60.0),
            ("1h1m1.5s", 3661.5),
            ("250ms", 0.25),
            ("", 60.0),
            ("s", 60.0),
            ("5", 60.0),
            ("1e9h", 60.0),
            ("99999999999h", 60.0),
        ] {
            assert_eq!(window(text).as_secs_f64(), seconds, "{text}");
        }
    }

    #[test]
    fn parts_of_paths_do_not_lead_elsewhere() {
        assert_eq!(part("a=b,c in (d)"), "a%3Db%2Cc%20in%20%28d%29");
        assert_eq!(part("../../x?y#z"), "..%2F..%2Fx%3Fy%23z");
    }
}
