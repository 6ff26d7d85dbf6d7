//! `cargo xtask bench`: what docs/SPECIFICATION.md promises, measured beside the peers, in turns, in one run.

mod api;
mod builds;
mod engine;
mod images;
mod runtime;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    tools,
};

const IMAGE: &str = "bench";
const BUSYBOX: &str = "/bin/busybox";
/// Counted runs of each, after those that warm up.
const RUNS: usize = 20;
const WARM_UP: usize = 3;
/// Longer than a peer takes to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured of one thing, in the order of the runs.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn time(&mut self, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let begin = Instant::now();
        work()?;
        self.add(begin.elapsed());
        Ok(())
    }

    fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "few samples"
        )]
        let place = (last as f64 * part).round() as usize;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Each run as a part of the other's run in the same turn.
    fn of(&self, others: &Samples) -> Samples {
        Samples(self.0.iter().zip(&others.0).map(|(ours, other)| ours / other).collect())
    }

    fn text(&self) -> String {
        format!("{:.1} ({:.1}-{:.1})", self.median(), self.quantile(0.1), self.quantile(0.9))
    }
}

/// A line of the report.
struct Line {
    what: &'static str,
    ours: String,
    peer: String,
    bar: &'static str,
    met: bool,
}

/// The peer of the container half, on the same host and in the same namespaces.
struct Dockerd {
    child: Child,
    socket: PathBuf,
}

impl Dockerd {
    fn start(directory: &Path) -> Result<Self, Error> {
        let path = |name: &str| directory.join(name);
        let socket = path("docker.sock");
        let log = fs::File::create(path("dockerd.log"));
        let log = log.map_err(|source| Error::File { path: path("dockerd.log"), source })?;
        let mut command = Command::new("dockerd");
        command.arg("--host").arg(format!("unix://{}", socket.display()));
        command.arg("--data-root").arg(path("dockerd")).arg("--exec-root").arg(path("dockerd-run"));
        command.arg("--pidfile").arg(path("dockerd.pid")).args(["--bip", "172.30.0.1/16"]);
        command.stdout(Stdio::null()).stderr(log);
        let child =
            command.spawn().map_err(|source| Error::Start { program: "dockerd".to_owned(), source })?;
        let dockerd = Self { child, socket };
        let begin = Instant::now();
        while !answers(&mut dockerd.client(&["version"])) {
            if begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(path("dockerd.log")).unwrap_or_default();
                return Err(Error::Unexpected { what: format!("dockerd did not start: {log}") });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(dockerd)
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // It ends its containerd as well; killed it could not.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// A request to the daemon without any client in between.
fn request(socket: &Path, method: &str, path: &str) -> Result<(), Error> {
    let mut stream = UnixStream::connect(socket).map_err(file(socket))?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(file(socket))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(file(socket))?;
    if answer.starts_with("HTTP/1.1 2") {
        return Ok(());
    }
    Err(Error::Unexpected { what: format!("{method} {path} answers {answer}") })
}

/// KiB of a field like `Rss:` of a process; several fields are added.
fn memory(pid: &str, fields: &[&str]) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    let lines = text.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
    Ok(lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

/// The processes whose command line begins so.
fn processes(name: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").starts_with(name)
    })
    .collect()
}

/// What is measured: everything that a user waits for, or one half in its parts.
pub(crate) fn run(root: &Path, part: &str) -> Result<(), Error> {
    match part {
        "" => whole(root),
        "api" => api::run(root),
        "builds" => builds::run(root),
        "engine" => engine::run(root),
        "images" => images::run(root),
        "runtime" => runtime::run(root),
        other => Err(Error::Unexpected {
            what: format!("there is no benchmark {other:?}: try api, builds, engine, images or runtime"),
        }),
    }
}

fn whole(root: &Path) -> Result<(), Error> {
    tools::install_peers()?;
    let [dray] = prepare(root, ["dray"])?;
    let directory = Directory::new("bench")?;
    let mut lines = Vec::new();
    starts(&dray, directory.path(), &mut lines)?;
    let state = directory.path().join("state");
    fs::create_dir_all(&state).map_err(file(&state))?;
    let daemon = Daemon::start(&dray, &state)?;
    build(&daemon, directory.path())?;
    std::thread::sleep(Duration::from_secs(3));
    let idle = memory(&daemon.pid().to_string(), &["Rss:"])?;
    runs(&daemon, directory.path(), &mut lines)?;
    deployments(&daemon, directory.path(), &mut lines)?;
    let shim = shim(&daemon, &state)?;
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    lines.push(Line {
        what: "resident memory of the idle daemon, MiB",
        ours: format!("{:.1}", idle as f64 / 1024.0),
        peer: String::new(),
        bar: "< 60",
        met: idle < 60 * 1024,
    });
    lines.push(Line {
        what: "private memory of a shim, KiB",
        ours: shim.to_string(),
        peer: String::new(),
        bar: "< 512",
        met: shim < 512,
    });
    daemon.stop(true)?;
    report(&lines);
    Ok(())
}

fn report(lines: &[Line]) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "\nmedian (p10-p90) of {RUNS} runs, milliseconds where no unit is named; load average {}",
        load.trim()
    );
    println!("| what | ours | peer | bar | met |\n| --- | --- | --- | --- | --- |");
    for Line { what, ours, peer, bar, met } in lines {
        println!("| {what} | {ours} | {peer} | {bar} | {} |", if *met { "yes" } else { "NO" });
    }
}

