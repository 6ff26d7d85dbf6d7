//! How long decisions take, without any API; run with
//! `cargo test --release -p dray-scheduler --lib -- measure --ignored --nocapture --test-threads 1`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::decide::decide;
use crate::model::{Node, Pod};
use crate::nominations::Nominations;
use crate::picture::Picture;

/// Time of the processor that this process has taken.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn picture(nodes: usize) -> Picture {
    let mut picture = Picture::default();
    for number in 0..nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": format!("n{number}"), "labels": {
                "kubernetes.io/hostname": format!("n{number}"),
                "topology.kubernetes.io/zone": format!("z{}", number % 3) } },
            "status": { "allocatable": { "cpu": "32", "memory": "64Gi", "pods": "110" } },
        }))
        .unwrap();
        picture.apply_node(&node);
    }
    picture
}

#[allow(clippy::print_stdout, reason = "a measurement is a test that prints")]
fn measure(name: &str, nodes: usize, pods: usize, spec: &Value) {
    let mut picture = picture(nodes);
    picture.workloads.apply_service("default", "web", [("app".to_owned(), "a1".to_owned())].into());
    let asks: Vec<Ask> = (0..pods)
        .map(|number| {
            let mut spec = spec.clone();
            spec["containers"] =
                json!([{ "name": "c", "image": "web", "resources": { "requests": { "cpu": "100m" } } }]);
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": format!("p{number}"), "uid": format!("p{number}"), "namespace": "default",
                    "labels": { "app": format!("a{}", number % 10) } },
                "spec": spec,
            }))
            .unwrap();
            Ask::new(pod, Arc::default())
        })
        .collect();
    let (began, used, mut start, mut placed) = (Instant::now(), processor(), 0, 0);
    for ask in asks {
        if let Ok(index) = decide(&mut picture, &Nominations::default(), &ask, &mut start) {
            let node = picture.node(index).unwrap().name().to_owned();
            picture.place(ask.occupant, &node);
            placed += 1;
        }
    }
    let each = |time: Duration| time / u32::try_from(pods).unwrap();
    println!(
        "{name}: {placed} of {pods} pods on {nodes} nodes, {:.2?} a pod, {:.2?} of the processor",
        each(began.elapsed()),
        each(processor() - used)
    );
}

#[test]
#[ignore = "a measurement"]
fn decisions() {
    let labels = json!({ "matchLabels": { "app": "a1" } });
    measure("plain", 1000, 30_000, &json!({}));
    measure("plain", 5000, 30_000, &json!({}));
    let constraint = |key: &str, when: &str| json!({ "maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": labels });
    let constraints = [
        constraint("topology.kubernetes.io/zone", "DoNotSchedule"),
        constraint("kubernetes.io/hostname", "ScheduleAnyway"),
    ];
    measure("spread", 1000, 10_000, &json!({ "topologySpreadConstraints": constraints }));
    let term = json!({ "topologyKey": "kubernetes.io/hostname", "labelSelector": labels });
    let preferred = json!({ "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 10, "podAffinityTerm": term }] } });
    measure("preferred away", 1000, 10_000, &json!({ "affinity": preferred }));
    let required = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } });
    measure("required away", 1000, 10_000, &json!({ "affinity": required }));
    let full = json!({ "nodeSelector": { "none": "such" } });
    measure("refused", 1000, 10_000, &full);
}
