//! logs, exec, attach and port-forward with the real kubectl.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use libtest_mimic::Trial;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::trial;
use crate::world::World;

pub fn all() -> Vec<Trial> {
    vec![
        trial("logs_are_read_and_followed", logs),
        trial("exec_carries_streams_and_exit_codes", exec),
        trial("exec_gives_a_terminal", terminal),
        trial("cve_2025_64329_a_client_that_vanishes_leaves_nothing", vanished),
        trial("run_attaches_to_what_it_made", run),
        trial("debug_adds_a_container_that_sees_the_others_processes", debug),
        trial("host_ports_lead_to_the_pod", host_port),
        trial("attach_joins_a_running_program", attach),
        trial("port_forward_reaches_the_pods_loopback", port_forward),
        trial("old_clients_exec_by_spdy", |world| exec(by_spdy(world))),
        trial("old_clients_attach_by_spdy", |world| attach(by_spdy(world))),
        trial("old_clients_have_a_terminal_by_spdy", |world| terminal(by_spdy(world))),
        trial("old_clients_forward_ports_by_spdy", |world| port_forward(by_spdy(world))),
        trial("old_clients_exec_and_read_logs_by_websockets", old_websockets),
    ]
}

/// Has kubectl speak as before 1.30.
fn by_spdy(mut world: World) -> World {
    world.spdy = true;
    world
}

/// What comes of a WebSocket until its end: each message that says something.
async fn messages(address: &str, path: &str, protocol: Option<&str>) -> Vec<String> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let mut found = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_close() {
            found.push(String::from_utf8(message.into_data().to_vec()).unwrap());
        }
    }
    found
}

async fn old_websockets(world: World) -> World {
    let spec =
        json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo said; exec sleep 1000"] }] });
    world.pod("box", spec).await;
    world.wait_ready("box").await;
    let mut child =
        world.command(&["proxy", "--port=0", "--disable-filter"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    let _child = Killed(child);
    let line = tokio::task::spawn_blocking(move || BufReader::new(out).lines().next().unwrap().unwrap());
    // Starting to serve on 127.0.0.1:40001
    let address = line.await.unwrap().rsplit(' ').next().unwrap().to_owned();
    let pod = "/api/v1/namespaces/default/pods/box";
    let exec = |script: &str| format!("{pod}/exec?stdout=1&stderr=1&command=sh&command=-c&command={script}");
    let plain = "echo%20one;exit%203";
    let failed = "command terminated with non-zero exit code: exit status 3";
    for (protocol, expected) in [
        (None, vec!["\u{1}".to_owned(), "\u{1}one\n".to_owned(), format!("\u{3}{failed}")]),
        (Some("channel.k8s.io"), vec!["\u{1}".to_owned(), "\u{1}one\n".to_owned(), format!("\u{3}{failed}")]),
        (
            Some("base64.channel.k8s.io"),
            vec!["1".to_owned(), "1b25lCg==".to_owned(), format!("3{}", STANDARD.encode(failed))],
        ),
    ] {
        assert_eq!(messages(&address, &exec(plain), protocol).await, expected, "{protocol:?}");
    }
    // Without a failure nothing is said of the end.
    assert_eq!(messages(&address, &exec("true"), Some("channel.k8s.io")).await, ["\u{1}"]);
    let log = format!("{pod}/log");
    assert_eq!(messages(&address, &log, Some("binary.k8s.io")).await, ["", "said\n"]);
    assert_eq!(messages(&address, &log, Some("base64.binary.k8s.io")).await, ["", "c2FpZAo="]);
    world
}

async fn logs(world: World) -> World {
    let script = "for i in $(seq 5); do echo line $i; done; echo wrong >&2; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo last";
    let spec =
        json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "command": ["sh", "-c", script] }] });
    world.pod("talks", spec).await;
    world.wait_ready("talks").await;
    let written = async {
        while !world.logs("talks").await.contains("wrong") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), written).await.unwrap();
    assert_eq!(world.kubectl_ok(&["logs", "talks", "--tail=2"]).await, "line 5\nwrong\n");
    let stamped = world.kubectl_ok(&["logs", "talks", "--tail=1", "--timestamps"]).await;
    let (time, rest) = stamped.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.len() == 30, "{time}");
    assert_eq!(rest, "wrong\n");
    assert_eq!(world.kubectl_ok(&["logs", "talks", "--limit-bytes=4"]).await, "line");
    let mut following = world.command(&["logs", "-f", "talks"]).stdout(Stdio::piped()).spawn().unwrap();
    // The container may end before touch itself does, and then its exit code says so.
    world.kubectl(&["exec", "talks", "--", "touch", "/tmp/go"]).await;
    let mut text = String::new();
    let mut out = following.stdout.take().unwrap();
    let text = tokio::task::spawn_blocking(move || {
        out.read_to_string(&mut text).unwrap();
        following.wait().unwrap();
        text
    })
    .await
    .unwrap();
    assert!(text.ends_with("last\n"), "{text}");

    world
        .pod("again", json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo run; exit 1"] }] }))
        .await;
    world.wait_event("again", "BackOff").await;
    assert_eq!(world.kubectl_ok(&["logs", "again", "--previous"]).await, "run\n");
    let wrong = world.kubectl(&["logs", "talks", "--previous"]).await;
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(error.contains("previous terminated container \"c\" in pod \"talks\" not found"), "{error}");
    world
}

