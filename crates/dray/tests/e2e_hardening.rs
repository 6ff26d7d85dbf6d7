//! Attacks that container engines have lost to, tried with malicious images and requests against the real daemon. What
//! concerns the runtime alone is in the runtime's own tests.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Daemon;

/// A root file system with busybox, to be made malicious and imported.
struct Image<'a> {
    daemon: &'a Daemon,
    name: &'static str,
}

impl<'a> Image<'a> {
    fn new(daemon: &'a Daemon, name: &'static str) -> Self {
        let image = Self { daemon, name };
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(image.root().join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", image.root().join("bin/busybox")).expect("install busybox-static");
        for program in ["sh", "ls", "cat", "id", "grep", "sleep", "find", "true", "mkdir"] {
            symlink("busybox", image.root().join("bin").join(program)).unwrap();
        }
        image
    }

    fn root(&self) -> PathBuf {
        self.daemon.path(&format!("image-{}", self.name))
    }

    /// Replaces a file or directory by a link.
    fn link(&self, name: &str, target: &str) {
        let _ = fs::remove_dir_all(self.root().join(name));
        symlink(target, self.root().join(name)).unwrap();
    }

    fn import(&self, changes: &[&str]) {
        let archive = self.daemon.path(&format!("{}.tar", self.name));
        let status =
            Command::new("tar").arg("-C").arg(self.root()).arg("-cf").arg(&archive).arg(".").status();
        assert!(status.unwrap().success());
        let mut arguments = vec!["import"];
        for change in changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend([archive.to_str().unwrap(), self.name]);
        self.daemon.ok(&arguments);
    }
}

/// A directory of the host that no container may see or change.
fn host_directory(daemon: &Daemon) -> PathBuf {
    let directory = daemon.path("host");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("secret"), "secret of the host").unwrap();
    directory
}

fn assert_untouched(directory: &Path) {
    let names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
}

/// A link that climbs out of any directory and ends at a path of the host.
fn climbing(path: &Path) -> String {
    format!("{}{}", "../".repeat(40), path.strip_prefix("/").unwrap().display())
}

