//! The embedded store when the system fails it: at every call that changes the disk, by death, and for want of room.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{draft, key, scratch, text};
use dray_store::{Entry, Error, Limits, Store};

const DIRECTORY: &str = "DRAY_STORE_TEST_DIRECTORY";
const SOCKET: &str = "DRAY_STORE_TEST_SOCKET";

fn limits() -> Limits {
    Limits { log_bytes: 200_000, ..Limits::default() }
}

/// What the child does, in order: the value's length in bytes, or none for a delete.
fn script() -> Vec<(String, Option<usize>)> {
    // Large values come first, so that a picture is written beside the later writes.
    let large = (0..11).map(|number| (format!("a/{number}"), Some(40_000)));
    let small = (0..6).map(|number| (format!("a/{number}"), Some(10 + number)));
    let deletes = (6..9).map(|number| (format!("a/{number}"), None));
    let again = (7..9).map(|number| (format!("a/{number}"), Some(5000)));
    large.chain(small).chain(deletes).chain(again).collect()
}

async fn write(store: &Store, name: &str, length: Option<usize>) -> Result<Entry, Error> {
    let current = store.get(&key(name));
    match (length, current) {
        (None, _) => store.delete(key(name), None, None).await,
        (Some(length), None) => store.create(key(name), draft(&"v".repeat(length))).await,
        (Some(length), Some(current)) => {
            store.update(key(name), draft(&"v".repeat(length)), current.revision()).await
        }
    }
}

/// Run as a child by the tests below, under a tracer that makes its calls fail or kills it. It tells what it was answered
/// over a socket, because it must not fail at that.
#[test]
fn child_does_the_script() {
    let (Some(directory), Some(socket)) = (std::env::var_os(DIRECTORY), std::env::var_os(SOCKET)) else {
        return;
    };
    let parent = UnixDatagram::unbound().unwrap();
    parent.connect(socket).unwrap();
    let tell = |line: &str| assert_eq!(parent.send(line.as_bytes()).unwrap(), line.len());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let Ok(store) = Store::open(directory.as_ref(), limits()) else { return tell("CLOSED") };
    for (number, (name, length)) in script().into_iter().enumerate() {
        tell(&format!("TRY {number}"));
        match runtime.block_on(write(&store, &name, length)) {
            Ok(entry) => tell(&format!("ACK {number} {}", entry.revision())),
            Err(Error::NotFound { .. } | Error::Exists { .. } | Error::Conflict { .. }) => {
                tell(&format!("NO {number}"));
            }
            Err(_) => tell(&format!("FAILED {number}")),
        }
    }
    store.close();
    tell("DONE");
}

/// What the parent knows of one key.
#[derive(Debug, Default)]
struct Known {
    /// The length and the revision that were acknowledged last; none of a key that is not there.
    acknowledged: Option<(usize, u64)>,
    /// Lengths that may have been written since, without an answer.
    possible: Vec<Option<usize>>,
}

