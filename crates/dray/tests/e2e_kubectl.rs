//! The cluster half with the real kubectl and with dray's own, on a real node: Deployments, Services, names, streams,
//! and the life of pods through the death of the daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use common::{Daemon, PATIENCE, fetch};
use dray_testkit::eventually;

/// What serves its own name on port 80.
const SERVE: &str = "hostname > /tmp/index.html; echo serving; exec httpd -f -p 80 -h /tmp";

struct Kubectl<'a> {
    daemon: &'a Daemon,
    program: PathBuf,
    /// `kubectl` for dray's own client.
    verb: Option<&'static str>,
}

impl<'a> Kubectl<'a> {
    /// The real one.
    fn real(daemon: &'a Daemon) -> Self {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        Self { daemon, program, verb: None }
    }

    /// Dray's own.
    fn own(daemon: &'a Daemon) -> Self {
        Self { daemon, program: env!("CARGO_BIN_EXE_dray").into(), verb: Some("kubectl") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.verb).args(arguments);
        command.env("KUBECONFIG", self.daemon.path("d/kubeconfig")).env("HOME", self.daemon.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn fed(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.given(arguments, "")
    }

    #[track_caller]
    fn given(&self, arguments: &[&str], input: &str) -> String {
        let (code, stdout, stderr) = self.fed(arguments, input);
        let log = || fs::read_to_string(self.daemon.path("log")).unwrap_or_default();
        assert_eq!(code, 0, "{arguments:?}: {stderr}\n{}", log());
        stdout.trim_end().to_owned()
    }

    #[track_caller]
    fn apply(&self, manifest: &str) -> String {
        self.given(&["apply", "-f", "-"], manifest)
    }

    fn get(&self, what: &str, path: &str) -> String {
        let output = format!("jsonpath={path}");
        let mut arguments = vec!["get"];
        arguments.extend(what.split_whitespace());
        arguments.extend(["-o", &output]);
        self.ok(&arguments)
    }

    #[track_caller]
    fn rolled_out(&self, deployment: &str) {
        let target = format!("deployment/{deployment}");
        let said = self.ok(&["rollout", "status", &target, "--timeout=60s"]);
        assert!(said.ends_with(&format!("deployment \"{deployment}\" successfully rolled out")), "{said}");
    }
}

fn deployment(replicas: u32, greeting: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: box
        imagePullPolicy: Never
        command: [sh, -c, "{SERVE}"]
        env: [{{name: GREETING, value: {greeting}}}]
        ports: [{{containerPort: 80, name: http}}]
        readinessProbe: {{httpGet: {{port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http, nodePort: 30080}}]
"#
    )
}

/// The names that answer at an address, once there are so many.
fn answering(address: &str, wanted: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    eventually("all to answer", PATIENCE, || {
        seen.extend(fetch(address));
        (seen.len() == wanted).then_some(())
    });
    seen
}

fn pods(kubectl: &Kubectl<'_>) -> BTreeSet<String> {
    kubectl
        .get("pods -l app=web", "{.items[*].metadata.name}")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_deployment_and_its_service() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let kubectl = Kubectl::real(&daemon);
    eventually("the node", PATIENCE, || kubectl.ok(&["get", "nodes"]).contains(" Ready ").then_some(()));
    let said = kubectl.apply(&deployment(3, "one"));
    assert_eq!(said, "deployment.apps/web created\nservice/web created");
    kubectl.rolled_out("web");
    let names = pods(&kubectl);
    assert_eq!(names.len(), 3);

    // The Service: by its own address, by a port of the node, and by its name inside.
    let address = kubectl.get("service web", "{.spec.clusterIP}");
    let by_address: BTreeSet<String> =
        answering(&format!("{address}:80"), 3).iter().map(|name| name.trim().to_owned()).collect();
    assert_eq!(by_address, names);
    let node = kubectl.get("nodes", "{.items[0].status.addresses[0].address}");
    answering(&format!("{node}:30080"), 3);
    let first = names.first().unwrap();
    let page = kubectl.ok(&["exec", first, "--", "wget", "-qO-", "http://web"]);
    assert!(names.contains(page.trim()), "{page}");
    let found = kubectl.ok(&["exec", first, "--", "nslookup", "web.default.svc.cluster.local"]);
    assert!(found.contains(&address), "{found}");
    let slice = kubectl
        .get("endpointslices -l kubernetes.io/service-name=web", "{.items[0].endpoints[*].addresses[0]}");
    assert_eq!(slice.split_whitespace().count(), 3);

    // One dies and is replaced.
    kubectl.ok(&["delete", "pod", first]);
    kubectl.rolled_out("web");
    let now = pods(&kubectl);
    assert!(now.len() == 3 && !now.contains(first), "{now:?}");
    let by_address: BTreeSet<String> =
        answering(&format!("{address}:80"), 3).iter().map(|name| name.trim().to_owned()).collect();
    assert_eq!(by_address, now);

    // Another template, and back.
    kubectl.apply(&deployment(3, "two"));
    kubectl.rolled_out("web");
    let greeting = |kubectl: &Kubectl<'_>| {
        let pod = pods(kubectl).first().unwrap().clone();
        kubectl.ok(&["exec", &pod, "--", "sh", "-c", "echo $GREETING"])
    };
    assert_eq!(greeting(&kubectl), "two");
    let history = kubectl.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert_eq!(kubectl.ok(&["rollout", "undo", "deployment/web"]), "deployment.apps/web rolled back");
    kubectl.rolled_out("web");
    assert_eq!(greeting(&kubectl), "one");
    assert_eq!(kubectl.ok(&["scale", "deployment/web", "--replicas=1"]), "deployment.apps/web scaled");
    eventually("one pod", PATIENCE, || (pods(&kubectl).len() == 1).then_some(()));
    let described = kubectl.ok(&["describe", "deployment", "web"]);
    assert!(
        described.contains("ScalingReplicaSet") && described.contains("NewReplicaSetAvailable"),
        "{described}"
    );

    // It all goes with the Deployment.
    assert!(kubectl.ok(&["delete", "deployment,service", "web"]).contains("deployment.apps \"web\" deleted"));
    eventually("no pod", PATIENCE, || pods(&kubectl).is_empty().then_some(()));
    eventually("no ReplicaSet", PATIENCE, || {
        kubectl.get("rs", "{.items[*].metadata.name}").is_empty().then_some(())
    });
    eventually("no container", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: box
    imagePullPolicy: Never
    command: [sh, -c, "echo begun; hostname > /tmp/index.html; httpd -p 80 -h /tmp; while true; do echo tick; sleep 1; done"]
"#;

/// A command's lines, as they come.
struct Lines {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Lines {
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that has this in it.
    fn until(&mut self, words: &str) -> String {
        let found = self.lines.by_ref().map_while(Result::ok).find(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("a line with {words:?}"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pod_and_its_streams(kubectl: &Kubectl<'_>) {
    let mut watch = Lines::of(kubectl.command(&["get", "pods", "-w"]));
    assert_eq!(kubectl.apply(POD), "pod/one created");
    watch.until("Running");
    eventually("Ready", PATIENCE, || {
        (kubectl.get("pod one", "{.status.containerStatuses[0].ready}") == "true").then_some(())
    });
    assert!(kubectl.ok(&["get", "pods", "-o", "wide"]).contains("one    1/1     Running"));
    assert_eq!(kubectl.ok(&["get", "pods", "-o", "name"]), "pod/one");

    let mut logs = Lines::of(kubectl.command(&["logs", "-f", "one"]));
    assert_eq!(logs.until(""), "begun");
    logs.until("tick");
    logs.until("tick");
    assert_eq!(kubectl.ok(&["logs", "one", "--tail=1"]), "tick");

    assert_eq!(kubectl.ok(&["exec", "one", "--", "echo", "a b"]), "a b");
    let (code, out, errors) =
        kubectl.fed(&["exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "");
    assert_eq!((code, out.as_str()), (7, "out\n"));
    assert!(errors.starts_with("err\n") && errors.contains("exit code 7"), "{errors}");
    assert_eq!(kubectl.fed(&["exec", "-i", "one", "--", "cat"], "to the pod").1, "to the pod");
    let words: Vec<String> = std::iter::once(kubectl.program.to_str().unwrap())
        .chain(kubectl.verb)
        .chain(["exec", "-it", "one", "--", "sh", "-c", "'test -t 0 && echo a terminal'"])
        .map(str::to_owned)
        .collect();
    let terminal = Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .env("KUBECONFIG", kubectl.daemon.path("d/kubeconfig"))
        .env("HOME", kubectl.daemon.path("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&terminal.stdout).into_owned();
    assert!(terminal.status.success() && said.contains("a terminal"), "{said}");

    let mut forward = Lines::of(kubectl.command(&["port-forward", "pod/one", "18080:80"]));
    forward.until("Forwarding from 127.0.0.1:18080 -> 80");
    for _ in 0..3 {
        assert_eq!(fetch("127.0.0.1:18080").unwrap(), "one\n");
    }
    drop(forward);

    let described = kubectl.ok(&["describe", "pod", "one"]);
    for word in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(word), "{word}: {described}");
    }
    let explained = kubectl.ok(&["explain", "pod.spec.containers"]);
    assert!(explained.contains("imagePullPolicy") && explained.contains("-required-"), "{explained}");
    assert!(kubectl.ok(&["api-resources"]).contains("deployments"));
    let (code, _, errors) = kubectl.fed(&["get", "pod", "nosuch"], "");
    assert_eq!(code, 1);
    assert_eq!(errors.trim_end(), "Error from server (NotFound): pods \"nosuch\" not found");
    let (code, _, errors) = kubectl.fed(&["logs", "nosuch"], "");
    assert!(code == 1 && errors.contains("NotFound"), "{errors}");
    let wrong = POD.replace("imagePullPolicy", "imagePulPolicy");
    let (code, _, errors) = kubectl.fed(&["apply", "-f", "-"], &wrong);
    assert!(code == 1 && errors.contains("imagePulPolicy"), "{errors}");
    assert_eq!(
        kubectl.ok(&["delete", "pod", "one"]).lines().next(),
        Some("pod \"one\" deleted")
            .filter(|_| kubectl.verb.is_some())
            .or(Some("pod \"one\" deleted from default namespace"))
    );
    eventually("no pod", PATIENCE, || {
        kubectl.get("pods", "{.items[*].metadata.name}").is_empty().then_some(())
    });
}

#[test]
fn a_pod_and_its_streams_with_kubectl() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    pod_and_its_streams(&Kubectl::real(&daemon));
}

#[test]
fn a_pod_and_its_streams_with_the_own_client() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    pod_and_its_streams(&Kubectl::own(&daemon));
}

#[test]
fn a_deployment_with_the_own_client() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let kubectl = Kubectl::own(&daemon);
    let said = kubectl.apply(&deployment(2, "one"));
    assert_eq!(said, "deployment.apps/web created\nservice/web created");
    let status = |kubectl: &Kubectl<'_>| {
        let said = kubectl.ok(&["rollout", "status", "deployment/web"]);
        assert!(said.ends_with("deployment \"web\" successfully rolled out"), "{said}");
    };
    status(&kubectl);
    assert_eq!(kubectl.apply(&deployment(2, "one")), "deployment.apps/web unchanged\nservice/web unchanged");
    assert!(kubectl.apply(&deployment(2, "two")).starts_with("deployment.apps/web configured\n"));
    status(&kubectl);
    assert!(kubectl.ok(&["rollout", "history", "deploy/web"]).contains("\n2 "));
    assert_eq!(kubectl.ok(&["rollout", "undo", "deploy/web"]), "deployment.apps/web rolled back");
    status(&kubectl);
    assert_eq!(kubectl.ok(&["scale", "deploy", "web", "--replicas", "1"]), "deployment.apps/web scaled");
    eventually("one pod", PATIENCE, || (pods(&kubectl).len() == 1).then_some(()));
    assert_eq!(kubectl.ok(&["exec", "deploy/web", "--", "sh", "-c", "echo $GREETING"]), "one");
    assert!(kubectl.ok(&["logs", "deploy/web"]).contains("serving"));
    let listed = kubectl.ok(&["get", "deploy,svc"]);
    assert!(listed.contains("deployment.apps/web") && listed.contains("service/web"), "{listed}");
    let yaml = kubectl.ok(&["get", "deploy", "web", "-o", "yaml"]);
    assert!(yaml.contains("kind: Deployment") && yaml.contains("replicas: 1"), "{yaml}");
    let (code, _, errors) = kubectl.fed(&["get", "nosuchkind"], "");
    assert!(code == 1 && errors.contains("doesn't have a resource type"), "{errors}");
    kubectl.ok(&["delete", "deploy/web", "svc/web"]);
    eventually("no pod", PATIENCE, || pods(&kubectl).is_empty().then_some(()));
}

#[test]
fn pods_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let ids = |daemon: &Daemon| {
        let kubectl = Kubectl::real(daemon);
        kubectl.rolled_out("web");
        let containers =
            kubectl.get("pods -l app=web", "{.items[*].status.containerStatuses[0].containerID}");
        let restarts = kubectl.get("pods -l app=web", "{.items[*].status.containerStatuses[0].restartCount}");
        (containers, restarts)
    };
    Kubectl::real(&daemon).apply(&deployment(2, "one"));
    let before = ids(&daemon);
    let address = Kubectl::real(&daemon).get("service web", "{.spec.clusterIP}");
    answering(&format!("{address}:80"), 2);
    daemon.kill();
    answering(&format!("{address}:80"), 2);
    daemon.up();
    answering(&format!("{address}:80"), 2);
    assert_eq!(ids(&daemon), before, "the same containers, never restarted");
    let kubectl = Kubectl::real(&daemon);
    assert!(kubectl.ok(&["logs", "deployment/web"]).contains("serving"));
    kubectl.ok(&["scale", "deployment/web", "--replicas=3"]);
    kubectl.rolled_out("web");
    answering(&format!("{address}:80"), 3);
    kubectl.ok(&["delete", "deployment,service", "web"]);
    eventually("no container", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
}

#[test]
fn a_server_that_listens_everywhere_tells_pods_an_address() {
    let mut daemon = Daemon::start();
    daemon.down(&[]);
    daemon.up_with(&[], &["--api-listen", "0.0.0.0:6443"]);
    let kubectl = Kubectl::real(&daemon);
    let address = "jsonpath={.subsets[0].addresses[0].ip}";
    let told: std::net::Ipv4Addr =
        kubectl.ok(&["get", "endpoints", "kubernetes", "-o", address]).parse().unwrap();
    assert!(!told.is_unspecified() && !told.is_loopback(), "{told}");
}

#[test]
fn the_end_of_everything_unmounts_the_volumes_of_pods() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let volumes = || {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains("/node/pods/")).count()
    };
    {
        let kubectl = Kubectl::real(&daemon);
        eventually("the account", PATIENCE, || {
            let (code, ..) = kubectl.fed(&["get", "serviceaccount", "default"], "");
            (code == 0).then_some(())
        });
        kubectl.apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: memory, emptyDir: {medium: Memory}}]
  containers:
  - {name: c, image: box, imagePullPolicy: Never, command: [sleep, "600"], volumeMounts: [{name: memory, mountPath: /m}]}
"#,
        );
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/keeper", "--timeout=60s"]);
        assert_eq!(volumes(), 2, "the memory and the token");
    }
    daemon.down(&["--all"]);
    assert_eq!(volumes(), 0);
    daemon.up();
    let kubectl = Kubectl::real(&daemon);
    eventually("the pod to be back", PATIENCE, || {
        let (code, ..) = kubectl.fed(
            &["exec", "keeper", "--", "test", "-s", "/var/run/secrets/kubernetes.io/serviceaccount/token"],
            "",
        );
        (code == 0).then_some(())
    });
}

#[test]
fn what_nodes_and_pods_use_is_told_with_nothing_installed() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let kubectl = Kubectl::real(&daemon);
    eventually("the account", PATIENCE, || {
        let (code, ..) = kubectl.fed(&["get", "serviceaccount", "default"], "");
        (code == 0).then_some(())
    });
    let pod = |name: &str, script: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: box, imagePullPolicy: Never, command: [sh, -c, "{script}"]}}
  - {{name: rests, image: box, imagePullPolicy: Never, command: [sleep, "600"]}}
