//! The daemon is killed at every failpoint, and at any moment, and comes back: no container is lost or doubled, no exit
//! code and no line of a log is missing, and the kernel holds nothing that nobody knows.
//!
//! `DRAY_FAULT_ROUNDS` is how often it is killed at a random moment; `cargo xtask suite faults` sets it high.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Daemon, PATIENCE};
use dray_engine::FAILPOINTS;
use dray_testkit::eventually;
use serde_json::Value;

/// Everything that a user does to containers, networks and volumes, one command line each.
const LIFE: &[&str] = &[
    "network create one",
    "volume create kept",
    "create --name main -v kept:/kept -v /anonymous --network one -p 127.0.0.1:8099:80 --health-cmd true box sleep 1000",
    "start main",
    "exec main true",
    "network connect other main",
    "network disconnect other main",
    "pause main",
    "unpause main",
    "update --memory 64m main",
    "rename main renamed",
    "restart -t 0 renamed",
    "commit renamed made",
    "run --name ends box sh -c 'exit(7)'",
    "run --rm box true",
    "run -d --name fails --restart on-failure:1 box false",
    "wait fails",
    "stop -t 0 renamed",
    "rm -v renamed",
    "rm -f fails",
    "rm -f ends",
    "network rm one",
    "volume rm kept",
    "rmi made",
];

/// Command lines that may fail by themselves: the program of `ends` fails, and that is its point.
fn may_fail(line: &str) -> bool {
    line.contains("--name ends")
}

struct World {
    daemon: Daemon,
    keeper: String,
    baseline: BTreeMap<&'static str, BTreeSet<String>>,
}

impl World {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.load_busybox();
        daemon.ok(&["network", "create", "other"]);
        let count = "i=0; while :; do echo line $i; i=$((i+1)); usleep 20000; done";
        daemon.ok(&["run", "-d", "--name", "keeper", "--restart", "always", "box", "sh", "-c", count]);
        let keeper = daemon.ok(&["inspect", "-f", "{{.State.Pid}} {{.RestartCount}}", "keeper"]);
        let mut world = Self { daemon, keeper, baseline: BTreeMap::new() };
        // What the first life of each kind makes for good is part of the baseline.
        world.live();
        world.clean();
        world.baseline = world.inventory();
        world
    }

    /// Does all of a life; when the daemon dies meanwhile, gives the command line during which it did.
    fn live(&mut self) -> Option<&'static str> {
        for line in LIFE {
            let words: Vec<String> = line
                .split(' ')
                .map(|word| word.trim_matches('\'').replace('(', " ").replace(')', ""))
                .collect();
            // `sh -c 'exit(7)'` keeps its argument in one word.
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = self.daemon.docker(&words);
            // Its end may be seen a moment after the end of its connections.
            let is_suspect = !output.status.success() && !may_fail(line);
            let has_died = |daemon: &mut Daemon| {
                let deadline =
                    std::time::Instant::now() + Duration::from_secs(if is_suspect { 5 } else { 0 });
                while !daemon.has_died() {
                    if std::time::Instant::now() >= deadline {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                true
            };
            if has_died(&mut self.daemon) {
                return Some(line);
            }
            assert!(
                output.status.success() || may_fail(line),
                "docker {line}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        None
    }

    /// Takes away what an interrupted life left, as its user would.
    fn clean(&self) {
        for id in self.daemon.ok(&["ps", "-aq", "--no-trunc"]).lines() {
            if self.daemon.ok(&["inspect", "-f", "{{.Name}}", id]) != "/keeper" {
                self.daemon.ok(&["rm", "-fv", id]);
            }
        }
        let _ = self.daemon.docker(&["rmi", "-f", "made"]);
        for (list, remove, spared) in [
            (["network", "ls", "--format", "{{.Name}}"], "network", &["bridge", "host", "none", "other"][..]),
            (["volume", "ls", "--format", "{{.Name}}"], "volume", &[][..]),
        ] {
            for name in self.daemon.ok(&list).lines().filter(|name| !spared.contains(name)) {
                // A volume without a name would be one that a container left.
                assert!(name.len() < 64, "an anonymous volume is left: {name}");
                self.daemon.ok(&[remove, "rm", name]);
            }
        }
    }

    /// What must hold after every return of the daemon.
    fn check(&self, context: &str) {
        let daemon = &self.daemon;
        let keeper = daemon.ok(&["inspect", "-f", "{{.State.Pid}} {{.RestartCount}}", "keeper"]);
        assert_eq!(keeper, self.keeper, "{context}: what ran goes on");
        for (index, line) in daemon.ok(&["logs", "keeper"]).lines().enumerate() {
            assert_eq!(line, format!("line {index}"), "{context}: no line is missing");
        }
        let ids = daemon.ok(&["ps", "-aq", "--no-trunc"]);
        let mut names = BTreeSet::new();
        for id in ids.lines() {
            let container = daemon.ok(&["inspect", id]);
            let container: Value = serde_json::from_str(&container).unwrap();
            let container = &container[0];
            let name = container["Name"].as_str().unwrap().to_owned();
            assert!(names.insert(name.clone()), "{context}: {name} is there twice");
            let state = &container["State"];
            if state["Status"] == "exited" {
                let wanted = match name.as_str() {
                    "/main" | "/renamed" => 137,
                    "/ends" => 7,
                    "/fails" => 1,
                    _ => 0,
                };
                assert_eq!(state["ExitCode"], wanted, "{context}: how {name} ended");
            }
            if state["Status"] == "running" {
                let pid = state["Pid"].as_u64().unwrap();
                let links = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
                let links = links.lines().filter(|line| line.trim_start().starts_with("eth")).count();
                let networks = container["NetworkSettings"]["Networks"].as_object().unwrap().len();
                assert_eq!(links, networks, "{context}: {name} has a link for each of its networks");
            }
        }
    }

    fn assert_nothing_more(&self, context: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let difference = difference(&self.baseline, &self.inventory());
            if difference.is_empty() {
                return;
            }
            // The next process of a probe may be there for a moment.
            assert!(std::time::Instant::now() < deadline, "{context}:\n{difference}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the kernel and the disk hold for this daemon.
    fn inventory(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let daemon = &self.daemon;
        let names = |path: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let root = daemon.path("").display().to_string();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // Namespaces made ahead come and go.
        let mounts = mounts.lines().filter(|line| line.contains(&root) && !line.contains("/r/q"));
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let links = links.lines().skip(2).filter_map(|line| line.split(':').next());
        let nft = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let rules = String::from_utf8(nft.stdout).unwrap();
        let mut groups = BTreeSet::new();
        let keeper = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "keeper"]);
        let of_keeper = fs::read_to_string(format!("/proc/{keeper}/cgroup")).unwrap();
        if let Some(parent) = of_keeper.lines().find_map(|line| {
            let path = line.rsplit(':').next()?;
            path.contains("dray-").then(|| path.rsplit_once('/').unwrap().0.to_owned())
        }) {
            for hierarchy in names(Path::new("/sys/fs/cgroup")).iter().map(String::as_str).chain([""]) {
                let place = format!("/sys/fs/cgroup/{hierarchy}{parent}");
                let entries = fs::read_dir(&place).into_iter().flatten().flatten();
                groups.extend(
                    entries
                        .filter(|entry| entry.path().is_dir())
                        .map(|entry| format!("{hierarchy}/{}", entry.file_name().to_string_lossy())),
                );
            }
        }
        let shims = names(Path::new("/proc")).into_iter().filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(&root) && line.contains("shim")).then_some(line)
        });
        BTreeMap::from([
            ("mounts", mounts.map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()),
            ("links", links.map(|name| name.trim().to_owned()).collect()),
            ("rules", rules.lines().map(|line| line.trim().to_owned()).collect()),
            ("control groups", groups),
            ("shims", shims.collect()),
            ("shim directories", names(&daemon.path("r/c"))),
            ("exec directories", names(&daemon.path("r/e"))),
            ("namespaces", names(&daemon.path("r/n"))),
            ("containers", names(&daemon.path("d/containers"))),
            ("volumes", names(&daemon.path("d/volumes"))),
            ("scratch", names(&daemon.path("d/scratch"))),
            ("networks", names(&daemon.path("d/networks"))),
            ("leases", names(&daemon.path("d/image/leases"))),
            ("ingest", names(&daemon.path("d/image/ingest"))),
        ])
    }

    /// The daemon comes back after a death in `context`, and all is as it must be.
    fn come_back(&mut self, context: &str) {
        self.daemon.up();
        self.check(context);
        self.clean();
        self.assert_nothing_more(context);
        assert_eq!(self.live(), None, "{context}: everything works again");
        self.clean();
    }
}

