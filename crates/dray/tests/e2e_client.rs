//! Dray's own client, called by its own name and by those of the clients it stands in for.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use common::{Daemon, busybox_image, fetch};

struct Client<'a> {
    daemon: &'a Daemon,
    program: std::path::PathBuf,
}

impl Client<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        command.env("DOCKER_HOST", format!("unix://{}", self.daemon.path("r/docker.sock").display()));
        command.env("KUBECONFIG", self.daemon.path("d/kubeconfig"));
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout.trim_end().to_owned()
    }

    /// Runs a command with this input.
    fn fed(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[test]
fn containers_and_images_by_the_name_of_dray_and_of_docker() {
    let daemon = Daemon::start();
    let dray = Client { daemon: &daemon, program: env!("CARGO_BIN_EXE_dray").into() };
    let link = daemon.path("docker");
    symlink(env!("CARGO_BIN_EXE_dray"), &link).unwrap();
    let docker = Client { daemon: &daemon, program: link };
    let archive = daemon.path("image.tar");
    busybox_image(&archive);
    assert_eq!(dray.ok(&["load", "-i", archive.to_str().unwrap()]), "Loaded image: box:latest");
    let images = docker.ok(&["images"]);
    assert!(images.starts_with("REPOSITORY   TAG      IMAGE ID") && images.contains("\nbox "), "{images}");

    assert_eq!(dray.ok(&["run", "--rm", "-e", "A=b", "box", "sh", "-c", "echo $A"]), "b");
    let (code, out, errors) =
        docker.run(&["run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((code, out.as_str(), errors.as_str()), (3, "out\n", "err\n"));
    assert_eq!(docker.fed(&["run", "--rm", "-i", "box", "cat"], "piped").1, "piped");
    assert_eq!(dray.run(&["run", "--rm", "box", "nosuch"]).0, 127);
    assert_eq!(dray.run(&["run", "--rm", "box", "/etc"]).0, 126);
    let (code, _, errors) = dray.run(&["run", "--rm", "nosuch"]);
    // It is looked for where images come from, which nobody reaches from here.
    let told =
        errors.contains("Unable to find image 'nosuch' locally") && errors.contains("registry-1.docker.io");
    assert!(code == 125 && told, "{code} {errors}");

    let web = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    let id =
        dray.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "--memory", "32m", "box", "sh", "-c", web]);
    assert_eq!(id.len(), 64);
    let page = dray_testkit::eventually("the page", common::PATIENCE, || fetch("127.0.0.1:8080"));
    assert_eq!(page, "served\n");
    let ps = docker.ok(&["ps"]);
    assert!(ps.contains("0.0.0.0:8080->80/tcp") && ps.contains(&id[..12]), "{ps}");
    assert_eq!(dray.ok(&["ps", "-q"]), id[..12]);
    assert_eq!(docker.ok(&["ps", "--format", "{{.Names}} {{.State}}"]), "web running");
    assert_eq!(dray.ok(&["inspect", "-f", "{{.HostConfig.Memory}}", "web"]), (32 << 20).to_string());
    assert_eq!(
        docker.ok(&["exec", "-e", "X=1", "web", "sh", "-c", "echo $X; hostname"]),
        format!("1\n{}", &id[..12])
    );
    assert_eq!(dray.run(&["exec", "web", "sh", "-c", "exit 9"]).0, 9);
    assert_eq!(docker.fed(&["exec", "-i", "web", "cat"], "to the process").1, "to the process");
    assert_eq!(docker.ok(&["port", "web"]), "80/tcp -> 0.0.0.0:8080");
    assert_eq!(dray.ok(&["stop", "-t", "0", "web"]), "web");
    assert_eq!(dray.ok(&["wait", "web"]), "137");
    assert_eq!(docker.ok(&["start", "web"]), "web");
    assert_eq!(docker.ok(&["kill", "web"]), "web");
    assert_eq!(dray.ok(&["rm", "web"]), "web");
    let (code, _, errors) = dray.run(&["rm", "web"]);
    assert!(code == 1 && errors.contains("No such container: web"), "{errors}");

    let context = daemon.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM box\nCOPY note /note\nRUN cat /note > /copied\nCMD cat /copied\n",
    )
    .unwrap();
    fs::write(context.join("note"), "built\n").unwrap();
    let built = dray.ok(&["build", "-t", "noted", context.to_str().unwrap()]);
    assert!(built.contains("Successfully tagged noted:latest"), "{built}");
    assert_eq!(docker.ok(&["run", "--rm", "noted"]), "built");
    assert_eq!(dray.ok(&["tag", "noted", "other:1"]), "");
    assert!(docker.ok(&["history", "noted"]).contains("CMD"));
    let removed = docker.ok(&["rmi", "other:1"]);
    assert_eq!(removed, "Untagged: other:1");

    let network = dray.ok(&["network", "create", "net"]);
    assert_eq!(network.len(), 64);
    assert!(docker.ok(&["network", "ls"]).contains("net      bridge"));
    assert_eq!(dray.ok(&["network", "rm", "net"]), "net");
    assert_eq!(dray.ok(&["volume", "create", "vol"]), "vol");
    assert_eq!(docker.ok(&["volume", "ls", "-q"]), "vol");
    assert_eq!(dray.ok(&["volume", "rm", "vol"]), "vol");
    assert!(docker.ok(&["version"]).contains("API version"));
}

#[test]
fn nobody_listens() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_dray")).args(["-H", "unix:///nowhere/docker.sock", "ps"]).output();
    let output = output.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("cannot connect to the daemon at unix:///nowhere/docker.sock"), "{errors}");
}
