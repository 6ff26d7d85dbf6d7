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
    daemon.refused(&["commit", "fresh", "UPPER"], "must be lowercase");
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

#[test]
fn joins_and_leaves_networks_later() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let inspect = |name: &str, what: &str| daemon.ok(&["inspect", "-f", what, name]);
    let networks = "{{range $name, $at := .NetworkSettings.Networks}}{{$name}}={{$at.IPAddress}} {{end}}";
    daemon.ok(&["network", "create", "--subnet", "10.78.0.0/24", "front"]);
    daemon.ok(&["network", "create", "--subnet", "10.79.0.0/24", "back"]);
    daemon.ok(&["run", "-d", "--name", "peer", "--network", "back", "box", "sleep", "1000"]);
    let page = "echo page > /tmp/index.html; httpd -f -p 80 -h /tmp";
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "front",
        "-p",
        "127.0.0.1:8097:80",
        "box",
        "sh",
        "-c",
        page,
    ]);
    let published = || common::fetch("127.0.0.1:8097").is_some_and(|body| body == "page\n");
    dray_testkit::eventually("the server", common::PATIENCE, || published().then_some(()));

    daemon.ok(&["network", "connect", "--alias", "store", "--ip", "10.79.0.9", "back", "web"]);
    assert_eq!(inspect("web", networks), "back=10.79.0.9 front=10.78.0.2");
    let fetched =
        |name: &str| daemon.docker(&["exec", "peer", "wget", "-q", "-O", "-", name]).stdout == b"page\n";
    assert!(fetched("http://web/") && fetched("http://store/"), "found by name and by alias");
    let found = daemon.ok(&["exec", "web", "nslookup", "peer", "127.0.0.11"]);
    assert!(found.contains("10.79.0.2"), "and it finds others: {found}");
    // The default route's gateway, as the kernel writes it (proc_net_route(5)).
    let leads_by = |gateway: &str| {
        let routes = daemon.ok(&["exec", "web", "cat", "/proc/net/route"]);
        routes.lines().any(|line| line.contains(&format!("\t00000000\t{gateway}\t")))
    };
    assert!(leads_by("01004F0A"), "its way out is 10.79.0.1, of the first network by name");
    daemon.refused(
        &["network", "connect", "back", "web"],
        "endpoint with name web already exists in network back",
    );
    daemon.refused(&["network", "connect", "nosuch", "web"], "network nosuch not found");
    daemon.refused(&["network", "connect", "back", "nosuch"], "No such container: nosuch");
    daemon.refused(&["network", "connect", "--ip", "10.79.0.9", "back", "peer"], "already exists");
    daemon.refused(&["network", "connect", "host", "web"], "host network");
    daemon.refused(
        &["network", "connect", "--alias", "x", "bridge", "web"],
        "only supported for user-defined networks",
    );

    // Leaving the first network moves ports and the way out to the next.
    daemon.ok(&["network", "disconnect", "front", "web"]);
    assert_eq!(inspect("web", networks), "back=10.79.0.9");
    daemon.refused(&["network", "disconnect", "front", "web"], "is not connected to network front");
    assert!(published(), "the port leads to the place that is left");
    assert!(leads_by("01004F0A"), "its way out is 10.79.0.1");
    daemon.ok(&["network", "disconnect", "back", "web"]);
    assert_eq!(inspect("web", networks), "");
    assert!(!published(), "the port leads nowhere");
    let lookup = daemon.docker(&["exec", "peer", "nslookup", "store", "127.0.0.11"]);
    assert!(!String::from_utf8_lossy(&lookup.stdout).contains("10.79.0.9"), "its names went with it");
    daemon.ok(&["network", "connect", "back", "web"]);
    assert!(published() && fetched("http://web/"), "and back again");

    // What is said of one that does not run holds for its next start.
    daemon.ok(&["stop", "-t", "0", "web"]);
    daemon.ok(&["network", "connect", "--ip", "10.78.0.7", "--alias", "late", "front", "web"]);
    daemon.refused(&["network", "connect", "front", "web"], "already exists in network front");
    daemon.ok(&["network", "disconnect", "back", "web"]);
    daemon.ok(&["start", "web"]);
    assert_eq!(inspect("web", networks), "front=10.78.0.7");
    dray_testkit::eventually("the server", common::PATIENCE, || published().then_some(()));
    assert!(daemon.ok(&["exec", "web", "nslookup", "late", "127.0.0.11"]).contains("10.78.0.7"));
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    let soon = soon.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let events = daemon.ok(&[
        "events",
        "--since",
        "1h",
        "--until",
        &format!("{soon:.3}"),
        "--filter",
        "type=network",
        "--filter",
        "event=disconnect",
        "--format",
        "{{.Action}} {{index .Actor.Attributes \"name\"}}",
    ]);
    assert_eq!(events, "disconnect front\ndisconnect back\ndisconnect back");
    daemon.ok(&["rm", "-f", "web", "peer"]);
    daemon.ok(&["network", "rm", "front", "back"]);
    daemon.assert_nothing_left();
}

