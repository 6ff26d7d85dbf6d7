//! What containers change, and what becomes of it: `docker diff`, `export`, `commit`, `import`, and networks that are
//! joined and left later.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::os::unix::fs::FileTypeExt;

use common::Daemon;

/// Unpacks with the system's own tar, which knows nothing of ours.
fn untar(archive: &std::path::Path, into: &std::path::Path) {
    fs::create_dir(into).unwrap();
    let status = std::process::Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status();
    assert!(status.unwrap().success());
}

#[test]
fn tells_what_changed_and_exports_all_of_it() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let context = daemon.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM box\nRUN mkdir -p /d/e /again /kept && echo a > /d/a && echo b > /d/e/b && echo c > /again/c \
         && echo k > /kept/k && echo gone > /gone\n",
    )
    .unwrap();
    daemon.ok(&["build", "-q", "-t", "base", context.to_str().unwrap()]);
    daemon.ok(&["create", "--name", "fresh", "base", "true"]);
    assert_eq!(daemon.ok(&["diff", "fresh"]), "");

    let script = "echo x >> /d/e/b; rm /gone; rm -r /again; mkdir /again; echo n > /again/n; mkdir -p /new/deep; \
                  echo w > /new/deep/w; rm /d/a; mkdir /d/a; chmod 700 /kept; echo v > /vol/inside; mkfifo /pipe; \
                  ln -s /nowhere /link; echo ready; sleep 1000";
    daemon.ok(&["run", "-d", "--name", "busy", "-v", "data:/vol", "base", "sh", "-c", script]);
    dray_testkit::eventually("the changes", common::PATIENCE, || {
        (daemon.ok(&["logs", "busy"]) == "ready").then_some(())
    });
    let expected = "C /again\nD /again/c\nA /again/n\nC /d\nC /d/a\nC /d/e\nC /d/e/b\nD /gone\nC /kept\nA /link\n\
                    A /new\nA /new/deep\nA /new/deep/w\nA /pipe\nA /vol";
    assert_eq!(daemon.ok(&["diff", "busy"]), expected);
    let host = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    daemon.ok(&["export", "-o", &host("running.tar"), "busy"]);
    daemon.ok(&["kill", "busy"]);
    assert_eq!(daemon.ok(&["diff", "busy"]), expected, "whether it runs makes no difference");
    daemon.ok(&["export", "-o", &host("stopped.tar"), "busy"]);
    for state in ["running", "stopped"] {
        let root = daemon.path(state);
        untar(&daemon.path(&format!("{state}.tar")), &root);
        assert_eq!(fs::read_to_string(root.join("d/e/b")).unwrap(), "b\nx\n");
        assert_eq!(fs::read_to_string(root.join("new/deep/w")).unwrap(), "w\n");
        assert!(root.join("bin/busybox").exists(), "what the image has is there as well");
        assert!(!root.join("gone").exists() && !root.join("again/c").exists() && root.join("d/a").is_dir());
        assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_link(root.join("link")).unwrap(), std::path::Path::new("/nowhere"));
        for mounted in ["vol", "proc"] {
            assert_eq!(fs::read_dir(root.join(mounted)).unwrap().count(), 0, "what is mounted stays out");
        }
    }
    daemon.refused(&["diff", "nosuch"], "No such container: nosuch");
    daemon.refused(&["export", "-o", &host("none.tar"), "nosuch"], "No such container: nosuch");
    daemon.ok(&["rm", "busy", "fresh"]);
    daemon.assert_nothing_left();
}

