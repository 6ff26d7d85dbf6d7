//! `cargo xtask bench api`: the Kubernetes API over TLS, as clients meet it, beside what the disk can do at best.
//!
//! The load comes from `examples/load`, a process of its own; its pods are for a scheduler that there is not, so that nothing but
//! the API server and its store works.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde_json::Value;

use super::{Line, Samples, file, memory, report};
use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
};

/// Clients that write at the same time.
const WRITERS: usize = 16;
const POD: usize = 2048;
/// Pods of the first bars, and of the last.
const FEW: usize = 5000;
const MANY: usize = 150_000;
/// Batches of the disk's own measure.
const BATCHES: usize = 100;

/// The program that makes load, against a daemon.
struct Load {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Load {
    fn run(&self, what: &str, numbers: &[usize]) -> Result<Value, Error> {
        let mut command = Command::new(&self.program);
        command.arg(&self.kubeconfig).arg(what).args(numbers.iter().map(ToString::to_string));
        let text = output(&mut command)?;
        serde_json::from_str(&text)
            .map_err(|_| Error::Unexpected { what: format!("load {what} says {text}") })
    }
}

fn number(of: &Value, field: &str) -> f64 {
    of[field].as_f64().unwrap_or(f64::NAN)
}

/// Pods a second, were each batch of all writers' nothing but one write and one sync.
fn floor(directory: &Path) -> Result<f64, Error> {
    let path = directory.join("floor");
    let batch = vec![b'x'; WRITERS * POD];
    let write = || {
        let mut log = File::create(&path)?;
        let begin = Instant::now();
        for _ in 0..BATCHES {
            log.write_all(&batch)?;
            log.sync_data()?;
        }
        Ok((BATCHES * WRITERS) as f64 / begin.elapsed().as_secs_f64())
    };
    write().map_err(file(&path))
}

pub(super) fn run(root: &Path) -> Result<(), Error> {
    let [dray, program] = prepare(root, ["dray", "example-load"])?;
    let directory = Directory::new("bench-api")?;
    let state = directory.path().join("state");
    std::fs::create_dir_all(&state).map_err(file(&state))?;
    let daemon = Daemon::start(&dray, &state)?;
    let load = Load { program, kubeconfig: state.join("data/kubeconfig") };
    let mut lines = Vec::new();

    let before = floor(directory.path())?;
    let made = load.run("create", &[FEW, WRITERS, POD])?;
    let floor = f64::midpoint(before, floor(directory.path())?);
    let rate = number(&made, "rate");
    lines.push(Line {
        what: "durable pods a second, 16 clients; peer: the disk's own syncs",
        ours: format!(
            "{rate:.0} (p50 {:.1} ms, p99 {:.1} ms)",
            number(&made, "p50") / 1e3,
            number(&made, "p99") / 1e3
        ),
        peer: format!("{floor:.0}"),
        bar: "> 5000 where the peer allows it, > 60 % of the peer",
        met: rate >= floor * 0.6 && (rate >= 5000.0 || floor < 5000.0),
    });
    let alone = load.run("get", &[FEW, 1])?;
    lines.push(Line {
        what: "GET of one pod, one client, µs",
        ours: format!("{:.0} (p99 {:.0})", number(&alone, "p50"), number(&alone, "p99")),
        peer: String::new(),
        bar: "< 150",
        met: number(&alone, "p50") < 150.0,
    });
    let together = load.run("get", &[20 * FEW, WRITERS])?;
    lines.push(Line {
        what: "GETs a second, 16 clients",
        ours: format!("{:.0}", number(&together, "rate")),
        peer: String::new(),
        bar: "> 40000",
        met: number(&together, "rate") > 40_000.0,
    });
    let list = load.run("list", &[20])?;
    let gigabytes = number(&list, "bytes") / number(&list, "p50") / 1e3;
    lines.push(Line {
        what: "LIST of all pods over TLS, GB/s of JSON",
        ours: format!(
            "{gigabytes:.2} ({:.1} MB in {:.1} ms)",
            number(&list, "bytes") / 1e6,
            number(&list, "p50") / 1e3
        ),
        peer: String::new(),
        bar: "> 1, or what TLS lets through",
        met: gigabytes > 1.0,
    });
    let watched = load.run("watch", &[100, 1000])?;
    lines.push(Line {
        what: "100 watchers, 1000 updates: the last event after the last answer, ms",
        ours: format!("{:.0} ({:.0} events/s)", number(&watched, "late"), number(&watched, "rate")),
        peer: String::new(),
        bar: "< 300",
        met: number(&watched, "late") < 300.0,
    });
    large(&dray, &state, daemon, &load, &mut lines)?;
    report(&lines);
    Ok(())
}

/// Many objects: the memory they take, and how soon a daemon with them answers.
fn large(dray: &Path, state: &Path, daemon: Daemon, load: &Load, lines: &mut Vec<Line>) -> Result<(), Error> {
    load.run("create", &[MANY - FEW, 4 * WRITERS, POD])?;
    daemon.stop(true)?;
    let mut starts = Samples::default();
    let mut started = None;
    starts.time(|| {
        started = Some(Daemon::start(dray, state)?);
        Ok(())
    })?;
    let Some(daemon) = started else {
        return Err(Error::Unexpected { what: "no daemon started".to_owned() });
    };
    lines.push(Line {
        what: "`dray up` with 150,000 pods until it answers",
        ours: starts.text(),
        peer: String::new(),
        bar: "< 2000",
        met: starts.median() < 2000.0,
    });
    // Those who follow the pods have them as well once they have listed them.
    load.run("list", &[1])?;
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    let held = memory(&daemon.pid().to_string(), &["Rss:"])? as f64 * 1024.0;
    let size = (MANY * POD) as f64;
    lines.push(Line {
        what: "memory of the daemon with 150,000 pods of 2 KiB, of their size",
        ours: format!("{:.2} ({:.0} MiB)", held / size, held / 1048576.0),
        peer: String::new(),
        bar: "< 2",
        met: held < 2.0 * size,
    });
    daemon.stop(true)
}
