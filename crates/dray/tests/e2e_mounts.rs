//! Mounts in all their options, asked for as the newest clients do.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::process::Command;

use common::Daemon;
use serde_json::{Value, json};

/// What a container with these mounts prints, with its exit code in the end.
fn run(daemon: &Daemon, mounts: &Value, script: &str) -> String {
    let body = json!({ "Image": "box", "Cmd": ["sh", "-c", script], "HostConfig": { "Mounts": mounts } });
    let answer = daemon.post("/v1.47/containers/create?name=once", &body);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let output = daemon.docker(&["start", "-a", "once"]);
    daemon.ok(&["rm", "-f", "once"]);
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    format!("{text} {}", output.status.code().unwrap())
}

#[test]
fn volumes_are_made_with_the_options_of_a_mount() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let options = json!({ "Labels": { "a": "b" }, "NoCopy": true,
        "DriverConfig": { "Name": "local", "Options": { "type": "tmpfs", "device": "tmpfs", "o": "size=1m" } } });
    let mount = |name: &str| json!([{ "Type": "volume", "Source": name, "Target": "/data", "VolumeOptions": options }]);
    let seen = run(&daemon, &mount("small"), "grep ' /data ' /proc/mounts");
    assert!(seen.contains("tmpfs") && seen.contains("size=1024k") && seen.ends_with(" 0"), "{seen}");
    assert_eq!(daemon.ok(&["volume", "inspect", "-f", "{{.Labels.a}} {{.Options.o}}", "small"]), "b size=1m");
    let seen = run(&daemon, &mount(""), "grep -c ' /data ' /proc/mounts");
    assert_eq!(seen, "1 0", "an anonymous one");

    let refused = |mounts: Value, words: &str| {
        let body = json!({ "Image": "box", "Cmd": ["true"], "HostConfig": { "Mounts": mounts } });
        let answer = daemon.post("/v1.47/containers/create", &body);
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains(words), "{answer}");
    };
    refused(
        json!([{ "Type": "volume", "Target": "/x", "VolumeOptions": { "DriverConfig": { "Name": "nope" } } }]),
        "error looking up volume plugin nope",
    );
    refused(json!([{ "Type": "cluster", "Source": "box", "Target": "/x" }]), "mount type unknown");
    refused(
        json!([{ "Type": "bind", "Source": "/", "Target": "/x", "BindOptions": { "ReadOnlyForceRecursive": true } }]),
        "mount must be read-only",
    );
    refused(
        json!([{ "Type": "tmpfs", "Target": "/x", "TmpfsOptions": { "Options": [["upper", "/"]] } }]),
        "upper",
    );
    // By the API itself: the client asks registries for the image when it hears of something that is not there.
    let absent = |document: Value, words: &str| {
        let answer = daemon.post("/containers/create", &document);
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains(words), "{answer}");
    };
    let plugin = "plugin \\\"nope\\\" not found";
    let host = json!({ "VolumeDriver": "nope", "Binds": ["a:/a"] });
    absent(json!({ "Image": "box", "HostConfig": host }), plugin);
    let host = json!({ "VolumeDriver": "nope" });
    absent(json!({ "Image": "box", "Volumes": { "/a": {} }, "HostConfig": host }), plugin);
    let unused = daemon.ok(&["create", "--volume-driver", "nope", "-v", "/etc:/a", "box"]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.HostConfig.VolumeDriver}}", &unused]), "nope");
    daemon.ok(&["rm", &unused]);
    daemon.ok(&["volume", "rm", "small"]);
}

