//! Attacks on copies out of and into containers, and on what the data directory keeps of them: by a container that
//! exchanges names for as long as they are copied, by one that plants libraries, by users of the host.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;
use rustix::fs::{CWD, RenameFlags, inotify, renameat_with};

/// How often each copy is tried against the exchange.
const ROUNDS: usize = 200;

/// No test of its own: what the malicious container runs. It exchanges two names until it is killed.
#[test]
fn exchanges_two_names_for_ever() {
    let (Ok(one), Ok(other)) = (std::env::var("EXCHANGE"), std::env::var("EXCHANGE_WITH")) else { return };
    loop {
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    }
}

/// A container in which `/w/x` is in turns a directory, with the file `mark` that says "inside", and a link to `target`.
fn exchanging(daemon: &Daemon, target: &Path) {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "mkdir /w /w/x; echo inside > /w/x/mark; ln -s {} /w/y; exec /attack --exact exchanges_two_names_for_ever",
        target.display()
    );
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "evil",
        "-v",
        &format!("{}:/attack:ro", program.display()),
        "-e",
        "EXCHANGE=/w/x",
        "-e",
        "EXCHANGE_WITH=/w/y",
        "box",
        "sh",
        "-c",
        &script,
    ]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "evil"]);
    let root = format!("/proc/{pid}/root/w/x");
    for kind in [true, false] {
        eventually("the exchange to begin", PATIENCE, || {
            (fs::symlink_metadata(&root).ok()?.is_symlink() == kind).then_some(())
        });
    }
}

/// A request whose answer may be an archive.
fn raw(daemon: &Daemon, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.path("r/docker.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    // An archive that cannot be finished ends with its connection.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

#[test]
fn cve_2018_15664_a_container_that_exchanges_names_is_copied_inside_itself() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // Both ways out of a root: the name that the host has for it, and up from wherever it is taken to be.
    let host = daemon.path("secret");
    fs::create_dir(&host).unwrap();
    let mark = "of the host, and longer than what is inside";
    fs::write(host.join("mark"), mark).unwrap();
    exchanging(&daemon, &Path::new("../../../../../../../../..").join(host.strip_prefix("/").unwrap()));

    let mut seen = [0; 2];
    for _ in 0..ROUNDS {
        for path in ["/w/x/mark", "/w/x/.", "/w/x"] {
            let answer = raw(&daemon, "GET", &format!("/containers/evil/archive?path={path}"), b"");
            assert!(!holds(&answer, mark), "{path}: {}", String::from_utf8_lossy(&answer));
            seen[usize::from(holds(&answer, "inside\n"))] += 1;
        }
        let stat = raw(&daemon, "HEAD", "/containers/evil/archive?path=/w/x/mark", b"");
        let stat = String::from_utf8(stat).unwrap();
        assert!(stat.starts_with("HTTP/1.1 200") || stat.starts_with("HTTP/1.1 404"), "{stat}");
        let encoded = stat.lines().find_map(|line| line.strip_prefix("x-docker-container-path-stat: "));
        if let Some(encoded) = encoded {
            let decode = format!("echo {encoded} | base64 -d");
            let decoded = Command::new("/bin/busybox").args(["sh", "-c", &decode]).output().unwrap();
            let decoded: serde_json::Value = serde_json::from_slice(&decoded.stdout).unwrap();
            assert_eq!(decoded["size"], 7, "{decoded}");
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "the race took place: {seen:?}");

    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o4777);
    header.set_uid(4321);
    archive.append_data(&mut header.clone(), "planted", &b"copied"[..]).unwrap();
    archive.append_data(&mut header, "mark", &b"copied"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let (mut seen, mut last) = ([0; 2], Vec::new());
    // Whoever exchanges the names may have to wait for a processor.
    while seen[0] + seen[1] < ROUNDS || seen.contains(&0) && seen[0] + seen[1] < 50 * ROUNDS {
        last = raw(&daemon, "PUT", "/containers/evil/archive?path=/w/x", &archive);
        seen[usize::from(holds(&last, "HTTP/1.1 200"))] += 1;
    }
    let last = String::from_utf8_lossy(&last);
    assert!(
        seen[0] > 0 && seen[1] > 0,
        "the race took place: {seen:?}, {last}, {}",
        daemon.ok(&["ps", "-a"])
    );
    let names: Vec<_> = fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["mark"], "nothing was planted on the host");
    assert_eq!(fs::read_to_string(host.join("mark")).unwrap(), mark);
    assert_eq!(fs::metadata(host.join("mark")).unwrap().uid(), 0);
    daemon.ok(&["rm", "-f", "evil"]);
    daemon.assert_nothing_left();
}

#[test]
fn cve_2019_14271_a_copy_loads_nothing_of_the_container() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // What a program that has taken the container for its root would look for.
    let planted = "mkdir -p /lib/x86_64-linux-gnu /etc /usr/bin; for f in /lib/x86_64-linux-gnu/libnss_files.so.2 \
        /lib/libnss_files.so.2 /etc/nsswitch.conf /etc/ld.so.preload /etc/ld.so.cache /usr/bin/tar /usr/bin/unpigz; do \
        echo evil > $f; chmod 755 $f; done; mkdir /w; echo fine > /w/file; exec sleep 1000";
    daemon.ok(&["run", "-d", "--name", "planted", "box", "sh", "-c", planted]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "planted"]);
    let root = Path::new("/proc").join(pid).join("root");
    eventually("the files to be there", PATIENCE, || fs::metadata(root.join("w/file")).ok());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    for directory in ["lib", "lib/x86_64-linux-gnu", "usr/bin", "bin"] {
        inotify::add_watch(
            &watch,
            root.join(directory),
            inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS,
        )
        .unwrap();
    }
    inotify::add_watch(&watch, root.join("etc"), inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS)
        .unwrap();
    let opened = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = reader.next() {
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        names
    };
    let host = daemon.path("file");
    fs::write(&host, "from outside").unwrap();
    for arguments in [
        ["cp", "planted:/w/file", daemon.path("out").to_str().unwrap()],
        ["cp", host.to_str().unwrap(), "planted:/w/in"],
        ["cp", "planted:/w", daemon.path("whole").to_str().unwrap()],
    ] {
        daemon.ok(&arguments);
    }
    daemon.ok(&["cp", "-a", host.to_str().unwrap(), "planted:/w/kept"]);
    assert_eq!(opened(), Vec::<String>::new(), "nothing but what is copied is opened");
    fs::read(root.join("etc/nsswitch.conf")).unwrap();
    assert!(opened().contains(&"nsswitch.conf".to_owned()), "whoever opens one is seen");
    daemon.ok(&["rm", "-f", "planted"]);
    daemon.assert_nothing_left();
}