fn difference(
    before: &BTreeMap<&'static str, BTreeSet<String>>,
    now: &BTreeMap<&'static str, BTreeSet<String>>,
) -> String {
    let mut text = String::new();
    for (kind, found) in now {
        let more: Vec<_> = found.difference(&before[kind]).collect();
        let less: Vec<_> = before[kind].difference(found).collect();
        if !(more.is_empty() && less.is_empty()) {
            text.push_str(&format!("{kind}: more {more:?}, less {less:?}\n"));
        }
    }
    text
}

fn killed_at_every_failpoint(part: usize) {
    const PARTS: usize = 4;
    let mut world = World::new();
    for name in FAILPOINTS.iter().skip(part).step_by(PARTS) {
        world.daemon.kill();
        world.daemon.up_with(&[("DRAY_FAILPOINT", name)], &[]);
        let line = world.live();
        // It may die right after its answer.
        let Some(line) = line else { panic!("no part of a life comes by {name}") };
        eventually("the daemon to be dead", PATIENCE, || world.daemon.has_died().then_some(()));
        world.come_back(&format!("killed at {name} during `{line}`"));
    }
}

#[test]
fn killed_at_failpoints_one() {
    killed_at_every_failpoint(0);
}

#[test]
fn killed_at_failpoints_two() {
    killed_at_every_failpoint(1);
}

#[test]
fn killed_at_failpoints_three() {
    killed_at_every_failpoint(2);
}

#[test]
fn killed_at_failpoints_four() {
    killed_at_every_failpoint(3);
}

#[test]
fn killed_at_any_moment() {
    let rounds = std::env::var("DRAY_FAULT_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    let mut world = World::new();
    let begun = std::time::Instant::now();
    assert_eq!(world.live(), None);
    let life = begun.elapsed();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    // A plain linear congruential generator: the moments only have to differ.
    let mut state = u64::try_from(seed % u128::from(u64::MAX)).unwrap() | 1;
    for round in 0..rounds {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = life.mul_f64((state >> 11) as f64 / (1_u64 << 53) as f64);
        let pid = world.daemon.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(moment);
            Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        });
        let line = world.live();
        killer.join().unwrap();
        eventually("the daemon to be dead", PATIENCE, || world.daemon.has_died().then_some(()));
        world.come_back(&format!("round {round}: killed after {moment:?}, during {line:?}"));
    }
}
