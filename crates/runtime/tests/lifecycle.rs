//! Start, end, output, signals: what every container does.
//!
//! Needs root and busybox-static.

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use common::{DEADLINE, RequestWait as _, place, read_frames, refusal};
use dray_runtime::Error;
use dray_runtime::launch::{Stdio, TerminalSize};
use dray_runtime::protocol::{FailureKind, Status};

#[test]
fn exit_code_and_both_streams_are_kept() {
    let place = place();
    let running = place.launch(place.shell("echo out; echo err >&2; exit 7")).unwrap();
    assert_eq!(running.client.state().unwrap().status, Status::Created);
    let exit = running.start_and_wait();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert_eq!(running.log_of(|stream| stream == "stdout"), "out\n");
    assert_eq!(running.log_of(|stream| stream == "stderr"), "err\n");
    let file: dray_runtime::protocol::Exit =
        serde_json::from_slice(&std::fs::read(&running.launch.exit_file).unwrap()).unwrap();
    assert_eq!(file, exit);
    // Waiters are answered before the socket goes.
    dray_testkit::eventually("the socket to go", std::time::Duration::from_secs(10), || {
        (!running.launch.socket.exists()).then_some(())
    });
    assert!(!running.process.is_alive());
    assert!(!running.cgroup().exists());
}

