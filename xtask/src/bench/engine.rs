//! `cargo xtask bench engine`: each step of a container's life beside dockerd's, by requests to both APIs without any
//! client in between, in turns.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use dray_testkit::ControlGroup;
use serde_json::{Value, json};

use super::{Dockerd, IMAGE, Line, RUNS, Samples, WARM_UP, build, file, memory, processes, report};
use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    tools,
};

/// Containers that are started at once.
const CROWD: usize = 50;
/// Containers that are listed and held.
const MANY: usize = 200;
/// Bytes of output whose reading is measured.
const OUTPUT: usize = 32 << 20;
/// Time of one turn of requests through a port.
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 40;
const CLIENTS: usize = 4;
/// Requests that a client makes on one connection.
const ON_A_CONNECTION: usize = 100;

/// One of the two engines.
struct Side<'a> {
    socket: &'a Path,
    create: Samples,
    start: Samples,
    exec: Samples,
    stop: Samples,
    remove: Samples,
    crowd: Samples,
    list: Samples,
    logs: Samples,
}

impl<'a> Side<'a> {
    fn new(socket: &'a Path) -> Self {
        let [create, start, exec, stop, remove, crowd, list, logs] =
            std::array::from_fn(|_| Samples::default());
        Self { socket, create, start, exec, stop, remove, crowd, list, logs }
    }

    fn forget(&mut self) {
        for samples in [&mut self.create, &mut self.start, &mut self.exec, &mut self.stop, &mut self.remove] {
            samples.0.clear();
        }
    }

    fn create(&self, name: &str, command: &[&str]) -> Result<(), Error> {
        let body = json!({ "Image": IMAGE, "Cmd": command });
        ask(self.socket, "POST", &format!("/containers/create?name={name}"), Some(&body)).map(drop)
    }

    fn start(&self, name: &str) -> Result<(), Error> {
        ask(self.socket, "POST", &format!("/containers/{name}/start"), None).map(drop)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        ask(self.socket, "DELETE", &format!("/containers/{name}?force=1"), None).map(drop)
    }

    /// A program is run in the container and its output read to the end.
    fn exec(&self, name: &str) -> Result<(), Error> {
        let body = json!({ "Cmd": ["true"], "AttachStdout": true });
        let made = ask(self.socket, "POST", &format!("/containers/{name}/exec"), Some(&body))?;
        let made: Value = serde_json::from_slice(&made)
            .map_err(|error| Error::Unexpected { what: format!("exec answers no JSON: {error}") })?;
        let id = made["Id"].as_str().unwrap_or_default();
        ask(self.socket, "POST", &format!("/exec/{id}/start"), Some(&json!({ "Detach": false }))).map(drop)
    }

    fn life(&mut self, round: usize) -> Result<(), Error> {
        let name = format!("life-{round}");
        let mut samples = std::mem::take(&mut self.create);
        samples.time(|| self.create(&name, &["sleep", "1000"]))?;
        self.create = samples;
        let mut samples = std::mem::take(&mut self.start);
        samples.time(|| self.start(&name))?;
        self.start = samples;
        let mut samples = std::mem::take(&mut self.exec);
        samples.time(|| self.exec(&name))?;
        self.exec = samples;
        let mut samples = std::mem::take(&mut self.stop);
        samples.time(|| ask(self.socket, "POST", &format!("/containers/{name}/stop?t=0"), None).map(drop))?;
        self.stop = samples;
        let mut samples = std::mem::take(&mut self.remove);
        samples.time(|| self.remove(&name))?;
        self.remove = samples;
        Ok(())
    }

    /// All of a crowd are started at once.
    fn crowd(&mut self) -> Result<(), Error> {
        let names: Vec<String> = (0..CROWD).map(|index| format!("crowd-{index}")).collect();
        for name in &names {
            self.create(name, &["sleep", "1000"])?;
        }
        let mut samples = std::mem::take(&mut self.crowd);
        samples.time(|| {
            let failed = std::thread::scope(|scope| {
                let started: Vec<_> = names
                    .iter()
                    .map(|name| scope.spawn(|| self.start(name).err().map(|error| error.to_string())))
                    .collect();
                started
                    .into_iter()
                    .find_map(|one| one.join().unwrap_or_else(|_| Some("a starter died".to_owned())))
            });
            failed.map_or(Ok(()), |what| Err(Error::Unexpected { what }))
        })?;
        self.crowd = samples;
        names.iter().try_for_each(|name| self.remove(name))
    }

    fn list(&mut self) -> Result<(), Error> {
        let mut samples = std::mem::take(&mut self.list);
        samples.time(|| ask(self.socket, "GET", "/containers/json?all=1", None).map(drop))?;
        self.list = samples;
        Ok(())
    }

