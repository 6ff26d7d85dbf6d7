//! A cluster is backed up beside its daemon, and another daemon goes on with what was kept.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::process::{Command, Output};

use common::Daemon;

fn dray(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dray")).args(arguments).output().unwrap()
}

fn kubectl(daemon: &Daemon, arguments: &[&str]) -> String {
    let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", daemon.path("d/kubeconfig")).env("HOME", daemon.path("home"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_backup_of_a_running_cluster_is_restored() {
    let mut daemon = Daemon::start();
    let file = daemon.path("backup");
    let file = file.to_str().unwrap();
    let data = daemon.path("d");
    let data = data.to_str().unwrap();
    kubectl(&daemon, &["create", "configmap", "kept", "--from-literal=word=yes"]);
    let service = kubectl(&daemon, &["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    let taken = dray(&["backup", file, "--data-dir", data]);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    kubectl(&daemon, &["create", "configmap", "later", "--from-literal=word=no"]);
    let authority = kubectl(&daemon, &["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data}"]);
    // Neither beside a daemon nor over a cluster.
    let refused = dray(&["restore", file, "--data-dir", data]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another daemon uses"), "{refused:?}");
    daemon.down(&["--all"]);
    let refused = dray(&["restore", file, "--data-dir", data]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is a cluster already"), "{refused:?}");
    std::fs::remove_dir_all(daemon.path("d/cluster")).unwrap();
    std::fs::remove_file(daemon.path("d/choices.json")).unwrap();
    let restored = dray(&["restore", file, "--data-dir", data]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    daemon.up();
    let names = kubectl(&daemon, &["get", "configmaps", "-o", "name"]);
    assert!(names.contains("configmap/kept") && !names.contains("configmap/later"), "{names}");
    let same = kubectl(&daemon, &["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    assert_eq!(same, service);
    let known = kubectl(&daemon, &["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data}"]);
    assert_eq!(known, authority);
    daemon.down(&["--all"]);
}
