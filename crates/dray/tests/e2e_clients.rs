//! Clients that misbehave: they go away in the middle, never read, ask for what is refused, and write requests that two
//! readers would read in two ways.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;
use serde_json::json;

/// A connection to the Docker API, used byte by byte.
struct Raw(UnixStream);

impl Raw {
    fn open(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.path("r/docker.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until the answer holds `end`, or there is no more.
    fn read_until(&mut self, end: &str) -> String {
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(end.as_bytes()) && self.0.read(&mut byte).unwrap_or(0) == 1 {
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Reads the head of an answer.
    fn head(&mut self) -> String {
        self.read_until("\r\n\r\n")
    }
}

/// A request with a JSON document, and with more fields in its head.
fn request(line: &str, fields: &str, document: &serde_json::Value) -> String {
    let body = document.to_string();
    format!(
        "{line} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn make_exec(daemon: &Daemon, container: &str, words: &[&str]) -> String {
    let document = json!({ "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Cmd": words });
    let answer = daemon.post(&format!("/containers/{container}/exec"), &document);
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str::<serde_json::Value>(body).unwrap()["Id"].as_str().unwrap().to_owned()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A line of `/proc/PID/status`, as a number.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// The shim of a container: its first process' parent.
fn shim(daemon: &Daemon, container: &str) -> u32 {
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", container]);
    u32::try_from(status(pid.parse().unwrap(), "PPid")).unwrap()
}

#[test]
fn cve_2025_64329_clients_that_vanish_leave_nothing() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-d", "-i", "--name", "quiet", "box", "sleep", "100000"]);
    daemon.ok(&["run", "-d", "-i", "-t", "--name", "terminal", "box", "cat"]);
    daemon.ok(&["create", "-i", "--name", "waiting", "box", "sleep", "100000"]);
    let shims = [shim(&daemon, "quiet"), shim(&daemon, "terminal")];
    let attach =
        |name: &str| format!("POST /containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1&logs=1");
    let empty = json!({});
    let vanish = |times: usize| {
        for _ in 0..times {
            let exec = make_exec(&daemon, "quiet", &["cat"]);
            let start = format!("POST /exec/{exec}/start");
            let requests = [
                request(&attach("quiet"), UPGRADE, &empty),
                request(&attach("quiet"), "", &empty),
                request(&attach("terminal"), UPGRADE, &empty),
                request(&attach("waiting"), UPGRADE, &empty),
                request(&attach("waiting"), "", &empty),
                request("GET /containers/waiting/attach/ws?stream=1&stdin=1&stdout=1", WEBSOCKET, &empty),
                request(&start, UPGRADE, &json!({ "Detach": false, "Tty": false })),
                request("GET /containers/quiet/logs?follow=1&stdout=1&stderr=1", "", &empty),
                request("GET /events", "", &empty),
                request("POST /containers/quiet/wait", "", &empty),
                request("GET /containers/quiet/stats?stream=1", "", &empty),
            ];
            // All at once, and all gone at once.
            let open: Vec<Raw> = requests
                .iter()
                .map(|request| {
                    let mut raw = Raw::open(&daemon);
                    raw.send(request);
                    let head = raw.head();
                    assert!(head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
                    raw
                })
                .collect();
            drop(open);
        }
    };
    let count = || [descriptors(daemon.pid()), descriptors(shims[0]), descriptors(shims[1])];
    // What is opened at the first use, and stays.
    vanish(1);
    let execs = || fs::read_dir(daemon.path("r/e")).map_or(0, Iterator::count);
    eventually("the exec's end", PATIENCE, || (execs() == 0).then_some(()));
    let before = count();
    vanish(20);
    let mut after = before;
    let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the descriptors of who has gone", PATIENCE, || {
            after = count();
            (execs() == 0 && after.iter().zip(before).all(|(after, before)| *after <= before)).then_some(())
        });
    }));
    assert!(same.is_ok(), "descriptors: {before:?} became {after:?}, and {} execs are left", execs());
    // One that has only no more to say still listens.
    let exec = make_exec(&daemon, "quiet", &["sh", "-c", "cat; echo said"]);
    let mut raw = Raw::open(&daemon);
    raw.send(&request(&format!("POST /exec/{exec}/start"), UPGRADE, &json!({ "Tty": true })));
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    raw.send("first ");
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(raw.read_until("said\n").ends_with("said\n"));
}

#[test]
fn cve_2022_31030_output_of_execs_is_bounded() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let peak = |pid: u32| status(pid, "VmHWM");
    // A check that never stops writing, of which a little is kept.
    let check =
        ["--health-cmd", "yes", "--health-interval", "1s", "--health-timeout", "2s", "--health-retries", "1"];
    daemon.ok(&[&["run", "-d", "--name", "checked"], &check[..], &["box", "sleep", "100000"]].concat());
    let told = eventually("the check", PATIENCE, || {
        let format = "{{.State.Health.Status}} {{range .State.Health.Log}}{{len .Output}} {{end}}";
        let told = daemon.ok(&["inspect", "-f", format, "checked"]);
        told.starts_with("unhealthy").then_some(told)
    });
    for length in told.split_whitespace().skip(1) {
        assert!(length.parse::<usize>().unwrap() <= 4200, "{told}");
    }
    // A client that asks for much and reads nothing: the process is not stopped for ever, and nothing piles up.
    let exec = make_exec(&daemon, "checked", &["head", "-c", "400000000", "/dev/zero"]);
    let mut raw = Raw::open(&daemon);
    raw.send(&request(&format!("POST /exec/{exec}/start"), UPGRADE, &json!({})));
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    let running = || {
        let mut raw = Raw::open(&daemon);
        raw.send(&format!("GET /exec/{exec}/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"));
        let mut answer = String::new();
        raw.0.read_to_string(&mut answer).unwrap();
        let document: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        document["Running"].as_bool().unwrap()
    };
    drop(raw);
    eventually("the end of what nobody reads", PATIENCE, || (!running()).then_some(()));
    assert!(peak(daemon.pid()) < 400 << 10, "daemon: {} KiB", peak(daemon.pid()));
    let shim = peak(shim(&daemon, "checked"));
    assert!(shim < 64 << 10, "shim: {shim} KiB");
}