/// What a user of the host finds when running a program, without root's groups.
fn as_user(id: u32, arguments: &[&str]) -> Output {
    Command::new("/bin/busybox").args(arguments).uid(id).gid(id).output().unwrap()
}

/// Has a container make a program that gives its owner's rights to whoever runs it, in its layer and in a volume.
fn privileged_program(daemon: &Daemon) {
    let script =
        "cp /bin/busybox /gift; cp /bin/busybox /data/gift; chmod 4755 /gift /data/gift; exec sleep 1000";
    daemon.ok(&["run", "-d", "--name", "giver", "-v", "data:/data", "box", "sh", "-c", script]);
    let volume = daemon.path("d/volumes/data/_data/gift");
    eventually("the program to be there", PATIENCE, || {
        fs::metadata(&volume).is_ok_and(|meta| meta.mode() & 0o4000 != 0).then_some(())
    });
}

/// Everything below a directory of the daemon's that is one of a container's files `name`.
fn find(directory: &Path, name: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), name, found);
        } else if entry.file_name() == name {
            found.push(entry.path().to_str().unwrap().to_owned());
        }
    }
}

fn assert_out_of_reach(daemon: &Daemon, user: u32) {
    // The test's own directory is open, so that what closes the way is the daemon's.
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut programs = Vec::new();
    find(&daemon.path("d"), "gift", &mut programs);
    assert!(programs.len() >= 2, "in the container's layer and in the volume: {programs:?}");
    for program in &programs {
        let run = Command::new(program).arg("id").uid(user).gid(user).output();
        assert_eq!(run.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{program}");
        let read = as_user(user, &["cat", program]);
        assert!(!read.status.success() && read.stdout.is_empty(), "{program}");
    }
    for place in ["d", "r", "d/image", "d/containers", "d/volumes", "d/kubeconfig", "d/lock", "r/c"] {
        let path = daemon.path(place);
        assert!(path.exists(), "{place}");
        let path = path.to_str().unwrap();
        let listed = as_user(user, &["ls", path]);
        assert!(place == "d/lock" || place == "d/kubeconfig" || !listed.status.success(), "{place}");
        for attempt in [vec!["touch", path], vec!["cat", path], vec!["chmod", "777", path]] {
            assert!(!as_user(user, &attempt).status.success(), "{attempt:?}");
        }
        let into = format!("{path}/planted");
        assert!(!as_user(user, &["touch", &into]).status.success(), "{place}");
    }
}

#[test]
fn cve_2021_41091_users_of_the_host_reach_nothing_of_the_data_directory() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    privileged_program(&daemon);
    // Where the way is open such a gift works: the check means something.
    let open = daemon.path("id");
    fs::copy("/usr/bin/id", &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_out_of_reach(&daemon, 1234);
    let gift = Command::new(&open).uid(1234).gid(1234).output().unwrap();
    assert!(String::from_utf8_lossy(&gift.stdout).contains("euid=0"), "{gift:?}");
    // A mode that somebody loosened is mended by the next start.
    for place in ["d", "r"] {
        fs::set_permissions(daemon.path(place), fs::Permissions::from_mode(0o755)).unwrap();
    }
    daemon.kill();
    daemon.up();
    assert_out_of_reach(&daemon, 1234);
    daemon.ok(&["rm", "-f", "giver"]);
}

#[test]
fn cve_2021_21284_a_remapped_root_reaches_nothing_of_the_data_directory() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.kill();
    daemon.up_with(&[], &["--userns-remap", "100000-165535"]);
    privileged_program(&daemon);
    // Root of the containers, as a user of the host with a shell there; and as a container to which the host is given.
    assert_out_of_reach(&daemon, 100_000);
    let data = daemon.path("d");
    let mount = format!("{}:/host", data.display());
    for attempt in [
        "ls /host/containers",
        "touch /host/planted",
        "chmod 777 /host",
        "cat /host/lock",
        "rm -rf /host/image",
    ] {
        let said = daemon.refused(&["run", "--rm", "-v", &mount, "box", "sh", "-c", attempt], "");
        assert!(said.contains("ermission denied") || said.contains("not permitted"), "{attempt}: {said}");
    }
    assert_eq!(daemon.ok(&["run", "--rm", "box", "echo", "whole"]), "whole");
    for entry in fs::read_dir(&data).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().uid(), 0, "nothing is given away");
    }
    daemon.ok(&["rm", "-f", "giver"]);
}
