//! What the tests of networks share: programs of the host's, and servers in containers and who asks them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use dray_testkit::eventually;

use super::{Daemon, PATIENCE};

/// Runs a program of the host's in the daemon's network.
pub fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub fn sh(daemon: &Daemon, container: &str, script: &str) -> String {
    daemon.ok(&["exec", container, "sh", "-c", script])
}

pub fn inspect(daemon: &Daemon, name: &str, what: &str) -> String {
    daemon.ok(&["inspect", "-f", what, name])
}

/// A container with a web server on port 80, over both versions of IP.
pub fn serve(daemon: &Daemon, name: &str, options: &[&str]) {
    let mut command = vec!["run", "-d", "--name", name];
    command.extend(options);
    let script = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    command.extend(["box", "sh", "-c", script]);
    daemon.ok(&command);
    eventually("the server", PATIENCE, || {
        (get(daemon, name, "127.0.0.1", 80).as_deref() == Some("served")).then_some(())
    });
}

/// What is served at an address and a port, asked from a container. The static wget cannot look addresses up.
pub fn get(daemon: &Daemon, container: &str, address: &str, port: u16) -> Option<String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} {port}");
    let output = daemon.docker(&["exec", container, "sh", "-c", &script]);
    body(&String::from_utf8(output.stdout).unwrap())
}

pub fn body(answer: &str) -> Option<String> {
    answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned())
}

/// What is served at an address, asked from the host.
pub fn ask(address: &str) -> Option<String> {
    let address = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    body(&answer)
}