#[test]
fn cve_2024_41110_and_2026_34040_a_body_has_one_reading() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let whole = json!({ "Image": "box", "Cmd": ["true"] }).to_string();
    let half = &whole[..whole.len() / 2];
    let create = |name: &str| {
        format!(
            "POST /containers/create?name={name} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        )
    };
    let chunked = |text: &str| format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let ask = |text: String| {
        let mut raw = Raw::open(&daemon);
        raw.send(&text);
        let head = raw.head();
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), raw)
    };
    // Two lengths; a length that is none; chunks in a version that has none, and not at the end.
    for fields in [
        format!("Content-Length: 0\r\nContent-Length: {}\r\n", whole.len()),
        format!("Content-Length: {}\r\nContent-Length: 0\r\n", whole.len()),
        format!("Content-Length: {}, 0\r\n", whole.len()),
        format!("Content-Length: +{}\r\n", whole.len()),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
    ] {
        let (code, _) = ask(format!("{}{fields}\r\n{whole}", create("two")));
        assert_eq!(code, "400", "{fields}");
    }
    // Who says nought has no body: what follows is the next request, and none.
    let (code, mut raw) = ask(format!("{}Content-Length: 0\r\n\r\n{whole}", create("nought")));
    assert_eq!(code, "400");
    let mut rest = String::new();
    raw.0.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("HTTP/1.1 2"), "{rest}");
    // With chunks and a length, the chunks are the body, wherever the length stands.
    let privileged = json!({ "Image": "box", "HostConfig": { "Privileged": true } }).to_string();
    for (name, fields) in [
        ("before", format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", whole.len())),
        ("after", format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", whole.len())),
    ] {
        let (code, _) = ask(format!("{}{fields}\r\n{}", create(name), chunked(&whole)));
        assert_eq!(code, "201", "{fields}");
        let (code, _) = ask(format!("{}{fields}\r\n{}{privileged}", create("smuggled"), chunked(half)));
        assert_eq!(code, "400", "{fields}");
    }
    // Of a field that is set twice the last counts, as with Docker.
    let twice = r#"{"Image":"box","HostConfig":{"Privileged":false,"Privileged":true}}"#;
    let (code, _) = ask(format!("{}Content-Length: {}\r\n\r\n{twice}", create("twice"), twice.len()));
    assert_eq!(code, "201");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.HostConfig.Privileged}}", "twice"]), "true");
    // One that is too large is refused, with a length and in chunks, and is not kept meanwhile.
    let large = 64 << 20;
    let mut raw = Raw::open(&daemon);
    raw.send(&format!("{}Content-Length: {large}\r\n\r\n{{\"Image\":\"", create("large")));
    let piece = "x".repeat(1 << 20);
    for _ in 0..63 {
        if raw.0.write_all(piece.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(raw.head().split(' ').nth(1), Some("400"));
    assert!(status(daemon.pid(), "VmHWM") < 400 << 10);
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]), "twice\nafter\nbefore");
}

