//! Backups: of a store that is open and of one that is closed, whole or refused, and what is made of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{PODS, draft, key, scratch, text};
use dray_store::{Encryption, Error, EventKind, Limits, Store, backup};

/// So small that pictures are written all the time.
fn limits() -> Limits {
    Limits { log_bytes: 3000, ..Limits::default() }
}

fn take(store: &Path, to: &Path) -> u64 {
    let mut file = fs::File::create(to).unwrap();
    backup::take(store, &[("pki/ca.crt".to_owned(), b"the authority".to_vec())], &mut file, to).unwrap()
}

fn values(store: &Store) -> BTreeMap<String, (u64, String)> {
    let snapshot = store.snapshot();
    let values = snapshot.range(PODS, "", None);
    values.map(|(name, entry)| (name.to_string(), (entry.revision(), text(entry)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_writers_is_one_moment_of_the_history() {
    let place = scratch();
    let path = place.path().join("store");
    let store = Store::open(&path, limits()).unwrap();
    let mut watcher = store.watch(PODS, "", 0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let name = format!("{writer}/{}", number % 7);
                match store.get(&key(&name)) {
                    None => drop(store.create(key(&name), draft(&number.to_string())).await.unwrap()),
                    Some(_) if number % 5 == 0 => drop(store.delete(key(&name), None, None).await.unwrap()),
                    Some(entry) => {
                        let new = draft(&format!("{number}-{}", "x".repeat(200)));
                        store.update(key(&name), new, entry.revision()).await.unwrap();
                    }
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut backups = Vec::new();
    for number in 0..15 {
        let to = place.path().join(format!("backup-{number}"));
        let (from, file) = (path.clone(), to.clone());
        let before = store.snapshot().revision();
        let revision = tokio::task::spawn_blocking(move || take(&from, &file)).await.unwrap();
        assert!(revision >= before, "what was acknowledged is missing: {revision} is before {before}");
        backups.push((revision, to));
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let mut moments = BTreeMap::new();
    let mut state = BTreeMap::new();
    loop {
        let events = watcher.pending().unwrap();
        if events.is_empty() {
            break;
        }
        for event in events {
            match event.kind {
                EventKind::Deleted => state.remove(&event.name.to_string()),
                _ => state.insert(event.name.to_string(), (event.entry.revision(), text(&event.entry))),
            };
            moments.insert(event.entry.revision(), state.clone());
        }
    }
    store.close();
    for (number, (revision, file)) in backups.iter().enumerate() {
        let directory = place.path().join(format!("restored-{number}"));
        let restored = backup::restore(file, &directory, &mut |_, _| Ok(())).unwrap();
        assert_eq!(restored, revision + backup::REVISIONS_AHEAD);
        let store = Store::open(&directory, limits()).unwrap();
        let expected = moments.range(..=revision).next_back().map(|(_, state)| state.clone());
        assert_eq!(values(&store), expected.unwrap_or_default(), "at revision {revision}");
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_saw_what_came_after_the_backup_is_told_to_list_again() {
    let place = scratch();
    let (path, file) = (place.path().join("store"), place.path().join("backup"));
    let store = Store::open(&path, Limits::default()).unwrap();
    let first = store.create(key("a/1"), draft("first")).await.unwrap();
    let taken = take(&path, &file);
    assert_eq!(taken, first.revision());
    let later = store.create(key("a/2"), draft("later")).await.unwrap();
    store.close();
    // The directory is not empty, and nothing in it is touched.
    let refused = backup::restore(&file, &path, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(refused, Error::NotEmpty { .. }), "{refused}");
    let directory = place.path().join("restored");
    let mut files = Vec::new();
    backup::restore(&file, &directory, &mut |name, content| {
        files.push((name.to_owned(), content.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(files, [("pki/ca.crt".to_owned(), b"the authority".to_vec())]);
    let store = Store::open(&directory, Limits::default()).unwrap();
    assert_eq!(values(&store).len(), 1);
    for seen in [first.revision(), later.revision()] {
        assert!(matches!(store.watch(PODS, "", seen), Err(Error::Expired { .. })));
    }
    let next = store.create(key("a/2"), draft("again")).await.unwrap();
    assert!(next.revision() > taken + backup::REVISIONS_AHEAD);
    store.update(key("a/1"), draft("goes on"), first.revision()).await.unwrap();
    store.close();
    // The backup of a closed store, and of one that was restored.
    assert_eq!(take(&directory, &file), next.revision() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_values_stay_sealed() {
    let place = scratch();
    let (path, file) = (place.path().join("store"), place.path().join("backup"));
    let config = place.path().join("encryption.yaml");
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
                resources: [{resources: [pods], providers: [{aescbc: {keys: \
                [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}]}]\n";
    fs::write(&config, text).unwrap();
    let encryption = || Encryption::read(&config).unwrap();
    let store = Store::open_sealed(&path, limits(), encryption()).unwrap();
    for number in 0..50 {
        store.create(key(&format!("a/{number}")), draft("nobody reads this")).await.unwrap();
    }
    take(&path, &file);
    let content = fs::read(&file).unwrap();
    assert!(!content.windows(17).any(|window| window == b"nobody reads this"));
    let expected = values(&store);
    store.close();
    let directory = place.path().join("restored");
    backup::restore(&file, &directory, &mut |_, _| Ok(())).unwrap();
    assert!(matches!(Store::open(&directory, limits()).err().unwrap(), Error::Sealed { .. }));
    let store = Store::open_sealed(&directory, limits(), encryption()).unwrap();
    assert_eq!(values(&store), expected);
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_whole() {
    let place = scratch();
    let (path, file) = (place.path().join("store"), place.path().join("backup"));
    let store = Store::open(&path, limits()).unwrap();
    for number in 0..3 {
        store.create(key(&format!("a/{number}")), draft("x")).await.unwrap();
    }
    store.close();
    take(&path, &file);
    let content = fs::read(&file).unwrap();
    let damaged = place.path().join("damaged");
    let directory = place.path().join("restored");
    let refuse = |content: &[u8], what: &str| {
        fs::write(&damaged, content).unwrap();
        let error = backup::restore(&damaged, &directory, &mut |_, _| panic!("a file is made: {what}"));
        assert!(matches!(error, Err(Error::Damaged { .. })), "{what}: {error:?}");
        assert!(!directory.exists());
    };
    for bit in 0..content.len() * 8 {
        let mut flipped = content.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refuse(&flipped, &format!("bit {bit}"));
    }
    for length in 0..content.len() {
        refuse(&content[..length], &format!("{length} bytes"));
    }
    refuse(&[&content[..], b"x"].concat(), "something behind it");
}

/// The file that the search for mistakes in the reader begins with (`fuzz`). Versions to come must read it as well.
#[test]
fn a_backup_of_the_first_format_is_read() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/backup/small");
    assert_eq!(backup::check(&file).unwrap(), 4);
    let place = scratch();
    let directory = place.path().join("store");
    let mut files = Vec::new();
    backup::restore(&file, &directory, &mut |name, _| {
        files.push(name.to_owned());
        Ok(())
    })
    .unwrap();
    assert_eq!(files, ["pki/ca.crt"]);
    let store = Store::open(&directory, Limits::default()).unwrap();
    let expected = [("a/1", 3, "second"), ("a/2", 2, "other"), ("a/3", 4, "third")];
    let expected = expected.map(|(name, revision, text)| (name.to_owned(), (revision, text.to_owned())));
    assert_eq!(values(&store), BTreeMap::from(expected));
    store.close();
}
