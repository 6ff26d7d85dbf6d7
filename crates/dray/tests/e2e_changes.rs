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