#[test]
fn cve_2019_11253_nested_documents_are_refused() {
    let daemon = Daemon::start();
    for (open, close) in [("[", "]"), ("{\"Labels\":", "}")] {
        let text = format!("{}1{}", open.repeat(500_000), close.repeat(500_000));
        for path in ["/containers/create", "/networks/create", "/volumes/create", "/containers/x/exec"] {
            let mut raw = Raw::open(&daemon);
            raw.send(&format!("POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len()));
            raw.send(&text);
            let head = raw.head();
            // What is in a field that nobody knows is passed over, whatever its depth.
            assert!(matches!(head.split(' ').nth(1), Some("400" | "404")), "{path}: {head}");
        }
    }
    // In a query, too.
    let nested = "%5B".repeat(20_000);
    let mut raw = Raw::open(&daemon);
    raw.send(&format!("GET /containers/json?filters={nested} HTTP/1.1\r\nHost: d\r\n\r\n"));
    assert_eq!(raw.head().split(' ').nth(1), Some("400"));
    assert!(status(daemon.pid(), "VmHWM") < 400 << 10);
}

#[test]
fn cve_2018_1002105_a_refused_upgrade_leaves_no_stream() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-d", "-i", "--name", "target", "box", "sh", "-c", "cat > /tmp/taken"]);
    let ended = make_exec(&daemon, "target", &["true"]);
    let second = "GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";
    let start = |exec: &str| format!("POST /exec/{exec}/start");
    // The exec has been started once; the second start is refused.
    let mut raw = Raw::open(&daemon);
    raw.send(&request(&start(&ended), UPGRADE, &json!({})));
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    let mut rest = Vec::new();
    raw.0.read_to_end(&mut rest).unwrap();
    for line in [
        start(&ended),
        start("nobody"),
        "POST /containers/nobody/attach?stream=1&stdin=1&stdout=1".to_owned(),
        "POST /containers/target/attach?stream=1&stdin=1&stdout=1&detachKeys=nonsense".to_owned(),
        "GET /containers/target/attach?stream=1&stdin=1&stdout=1".to_owned(),
        "POST /containers/target/json".to_owned(),
    ] {
        let mut raw = Raw::open(&daemon);
        raw.send(&request(&line, UPGRADE, &json!({})));
        raw.send(second);
        let mut answers = String::new();
        raw.0.read_to_string(&mut answers).unwrap();
        let (first, rest) = answers.split_once("\r\n").unwrap();
        assert!(first.starts_with("HTTP/1.1 4"), "{line}: {answers}");
        // What comes next is a request like others, and no input of a process.
        assert!(rest.contains("HTTP/1.1 200 OK"), "{line}: {answers}");
    }
    let taken = daemon.ok(&["exec", "target", "cat", "/tmp/taken"]);
    assert_eq!(taken, "");
}