#[test]
fn makes_images_of_containers_and_archives() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let inspect = |name: &str, what: &str| daemon.ok(&["inspect", "-f", what, name]);
    let script =
        "echo kept > /kept; rm /bin/sleep; mkdir -p /d; echo v > /vol/x; ready=1; while :; do :; done";
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "-e",
        "A=1",
        "--label",
        "l=1",
        "-v",
        "data:/vol",
        "box",
        "sh",
        "-c",
        script,
    ]);
    dray_testkit::eventually("the changes", common::PATIENCE, || {
        (daemon.code(&["exec", "one", "test", "-e", "/vol/x"]) == 0).then_some(())
    });
    let id = daemon.ok(&[
        "commit",
        "-a",
        "Somebody",
        "-m",
        "as it is",
        "-c",
        "CMD [\"cat\", \"/kept\"]",
        "-c",
        "ENV B=\"x y\" C=$A",
        "-c",
        "WORKDIR /d",
        "-c",
        "EXPOSE 80",
        "-c",
        "LABEL m=2",
        "one",
        "made:v1",
    ]);
    assert_eq!(inspect("made:v1", "{{.Id}} {{.Author}} {{.Comment}}"), format!("{id} Somebody as it is"));
    assert_eq!(inspect("one", "{{.State.Status}}"), "running", "it goes on");
    assert_eq!(
        inspect("made:v1", "{{json .Config.Labels}} {{.Config.ExposedPorts}}"),
        "{\"l\":\"1\",\"m\":\"2\"} map[80/tcp:{}]"
    );
    let size = |name: &str| inspect(name, "{{.Size}}").parse::<u64>().unwrap();
    assert_eq!(size("made:v1") - size("box"), 5, "only what changed is in the new layer");
    let history = daemon.ok(&["history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:v1"]);
    assert!(history.starts_with("as it is|sh -c echo kept"), "{history}");
    assert_eq!(daemon.ok(&["run", "--rm", "made:v1"]), "kept");
    let seen = "echo $A $B $C; pwd; ls /vol; test -e /bin/sleep || echo removed";
    assert_eq!(daemon.ok(&["run", "--rm", "made:v1", "sh", "-c", seen]), "1 x y 1\n/d\nremoved");

    // One that has ended, without a name; and without a change, which makes no layer.
    daemon.ok(&["kill", "one"]);
    let unnamed = daemon.ok(&["commit", "one"]);
    assert_eq!(inspect(&unnamed, "{{.RepoTags}} {{index .Config.Cmd 0}}"), "[] sh");
    daemon.ok(&["create", "--name", "fresh", "box", "true"]);
    daemon.ok(&["commit", "--pause=false", "fresh", "same"]);
    assert_eq!(inspect("same", "{{len .RootFS.Layers}}"), inspect("box", "{{len .RootFS.Layers}}"));
    daemon.refused(&["commit", "nosuch", "x"], "No such container: nosuch");
    daemon.refused(&["commit", "fresh", "UPPER"], "UPPER");
    daemon.refused(&["commit", "-c", "RUN true", "fresh"], "run is not a valid change command");
    daemon.refused(&["commit", "-c", "NOSUCH", "fresh"], "NOSUCH");

    let archive = daemon.path("root.tar");
    let archive = archive.to_str().unwrap();
    daemon.ok(&["export", "-o", archive, "one"]);
    daemon.ok(&["rm", "one", "fresh"]);
    let id = daemon.ok(&["import", "-m", "flat", "-c", "CMD cat /kept", archive, "flat:1"]);
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    assert_eq!(inspect("flat:1", "{{.Id}} {{.Comment}} {{len .RootFS.Layers}}"), format!("{id} flat 1"));
    assert_eq!(daemon.ok(&["run", "--rm", "flat:1"]), "kept");
    fs::write(daemon.path("bad.tar"), [b'x'; 2048]).unwrap();
    daemon.refused(&["import", daemon.path("bad.tar").to_str().unwrap(), "bad"], "");
    assert_eq!(daemon.ok(&["images", "-q", "bad"]), "");
    daemon.ok(&["rmi", "made:v1", "same", &unnamed, "flat:1"]);
    assert_eq!(daemon.ok(&["images", "-q"]).lines().count(), 1);
    assert_eq!(fs::read_dir(daemon.path("d/image/leases")).unwrap().count(), 0, "nothing holds a layer");
    daemon.assert_nothing_left();
}