    fn read_logs(&mut self) -> Result<(), Error> {
        let mut samples = std::mem::take(&mut self.logs);
        samples.time(|| {
            let read = ask(self.socket, "GET", "/containers/writer/logs?stdout=1", None)?;
            if read.len() < OUTPUT {
                return Err(Error::Unexpected { what: format!("only {} bytes of a log came", read.len()) });
            }
            Ok(())
        })?;
        self.logs = samples;
        Ok(())
    }
}

/// A request without any client; answers the body, which is read to the end of the connection.
fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Vec<u8>, Error> {
    let mut stream = UnixStream::connect(socket).map_err(file(socket))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} /v1.41{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).map_err(file(socket))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(file(socket))?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    if answer.starts_with(b"HTTP/1.1 2") {
        let rest = answer.split_off((end + 4).min(answer.len()));
        return Ok(dechunked(&answer, rest));
    }
    let answer = String::from_utf8_lossy(&answer);
    Err(Error::Unexpected { what: format!("{method} {path} answers {answer}") })
}

/// The body without the lengths of its chunks; only small bodies are looked into.
fn dechunked(head: &[u8], body: Vec<u8>) -> Vec<u8> {
    let is_chunked =
        String::from_utf8_lossy(head).to_ascii_lowercase().contains("transfer-encoding: chunked");
    if !is_chunked || body.len() > 1 << 20 {
        return body;
    }
    let mut plain = Vec::new();
    let mut rest = body.as_slice();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length =
            std::str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length) = length.filter(|length| *length > 0) else { break };
        let start = end + 2;
        plain.extend_from_slice(rest.get(start..start + length).unwrap_or_default());
        rest = rest.get(start + length + 2..).unwrap_or_default();
    }
    plain
}

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_peers()?;
    let [dray, web] = prepare(root, ["dray", "example-web"])?;
    let directory = Directory::new("bench")?;
    let state = directory.path().join("state");
    fs::create_dir_all(&state).map_err(file(&state))?;
    // Who asks is in a group of its own, of which connections are led as on a host those of all are.
    let group = ControlGroup::enter();
    let led = group.path().to_string_lossy();
    let daemon = Daemon::start_with(&dray, &state, &["--connect-group", &led])?;
    build(&daemon, directory.path())?;
    let archive = directory.path().join("image.tar");
    let archive = archive.to_string_lossy();
    daemon.ask(&["save", "-o", &archive, IMAGE])?;
    let dockerd = Dockerd::start(directory.path())?;
    output(&mut dockerd.client(&["load", "-q", "-i", &archive]))?;
    let socket = daemon.socket();
    let (mut ours, mut peer) = (Side::new(&socket), Side::new(&dockerd.socket));
    for round in 0..RUNS + WARM_UP {
        if round == WARM_UP {
            ours.forget();
            peer.forget();
        }
        ours.life(round)?;
        peer.life(round)?;
    }
    for _ in 0..3 {
        ours.crowd()?;
        peer.crowd()?;
    }
    for side in [&ours, &peer] {
        for index in 0..MANY {
            side.create(&format!("many-{index}"), &["sleep", "1000"])?;
        }
    }
    for _ in 0..RUNS {
        ours.list()?;
        peer.list()?;
    }
    for index in 0..MANY {
        peer.remove(&format!("many-{index}"))?;
    }
    let held = hold(&ours, &daemon, &state)?;
    let write = format!("exec head -c {OUTPUT} /dev/zero | tr '\\0' 'x' | fold -w 99");
    for side in [&mut ours, &mut peer] {
        side.create("writer", &["sh", "-c", &write])?;
        side.start("writer")?;
        ask(side.socket, "POST", "/containers/writer/wait", None)?;
    }
    for _ in 0..5 {
        ours.read_logs()?;
        peer.read_logs()?;
    }
    let (published, straight) = ports(&daemon, directory.path(), &web)?;
    let mut lines = Vec::new();
    let mut compare = |what, ours: &Samples, peer: &Samples, bar, times: f64| {
        lines.push(Line {
            what,
            ours: ours.text(),
            peer: peer.text(),
            bar,
            met: ours.median() * times <= peer.median(),
        });
    };
    compare("create", &ours.create, &peer.create, "1/5 of the peer", 5.0);
    compare("start", &ours.start, &peer.start, "1/5 of the peer", 5.0);
    compare("exec, with its output", &ours.exec, &peer.exec, "1/5 of the peer", 5.0);
    compare("stop, killed at once", &ours.stop, &peer.stop, "1/5 of the peer", 5.0);
    compare("remove", &ours.remove, &peer.remove, "1/5 of the peer", 5.0);
    compare("50 containers started at once", &ours.crowd, &peer.crowd, "1/8 of the peer", 8.0);
    compare("list of 200 containers", &ours.list, &peer.list, "1/5 of the peer", 5.0);
    compare("reading a log of 32 MiB", &ours.logs, &peer.logs, "1/5 of the peer", 5.0);
    lines.push(held.daemon);
    lines.push(held.shim);
    lines.push(Line {
        what: "requests a second through a published port (peer: straight to the container)",
        ours: published.text(),
        peer: straight.text(),
        bar: "95 % of straight",
        // Turn by turn, as the machine's own speed changes between them.
        met: published.of(&straight).median() >= 0.95,
    });
    drop(dockerd);
    daemon.stop(true)?;
    report(&lines);
    Ok(())
}

