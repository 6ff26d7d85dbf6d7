//! A store that is not as it is by default, as kubectl sees it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use dray_apiserver::StoreConfig;
use support::{Cluster, cluster, cluster_on};

const CREATE: &[&str] = &["create", "-f", "-"];

fn config_map(name: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{text: {text}}}}}")
}

fn size(cluster: &Cluster) -> u64 {
    let metrics = cluster.ok(&["get", "--raw", "/metrics"], "");
    let line = metrics.lines().find(|line| line.starts_with("apiserver_storage_size_bytes")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_full_store_says_so_and_takes_deletes() {
    let empty = size(&cluster());
    // Room for two of these beside what every cluster has.
    let quota_bytes = Some(empty + 250_000);
    let cluster = cluster_on(StoreConfig { quota_bytes, ..StoreConfig::default() });
    cluster.ok(CREATE, &config_map("first", 100_000));
    cluster.ok(CREATE, &config_map("second", 100_000));
    let refused = cluster.refused(CREATE, &config_map("third", 100_000));
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    let smaller = r#"{"data":{"text":"x"}}"#;
    cluster.ok(&["patch", "configmap", "first", "--type=merge", "-p", smaller], "");
    cluster.ok(&["delete", "configmap", "second"], "");
    assert!(size(&cluster) < quota_bytes.unwrap());
    cluster.ok(CREATE, &config_map("third", 100_000));
}
