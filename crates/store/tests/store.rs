//! The store's public face: conditions, watches, and what survives.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use common::{draft, key};
use dray_store::{Error, EventKind, Limits, Memory, Store};

fn memory(limits: Limits) -> Store {
    Store::with_backend(Box::new(Memory), limits).unwrap()
}

#[tokio::test]
async fn writes_are_conditional() {
    let store = memory(Limits::default());
    let first = store.create(key("a/b"), draft("1")).await.unwrap();
    assert!(matches!(store.create(key("a/b"), draft("1")).await, Err(Error::Exists { .. })));
    let second = store.update(key("a/b"), draft("2"), first.revision()).await.unwrap();
    assert!(second.revision() > first.revision());
    let stale = store.update(key("a/b"), draft("3"), first.revision()).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })));
    assert!(matches!(
        store.delete(key("a/b"), Some(first.revision()), None).await,
        Err(Error::Conflict { .. })
    ));
    let gone = store.delete(key("a/b"), None, None).await.unwrap();
    assert_eq!(
        std::str::from_utf8(gone.json()).unwrap(),
        format!("{{\"metadata\":{{\"resourceVersion\":\"{}\"}},\"x\":\"2\"}}", gone.revision())
    );
    assert!(matches!(store.delete(key("a/b"), None, None).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn watchers_see_every_change_of_their_prefix_in_order() {
    let store = memory(Limits::default());
    store.create(key("a/1"), draft("old")).await.unwrap();
    let (snapshot, mut watcher) = store.snapshot_and_watch("core/pods", "a/").unwrap();
    assert_eq!(snapshot.range("core/pods", "a/", None).count(), 1);
    let made = store.create(key("a/2"), draft("new")).await.unwrap();
    store.create(key("b/1"), draft("other")).await.unwrap();
    store.update(key("a/2"), draft("newer"), made.revision()).await.unwrap();
    store.delete(key("a/1"), None, None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watcher.next().await.unwrap() {
            seen.push((event.kind, event.name.to_string()));
        }
    }
    assert_eq!(
        seen,
        [
            (EventKind::Added, "a/2".to_owned()),
            (EventKind::Modified, "a/2".to_owned()),
            (EventKind::Deleted, "a/1".to_owned())
        ]
    );
    assert!(!watcher.has_pending());
}

#[tokio::test]
async fn who_falls_behind_is_told_to_list_again() {
    let store = memory(Limits { history_events: 4, ..Limits::default() });
    let (_, mut watcher) = store.snapshot_and_watch("core/pods", "").unwrap();
    for number in 0..10 {
        store.create(key(&format!("a/{number}")), draft("x")).await.unwrap();
    }
    assert!(matches!(watcher.next().await, Err(Error::Expired { .. })));
    assert!(matches!(store.watch("core/pods", "", 1), Err(Error::Expired { .. })));
    let mut late = store.watch("core/pods", "", 8).unwrap();
    assert_eq!(late.next().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_store_that_is_opened_again_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    store.create(key("a/1"), draft("kept")).await.unwrap();
    store.create(key("a/2"), draft("gone")).await.unwrap();
    let last = store.delete(key("a/2"), None, None).await.unwrap();
    store.close();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    // The revision of a delete counts, although nothing stored bears it.
    assert_eq!(store.snapshot().revision(), last.revision());
    assert!(store.get(&key("a/1")).is_some() && store.get(&key("a/2")).is_none());
    assert!(matches!(store.watch("core/pods", "", last.revision() - 1), Err(Error::Expired { .. })));
}

const CHILD: &str = "DRAY_STORE_TEST_CHILD";

/// Run as a child by the test below: writes until it is killed, and says what was acknowledged.
#[test]
#[allow(clippy::print_stdout)]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(path.as_ref(), Limits::default()).unwrap();
        let writers = (0..8).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let name = format!("a/{writer}-{number}");
                    let entry = store.create(key(&name), draft(&"v".repeat(500))).await.unwrap();
                    println!("ACK {name} {}", entry.revision());
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some((_, rest)) = line.split_once("ACK ") {
            let (name, revision) = rest.split_once(' ').unwrap();
            acknowledged.push((name.to_owned(), revision.parse::<u64>().unwrap()));
        }
        if acknowledged.len() == 300 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 300);
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    for (name, revision) in acknowledged {
        let entry = store.get(&key(&name)).unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        assert_eq!(entry.revision(), revision);
        assert!(store.snapshot().revision() >= revision);
    }
}