fn ready_node(daemon: &Daemon) -> Result<(), Error> {
    let path = "jsonpath={.items[0].status.conditions[*].status}";
    daemon.ask_until(&["kubectl", "get", "nodes", "-o", path], |answer| answer.ends_with("True")).map(|_| ())
}

/// `dray up` until both APIs answer and the node is Ready, on an empty directory and on the one before.
fn starts(dray: &Path, directory: &Path, lines: &mut Vec<Line>) -> Result<(), Error> {
    let (mut first, mut second) = (Samples::default(), Samples::default());
    for round in 0..RUNS {
        let state = directory.join(format!("start-{round}"));
        fs::create_dir_all(&state).map_err(file(&state))?;
        for samples in [&mut first, &mut second] {
            let mut started = None;
            samples.time(|| {
                let daemon = Daemon::start(dray, &state)?;
                ready_node(&daemon)?;
                started = Some(daemon);
                Ok(())
            })?;
            if let Some(daemon) = started {
                daemon.stop(true)?;
            }
        }
        fs::remove_dir_all(&state).map_err(file(&state))?;
    }
    let line = |what, samples: &Samples, bar, most| Line {
        what,
        ours: samples.text(),
        peer: String::new(),
        bar,
        met: samples.median() < most,
    };
    lines.push(line("`dray up` on an empty directory until the node is Ready", &first, "< 1000", 1000.0));
    lines.push(line("`dray up` again until the node is Ready", &second, "< 500", 500.0));
    Ok(())
}

/// Builds the image, with the peers' programs' root beside it.
fn build(daemon: &Daemon, directory: &Path) -> Result<(), Error> {
    let context = directory.join("context");
    fs::create_dir_all(&context).map_err(file(&context))?;
    fs::copy(BUSYBOX, context.join("busybox")).map_err(file(Path::new(BUSYBOX)))?;
    let names: Vec<String> =
        ["true", "sleep", "sh"].iter().map(|name| format!("COPY busybox /bin/{name}\n")).collect();
    let dockerfile = format!("FROM scratch\n{}ENV PATH=/bin\nCMD [\"true\"]\n", names.concat());
    let path = context.join("Dockerfile");
    fs::write(&path, dockerfile).map_err(file(&path))?;
    daemon.ask(&["build", "-q", "-t", IMAGE, &context.to_string_lossy()]).map(|_| ())
}

/// A bundle for runc with the same root.
fn bundle(directory: &Path) -> Result<PathBuf, Error> {
    let bundle = directory.join("bundle");
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).map_err(file(&bin))?;
    for name in ["true", "sleep", "sh"] {
        fs::copy(BUSYBOX, bin.join(name)).map_err(file(&bin))?;
    }
    output(Command::new("runc").arg("spec").current_dir(&bundle))?;
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(file(&path))?;
    let mut spec: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| Error::Unexpected { what: format!("runc's specification: {error}") })?;
    spec["process"]["args"] = serde_json::json!(["true"]);
    spec["process"]["env"] = serde_json::json!(["PATH=/bin"]);
    spec["process"]["terminal"] = serde_json::json!(false);
    fs::write(&path, spec.to_string()).map_err(file(&path))?;
    Ok(bundle)
}