async fn exec(world: World) -> World {
    world.pod("box", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("box").await;
    assert_eq!(world.kubectl_ok(&["exec", "box", "--", "echo", "a b"]).await, "a b\n");
    let failed = world.kubectl(&["exec", "box", "--", "sh", "-c", "echo oops >&2; exit 7"]).await;
    assert_eq!(failed.status.code(), Some(7));
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(error, "oops\ncommand terminated with exit code 7\n");
    let missing = world.kubectl(&["exec", "box", "--", "nosuch"]).await;
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && error.contains("nosuch"), "{error}");

    // Half a mebibyte goes in and comes out, and the end of input is seen.
    let mut child = world
        .command(&["exec", "-i", "box", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..512 * 1024_u32).map(|number| (number % 251) as u8).collect();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let expected = sent.clone();
    std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let received = tokio::task::spawn_blocking(move || {
        let mut received = Vec::new();
        stdout.read_to_end(&mut received).unwrap();
        assert!(child.wait().unwrap().success());
        received
    })
    .await
    .unwrap();
    assert!(received == expected, "{} of {} bytes came back", received.len(), expected.len());
    world
}

async fn attach(world: World) -> World {
    let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "stdin": true, "stdinOnce": true,
        "command": ["sh", "-c", "while read line; do echo got $line; done; echo end"] }] });
    world.pod("reads", spec).await;
    world.wait_ready("reads").await;
    let mut child = world
        .command(&["attach", "-i", "reads", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text = tokio::task::spawn_blocking(move || {
        child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    })
    .await
    .unwrap();
    assert_eq!(text, "got one\ngot two\nend\n");
    world.wait_phase("reads", "Succeeded").await;
    world
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn port_forward(world: World) -> World {
    let script = "mkdir /www; echo hello > /www/index.html; dd if=/dev/zero of=/www/big bs=1M count=3 2>/dev/null; \
                  exec httpd -f -p 127.0.0.1:8080 -h /www";
    world.pod(
            "web",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c", script],
                "readinessProbe": { "periodSeconds": 1, "failureThreshold": 1,
                    "exec": { "command": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/index.html"] } } }] }),
        )
        .await;
    world.wait_ready("web").await;
    let child = world
        .command(&["port-forward", "pod/web", ":8080", ":9"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let (stdout, stderr) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    let checked = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        let mut port = || {
            let line = lines.next().unwrap().unwrap();
            let line = if line.contains("[::1]") { lines.next().unwrap().unwrap() } else { line };
            // Forwarding from 127.0.0.1:40001 -> 8080
            line.split(' ').nth(2).unwrap().to_owned()
        };
        let address = port();
        let closed = loop {
            let other = port();
            if other != address.replace("127.0.0.1", "[::1]") && !other.contains("[::1]") {
                break other;
            }
        };
        let fetch = |address: &str, path: &str| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            answer
        };
        for _ in 0..3 {
            let answer = fetch(&address, "/index.html");
            assert!(answer.ends_with(b"hello\n"), "{}", String::from_utf8_lossy(&answer));
        }
        let handles: Vec<_> = (0..4)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || {
                    let mut stream = std::net::TcpStream::connect(address).unwrap();
                    stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).unwrap();
                    answer.len()
                })
            })
            .collect();
        for handle in handles {
            assert!(handle.join().unwrap() > 3 << 20);
        }
        assert!(fetch(&closed, "/").is_empty());
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).unwrap();
        line
    })
    .await
    .unwrap();
    assert!(
        checked.contains("an error occurred forwarding") && checked.contains("Connection refused"),
        "{checked}"
    );
    world
}

