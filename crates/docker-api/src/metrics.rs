//! `GET /metrics`: what the daemon counts, in Prometheus' text form and under the names that dockerd gives it.

use std::fmt::Write as _;
use std::time::Duration;

use dray_engine::Status;
use http::{Response, StatusCode};
use parking_lot::Mutex;

use crate::Api;
use crate::body::{self, Body};

/// Upper ends of the buckets in seconds: Prometheus' own.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const ACTIONS: [&str; 5] = ["changes", "commit", "create", "delete", "start"];

#[derive(Clone, Copy, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: Duration,
}

/// How long actions on containers took.
#[derive(Default)]
pub(crate) struct Metrics {
    actions: Mutex<[Histogram; ACTIONS.len()]>,
}

impl Metrics {
    /// Which action a request is, when it is one that is measured.
    pub(crate) fn action(method: &str, segments: &[&str]) -> Option<usize> {
        let name = match (method, segments) {
            ("GET", ["containers", _, "changes"]) => "changes",
            ("POST", ["commit"]) => "commit",
            ("POST", ["containers", "create"]) => "create",
            ("DELETE", ["containers", _]) => "delete",
            ("POST", ["containers", _, "start"]) => "start",
            _ => return None,
        };
        ACTIONS.iter().position(|known| *known == name)
    }

    /// Takes note of an action that was done.
    pub(crate) fn record(&self, action: usize, took: Duration) {
        let mut actions = self.actions.lock();
        let Some(histogram) = actions.get_mut(action) else { return };
        histogram.count += 1;
        histogram.sum += took;
        for (bucket, end) in histogram.buckets.iter_mut().zip(BUCKETS) {
            if took.as_secs_f64() <= end {
                *bucket += 1;
            }
        }
    }

    fn write(&self, text: &mut String) {
        const NAME: &str = "engine_daemon_container_actions_seconds";
        let _ =
            writeln!(text, "# HELP {NAME} The number of seconds it takes to process each container action");
        let _ = writeln!(text, "# TYPE {NAME} histogram");
        for (action, histogram) in ACTIONS.iter().zip(self.actions.lock().iter()) {
            for (end, count) in BUCKETS.iter().zip(histogram.buckets) {
                let _ = writeln!(text, "{NAME}_bucket{{action=\"{action}\",le=\"{end}\"}} {count}");
            }
            let count = histogram.count;
            let _ = writeln!(text, "{NAME}_bucket{{action=\"{action}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{NAME}_sum{{action=\"{action}\"}} {}", histogram.sum.as_secs_f64());
            let _ = writeln!(text, "{NAME}_count{{action=\"{action}\"}} {count}");
        }
    }
}

fn gauge(text: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

pub(crate) fn metrics(api: &Api) -> Response<Body> {
    let mut text = String::new();
    api.metrics.write(&mut text);
    let containers = api.engine.containers();
    let paused = containers.iter().filter(|container| container.state.paused).count();
    let alive = |status| matches!(status, Status::Running | Status::Restarting);
    let alive = containers.iter().filter(|container| alive(container.state.status)).count();
    let name = "engine_daemon_container_states_containers";
    let _ = writeln!(text, "# HELP {name} The count of containers in various states\n# TYPE {name} gauge");
    for (state, count) in
        [("paused", paused), ("running", alive - paused.min(alive)), ("stopped", containers.len() - alive)]
    {
        let _ = writeln!(text, "{name}{{state=\"{state}\"}} {count}");
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    gauge(
        &mut text,
        "engine_daemon_engine_cpus_cpus",
        "The number of cpus that the host system of the engine has",
        cpus,
    );
    let memory = rustix::system::sysinfo();
    gauge(
        &mut text,
        "engine_daemon_engine_memory_bytes",
        "The number of bytes of memory that the host system of the engine has",
        memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
    );
    let name = "engine_daemon_engine_info";
    let help = "The information related to the engine and the OS it is running on";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let (version, id) = (api.about.version, &api.about.id);
    let _ = writeln!(
        text,
        "{name}{{architecture=\"{}\",commit=\"\",daemon_id=\"{id}\",graphdriver=\"overlay2\",kernel=\"{kernel}\",os_type=\"linux\",version=\"{version}\"}} 1",
        std::env::consts::ARCH
    );
    let mut response = body::text(StatusCode::OK, text);
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_counted_in_buckets() {
        let metrics = Metrics::default();
        let start = Metrics::action("POST", &["containers", "x", "start"]).unwrap();
        metrics.record(start, Duration::from_millis(30));
        assert_eq!(Metrics::action("GET", &["containers", "json"]), None);
        let mut text = String::new();
        metrics.write(&mut text);
        let name = "engine_daemon_container_actions_seconds";
        for line in [
            format!("{name}_bucket{{action=\"start\",le=\"0.025\"}} 0"),
            format!("{name}_bucket{{action=\"start\",le=\"0.05\"}} 1"),
            format!("{name}_count{{action=\"start\"}} 1"),
            format!("{name}_sum{{action=\"start\"}} 0.03"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
