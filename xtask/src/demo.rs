//! `cargo xtask demo`: an image is built, run as a container, and, the very same image, as a Deployment of three.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    Error,
    daemon::{Daemon, Directory, fetch, fetch_when_served, prepare},
};

const IMAGE: &str = "example-web";
const PORT: u16 = 8080;
/// As the manifest says.
const REPLICAS: usize = 3;
/// So many answers are looked at for all replicas to appear among them.
const REQUESTS: usize = 200;
const PODS: [&str; 7] =
    ["kubectl", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"];

/// The steps, each with its time.
struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    fn step<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        println!("\n== {what}");
        let begin = Instant::now();
        let result = work()?;
        self.done.push((what.to_owned(), begin.elapsed()));
        Ok(result)
    }

    fn print(&self) {
        println!("\n{:<66} {:>10}", "step", "time");
        for (what, time) in &self.done {
            println!("{what:<66} {:>7.1} ms", time.as_secs_f64() * 1e3);
        }
    }
}

/// Shows a command, runs it, and shows what it says.
fn show(daemon: &Daemon, arguments: &[&str]) -> Result<String, Error> {
    println!("$ dray {}", arguments.join(" "));
    let answer = daemon.ask(arguments)?;
    if !answer.is_empty() {
        println!("{answer}");
    }
    Ok(answer)
}

pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let [dray, web] = prepare(root, ["dray", IMAGE])?;
    let directory = Directory::new("demo")?;
    let context = directory.path().join("context");
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::create_dir_all(&context).map_err(file(&context))?;
    let example = root.join("examples/web");
    for (from, to) in [(web, "example-web"), (example.join("Dockerfile"), "Dockerfile")] {
        fs::copy(&from, context.join(to)).map_err(file(&from))?;
    }
    let context = context.to_string_lossy();
    let manifest = example.join("web.yaml");
    let manifest = manifest.to_string_lossy();

    let mut steps = Steps { done: Vec::new() };
    let daemon =
        steps.step("Start the daemon on an empty directory", || Daemon::start(&dray, directory.path()))?;
    steps.step("Wait until the node is Ready", || {
        let ready = "jsonpath={.items[0].status.conditions[*].type} {.items[0].status.conditions[*].status}";
        daemon.ask_until(&["kubectl", "get", "nodes", "-o", ready], |answer| answer.ends_with("True"))?;
        show(&daemon, &["kubectl", "get", "nodes"]).map(|_| ())
    })?;
    steps.step("Build the image from a Dockerfile, from nothing", || {
        show(&daemon, &["build", "-t", IMAGE, &context]).map(|_| ())
    })?;
    show(&daemon, &["images"])?;
    steps.step("Run it as a container with a published port", || {
        let port = format!("{PORT}:{PORT}");
        show(&daemon, &["run", "-d", "--name", "web", "-p", &port, IMAGE])?;
        let page = fetch_when_served(SocketAddr::from(([127, 0, 0, 1], PORT)))?;
        println!("http://127.0.0.1:{PORT}/ answers: {page}");
        Ok(())
    })?;
    steps.step("Apply a Deployment of three and a Service, until all are Ready", || {
        show(&daemon, &["kubectl", "apply", "-f", &manifest])?;
        show(&daemon, &["kubectl", "rollout", "status", "deployment/web"]).map(|_| ())
    })?;
    show(&daemon, &["kubectl", "get", "pods,services", "-o", "wide"])?;
    let before = steps.step("Ask the Service until every pod has answered", || answers(&daemon, REPLICAS))?;
    let pods = daemon.ask(&PODS)?;
    let victim = pods.split_whitespace().next().unwrap_or_default().to_owned();
    steps.step("Kill one pod, until another is Ready in its place", || {
        let killed = ["kubectl", "delete", "pod", &victim, "--grace-period", "0", "--force"];
        show(&daemon, &killed)?;
        daemon.ask_until(&PODS, |names| {
            names.split_whitespace().count() == REPLICAS && !names.contains(victim.as_str())
        })?;
        show(&daemon, &["kubectl", "rollout", "status", "deployment/web"]).map(|_| ())
    })?;
    let after = steps.step("Ask the Service again", || answers(&daemon, REPLICAS))?;
    if before == after {
        return Err(Error::Unexpected { what: format!("the same pods answer as before: {before:?}") });
    }
    show(&daemon, &["kubectl", "get", "pods"])?;
    show(&daemon, &["ps"])?;
    steps.step("Stop everything and clean up", || daemon.stop(true))?;
    steps.print();
    Ok(())
}

/// Who answers at the Service's address, once there are so many.
fn answers(daemon: &Daemon, wanted: usize) -> Result<BTreeSet<String>, Error> {
    let address = daemon.ask(&["kubectl", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let parsed: SocketAddr = format!("{address}:80")
        .parse()
        .map_err(|_| Error::Unexpected { what: format!("the Service has the address {address:?}") })?;
    let mut seen = BTreeSet::new();
    for _ in 0..REQUESTS {
        seen.insert(fetch(parsed)?);
        if seen.len() == wanted {
            break;
        }
    }
    println!("http://{parsed}/ answers:");
    for answer in &seen {
        println!("    {answer}");
    }
    if seen.len() == wanted {
        return Ok(seen);
    }
    Err(Error::Unexpected { what: format!("{} pods answered instead of {wanted}", seen.len()) })
}
