//! Attaching over a WebSocket, with the client of a library.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::os::unix::net::UnixStream;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;
use tokio_tungstenite::tungstenite::{self, HandshakeError, Message, WebSocket};

type Socket = WebSocket<UnixStream>;

fn connect(daemon: &Daemon, path: &str) -> Result<Socket, tungstenite::Error> {
    let stream = UnixStream::connect(daemon.path("r/docker.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match tungstenite::client(format!("ws://docker/{path}"), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => panic!("no answer in time"),
    }
}

/// What comes until there are as many bytes as expected.
fn expect(socket: &mut Socket, expected: &str) {
    let mut all = Vec::new();
    while all.len() < expected.len() {
        match socket.read().unwrap() {
            Message::Binary(bytes) => all.extend_from_slice(&bytes),
            Message::Pong(_) => {}
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    assert_eq!(String::from_utf8_lossy(&all), expected);
}

/// The daemon ends the stay as the protocol wants it: with a message, and the connection after the client's own.
fn expect_end(socket: &mut Socket) {
    let end = socket.read().unwrap();
    assert!(matches!(end, Message::Close(_)), "{end:?}");
    let after = socket.read().unwrap_err();
    assert!(matches!(after, tungstenite::Error::ConnectionClosed), "{after:?}");
}

#[test]
fn websockets_carry_both_ways() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["create", "-i", "--name", "echo", "box", "sh", "-c", "cat; echo gone; echo gone >&2"]);
    let all = "containers/echo/attach/ws?stream=1&stdin=1&stdout=1&stderr=1";
    let mut socket = connect(&daemon, all).unwrap();
    // Whoever only listens has it all, too; before 1.42 nobody named the streams.
    let mut listener = connect(&daemon, "v1.41/containers/echo/attach/ws?stream=1").unwrap();
    daemon.ok(&["start", "echo"]);
    socket.send(Message::Binary("bytes \u{1}\n".into())).unwrap();
    expect(&mut socket, "bytes \u{1}\n");
    socket.send(Message::Ping("are you there".into())).unwrap();
    socket.send(Message::Text("words\n".into())).unwrap();
    expect(&mut socket, "words\n");
    // What was sent before the end arrives, and the program's input ends with its one client.
    socket.send(Message::Binary("last\n".into())).unwrap();
    socket.close(None).unwrap();
    assert_eq!(daemon.ok(&["wait", "echo"]), "0");
    assert_eq!(daemon.ok(&["logs", "echo"]), "bytes \u{1}\nwords\nlast\ngone");
    expect(&mut listener, "bytes \u{1}\nwords\nlast\ngone\ngone\n");
    expect_end(&mut listener);
    daemon.ok(&["rm", "echo"]);
}

#[test]
fn websockets_bring_what_was_asked_for() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let script = "echo one; echo two >&2; read line; echo three";
    daemon.ok(&["run", "-di", "--name", "say", "box", "sh", "-c", script]);
    eventually("both lines", PATIENCE, || {
        let output = daemon.docker(&["logs", "say"]);
        (output.stdout == b"one\n" && output.stderr == b"two\n").then_some(())
    });
    // The past only, and of one stream.
    for (stream, expected) in [("stdout", "one\n"), ("stderr", "two\n")] {
        let mut past = connect(&daemon, &format!("containers/say/attach/ws?logs=1&{stream}=1")).unwrap();
        expect(&mut past, expected);
        expect_end(&mut past);
    }
    // The past, which is there at once, and then what comes.
    let mut socket = connect(&daemon, "containers/say/attach/ws?logs=1&stream=1&stdin=1&stdout=1").unwrap();
    expect(&mut socket, "one\n");
    socket.send(Message::Binary("\n".into())).unwrap();
    expect(&mut socket, "three\n");
    expect_end(&mut socket);
    daemon.ok(&["rm", "-f", "say"]);
}

#[test]
fn websockets_end_with_the_detach_keys() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-dit", "--name", "cat", "box", "cat"]);
    let path = "containers/cat/attach/ws?stream=1&stdin=1&stdout=1&stderr=1&detachKeys=ctrl-x,x";
    let mut socket = connect(&daemon, path).unwrap();
    socket.send(Message::Binary("a\n".into())).unwrap();
    expect(&mut socket, "a\r\na\r\n");
    socket.send(Message::Binary("\u{18}x".into())).unwrap();
    expect_end(&mut socket);
    assert_eq!(daemon.ok(&["inspect", "--format", "{{.State.Running}}", "cat"]), "true");
    daemon.ok(&["rm", "-f", "cat"]);
}

#[test]
fn websockets_are_refused_before_they_begin() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["create", "--name", "one", "box", "true"]);
    for (path, status, words) in [
        ("containers/none/attach/ws?stream=1", 404, "No such container: none"),
        ("containers/one/attach/ws?stream=1&detachKeys=no", 400, "Invalid detach keys (no) provided"),
    ] {
        let Err(tungstenite::Error::Http(answer)) = connect(&daemon, path) else { panic!("{path}") };
        assert_eq!(answer.status(), status);
        let body = String::from_utf8(answer.into_body().unwrap()).unwrap();
        assert!(body.contains(words), "{body}");
    }
    let answer = daemon.request("GET", "/containers/one/attach/ws?stream=1", "");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("not websocket protocol"), "{answer}");
    daemon.ok(&["rm", "one"]);
}

#[test]
fn what_cannot_answer_is_not_joined() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "run", "-d", "--name", "still", "--expose", "80", "--expose", "53/udp", "box", "sleep", "1000",
    ]);
    // What a container says that it listens to is listed while it runs.
    assert_eq!(daemon.ok(&["ps", "--format", "{{.Ports}}"]), "53/udp, 80/tcp");
    daemon.ok(&["pause", "still"]);
    let refused = |name: &str, words: &str| {
        let answer = daemon.request("POST", &format!("/containers/{name}/attach?stream=1&stdout=1"), "");
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains(words), "{answer}");
    };
    refused("still", "container still is paused, unpause the container before attach");
    daemon.ok(&["unpause", "still"]);
    daemon.ok(&["run", "-d", "--name", "again", "--restart", "always", "box", "false"]);
    eventually("the pause between restarts", PATIENCE, || {
        let answer = daemon.request("POST", "/containers/again/attach?stream=1&stdout=1", "");
        answer.contains("409 Conflict").then_some(())
    });
    daemon.ok(&["rm", "-f", "still", "again"]);
}

#[test]
fn old_clients_are_sent_text() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["create", "--name", "say", "box", "echo", "words"]);
    let mut socket = connect(&daemon, "v1.27/containers/say/attach/ws?stream=1&stdout=1").unwrap();
    daemon.ok(&["start", "say"]);
    assert_eq!(socket.read().unwrap(), Message::Text("words\n".into()));
    daemon.ok(&["rm", "-f", "say"]);
}
