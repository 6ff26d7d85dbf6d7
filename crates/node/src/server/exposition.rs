//! `/metrics/resource` and `/metrics/cadvisor`: what is used, as Prometheus reads it
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), under the kubelet's names.

use std::fmt::Write as _;

use http::{HeaderValue, Response, header};
use jiff::Timestamp;

use super::{Body, full};
use crate::context::Context;
use crate::usage::{self, ContainerUsage, NodeUsage, PodUsage};

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows by families of samples.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = write!(self.0, " {value}");
        if let Some(at) = at {
            let _ = write!(self.0, " {}", at.as_millisecond());
        }
        self.0.push('\n');
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn answer(text: Text) -> Response<Body> {
    let mut response = Response::new(full(text.0));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FORMAT));
    response
}

/// A number of something about a container.
type OfContainer = (&'static str, &'static str, &'static str, fn(&ContainerUsage) -> f64);

const OF_CONTAINER: &[OfContainer] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        |container| container.cpu.as_secs_f64(),
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        |container| container.memory.working_set as f64,
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        |container| container.started.map_or(0.0, |at| at.as_millisecond() as f64 / 1000.0),
    ),
    (
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes",
        |container| container.memory.swap as f64,
    ),
];

/// What metrics servers read.
pub(super) async fn resource(context: &Context) -> Response<Body> {
    let pods = usage::pods(context).await;
    answer(resources(&usage::node(context), &pods))
}

fn resources(node: &NodeUsage, pods: &[PodUsage]) -> Text {
    let mut text = Text::default();
    for (name, kind, help, of) in OF_CONTAINER {
        text.family(name, kind, help);
        for pod in pods {
            for container in &pod.containers {
                let labels = [
                    ("container", container.name.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                // A start is when it is, and not when it was looked at.
                let at = (*name != "container_start_time_seconds").then_some(container.read);
                text.sample(name, &labels, of(container), at);
            }
        }
    }
    let name = "node_cpu_usage_seconds_total";
    text.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    text.sample(name, &[], node.cpu.as_secs_f64(), Some(node.read));
    let name = "node_memory_working_set_bytes";
    text.family(name, "gauge", "[STABLE] Current working set of the node in bytes");
    text.sample(name, &[], node.memory.working_set as f64, Some(node.read));
    let of_pod: [OfPod; 2] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            |pod| pod.cpu().as_secs_f64(),
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the pod in bytes",
            |pod| pod.memory().working_set as f64,
        ),
    ];
    for (name, kind, help, of) in of_pod {
        text.family(name, kind, help);
        for pod in pods {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
            text.sample(name, &labels, of(pod), Some(pod.read()));
        }
    }
    let name = "resource_scrape_error";
    text.family(
        name,
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample(name, &[], 0.0, None);
    text
}

/// A number of something about a pod.
type OfPod = (&'static str, &'static str, &'static str, fn(&PodUsage) -> f64);

const BY_CADVISOR: &[OfContainer] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |container| container.cpu.as_secs_f64(),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory.",
        |container| container.memory.used as f64,
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |container| {
        container.memory.working_set as f64
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |container| container.memory.anonymous as f64),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |container| {
        container.memory.swap as f64
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |container| {
        container.memory.limit.unwrap_or(0) as f64
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |container| {
        container.processes as f64
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |container| container.started.map_or(0.0, |at| at.as_millisecond() as f64 / 1000.0),
    ),
];

/// What dashboards made for cAdvisor read.
pub(super) async fn cadvisor(context: &Context) -> Response<Body> {
    let pods = usage::pods(context).await;
    let mut text = Text::default();
    for (name, kind, help, of) in BY_CADVISOR {
        text.family(name, kind, help);
        for pod in &pods {
            for container in &pod.containers {
                let labels = [
                    ("container", container.name.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                text.sample(name, &labels, of(container), Some(container.read));
            }
        }
    }
    for (name, help, sent, index) in [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", false, 0),
        ("container_network_receive_packets_total", "Cumulative count of packets received", false, 1),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", true, 0),
        ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", true, 1),
    ] {
        text.family(name, "counter", help);
        for pod in &pods {
            for interface in &pod.interfaces {
                let labels = [
                    ("interface", interface.name.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                let counts = if sent { interface.sent } else { interface.received };
                text.sample(name, &labels, counts[index] as f64, Some(pod.read()));
            }
        }
    }
    answer(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::usage::MemoryUsage;

    #[test]
    fn samples_have_names_labels_and_times() {
        let at: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let memory = |bytes: u64| MemoryUsage { working_set: bytes, ..MemoryUsage::default() };
        let container = |name: &str, cpu: u64| ContainerUsage {
            name: name.to_owned(),
            started: Some(at),
            read: at,
            cpu: Duration::from_millis(cpu),
            memory: memory(1024),
            processes: 1,
        };
        let pod = PodUsage {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            containers: vec![container("a", 1500), container("b", 500)],
            interfaces: Vec::new(),
        };
        let node = NodeUsage { read: at, cpu: Duration::from_secs(9), memory: memory(7), available: 1 };
        let text = resources(&node, &[pod]).0;
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.5 1767225600500",
            "container_start_time_seconds{container=\"b\",namespace=\"n\",pod=\"p\"} 1767225600.5",
            "node_cpu_usage_seconds_total 9 1767225600500",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2 1767225600500",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 2048 1767225600500",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(escaped("a\"\\\n"), "a\\\"\\\\\\n");
    }
}
