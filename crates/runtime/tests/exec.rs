//! Processes that join a running container. Needs root and busybox-static.

mod common;

use std::io::Write as _;
use std::net::Shutdown;

use common::{RequestWait as _, place, process, read_frames, refusal};
use dray_runtime::launch::{Stdio, TerminalSize};

#[test]
fn it_runs_inside_with_its_own_user_directory_and_environment() {
    let place = place();
    let running = place.launch(place.shell("echo ready; sleep 1000")).unwrap();
    running.client.start().unwrap();
    running.await_log("ready");
    let mut inside =
        process(&["sh", "-c", "id -u; id -G; pwd; echo $WORD $HOME; hostname; test $$ -gt 1; exit 5"]);
    inside.user_mut().set_uid(1000).set_gid(1000).set_additional_gids(Some(vec![1000, 2000]));
    inside.set_cwd("/tmp".into());
    inside.env_mut().get_or_insert_default().push("WORD=word".into());
    let exec = place.exec(&running, Stdio::default(), inside).unwrap();
    assert!(running.cgroup().pids().unwrap().contains(&exec.process.pid));
    let exit = exec.start_and_wait();
    assert_eq!(exec.log(), "1000\n1000 2000\n/tmp\nword /home\nbox\n");
    assert_eq!(exit.code, 5);
    assert!(running.process.is_alive());
    assert!(running.cgroup().exists());
    running.kill();
}

#[test]
fn input_and_terminal_work() {
    let place = place();
    let running = place.launch(place.shell("sleep 1000")).unwrap();
    running.client.start().unwrap();
    let stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    let exec = place.exec(&running, stdio, process(&["cat"])).unwrap();
    let mut stream = exec.client.attach(true, true, true).unwrap();
    let wait = exec.client.request_wait();
    exec.client.start().unwrap();
    stream.write_all(b"through").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_frames(&mut stream).0, b"through");
    assert_eq!(wait.finish().code, 0);

    let stdio = Stdio { terminal: Some(TerminalSize { width: 90, height: 20 }), ..Stdio::default() };
    let exec = place.exec(&running, stdio, process(&["sh", "-c", "tty; stty size"])).unwrap();
    assert_eq!(exec.start_and_wait().code, 0);
    assert_eq!(exec.log(), "/dev/pts/0\r\n20 90\r\n");
    running.kill();
}

#[test]
fn what_cannot_run_is_reported() {
    let place = place();
    let running = place.launch(place.shell("sleep 1000")).unwrap();
    running.client.start().unwrap();
    assert_eq!(
        refusal(place.exec(&running, Stdio::default(), process(&["nope"]))),
        "exec: \"nope\": executable file not found in $PATH"
    );
    running.kill();
    let message = refusal(place.exec(&running, Stdio::default(), process(&["true"])));
    assert!(message.contains("no longer exists"), "{message}");
}

#[test]
fn cve_2024_21626_no_descriptor_and_no_directory_of_the_host() {
    let place = place();
    let running = place.launch(place.shell("ls /proc/self/fd; sleep 1000")).unwrap();
    running.client.start().unwrap();
    running.await_log("3");
    assert_eq!(running.log(), "0\n1\n2\n3\n");
    let exec = place.exec(&running, Stdio::default(), process(&["ls", "/proc/self/fd"])).unwrap();
    exec.start_and_wait();
    assert_eq!(exec.log(), "0\n1\n2\n3\n");
    for number in 3..12 {
        let mut inside = process(&["pwd"]);
        inside.set_cwd(format!("/proc/self/fd/{number}").into());
        refusal(place.exec(&running, Stdio::default(), inside));
        let mut plan = place.shell("pwd");
        plan.spec.process_mut().as_mut().unwrap().set_cwd(format!("/proc/self/fd/{number}").into());
        refusal(place.launch(plan));
    }
    running.kill();
}

#[test]
fn the_first_process_does_not_take_the_exec_filter_or_privileges_away() {
    let place = place();
    let running = place.launch(place.shell("sleep 1000")).unwrap();
    running.client.start().unwrap();
    let script = "grep -E 'Seccomp:|CapInh|CapEff|CapBnd' /proc/self/status";
    let exec = place.exec(&running, Stdio::default(), process(&["sh", "-c", script])).unwrap();
    exec.start_and_wait();
    assert_eq!(
        exec.log(),
        "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    );
    running.kill();
}