#[test]
fn cve_2022_23648_volumes_of_an_image_stay_in_its_root() {
    let daemon = Daemon::start();
    let host = host_directory(&daemon);
    let image = Image::new(&daemon, "volumes");
    image.link("absolute", host.to_str().unwrap());
    image.link("climbing", &climbing(&host));
    let dots = format!("/{}", climbing(&host));
    image.import(&[&format!("VOLUME [\"/absolute\",\"/climbing\",\"{dots}\"]")]);
    let output = daemon.docker(&[
        "run", "--rm", "volumes", "sh", "-c",
        "cat /absolute/secret /climbing/secret; find / -xdev -name secret; find /absolute/ /climbing/ -name secret",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("secret"), "{text}");
    assert_untouched(&host);
}

#[test]
fn cve_2024_5154_files_of_the_engine_follow_no_link_to_the_host() {
    let daemon = Daemon::start();
    let host = host_directory(&daemon);
    for (name, target) in
        [("etc-absolute", host.to_str().unwrap().to_owned()), ("etc-climbing", climbing(&host))]
    {
        let image = Image::new(&daemon, name);
        // Where hosts, hostname and resolv.conf are mounted.
        image.link("etc", &target);
        image.import(&[]);
        // It may run, with those files somewhere inside, or be refused.
        let output = daemon.docker(&["run", "--rm", name, "sh", "-c", "cat /etc/secret; echo x > /etc/x"]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("secret of the host"));
        assert_untouched(&host);
    }
    // The same for what is only mounted, and for working directories that are made.
    let image = Image::new(&daemon, "out");
    image.link("out", &climbing(&host));
    image.import(&["WORKDIR /out/made"]);
    daemon.docker(&["run", "--rm", "-v", "/tmp:/out/volume", "--tmpfs", "/out/tmpfs", "out", "true"]);
    assert_untouched(&host);
}

#[test]
fn cve_2026_53488_and_53489_and_53492_labels_of_an_image_decide_nothing() {
    let daemon = Daemon::start();
    let image = Image::new(&daemon, "labels");
    let labels = [
        "privileged",
        "dray.privileged",
        "io.dray.privileged",
        "dev.dray.privileged",
        "com.docker.privileged",
        "io.containerd.privileged",
        "io.podman.annotations.privileged",
    ];
    let mut changes: Vec<String> = labels.iter().map(|label| format!("LABEL {label}=true")).collect();
    // cve_2026_53489: devices, mounts and hooks; cve_2026_53492: security and namespaces.
    for label in [
        "io.containerd.mounts=/:/host",
        "dray.binds=/:/host",
        "dray.devices=/dev/mem",
        "run.oci.hooks=/bin/evil",
        "dray.security-opt=seccomp=unconfined",
        "dray.network=host",
        "dray.pid=host",
        "dray.userns=host",
        "io.kubernetes.pod.uid=evil",
        "io.kubernetes.pod.name=evil",
        "io.kubernetes.pod.namespace=default",
        "io.kubernetes.container.name=evil",
        "io.kubernetes.cri-o.userns-mode=host",
    ] {
        changes.push(format!("LABEL {label}"));
    }
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    image.import(&changes);
    daemon.load_busybox();
    let script = "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status; ls /dev; ls -d /host; \
                  cat /proc/self/mountinfo | grep -c ' / / '";
    let run =
        |image: &str| String::from_utf8(daemon.docker(&["run", "--rm", image, "sh", "-c", script]).stdout);
    assert_eq!(run("labels").unwrap(), run("box").unwrap());
    let id = daemon.ok(&["run", "-d", "--label", "own=1", "labels", "sleep", "1000"]);
    let format = "{{.HostConfig.Privileged}} {{.HostConfig.Binds}} {{.HostConfig.Devices}} \
                  {{.HostConfig.NetworkMode}} {{.HostConfig.PidMode}} {{.HostConfig.SecurityOpt}}";
    let labelled = daemon.ok(&["inspect", "--format", format, &id]);
    let plain = daemon.ok(&["run", "-d", "box", "sleep", "1000"]);
    assert_eq!(labelled, daemon.ok(&["inspect", "--format", format, &plain]));
    // No node takes it for a container of a pod that is not there, and ends it.
    assert_eq!(daemon.ok(&["inspect", "--format", "{{.State.Running}}", &id]), "true");
}

#[test]
fn cve_2023_25153_and_2026_47262_huge_files_of_users_are_an_error() {
    let daemon = Daemon::start();
    for file in ["passwd", "group"] {
        let name = if file == "passwd" { "huge-passwd" } else { "huge-group" };
        let image = Image::new(&daemon, name);
        fs::write(image.root().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
            .unwrap();
        let huge = fs::File::create(image.root().join("etc").join(file)).unwrap();
        huge.set_len(6 << 20).unwrap();
        image.import(&[]);
        let output = daemon.docker(&["run", "--rm", "--user", "web:www", name, "id", "-u"]);
        assert!(!output.status.success(), "{file}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains('0'), "{file}");
    }
    // A file that never ends is none.
    let image = Image::new(&daemon, "endless");
    image.link("etc/passwd", "/dev/zero");
    image.import(&[]);
    daemon.refused(&["run", "--rm", "--user", "web", "endless", "id"], "web");
    let resident = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = resident.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 512 << 10, "{peak} KiB");
}

#[test]
fn cve_2023_25173_and_2024_40635_users_and_groups_are_exact() {
    let daemon = Daemon::start();
    let image = Image::new(&daemon, "users");
    fs::write(image.root().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(image.root().join("etc/group"), "root:x:0:\nwww:x:33:\nlogs:x:50:web\nadm:x:4:\n").unwrap();
    image.import(&[]);
    let groups = |options: &[&str]| {
        let words = [&["run", "--rm"], options, &["users", "grep", "Groups", "/proc/self/status"]].concat();
        let line = daemon.ok(&words);
        let mut groups: Vec<u32> = line
            .trim_start_matches("Groups:")
            .split_whitespace()
            .map(|group| group.parse().unwrap())
            .collect();
        groups.sort_unstable();
        groups
    };
    assert_eq!(groups(&["--user", "web"]), [33, 50]);
    assert_eq!(groups(&["--user", "web", "--group-add", "adm"]), [4, 33, 50]);
    // cve_2022_36109: the primary group is among them, so that a rule against it holds.
    assert_eq!(groups(&["--user", "1234"]), [0]);
    assert_eq!(groups(&["--user", "1234:77"]), [77]);
    // cve_2024_40635: a number that does not fit is refused and never root.
    for user in ["4294967296", "2147483648", "-1", "18446744073709551616", "0:4294967296"] {
        let output = daemon.docker(&["run", "--rm", &format!("--user={user}"), "users", "id", "-u"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{user}");
    }
}

#[test]
fn cve_2024_21626_no_directory_of_the_host_is_entered() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let id = daemon.ok(&["run", "-d", "box", "sleep", "1000"]);
    for number in 3..11 {
        let directory = format!("/proc/self/fd/{number}");
        for words in [
            vec!["run", "--rm", "-w", &directory, "box", "ls", "-la", "."],
            vec!["run", "--rm", "-w", &directory, "box", "cat", "../../../../../../../../etc/shadow"],
            vec!["exec", "-w", &directory, &id, "cat", "../../../../../../../../etc/shadow"],
        ] {
            let output = daemon.docker(&words);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success(), "{words:?}: {text}");
        }
    }
    // Neither a container nor an exec has a descriptor beyond its streams; ls has opened the last.
    let script = "ls /proc/self/fd | grep -c .";
    assert_eq!(daemon.ok(&["run", "--rm", "box", "sh", "-c", script]), "4");
    assert_eq!(daemon.ok(&["exec", &id, "sh", "-c", script]), "4");
}

#[test]
fn cve_2022_0811_settings_of_the_host_cannot_be_reached() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    for setting in [
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/bin/evil #",
        "kernel.core_pattern=|/bin/evil",
        "kernel/core_pattern=|/bin/evil",
        "net.ipv4/../../kernel/core_pattern=|/bin/evil",
        "vm.overcommit_memory=1",
    ] {
        let output = daemon.docker(&["run", "--rm", "--sysctl", setting, "box", "true"]);
        assert!(!output.status.success(), "{setting}");
        assert_eq!(pattern(), before, "{setting}");
    }
    for destination in ["/proc", "/proc/sys", "/proc/self/attr"] {
        for option in ["-v", "--tmpfs"] {
            let value = if option == "-v" { format!("evil:{destination}") } else { destination.to_owned() };
            let output = daemon.docker(&["run", "--rm", option, &value, "box", "true"]);
            // cve_2019_16884, cve_2025_52881
            assert!(!output.status.success(), "{option} {value}");
        }
    }
}

#[test]
fn cve_2021_41103_and_2020_15257_others_cannot_look_into_the_daemons_directories() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let id = daemon.ok(&["run", "-d", "--name", "private", "box", "sleep", "1000"]);
    // Whoever is not root gets no further than a directory that is closed, whatever lies below it.
    let closed = |path: &Path| {
        path.ancestors()
            .take_while(|ancestor| ancestor.starts_with(daemon.path("")))
            .any(|ancestor| fs::metadata(ancestor).is_ok_and(|meta| meta.permissions().mode() & 0o007 == 0))
    };
    let mut found = 0;
    for place in ["d/containers", "d/image", "r/c", "r/e"] {
        let path = daemon.path(place);
        if path.exists() {
            found += 1;
            assert!(closed(&path), "{place}");
        }
    }
    assert!(found >= 3);
    for entry in fs::read_dir(daemon.path("r/c")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    // cve_2020_15257: nor is there a socket without a path, which a container on the host's network would reach.
    let sockets = daemon.ok(&["run", "--rm", "--network", "host", "box", "cat", "/proc/net/unix"]);
    let names: Vec<&str> = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
    assert!(names.iter().any(|name| name.ends_with("docker.sock")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with('@')), "{names:?}");
    // cve_2022_24769: and nothing is inheritable, at first and later.
    let inheritable = ["grep", "CapInh", "/proc/self/status"];
    let none = "CapInh:\t0000000000000000";
    assert_eq!(daemon.ok(&[&["run", "--rm", "box"][..], &inheritable].concat()), none);
    assert_eq!(daemon.ok(&[&["exec", "--privileged", &id][..], &inheritable].concat()), none);
}