#[test]
fn copies_reach_the_volumes_of_a_container_that_does_not_run() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let host = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let context = daemon.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM box\nRUN mkdir /vol && echo image > /vol/own\n").unwrap();
    daemon.ok(&["build", "-q", "-t", "base", context.to_str().unwrap()]);
    fs::create_dir(daemon.path("bound")).unwrap();
    fs::write(daemon.path("bound/there"), "bound").unwrap();
    let bind = format!("{}:/bound:ro", host("bound"));
    daemon.ok(&[
        "create",
        "--name",
        "one",
        "-v",
        "data:/vol",
        "-v",
        &bind,
        "base",
        "cat",
        "/vol/in",
        "/vol/own",
    ]);
    // What the image has is there before the first start.
    daemon.ok(&["cp", "one:/vol/own", &host("own")]);
    assert_eq!(fs::read_to_string(daemon.path("own")).unwrap(), "image\n");
    fs::write(daemon.path("in"), "from outside\n").unwrap();
    daemon.ok(&["cp", &host("in"), "one:/vol/in"]);
    assert_eq!(daemon.ok(&["start", "-a", "one"]), "from outside\nimage");
    daemon.ok(&["cp", "one:/bound/there", &host("there")]);
    assert_eq!(fs::read_to_string(daemon.path("there")).unwrap(), "bound");
    daemon.refused(&["cp", &host("in"), "one:/bound/in"], "");
    assert!(!daemon.path("bound/in").exists(), "what is mounted read-only stays as it is");
    // CVE-2019-14271, CVE-2018-15664: links of the container and of its volume lead nowhere else.
    for link in ["/vol/out", "/out"] {
        daemon.ok(&["run", "--rm", "-v", "data:/vol", "--volumes-from", "one", "base", "true"]);
        daemon.ok(&["run", "--name", "linker", "-v", "data:/vol", "base", "ln", "-sfn", "/etc", link]);
        let container = if link == "/out" { "linker" } else { "one" };
        daemon.ok(&["cp", &host("in"), &format!("{container}:{link}/escaped")]);
        assert!(!std::path::Path::new("/etc/escaped").exists());
        daemon.ok(&["rm", "linker"]);
    }
    daemon.ok(&["rm", "-v", "one"]);
    daemon.ok(&["volume", "rm", "data"]);
    daemon.assert_nothing_left();
}

#[test]
fn local_volumes_are_mounted_as_their_options_say() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    fs::create_dir(daemon.path("bound")).unwrap();
    let device = format!("device={}", daemon.path("bound").display());
    let memory = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=64k,nosuid"];
    daemon.ok(&[&["volume", "create"], &memory[..], &["memory"]].concat());
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", "bound"]);
    let mounts = daemon.ok(&["run", "--rm", "-v", "memory:/m", "box", "grep", " /m ", "/proc/mounts"]);
    assert!(mounts.starts_with("tmpfs /m tmpfs") && mounts.contains("size=64k"), "{mounts}");
    daemon.ok(&["run", "--rm", "-v", "bound:/b", "box", "sh", "-c", "echo kept > /b/file"]);
    assert_eq!(fs::read_to_string(daemon.path("bound/file")).unwrap(), "kept\n");
    assert_eq!(daemon.ok(&["volume", "inspect", "-f", "{{.Options.o}}", "bound"]), "bind");
    // A part below that is a mount of its own goes with the rest, and one that is mounted twice is not left beneath.
    let data = daemon.path("d/volumes/bound/_data");
    for arguments in [
        &["-t", "tmpfs", "tmpfs", data.to_str().unwrap()][..],
        &["--bind", daemon.path("bound").to_str().unwrap(), data.to_str().unwrap()],
    ] {
        assert!(std::process::Command::new("mount").args(arguments).status().unwrap().success());
    }
    daemon.ok(&["volume", "rm", "bound", "memory"]);
    assert!(daemon.path("bound/file").exists(), "what was only mounted stays");
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", "bound"]);
    daemon.ok(&["create", "--name", "user", "-v", "bound:/b", "box", "true"]);
    daemon.ok(&["start", "-a", "user"]);
    let mounted = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains("volumes/bound");
    assert!(mounted());
    daemon.down(&["--all"]);
    assert!(
        !mounted(),
        "nothing of the host's is mounted below the data directory of a daemon that is no more"
    );
    daemon.up();
    daemon.ok(&["start", "-a", "user"]);
    daemon.ok(&["rm", "user"]);
    daemon.ok(&["volume", "rm", "bound"]);
    assert!(daemon.path("bound/file").exists());
    let refused = ["volume", "create", "-o", "bogus=1", "xy"];
    daemon.refused(&refused, "create xy: invalid option: \"bogus\"");
    daemon.refused(&["volume", "create", "-o", "type=tmpfs", "xy"], "missing device in volume options");
}