/// Runs the child under an injection and checks what it leaves. Returns what it told last, and none when the injection
/// came too late to meet anything.
fn run(injections: &[&str]) -> Option<(Vec<String>, Result<(), Error>)> {
    let place = scratch();
    let directory = place.path().join("store");
    let socket = place.path().join("socket");
    let log = place.path().join("trace");
    let listener = UnixDatagram::bind(&socket).unwrap();
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none"])
        .arg("-o")
        .arg(&log)
        .args(injections.iter().flat_map(|injection| ["-e".to_owned(), format!("inject={injection}")]))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_does_the_script", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, &directory)
        .env(SOCKET, &socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need strace");
    let (told, killed) = {
        let ended = std::thread::spawn(move || child.wait().unwrap().signal() == Some(9));
        listener.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut told = Vec::new();
        let mut buffer = [0; 256];
        loop {
            // Asked before the socket, so that nothing comes after both.
            let over = ended.is_finished();
            match listener.recv(&mut buffer) {
                Ok(length) => told.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(_) if over => break,
                Err(_) => {}
            }
        }
        (told, ended.join().unwrap())
    };
    let met = fs::read_to_string(&log).unwrap();
    if !met.contains("INJECTED") && !killed {
        return None;
    }
    Some((told.clone(), check(&directory, &told, &injections.join(" "))))
}

fn check(directory: &Path, told: &[String], what: &str) -> Result<(), Error> {
    let script = script();
    let mut keys = BTreeMap::<&str, Known>::new();
    for line in told {
        let words: Vec<_> = line.split(' ').collect();
        let [verb, number, rest @ ..] = &words[..] else { continue };
        let (name, length) = &script[number.parse::<usize>().unwrap()];
        let known = keys.entry(name).or_default();
        match *verb {
            "TRY" => known.possible.push(*length),
            "ACK" => {
                let revision = rest[0].parse().unwrap();
                *known =
                    Known { acknowledged: length.map(|length| (length, revision)), possible: Vec::new() };
            }
            "NO" => {
                known.possible.pop();
            }
            _ => {}
        }
    }
    let store = Store::open(directory, limits())?;
    for (name, known) in &keys {
        let entry = store.get(&key(name));
        let stored = entry.as_ref().map(|entry| text(entry).len());
        let as_acknowledged = stored == known.acknowledged.map(|(length, _)| length)
            && entry.as_ref().map(Entry::revision) == known.acknowledged.map(|(_, revision)| revision);
        assert!(
            as_acknowledged || known.possible.contains(&stored),
            "{what}: {name} has {stored:?} bytes, and {known:?}"
        );
    }
    let count = store.snapshot().count(common::PODS);
    assert!(count <= keys.len(), "{what}: {count} values are there");
    store.close();
    Ok(())
}

/// Lets the n-th call of each kind fail, for all n.
fn nth_call_fails(calls: &[&str], error: &str) {
    let mut met = 0;
    for call in calls {
        for n in 1.. {
            let Some((told, opened)) = run(&[&format!("{call}:error={error}:when={n}")]) else { break };
            met += 1;
            if let Err(error) = opened {
                panic!("{call} {n}: {error}");
            }
            // A single failure is got over: the next write is taken.
            let answers = told.iter().filter(|line| !line.starts_with("TRY"));
            let answers: Vec<_> = answers.map(|line| line.split(' ').next().unwrap()).collect();
            let stuck = answers.windows(2).any(|pair| pair == ["FAILED", "FAILED"]);
            assert!(!stuck, "{call} {n}: {told:?}");
        }
    }
    assert!(met >= calls.len(), "only {met} calls failed");
}

#[test]
fn every_failed_write_is_got_over() {
    nth_call_fails(&["write", "pwrite64"], "ENOSPC");
}

#[test]
fn every_failed_sync_is_got_over() {
    nth_call_fails(&["fdatasync", "fsync"], "EIO");
}

#[test]
fn every_failed_change_of_a_directory_is_got_over() {
    nth_call_fails(&["rename", "mkdir", "unlink", "openat"], "ENOSPC");
}

/// Kills the child at the n-th call of each kind, for all n.
#[test]
fn death_at_any_call_loses_nothing() {
    let mut met = 0;
    for call in ["write", "pwrite64", "fdatasync", "fsync", "rename", "unlink"] {
        for n in 1.. {
            let Some((told, opened)) = run(&[&format!("{call}:signal=KILL:when={n}")]) else { break };
            met += 1;
            if let Err(error) = opened {
                panic!("{call} {n}: {error}, after {:?}", told.last());
            }
        }
    }
    assert!(met > 40, "the child died only {met} times");
}

/// Everything fails from some moment on, and the disk works again at the next start.
#[test]
fn a_disk_that_fails_for_good_loses_nothing() {
    for call in ["pwrite64", "fdatasync"] {
        for n in (1..40).step_by(5) {
            let Some((_, opened)) = run(&[&format!("{call}:error=EIO:when={n}+")]) else { continue };
            if let Err(error) = opened {
                panic!("{call} {n}: {error}");
            }
        }
    }
}

/// What a failed commit left cannot be taken back either.
#[test]
fn a_failed_recovery_loses_nothing() {
    for n in [1, 7, 14, 21] {
        let sync = format!("fdatasync:error=EIO:when={n}");
        for call in ["ftruncate", "fsync"] {
            let (told, opened) = run(&[&sync, &format!("{call}:error=EIO:when=1+")]).unwrap();
            if let Err(error) = opened {
                panic!("{call} {n}: {error}, after {told:?}");
            }
        }
    }
}

#[test]
fn a_full_disk_is_told_and_got_over() {
    dray_testkit::isolate();
    let place = tempfile::tempdir().unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), place.path(), Some("tmpfs"), flags, Some("size=8m")).unwrap();
    let directory = place.path().join("store");
    let ballast = place.path().join("ballast");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(&directory, Limits::default()).unwrap();
    let mut acknowledged = Vec::new();
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let full = runtime.block_on(async {
        for number in 0..1000 {
            let name = format!("a/{number}");
            match store.create(key(&name), draft(&"v".repeat(2000))).await {
                Ok(entry) => acknowledged.push((name, entry.revision())),
                Err(error) => return Some(error),
            }
        }
        None
    });
    assert!(matches!(full, Some(Error::Full { .. })), "{full:?}");
    // As long as it lasts, every write is told, and what is there is read.
    let again = runtime.block_on(store.create(key("b/1"), draft(&"v".repeat(100_000))));
    assert!(matches!(again, Err(Error::Full { .. })), "{again:?}");
    for (name, revision) in &acknowledged {
        assert_eq!(store.get(&key(name)).unwrap().revision(), *revision);
    }
    fs::remove_file(&ballast).unwrap();
    let written = dray_testkit::eventually("the store to take writes again", Duration::from_secs(20), || {
        runtime.block_on(store.create(key("b/2"), draft("x"))).ok()
    });
    acknowledged.push(("b/2".to_owned(), written.revision()));
    store.close();
    let store = Store::open(&directory, Limits::default()).unwrap();
    for (name, revision) in &acknowledged {
        assert_eq!(store.get(&key(name)).unwrap().revision(), *revision);
    }
    store.close();
}

#[tokio::test]
async fn a_store_that_is_too_large_takes_what_makes_it_smaller() {
    let directory = scratch();
    let store = Store::open(directory.path(), Limits { bytes: 10_000, ..Limits::default() }).unwrap();
    let mut names = Vec::new();
    let refused = loop {
        let name = format!("a/{}", names.len());
        match store.create(key(&name), draft(&"v".repeat(900))).await {
            Ok(_) => names.push(name),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::SpaceExceeded { limit: 10_000 }));
    assert_eq!(refused.to_string(), "etcdserver: mvcc: database space exceeded");
    assert!((9..=10).contains(&names.len()));
    let revision = |name: &str| store.get(&key(name)).unwrap().revision();
    let larger = store.update(key("a/0"), draft(&"v".repeat(2000)), revision("a/0")).await;
    assert!(matches!(larger, Err(Error::SpaceExceeded { .. })));
    store.update(key("a/0"), draft("small"), revision("a/0")).await.unwrap();
    store.delete(key("a/1"), None, None).await.unwrap();
    store.create(key("a/1"), draft(&"v".repeat(900))).await.unwrap();
    assert!(store.snapshot().bytes() <= 10_000);
}
