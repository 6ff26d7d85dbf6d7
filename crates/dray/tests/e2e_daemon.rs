//! The daemon as its users meet it: where it refuses to start, whom it tells, and what it leaves behind.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::{Daemon, PATIENCE, busybox_image};
use dray_testkit::{eventually, isolate};

fn dray(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dray"));
    command.args(arguments).stdin(Stdio::null()).env("DRAY_CONNECT_GROUP", "none");
    command
}

/// What a program that succeeds prints.
fn stdout(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The one line with which a start is refused.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "one line: {errors}");
    errors
}

/// A second daemon below a directory.
fn second(directory: &Path) -> (Child, String) {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(directory).unwrap();
    let out = path("out");
    let child = dray(&["up", "--api-listen", "127.0.0.1:6553", "--node-name", "second"])
        .args(["--data-dir", &path("d"), "--run-dir", &path("r")])
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(path("log")).unwrap())
        .spawn()
        .unwrap();
    let ready = eventually("the second daemon", PATIENCE, || {
        let out = fs::read_to_string(&out).unwrap();
        out.contains("export KUBECONFIG=").then_some(out)
    });
    (child, ready)
}

#[test]
fn two_daemons_live_beside_each_other() {
    let first = Daemon::start();
    first.load_busybox();
    let directory = first.path("second");
    let (mut child, said) = second(&directory);
    let socket = format!("unix://{}", directory.join("r/docker.sock").display());
    assert!(said.starts_with(&format!("export DOCKER_HOST={socket}\n")), "{said}");
    let other = |arguments: &[&str]| stdout(dray(&["-H", &socket]).args(arguments));
    let archive = directory.join("image.tar");
    busybox_image(&archive);
    other(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let hello = other(&["run", "--rm", "box", "echo", "second"]);
    assert_eq!(hello, "second\n");
    assert_eq!(first.ok(&["run", "--rm", "box", "echo", "first"]), "first");
    let address = |data: &Path| {
        let kubeconfig = data.join("kubeconfig");
        let path = "jsonpath={.spec.clusterIP}";
        let arguments = ["kubectl", "--kubeconfig", kubeconfig.to_str().unwrap(), "get", "service"];
        stdout(dray(&arguments).args(["kubernetes", "-o", path]))
    };
    assert_ne!(
        address(&first.path("d")),
        address(&directory.join("d")),
        "each has its own range of Services"
    );
    stdout(dray(&["down", "--all", "--run-dir"]).arg(directory.join("r")));
    assert!(child.wait().unwrap().success());
    assert_eq!(first.ok(&["run", "--rm", "box", "echo", "still"]), "still", "the other one is not touched");
}

#[test]
fn wrong_places_are_refused_in_one_line() {
    let first = Daemon::start();
    let path = |name: &str| first.path(name).to_str().unwrap().to_owned();
    let up = |data: &str, run: &str, address: &str| {
        refused(&mut dray(&["up", "--data-dir", data, "--run-dir", run, "--api-listen", address]))
    };
    let (data, run, other) = (path("d"), path("r"), path("other"));
    assert!(up("/proc/nowhere", &other, "127.0.0.1:6553").contains("cannot create /proc/nowhere"));
    assert!(up(&other, &path("x"), "127.0.0.1:6443").contains("cannot listen on 127.0.0.1:6443"));
    assert!(up(&data, &path("x"), "127.0.0.1:6553").contains("another daemon uses the data directory"));
    assert!(up(&other, &run, "127.0.0.1:6553").contains("stop it with: dray down"));
    let file = path("file");
    fs::write(&file, "").unwrap();
    assert!(up(&file, &path("x"), "127.0.0.1:6553").contains(&format!("cannot create {file}")));
    let bad_name =
        refused(&mut dray(&["up", "--node-name", "A_b", "--data-dir", &other, "--run-dir", &other]));
    assert!(bad_name.contains("invalid node name \"A_b\""), "{bad_name}");
    let nobody = refused(&mut dray(&["down", "--run-dir", &path("nobody")]));
    assert!(nobody.contains("no daemon runs with the run directory"), "{nobody}");
}

#[test]
fn a_start_that_fails_leaves_nothing_in_the_kernel() {
    isolate();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let up = || {
        refused(
            dray(&[
                "up",
                "--api-listen",
                "127.0.0.1:6553",
                "--data-dir",
                &path("d"),
                "--run-dir",
                &path("r"),
            ])
            .env("DRAY_LOG", "off"),
        )
    };
    // The engine is open by then, and the network of pods is there.
    for (broken, culprit) in
        [("d/cluster", "d/cluster"), ("d/node", "d/node"), ("d/kubeconfig/x", "d/kubeconfig")]
    {
        let file = directory.path().join(broken);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "in the way").unwrap();
        let said = up();
        assert!(said.contains(&path(culprit)), "{said}");
        assert_eq!(stdout(Command::new("ip").args(["-o", "link"])).lines().count(), 1, "after {broken}");
        assert_eq!(stdout(Command::new("nft").args(["list", "ruleset"])).trim(), "", "after {broken}");
        assert_eq!(stdout(Command::new("ip").args(["route"])).trim(), "", "after {broken}");
        assert!(!directory.path().join("r/docker.sock").exists());
        fs::remove_file(&file).unwrap();
        let _ = fs::remove_dir(directory.path().join("d/kubeconfig"));
    }
}