#[test]
fn until_spares_what_is_younger() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["create", "--name", "young", "box", "true"]);
    daemon.ok(&["network", "create", "net"]);
    daemon.ok(&["container", "prune", "-f", "--filter", "until=1h"]);
    daemon.ok(&["network", "prune", "-f", "--filter", "until=1h30m"]);
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]), "young");
    assert_eq!(daemon.ok(&["network", "ls", "-q", "--filter", "name=net"]).lines().count(), 1);
    daemon.refused(&["container", "prune", "-f", "--filter", "until=bogus"], "until=bogus");
    daemon.ok(&["container", "prune", "-f", "--filter", "until=0s"]);
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
    daemon.ok(&["network", "rm", "net"]);
}

#[test]
fn copies_find_the_files_that_the_engine_gives() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let host = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let copied = |container: &str, name: &str| {
        daemon.ok(&["cp", &format!("{container}:/etc/{name}"), &host(name)]);
        fs::read_to_string(daemon.path(name)).unwrap()
    };
    daemon.ok(&[
        "create",
        "--name",
        "one",
        "--hostname",
        "first",
        "--dns",
        "192.0.2.1",
        "box",
        "cat",
        "/etc/hostname",
    ]);
    assert_eq!(copied("one", "hostname"), "first\n", "also before the first start");
    assert!(copied("one", "hosts").contains("localhost"));
    copied("one", "resolv.conf");
    assert_eq!(
        daemon.ok(&["diff", "one"]),
        "",
        "what is mounted on is nothing that the container has changed"
    );
    assert_eq!(daemon.ok(&["start", "-a", "one"]), "first");
    assert!(copied("one", "hosts").contains("\tfirst\n"), "and after the end, as the process saw them");
    daemon.ok(&["cp", &host("hosts"), "one:/etc/hosts"]);
    // A mount of one's own goes before, and with another container's network come its files.
    fs::write(daemon.path("own"), "own\n").unwrap();
    daemon.ok(&["create", "--name", "two", "-v", &format!("{}:/etc/hosts", host("own")), "box", "true"]);
    assert_eq!(copied("two", "hosts"), "own\n");
    daemon.ok(&["create", "--name", "three", "--network", "container:one", "box", "true"]);
    assert_eq!(copied("three", "hostname"), "first\n");
    daemon.ok(&["rm", "one", "two", "three"]);
}

#[test]
fn cve_2021_25741_a_part_of_a_volume_does_not_lead_out_of_it() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let script =
        "mkdir -p /v/a/b && echo inner > /v/a/b/file && ln -s /etc /v/away && ln -s ../../../etc /v/up";
    daemon.ok(&["run", "--rm", "-v", "data:/v", "box", "sh", "-c", script]);
    let create = |subpath: &str| {
        serde_json::json!({
            "Image": "box", "Cmd": ["cat", "/p/file"],
            "HostConfig": { "Mounts": [{
                "Type": "volume", "Source": "data", "Target": "/p", "VolumeOptions": { "Subpath": subpath },
            }] },
        })
    };
    let made = daemon.post("/containers/create?name=part", &create("a/b"));
    assert!(made.contains("\"Id\""), "{made}");
    assert_eq!(daemon.ok(&["start", "-a", "part"]), "inner");
    let host = daemon.path("file").to_str().unwrap().to_owned();
    daemon.ok(&["cp", "part:/p/file", &host]);
    assert_eq!(fs::read_to_string(&host).unwrap(), "inner\n");
    for (name, subpath) in [("away", "away"), ("up", "up"), ("none", "missing")] {
        daemon.post(&format!("/containers/create?name={name}"), &create(subpath));
        daemon.refused(&["start", name], "cannot access path");
    }
    for refused in ["/etc", "../x", "a/../../x"] {
        let answer = daemon.post("/containers/create", &create(refused));
        assert!(answer.contains("subpath must be a relative path within the volume"), "{answer}");
    }
    daemon.ok(&["rm", "part", "away", "up", "none"]);
    daemon.assert_nothing_left();
}