#[test]
fn a_signal_is_128_and_its_number() {
    let place = place();
    let running = place.launch(place.shell("echo ready; sleep 1000")).unwrap();
    running.client.start().unwrap();
    running.await_log("ready");
    assert_eq!(running.client.state().unwrap().status, Status::Running);
    let exit = running.kill();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

#[test]
fn a_created_container_can_be_killed() {
    let place = place();
    let running = place.launch(place.shell("true")).unwrap();
    let exit = running.kill();
    assert_eq!(exit.code, 137);
    assert_eq!(running.log(), "");
}

#[test]
fn start_happens_once() {
    let place = place();
    let running = place.launch(place.shell("sleep 1000")).unwrap();
    running.client.start().unwrap();
    let Err(Error::Start(failure)) = running.client.start() else { panic!("started twice") };
    assert_eq!(failure.kind, FailureKind::State);
    running.kill();
}

#[test]
fn attached_clients_get_frames_and_give_input_until_they_finish() {
    let place = place();
    let mut plan = place.shell("cat; echo done >&2");
    plan.stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    let running = place.launch(plan).unwrap();
    let mut stream = running.client.attach(true, true, true).unwrap();
    let mut watcher = running.client.attach(false, true, false).unwrap();
    running.client.start().unwrap();
    let text = "line\n".repeat(100_000);
    let mut writer = stream.try_clone().unwrap();
    let written = text.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(written.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let watching = std::thread::spawn(move || read_frames(&mut watcher));
    let (output, error) = read_frames(&mut stream);
    thread.join().unwrap();
    assert_eq!(output.len(), text.len());
    assert!(output == text.as_bytes());
    assert_eq!(error, b"done\n");
    let (output, error) = watching.join().unwrap();
    assert!(output == text.as_bytes() && error.is_empty());
    assert!(running.log_of(|stream| stream == "stdout") == text);
    assert_eq!(running.log_of(|stream| stream == "stderr"), "done\n");
}

#[test]
fn a_client_that_left_after_its_input_has_given_all_of_it() {
    let place = place();
    let mut plan = place.shell("echo first; wc -c");
    plan.stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    let running = place.launch(plan).unwrap();
    let mut stream = running.client.attach(true, true, true).unwrap();
    // More than the pipe takes: the rest waits in the socket while the first output finds nobody.
    stream.write_all(&[b'x'; 150_000]).unwrap();
    drop(stream);
    assert_eq!(running.start_and_wait().code, 0);
    assert_eq!(running.log(), "first\n150000\n");
}

#[test]
fn a_client_that_reads_nothing_slows_but_loses_nothing() {
    let place = place();
    let running = place.launch(place.shell("seq 1 200000")).unwrap();
    let mut slow = running.client.attach(false, true, true).unwrap();
    let dead = running.client.attach(false, true, true).unwrap();
    running.client.start().unwrap();
    drop(dead);
    let wait = running.client.request_wait();
    let (output, _) = read_frames(&mut slow);
    assert_eq!(wait.finish().code, 0);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(output == expected.as_bytes());
    assert!(running.log() == expected);
}

#[test]
fn without_input_it_is_the_null_device() {
    let place = place();
    assert_eq!(place.output("cat; stat -L -c %t:%T /dev/stdin"), "1:3\n");
}

#[test]
fn standard_streams_can_be_opened_again_by_other_users() {
    let place = place();
    let mut plan = place.shell("echo out > /dev/stdout; echo err > /dev/stderr");
    plan.spec.process_mut().as_mut().unwrap().user_mut().set_uid(1000);
    let (exit, log) = place.run(plan);
    assert_eq!((exit.code, log.contains("out\n"), log.contains("err\n")), (0, true, true), "{log}");
}

#[test]
fn a_terminal_is_one_and_changes_its_size() {
    let place = place();
    let mut plan = place
        .shell("tty; stty size; read line; stty size; echo got $line; test -c /dev/console && echo console");
    plan.stdio =
        Stdio { terminal: Some(TerminalSize { width: 80, height: 24 }), stdin: true, ..Stdio::default() };
    let running = place.launch(plan).unwrap();
    let mut stream = running.client.attach(true, true, true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let wait = running.client.request_wait();
    running.client.start().unwrap();
    running.await_log("24 80");
    running.client.resize(132, 43).unwrap();
    stream.write_all(b"word\n").unwrap();
    let mut output = String::new();
    stream.read_to_string(&mut output).unwrap();
    assert_eq!(output, "/dev/pts/0\r\n24 80\r\nword\r\n43 132\r\ngot word\r\nconsole\r\n");
    assert_eq!(wait.finish().code, 0);
    assert_eq!(running.log(), output);
}

#[test]
fn programs_that_cannot_run_are_reported_as_docker_words_it() {
    let place = place();
    let launch = |arguments: &[&str]| match place.launch(place.plan(arguments)) {
        Err(Error::Start(failure)) => failure,
        Ok(_) => panic!("{arguments:?} was launched"),
        Err(other) => panic!("{}", other.chain()),
    };
    let failure = launch(&["foo"]);
    assert_eq!(failure.message, "exec: \"foo\": executable file not found in $PATH");
    assert_eq!(failure.kind, FailureKind::CommandNotFound);
    let failure = launch(&["/bin/foo"]);
    assert_eq!(failure.message, "exec: \"/bin/foo\": stat /bin/foo: no such file or directory");
    assert_eq!(failure.kind.exit_code(), 127);
    let failure = launch(&["/etc/passwd"]);
    assert_eq!(failure.message, "exec: \"/etc/passwd\": permission denied");
    assert_eq!(failure.kind.exit_code(), 126);
    let failure = launch(&["/etc"]);
    assert_eq!(failure.message, "exec: \"/etc\": is a directory");
    assert_eq!(failure.kind, FailureKind::CannotInvoke);
}

#[test]
fn a_program_that_the_kernel_refuses_is_reported_at_the_start() {
    let place = place();
    let path = place.directory.path().join("layer/bin/broken");
    std::fs::write(&path, "\0\0\0\0not a program").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let running = place.launch(place.plan(&["broken"])).unwrap();
    let wait = running.client.request_wait();
    let Err(Error::Start(failure)) = running.client.start() else { panic!("it was started") };
    assert_eq!(failure.message, "exec /bin/broken: exec format error");
    assert_eq!(wait.finish().code, 126);
}

#[test]
fn a_failed_launch_leaves_nothing() {
    let place = place();
    let plan = place.plan(&["nothing"]);
    let cgroup = dray_runtime::cgroup::Cgroup::new(plan.cgroup.as_ref().unwrap()).unwrap();
    let name = plan.name.clone();
    refusal(place.launch(plan));
    assert!(!cgroup.exists());
    let state = place.directory.path().join(format!("{name}.state"));
    assert!(!state.join("socket").exists());
    assert!(!state.join("pid").exists());
}

#[test]
fn invalid_requests_are_answered() {
    let place = place();
    let running = place.launch(place.shell("true")).unwrap();
    for request in [&b"nonsense\n"[..], b"{\"op\":\"fly\"}\n", &[b'x'; 5000]] {
        let mut stream = running.client.connect().unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"kind\":\"request\""), "{answer}");
    }
    assert!(running.client.resize(1, 1).is_err());
    running.kill();
}

#[test]
fn long_socket_paths_work() {
    let place = place();
    let mut plan = place.shell("exit 3");
    plan.name = "n".repeat(120);
    let (exit, _) = place.run(plan);
    assert_eq!(exit.code, 3);
}

#[test]
fn the_container_outlives_whoever_launched_it() {
    let place = place();
    let running = place.launch(place.shell("echo ready; read line; echo $line")).unwrap();
    // The process that was spawned is gone; the shim belongs to init, in a session of its own.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.process.pid)).unwrap();
    let shim: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    assert!(stat.contains("(dray-shim)"), "{stat}");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_ne!(fields[1], std::process::id().to_string(), "parent");
    assert_eq!(fields[3], shim.to_string(), "session");
    assert_eq!(std::fs::read_link(format!("/proc/{shim}/cwd")).unwrap(), std::path::Path::new("/"));
    running.kill();
}
