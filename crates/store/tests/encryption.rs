//! Encryption at rest: what lies on the disk, and how keys are exchanged.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{draft, scratch, text};
use dray_store::{Encryption, Error, Key, Limits, Store};

const SECRET: &str = "what-nobody-may-read";

fn config(directory: &Path, providers: &str) -> Encryption {
    let path = directory.join("encryption.yaml");
    write_config(&path, providers);
    Encryption::read(&path).unwrap()
}

fn write_config(path: &Path, providers: &str) {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [secrets], providers: [{providers}]}}]\n"
    );
    fs::write(path, text).unwrap();
}

fn keys(provider: &str, name: &str) -> String {
    let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    format!("{{{provider}: {{keys: [{{name: {name}, secret: {secret}}}]}}}}")
}

/// How many files of a store have a text in them.
fn found(store: &Path, text: &str) -> usize {
    let files = fs::read_dir(store).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
    files.filter(|content| content.windows(text.len()).any(|window| window == text.as_bytes())).count()
}

fn secret(name: &str) -> Key {
    Key::new("core/secrets", name)
}

async fn fill(store: &Store) {
    // So many that pictures are written on the way.
    for number in 0..40 {
        let name = format!("a/{number}");
        let entry = store.create(secret(&name), draft(SECRET)).await.unwrap();
        store.update(secret(&name), draft(&format!("{SECRET}-{number}")), entry.revision()).await.unwrap();
    }
    store.create(Key::new("core/pods", "a/1"), draft("for everybody")).await.unwrap();
}

fn check(store: &Store) {
    for number in 0..40 {
        let entry = store.get(&secret(&format!("a/{number}"))).unwrap();
        assert_eq!(text(&entry), format!("{SECRET}-{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_found_in_the_files() {
    for provider in ["aesgcm", "aescbc", "secretbox"] {
        let place = scratch();
        let path = place.path().join("store");
        let limits = Limits { log_bytes: 4000, ..Limits::default() };
        let open = || Store::open_sealed(&path, limits, config(place.path(), &keys(provider, "first")));
        let store = open().unwrap();
        fill(&store).await;
        assert!(found(&path, "for everybody") > 0);
        assert_eq!(found(&path, SECRET), 0, "{provider}");
        store.close();
        assert_eq!(found(&path, SECRET), 0, "{provider}");
        let store = open().unwrap();
        check(&store);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_one_after_the_other() {
    let place = scratch();
    let path = place.path().join("store");
    let open = |providers: &[String]| {
        Store::open_sealed(&path, Limits::default(), config(place.path(), &providers.join(", ")))
    };
    let (plain, old, new) = ("{identity: {}}".to_owned(), keys("aescbc", "old"), keys("aesgcm", "new"));
    let store = Store::open(&path, Limits::default()).unwrap();
    fill(&store).await;
    store.close();
    assert!(found(&path, SECRET) > 0);
    // Who forgets that there are values without encryption is told.
    let refused = open(std::slice::from_ref(&old)).err().unwrap();
    assert!(matches!(refused, Error::Sealed { .. }), "{refused}");
    // A start writes everything anew when it finds what is written in another way.
    for (providers, gone, there) in [
        (vec![old.clone(), plain.clone()], SECRET, "k8s:enc:aescbc:v1:old:"),
        (vec![new.clone(), old.clone()], "k8s:enc:aescbc:v1:old:", "k8s:enc:aesgcm:v1:new:"),
        (vec![plain.clone(), new.clone()], "k8s:enc:", SECRET),
        (vec![new.clone(), plain], SECRET, "k8s:enc:aesgcm:v1:new:"),
    ] {
        let store = open(&providers).unwrap();
        check(&store);
        dray_testkit::eventually("everything to be written anew", Duration::from_secs(20), || {
            (found(&path, gone) == 0).then_some(())
        });
        assert!(found(&path, there) > 0);
        store.close();
    }
    let store = open(&[new]).unwrap();
    check(&store);
    store.close();
    let refused = open(&[old]).err().unwrap().to_string();
    assert!(refused.contains("no provider has the key k8s:enc:aesgcm:v1:new"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_read_again_counts_from_then_on() {
    let place = scratch();
    let path = place.path().join("store");
    let file = place.path().join("encryption.yaml");
    let encryption = config(place.path(), "{identity: {}}");
    let store = Store::open_sealed(&path, Limits::default(), encryption.clone()).unwrap();
    fill(&store).await;
    fs::write(&file, "kind: Nonsense").unwrap();
    assert!(matches!(encryption.reload(&file), Err(Error::Encryption { .. })));
    store.create(secret("b/1"), draft("still plain")).await.unwrap();
    assert_eq!(found(&path, "still plain"), 1);
    write_config(&file, &format!("{}, {{identity: {{}}}}", keys("secretbox", "k")));
    encryption.reload(&file).unwrap();
    store.rewrite().await.unwrap();
    for text in [SECRET, "still plain"] {
        assert_eq!(found(&path, text), 0);
    }
    store.create(secret("b/2"), draft("never plain")).await.unwrap();
    assert_eq!(found(&path, "never plain"), 0);
    check(&store);
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_was_taken_comes_back() {
    let place = scratch();
    let path = place.path().join("store");
    let store = Store::open(&path, Limits::default()).unwrap();
    for number in 0..50 {
        let name = format!("a/{number}");
        store.create(secret(&name), draft(&"x".repeat(10_000))).await.unwrap();
        store.delete(secret(&name), None, None).await.unwrap();
    }
    let size =
        || fs::read_dir(&path).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    assert!(size() > 500_000);
    let revision = store.snapshot().revision();
    store.rewrite().await.unwrap();
    assert!(size() < 1000, "{} bytes are left", size());
    store.close();
    let store = Store::open(&path, Limits::default()).unwrap();
    assert_eq!(store.snapshot().revision(), revision);
    store.close();
}