#[test]
fn the_range_of_services_is_never_chosen_twice() {
    let mut daemon = Daemon::start();
    let choices = daemon.path("d/choices.json");
    let chosen = fs::read_to_string(&choices).unwrap();
    daemon.down(&["--all"]);
    daemon.up();
    assert_eq!(fs::read_to_string(&choices).unwrap(), chosen);
    daemon.down(&["--all"]);
    // What cannot be read is not replaced: a directory can be opened and not read.
    fs::remove_file(&choices).unwrap();
    fs::create_dir(&choices).unwrap();
    let mut up = dray(&["up", "--data-dir"]);
    let error = refused(up.arg(daemon.path("d")).arg("--run-dir").arg(daemon.path("r")));
    assert!(error.contains("cannot read") && error.contains("choices.json"), "{error}");
    fs::remove_dir(&choices).unwrap();
    fs::write(&choices, chosen).unwrap();
}

#[test]
fn a_kernel_that_lacks_something_is_named() {
    isolate();
    let directory = tempfile::tempdir().unwrap();
    let known = directory.path().join("filesystems");
    fs::write(&known, "nodev\ttmpfs\n").unwrap();
    stdout(Command::new("mount").arg("--bind").arg(&known).arg("/proc/filesystems"));
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    // Modules could bring it.
    if Path::new("/lib/modules").exists() {
        stdout(Command::new("mount").arg("--bind").arg(&empty).arg("/lib/modules"));
    }
    let data = directory.path().join("d");
    let error =
        refused(dray(&["up", "--run-dir"]).arg(directory.path().join("r")).arg("--data-dir").arg(&data));
    assert!(error.contains("overlayfs") && error.contains("dray doctor"), "{error}");
    let doctor = dray(&["doctor"]).output().unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text.contains("MISSING  overlayfs"), "{text}");
}

#[test]
fn a_chroot_is_refused_as_it_could_not_confine_containers() {
    isolate();
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for name in ["proc", "tmp", "usr", "bin"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_dray"), root.join("bin/dray")).unwrap();
    stdout(Command::new("mount").arg("--bind").arg("/proc").arg(root.join("proc")));
    let error = refused(Command::new("chroot").arg(root).args(["/bin/dray", "up", "--data-dir", "/tmp/d"]));
    assert!(error.contains("root directory: this is a chroot"), "{error}");
    stdout(Command::new("umount").arg(root.join("proc")));
}

#[test]
fn doctor_lists_what_the_host_offers() {
    isolate();
    let text = stdout(&mut dray(&["doctor"]));
    for name in ["kernel", "overlayfs", "control groups", "bridges and veth", "nftables", "seccomp"] {
        assert!(text.lines().any(|line| line.starts_with("ok") && line.contains(name)), "{name}: {text}");
    }
    let links = stdout(Command::new("ip").args(["-o", "link"]));
    assert_eq!(links.lines().count(), 1, "the host is not touched: {links}");
}

#[test]
fn places_may_be_relative() {
    isolate();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mut child = dray(&["up", "--data-dir", "data", "--run-dir", "run/deep"])
        .current_dir(directory.path())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = eventually("the daemon", PATIENCE, || {
        let said = fs::read_to_string(&out).unwrap();
        said.contains("export KUBECONFIG=").then_some(said)
    });
    let socket = format!("unix://{}/run/deep/docker.sock", directory.path().display());
    assert!(said.contains(&format!("export DOCKER_HOST={socket}\n")), "{said}");
    let archive = directory.path().join("image.tar");
    busybox_image(&archive);
    let client = |arguments: &[&str]| stdout(dray(&["-H", &socket]).args(arguments));
    client(&["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(client(&["run", "--rm", "box", "sh", "-c", "pwd"]), "/\n");
    stdout(dray(&["down", "--all", "--run-dir", "run/deep"]).current_dir(directory.path()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_service_manager_is_told() {
    isolate();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let manager = UnixDatagram::bind(path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = dray(&["up"])
        .arg("--data-dir")
        .arg(path("d"))
        .arg("--run-dir")
        .arg(path("r"))
        .env("NOTIFY_SOCKET", path("notify"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 256];
    let mut hear = || {
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(hear().starts_with("READY=1\n"));
    stdout(dray(&["down", "--run-dir"]).arg(path("r")));
    assert!(hear().starts_with("STOPPING=1"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_end_of_everything_leaves_nothing_and_a_second_start_finds_it() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "long",
        "-p",
        "8080:80",
        "--restart",
        "unless-stopped",
        "--stop-timeout",
        "0",
        "box",
        "sleep",
        "600",
    ]);
    let kubeconfig = fs::read_to_string(daemon.path("d/kubeconfig")).unwrap();
    let mode = fs::metadata(daemon.path("d/kubeconfig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.down(&["--all"]);
    let links = stdout(Command::new("ip").args(["-o", "link"]));
    assert_eq!(links.lines().count(), 1, "no link is left: {links}");
    assert_eq!(stdout(Command::new("nft").args(["list", "ruleset"])).trim(), "", "no rule is left");
    let routes = stdout(Command::new("ip").args(["route"]));
    assert_eq!(routes.trim(), "", "no route is left: {routes}");
    daemon.up();
    assert_eq!(fs::read_to_string(daemon.path("d/kubeconfig")).unwrap(), kubeconfig);
    assert_eq!(daemon.ok(&["images", "-q"]).lines().count(), 1);
    let status = daemon.ok(&["inspect", "-f", "{{.State.Status}}", "long"]);
    assert_eq!(status, "exited", "it was stopped, and is known still");
    daemon.ok(&["start", "long"]);
    daemon.ok(&["exec", "long", "true"]);
}