struct Held {
    daemon: Line,
    shim: Line,
}

/// Runs all of the many, and looks at the memory.
fn hold(side: &Side<'_>, daemon: &Daemon, state: &Path) -> Result<Held, Error> {
    for index in 0..MANY {
        side.start(&format!("many-{index}"))?;
    }
    let resident = memory(&daemon.pid().to_string(), &["Rss:"])?;
    let shims = processes(&format!("dray-shim {}", state.display()));
    let sizes = shims.iter().map(|pid| memory(pid, &["Private_Clean:", "Private_Dirty:"]));
    let private: u64 = sizes.collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    for index in 0..MANY {
        side.remove(&format!("many-{index}"))?;
    }
    let each = private / MANY as u64;
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    let daemon = Line {
        what: "resident memory of the daemon with 200 running containers, MiB",
        ours: format!("{:.1}", resident as f64 / 1024.0),
        peer: String::new(),
        bar: "< 60",
        met: resident < 60 * 1024,
    };
    let shim = Line {
        what: "private memory that each of them adds, KiB",
        ours: each.to_string(),
        peer: String::new(),
        bar: "< 614",
        met: each < 614,
    };
    Ok(Held { daemon, shim })
}

/// Requests a second through a published port and straight to the container, in turns.
fn ports(daemon: &Daemon, directory: &Path, web: &Path) -> Result<(Samples, Samples), Error> {
    let context = directory.join("web");
    fs::create_dir_all(&context).map_err(file(&context))?;
    fs::copy(web, context.join("web")).map_err(file(web))?;
    let dockerfile: PathBuf = context.join("Dockerfile");
    fs::write(&dockerfile, "FROM scratch\nCOPY web /web\nENTRYPOINT [\"/web\"]\n")
        .map_err(file(&dockerfile))?;
    daemon.ask(&["build", "-q", "-t", "web", &context.to_string_lossy()])?;
    daemon.ask(&["run", "-d", "--name", "web", "-p", "127.0.0.1:8099:8080", "web"])?;
    let address = daemon.ask(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"])?;
    let straight = format!("{address}:8080");
    let begin = Instant::now();
    while TcpStream::connect(&straight).is_err() {
        if begin.elapsed() > Duration::from_secs(20) {
            return Err(Error::Unexpected { what: format!("no server answers at {straight}") });
        }
    }
    // As on a host that has loaded no module for it, in this benchmark's own network: what passes a bridge meets no rules.
    // Where the kernel has it built in, it begins as "1".
    let filter = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if filter.exists() {
        fs::write(filter, "0").map_err(file(filter))?;
    }
    let (mut through, mut direct) = (Samples::default(), Samples::default());
    for _ in 0..TURNS {
        through.0.push(rate("127.0.0.1:8099"));
        direct.0.push(rate(&straight));
    }
    Ok((through, direct))
}

/// Requests that several clients together get answered in a second, some on each connection: were each on its own, the
/// ports of the clients would be used up before a turn is over.
fn rate(address: &str) -> f64 {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answered = TcpStream::connect(address).and_then(|mut stream| requests(&mut stream));
                    count.fetch_add(answered.unwrap_or(0), Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(TURN);
        over.store(true, Ordering::Relaxed);
    });
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    let count = count.into_inner() as f64;
    count / begin.elapsed().as_secs_f64()
}

/// Makes requests on one connection, each after the answer to the one before, and counts the answers.
fn requests(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut answer = [0; 4096];
    for count in 0..ON_A_CONNECTION {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
        // The server writes an answer, which is short, in one piece.
        let length = stream.read(&mut answer)?;
        if !answer[..length].starts_with(b"HTTP/1.1 200") {
            return Ok(count);
        }
    }
    Ok(ON_A_CONNECTION)
}
