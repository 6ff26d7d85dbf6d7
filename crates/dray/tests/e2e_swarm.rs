//! A swarm of one node with the real docker command: services, their tasks, secrets and configs.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;

use common::registry::Registry;
use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

/// The running containers of a service, in the order of their names.
fn containers(daemon: &Daemon, service: &str) -> Vec<String> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let listed = daemon.ok(&["ps", "-q", "--no-trunc", "--filter", &filter]);
    let mut ids: Vec<String> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

fn replicas_become(daemon: &Daemon, service: &str, wanted: &str) {
    let list = ["service", "ls", "--filter", &format!("name={service}"), "--format", "{{.Replicas}}"];
    eventually(&format!("{service} at {wanted}"), PATIENCE, || (daemon.ok(&list) == wanted).then_some(()));
}

#[test]
fn services_run_on_the_one_node_as_long_as_they_are_wanted() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let state = |daemon: &Daemon| daemon.ok(&["info", "-f", "{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}"]);
    assert_eq!(state(&daemon), "inactive 0");
    daemon.refused(&["service", "ls"], "This node is not a swarm manager");
    let join = ["swarm", "join", "--token", "SWMTKN-1-x-y", "192.0.2.1:2377"];
    daemon.refused(&join, "a swarm here has one node");
    let said = daemon.ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    assert!(said.contains("is now a manager"), "{said}");
    assert_eq!(state(&daemon), "active 1");
    daemon.refused(&["swarm", "init"], "This node is already part of a swarm");
    assert_eq!(daemon.ok(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"]), "Ready Leader");

    fs::write(daemon.path("key"), "secret words").unwrap();
    fs::write(daemon.path("conf"), "plain words\n").unwrap();
    daemon.ok(&["secret", "create", "key", daemon.path("key").to_str().unwrap()]);
    daemon.ok(&["config", "create", "conf", daemon.path("conf").to_str().unwrap()]);
    let shown = daemon.ok(&["secret", "inspect", "key"]);
    assert!(!shown.contains("Data") && !shown.contains("secret words"), "{shown}");
    daemon.ok(&["network", "create", "-d", "overlay", "mesh"]);
    assert_eq!(daemon.ok(&["network", "inspect", "-f", "{{.Driver}} {{.Scope}}", "mesh"]), "overlay swarm");
    let script = "cat /run/secrets/key /conf; exec sleep 1000";
    let create = ["service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "2"];
    let more = [
        "--network",
        "mesh",
        "--secret",
        "key",
        "--config",
        "conf",
        "--restart-delay",
        "0s",
        "--stop-grace-period",
        "100ms",
    ];
    daemon.ok(&[&create[..], &more, &["box", "sh", "-c", script]].concat());
    replicas_become(&daemon, "web", "2/2");
    let first = containers(&daemon, "web");
    assert_eq!(first.len(), 2);
    eventually("the files to be read", PATIENCE, || {
        (daemon.ok(&["logs", &first[0]]) == "secret wordsplain words").then_some(())
    });
    assert_eq!(daemon.code(&["exec", &first[0], "nslookup", "-type=a", "web"]), 0, "by the service's name");
    let tasks = daemon.ok(&["service", "ps", "web", "--format", "{{.Name}} {{.CurrentState}}"]);
    let mut slots: Vec<&str> = tasks.lines().filter_map(|line| line.split_whitespace().next()).collect();
    slots.sort_unstable();
    assert_eq!(slots, ["web.1", "web.2"], "{tasks}");
    daemon.refused(&["secret", "rm", "key"], "is in use by the following service: web");

    // One that ends is followed by another, and a daemon that dies takes none with it.
    daemon.ok(&["kill", &first[0]]);
    eventually("another container", PATIENCE, || {
        let now = containers(&daemon, "web");
        (now.len() == 2 && !now.contains(&first[0])).then_some(())
    });
    replicas_become(&daemon, "web", "2/2");
    let before = containers(&daemon, "web");
    daemon.kill();
    daemon.up();
    assert_eq!(containers(&daemon, "web"), before);
    replicas_become(&daemon, "web", "2/2");
    daemon.ok(&["service", "scale", "-d", "web=1"]);
    eventually("one container", PATIENCE, || (containers(&daemon, "web").len() == 1).then_some(()));
    daemon.ok(&["service", "update", "-d", "--no-resolve-image", "--env-add", "MARK=new", "web"]);
    eventually("a container with the new environment", PATIENCE, || {
        let now = containers(&daemon, "web");
        let id = now.first().filter(|_| now.len() == 1)?;
        daemon.ok(&["inspect", "-f", "{{.Config.Env}}", id]).contains("MARK=new").then_some(())
    });

    // A job comes to its end.
    let job = ["service", "create", "-d", "--no-resolve-image", "--name", "job", "--mode", "replicated-job"];
    daemon.ok(&[&job[..], &["--replicas", "2", "box", "true"]].concat());
    eventually("the job to be done", PATIENCE, || {
        let done = daemon.ok(&["service", "ps", "job", "--format", "{{.CurrentState}}"]);
        (done.lines().filter(|state| state.starts_with("Complete")).count() == 2).then_some(())
    });

    daemon.ok(&["service", "rm", "web", "job"]);
    // Its containers have not ended yet, which is no affair of the one who removes the network.
    daemon.ok(&["network", "rm", "mesh"]);
    eventually("no container", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
    daemon.ok(&["secret", "rm", "key"]);
    daemon.ok(&["config", "rm", "conf"]);
    daemon.refused(&["swarm", "leave"], "Use `--force`");
    daemon.ok(&["swarm", "leave", "--force"]);
    assert_eq!(state(&daemon), "inactive 0");
    assert_eq!(daemon.ok(&["network", "ls", "--format", "{{.Name}}"]), "bridge\nhost\nnone");
    assert!(
        fs::read_dir(daemon.path("r/s")).map_or(true, |mut left| left.next().is_none()),
        "no secret is left"
    );
    daemon.assert_nothing_left();
}

/// What cannot be kept has not happened: neither here nor in what another start finds.
#[test]
fn a_swarm_whose_state_cannot_be_written_is_as_before() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // A directory where the file is staged: root's writes fail on it, too.
    let staged = daemon.path("d/swarm/swarm.new");
    fs::create_dir_all(&staged).unwrap();
    daemon.refused(&["swarm", "init", "--advertise-addr", "127.0.0.1"], "swarm.json");
    assert_eq!(daemon.ok(&["info", "-f", "{{.Swarm.LocalNodeState}}"]), "inactive");
    assert_eq!(daemon.ok(&["network", "ls", "--format", "{{.Name}}"]), "bridge\nhost\nnone");
    fs::remove_dir(&staged).unwrap();
    daemon.ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    fs::create_dir(&staged).unwrap();
    let create = ["service", "create", "-d", "--no-resolve-image", "--name", "web", "box", "sleep", "1000"];
    daemon.refused(&create, "swarm.json");
    assert_eq!(daemon.ok(&["service", "ls", "-q"]), "");
    fs::remove_dir(&staged).unwrap();
    daemon.ok(&["swarm", "leave", "--force"]);
}

#[test]
fn swap_of_a_service_comes_on_top_of_its_memory() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    let service = serde_json::json!({
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": { "Image": "box", "Command": ["sleep", "1000"] },
            "Resources": { "Limits": { "MemoryBytes": 64 << 20 }, "SwapBytes": 32 << 20, "MemorySwappiness": 7 },
        },
    });
    let made = daemon.post("/services/create", &service);
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    eventually("the container", PATIENCE, || (!containers(&daemon, "web").is_empty()).then_some(()));
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.MemorySwappiness}}";
    let told = daemon.ok(&["inspect", "-f", limits, &containers(&daemon, "web")[0]]);
    assert_eq!(told, format!("{} {} 7", 64 << 20, 96 << 20));
    daemon.ok(&["service", "rm", "web"]);
    daemon.ok(&["swarm", "leave", "--force"]);
}

#[test]
fn the_image_of_a_service_is_pulled_when_it_is_not_here() {
    let daemon = Daemon::start();
    let registry = Registry::start(&daemon.path("registry"));
    daemon.load_busybox();
    let image = registry.name("box:latest");
    daemon.ok(&["tag", "box", &image]);
    daemon.ok(&["push", "-q", &image]);
    daemon.ok(&["rmi", "box", &image]);
    daemon.ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    let create = |name: &str, image: &str| {
        let service =
            ["service", "create", "-d", "--no-resolve-image", "--name", name, image, "sleep", "1000"];
        daemon.ok(&service);
    };
    create("web", &image);
    replicas_become(&daemon, "web", "1/1");
    let missing = registry.name("none:latest");
    create("none", &missing);
    let tasks = ["service", "ps", "none", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}"];
    let rejected = eventually("the task without an image", PATIENCE, || {
        daemon.ok(&tasks).lines().find(|line| line.starts_with("Rejected")).map(str::to_owned)
    });
    assert!(rejected.contains(&format!("No such image: {missing}")), "{rejected}");
    daemon.ok(&["swarm", "leave", "--force"]);
}