/// The whole life of a container, and its start alone.
fn runs(daemon: &Daemon, directory: &Path, lines: &mut Vec<Line>) -> Result<(), Error> {
    let archive = directory.join("image.tar");
    let archive = archive.to_string_lossy();
    daemon.ask(&["save", "-o", &archive, IMAGE])?;
    let dockerd = Dockerd::start(directory)?;
    output(&mut dockerd.client(&["load", "-q", "-i", &archive]))?;
    let bundle = bundle(directory)?;
    let socket = daemon.socket();
    let [mut ours, mut stock, mut docker, mut bare, mut runc, mut start] =
        std::array::from_fn(|_| Samples::default());
    for round in 0..RUNS + WARM_UP {
        if round == WARM_UP {
            for samples in [&mut ours, &mut stock, &mut docker, &mut bare, &mut runc, &mut start] {
                samples.0.clear();
            }
        }
        ours.time(|| daemon.ask(&["run", "--rm", IMAGE, "true"]).map(|_| ()))?;
        docker.time(|| output(&mut dockerd.client(&["run", "--rm", IMAGE, "true"])).map(|_| ()))?;
        let host = format!("unix://{}", socket.display());
        let mut client = Command::new("docker");
        client.args(["--host", &host, "run", "--rm", IMAGE, "true"]);
        stock.time(|| output(&mut client).map(|_| ()))?;
        bare.time(|| daemon.ask(&["run", "--rm", "--network", "none", IMAGE, "true"]).map(|_| ()))?;
        let name = format!("bench-{round}");
        let mut peer = Command::new("runc");
        peer.args(["run", "--bundle"]).arg(&bundle).arg(&name).stdin(Stdio::null());
        runc.time(|| output(&mut peer).map(|_| ()))?;
        daemon.ask(&["create", "--name", &name, "--network", "none", IMAGE, "true"])?;
        start.time(|| request(&socket, "POST", &format!("/containers/{name}/start")))?;
        daemon.ask(&["rm", "-f", &name])?;
    }
    lines.push(Line {
        what: "`dray run --rm IMAGE true`; peer `docker run --rm` on dockerd",
        ours: ours.text(),
        peer: docker.text(),
        bar: "1/15 of the peer",
        met: ours.median() * 15.0 <= docker.median(),
    });
    lines.push(Line {
        what: "the same with the stock docker client",
        ours: stock.text(),
        peer: docker.text(),
        bar: "< 45",
        met: stock.median() < 45.0,
    });
    lines.push(Line {
        what: "start of a container without network (API); peer `runc run`",
        ours: start.text(),
        peer: runc.text(),
        bar: "below the peer",
        met: start.median() < runc.median(),
    });
    lines.push(Line {
        what: "`dray run --rm --network none IMAGE true`; peer `runc run`",
        ours: bare.text(),
        peer: runc.text(),
        bar: "below the peer",
        met: bare.median() < runc.median(),
    });
    Ok(())
}

/// From `apply` to a Ready pod, with the image present.
fn deployments(daemon: &Daemon, directory: &Path, lines: &mut Vec<Line>) -> Result<(), Error> {
    let path = directory.join("deployment.yaml");
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: bench}}\nspec:\n  selector: {{matchLabels: {{app: bench}}}}\n  \
         template:\n    metadata: {{labels: {{app: bench}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
         - {{name: bench, image: {IMAGE}, imagePullPolicy: Never, command: [sleep, infinity]}}\n"
    );
    fs::write(&path, manifest).map_err(file(&path))?;
    let path = path.to_string_lossy();
    ready_node(daemon)?;
    let mut ready = Samples::default();
    for round in 0..RUNS + WARM_UP {
        if round == WARM_UP {
            ready.0.clear();
        }
        ready.time(|| {
            daemon.ask(&["kubectl", "apply", "-f", &path])?;
            daemon.ask(&["kubectl", "rollout", "status", "deployment/bench"]).map(|_| ())
        })?;
        daemon.ask(&["kubectl", "delete", "deployment", "bench"])?;
        daemon.ask_until(&["kubectl", "get", "pods", "-o", "name"], str::is_empty)?;
    }
    lines.push(Line {
        what: "Deployment of 1 from `apply` to a Ready pod",
        ours: ready.text(),
        peer: String::new(),
        bar: "< 300",
        met: ready.median() < 300.0,
    });
    Ok(())
}

/// KiB of private memory of the shim of a container that sleeps.
fn shim(daemon: &Daemon, state: &Path) -> Result<u64, Error> {
    daemon.ask(&["run", "-d", "--name", "shim", IMAGE, "sleep", "infinity"])?;
    let shims = processes(&format!("dray-shim {}", state.display()));
    let sizes = shims.iter().map(|pid| memory(pid, &["Private_Clean:", "Private_Dirty:"]));
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    sizes.into_iter().max().ok_or_else(|| Error::Unexpected { what: "no shim runs".to_owned() })
}