async fn terminal(world: World) -> World {
    world.pod("box", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("box").await;
    let kubectl = world.command(&[]).get_program().to_string_lossy().into_owned();
    let line =
        format!("stty rows 33 cols 77; {kubectl} exec -it box -- sh -c 'sleep 0.3; tty; stty size; exit 4'");
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("KUBECONFIG", world.directory.path().join("kubeconfig"))
        .env("HOME", world.directory.path())
        .stdin(Stdio::null());
    let output =
        tokio::task::spawn_blocking(move || script.output().expect("cannot run script: install bsdutils"))
            .await
            .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("/dev/pts/") && text.contains("33 77"), "{text}");
    world
}

async fn host_port(world: World) -> World {
    let spec = json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "mkdir /www; echo hi > /www/x; exec httpd -f -p 80 -h /www"],
        "ports": [{ "containerPort": 80, "hostPort": 18_080 }],
        "readinessProbe": { "httpGet": { "port": 80, "path": "/x" } } }] });
    world.pod("web", spec).await;
    world.wait_ready("web").await;
    let answer = tokio::task::spawn_blocking(|| {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:18080").unwrap();
        stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap();
    assert!(answer.ends_with("hi\n"), "{answer}");
    world
}

async fn debug(mut world: World) -> World {
    world.pod("web", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("web").await;
    let script = "tr '\\0' ' ' < /proc/1/cmdline; echo";
    let arguments = ["debug", "web", "--image=box:1", "-c", "look", "--target=c", "--", "sh", "-c", script];
    world.kubectl_ok(&arguments).await;
    let ended = |pod: Option<&Pod>| {
        let look = pod.and_then(|pod| pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?.first());
        look.is_some_and(|look| look.state.as_ref().is_some_and(|state| state.terminated.is_some()))
    };
    world.wait("web", "looked into", ended).await;
    assert_eq!(world.kubectl_ok(&["logs", "web", "-c", "look"]).await, "sleep 1000 \n");
    world.kill_agent().await;
    world.start_agent().await;
    let pod = world.wait_ready("web").await;
    assert!(ended(Some(&pod)) && crate::world::container(&pod).restart_count == 0);
    world
}

async fn vanished(world: World) -> World {
    world.pod("box", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("box").await;
    let kubectl = world.command(&[]).get_program().to_string_lossy().into_owned();
    // exec, so that the child is kubectl itself and dies with its terminal.
    let line = format!("exec {kubectl} exec -it box -- sleep 999");
    let child = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("KUBECONFIG", world.directory.path().join("kubeconfig"))
        .env("HOME", world.directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let engine = world.engine().clone();
    let record = engine.containers()[0].clone();
    let count = || engine.running_execs(&record.id).len();
    let until = |wanted: usize| async move {
        while count() != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, until(1)).await.expect("the program does not start");
    drop(child);
    tokio::time::timeout(patience, until(0)).await.expect("the program goes on without its user");
    world
}

async fn run(world: World) -> World {
    let overrides = json!({ "spec": { "nodeName": crate::world::NODE } }).to_string();
    let overrides = format!("--overrides={overrides}");
    let arguments = |name: &'static str, flags: &'static [&'static str], command: &'static [&'static str]| {
        let mut all = vec!["run", name, "--image=box:1", "--restart=Never", "-q"];
        all.extend(flags);
        all.push(&overrides);
        all.push("--");
        all.extend(command);
        all
    };
    let done = world.kubectl_ok(&arguments("short", &["-i", "--rm"], &["sh", "-c", "cat; echo hi"])).await;
    assert_eq!(done.lines().next(), Some("hi"), "{done}");
    world.wait_gone("short").await;

    let mut child = world
        .command(&arguments(
            "asks",
            &["-i"],
            &["sh", "-c", "while read line; do echo got $line; done; exit 6"],
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (code, text) = tokio::task::spawn_blocking(move || {
        child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    })
    .await
    .unwrap();
    assert_eq!((code, text.as_str()), (Some(6), "got one\ngot two\n"));
    world
}