"#
        )
    };
    kubectl.apply(&pod("busy", "while true; do true; done"));
    kubectl.apply(&pod("idle", "exec sleep 600"));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/busy", "pod/idle", "--timeout=60s"]);
    let service = kubectl.get("apiservices v1beta1.metrics.k8s.io", "{.status.conditions[0].status}");
    assert_eq!(service, "True");
    // A pod has been seen twice, one second apart, before it is told of.
    let top = eventually("both pods to be told of", PATIENCE, || {
        let (code, out, _) = kubectl.fed(&["top", "pods", "--no-headers", "--containers"], "");
        (code == 0 && out.lines().count() == 4).then_some(out)
    });
    let cpu = |pod: &str, container: &str| {
        let line = top.lines().find(|line| line.starts_with(&format!("{pod} ")) && line.contains(container));
        let milli = line.unwrap().split_whitespace().nth(2).unwrap();
        milli.strip_suffix('m').unwrap().parse::<u64>().unwrap()
    };
    assert!(cpu("busy", " c ") > 20 && cpu("idle", " c ") < 20, "{top}");
    let nodes = kubectl.ok(&["top", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().count(), 1, "{nodes}");
    assert!(nodes.contains('%') && nodes.contains("Mi"), "{nodes}");
    let one = kubectl.ok(&["top", "pods", "-l", "app=busy", "--no-headers"]);
    assert!(one.starts_with("busy ") && one.lines().count() == 1, "{one}");
    let raw = kubectl.ok(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/busy"]);
    assert!(raw.contains("\"kind\":\"PodMetrics\"") && raw.contains("\"window\""), "{raw}");
    let (code, _, error) =
        kubectl.fed(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/nobody"], "");
    assert!(code != 0 && error.contains("pods.metrics.k8s.io \"default/nobody\" not found"), "{error}");

    // What the agent tells itself.
    let node = kubectl.get("nodes", "{.items[0].metadata.name}");
    let raw = |path: &str| kubectl.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/{path}")]);
    let summary: serde_json::Value = serde_json::from_str(&raw("stats/summary")).unwrap();
    assert_eq!(summary["node"]["nodeName"], node);
    assert!(summary["node"]["fs"]["capacityBytes"].as_u64() > Some(0));
    let pods = summary["pods"].as_array().unwrap();
    let busy = pods.iter().find(|pod| pod["podRef"]["name"] == "busy").unwrap();
    assert!(
        busy["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0)
            && busy["memory"]["workingSetBytes"].as_u64() > Some(0)
    );
    assert_eq!(busy["containers"].as_array().unwrap().len(), 2);
    assert!(busy["network"]["rxBytes"].is_u64() && busy["volume"][0]["usedBytes"].is_u64(), "{busy}");
    assert!(
        raw("metrics/cadvisor")
            .contains("container_memory_rss{container=\"rests\",namespace=\"default\",pod=\"busy\"}")
    );
}