#[test]
fn what_is_mounted_below_a_path_follows_the_mount() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let host = daemon.path("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(host.join("sub")).status().unwrap();
    assert!(mounted.success());
    fs::write(host.join("sub/there"), "").unwrap();
    let mount = |read_only: bool, options: Value| json!([{ "Type": "bind", "Source": host, "Target": "/m", "ReadOnly": read_only, "BindOptions": options }]);
    let script = "ls /m/sub; touch /m/top 2>/dev/null && echo top; touch /m/sub/new 2>/dev/null && echo below; rm -f /m/sub/new /m/top; true";
    for (read_only, options, wanted) in [
        (false, json!({}), "there\ntop\nbelow 0"),
        (true, json!({}), "there 0"),
        (true, json!({ "ReadOnlyForceRecursive": true }), "there 0"),
        (true, json!({ "ReadOnlyNonRecursive": true }), "there\nbelow 0"),
        (false, json!({ "NonRecursive": true }), "top\nbelow 0"),
    ] {
        assert_eq!(run(&daemon, &mount(read_only, options.clone()), script), wanted, "{read_only} {options}");
    }
    let plain = format!("{}:/m:ro", host.display());
    assert_eq!(daemon.code(&["run", "--rm", "-v", &plain, "box", "touch", "/m/sub/new"]), 1);
    assert!(!host.join("sub/new").exists());

    let tmpfs = json!([{ "Type": "tmpfs", "Target": "/t", "TmpfsOptions": { "SizeBytes": 1 << 20, "Mode": 0o1700, "Options": [["uid", "7"], ["exec"]] } }]);
    let seen = run(&daemon, &tmpfs, "stat -c '%u %a' /t; grep ' /t ' /proc/mounts");
    assert!(
        seen.starts_with("7 1700\n") && seen.contains("size=1024k") && !seen.contains("noexec"),
        "{seen}"
    );
}

#[test]
fn images_are_mounted_read_only_and_stay_as_long() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let context = daemon.path("context");
    fs::create_dir_all(context.join("sub")).unwrap();
    fs::write(context.join("sub/file"), "of the image\n").unwrap();
    fs::write(context.join("Dockerfile"), "FROM box\nCOPY sub /data/sub\nRUN ln -s /etc /data/away\n")
        .unwrap();
    daemon.ok(&["build", "-q", "-t", "data", context.to_str().unwrap()]);
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY sub /\n").unwrap();
    daemon.ok(&["build", "-q", "-t", "flat", context.to_str().unwrap()]);
    let mounts = json!([
        { "Type": "image", "Source": "data", "Target": "/whole" },
        { "Type": "image", "Source": "data", "Target": "/part", "ImageOptions": { "Subpath": "data/sub" } },
        { "Type": "image", "Source": "flat", "Target": "/flat" },
    ]);
    let script = "cat /whole/data/sub/file /part/file /flat/file; ls /whole/bin/busybox; touch /whole/x /part/x /flat/x 2>&1";
    let seen = run(&daemon, &mounts, script);
    let line = "of the image\n";
    assert!(seen.starts_with(&format!("{line}{line}{line}/whole/bin/busybox\n")), "{seen}");
    assert_eq!(seen.matches("Read-only file system").count(), 3, "{seen}");

    let mount = "type=image,source=data,target=/m,image-subpath=data";
    daemon.ok(&["run", "-d", "--name", "user", "--mount", mount, "box", "sleep", "1000"]);
    let told = daemon.ok(&["inspect", "-f", "{{json .Mounts}}", "user"]);
    assert!(told.contains(r#""Type":"image""#) && told.contains(r#""Source":"data""#), "{told}");
    daemon.refused(&["rmi", "data"], "container");
    daemon.ok(&["rmi", "-f", "data"]);
    daemon.ok(&["image", "prune", "-af"]);
    // It goes on through the daemon's death, and starts again.
    daemon.kill();
    daemon.up();
    assert_eq!(daemon.ok(&["exec", "user", "cat", "/m/sub/file"]), "of the image");
    daemon.ok(&["restart", "-t", "0", "user"]);
    assert_eq!(daemon.ok(&["exec", "user", "cat", "/m/sub/file"]), "of the image");
    daemon.ok(&["rm", "-f", "user"]);
    let mounted = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounted.contains(daemon.path("d").to_str().unwrap()), "{mounted}");

    daemon.load_busybox();
    daemon.ok(&["build", "-q", "-t", "flat", context.to_str().unwrap()]);
    let mounts = json!([{ "Type": "image", "Source": "absent", "Target": "/m" }]);
    let answer =
        daemon.post("/containers/create", &json!({ "Image": "box", "HostConfig": { "Mounts": mounts } }));
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("No such image: absent"), "{answer}");
    for (subpath, words) in
        [("../etc", "relative path within the image"), ("/etc", "relative path within the image")]
    {
        let mounts = json!([{ "Type": "image", "Source": "flat", "Target": "/m", "ImageOptions": { "Subpath": subpath } }]);
        let answer =
            daemon.post("/containers/create", &json!({ "Image": "box", "HostConfig": { "Mounts": mounts } }));
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(words), "{answer}");
    }
    daemon.refused(
        &["run", "--rm", "--mount", "type=image,source=flat,target=/m,image-subpath=none", "box", "true"],
        "cannot access path none of the image flat",
    );
    daemon.assert_nothing_left();
}
