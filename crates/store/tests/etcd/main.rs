//! The store in an etcd: the same model and the same histories as the embedded one's, several servers, and members that die.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(unreachable_pub, reason = "each test is a crate of its own")]

#[path = "../common/mod.rs"]
mod common;
mod members;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    PODS, draft,
    history::{Recorder, live},
    key,
    model::{self, Opener},
    text,
};
use dray_store::{Encryption, Error, Event, Limits, Store, Watcher};
use dray_testkit::eventually;
use members::{Members, Tls};
use proptest::{prelude::*, test_runner::TestRunner};

const PATIENCE: Duration = Duration::from_secs(40);

struct InEtcd<'a> {
    members: &'a Members,
    prefix: String,
}

impl Opener for InEtcd<'_> {
    fn open(&self) -> Store {
        self.members.open_with(&self.prefix, model::limits(), Encryption::default()).unwrap()
    }

    fn shows_last(&self) -> bool {
        false
    }
}

#[test]
fn the_store_does_what_the_model_does() {
    let members = Members::start(1, None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let number = AtomicU64::new(0);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let run = |steps: Vec<model::Step>| {
        // Each case has keys of its own.
        let prefix = format!("/case-{}", number.fetch_add(1, Ordering::SeqCst));
        runtime.block_on(model::check(&InEtcd { members: &members, prefix }, &steps));
        Ok(())
    };
    TestRunner::new(config).run(&model::steps(), run).unwrap();
}

fn drain(watcher: &mut Watcher, events: &mut Vec<Event>) {
    loop {
        let batch = watcher.pending().unwrap();
        if batch.is_empty() {
            return;
        }
        events.extend(batch.iter().map(|event| (**event).clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_two_servers_see_one_history() {
    let members = Members::start(1, None);
    let servers = [members.open("/dray").unwrap(), members.open("/dray").unwrap()];
    let recorder = Arc::new(Recorder::default());
    let begun = servers[0].snapshot().revision();
    let mut watchers: Vec<_> = servers.iter().map(|server| server.watch(PODS, "", begun).unwrap()).collect();
    let clients = (0..8).map(|client| {
        let (store, recorder) = (servers[client % 2].clone(), recorder.clone());
        tokio::spawn(async move { live(&store, &recorder, client as u64, 120).await })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let newest = servers.iter().map(|server| server.snapshot().revision()).max().unwrap();
    eventually("both servers to have seen everything", PATIENCE, || {
        servers.iter().all(|server| server.snapshot().revision() >= newest).then_some(())
    });
    let mut seen = [Vec::new(), Vec::new()];
    for (watcher, seen) in watchers.iter_mut().zip(&mut seen) {
        drain(watcher, seen);
        assert!(seen.len() > 150, "only {} writes succeeded", seen.len());
        // A server may be behind the other, and never behind what itself has answered.
        recorder.check(seen, false);
    }
    let names = |events: &[Event]| {
        let events = events.iter().map(|event| (event.name.clone(), event.kind, event.entry.clone()));
        events.collect::<Vec<_>>()
    };
    assert_eq!(names(&seen[0]), names(&seen[1]));
    for server in servers {
        tokio::task::block_in_place(|| server.close());
    }
}

/// Writes until it is told to stop; what is answered is noted.
fn writers(
    store: &Store,
    recorder: &Arc<Recorder>,
    stop: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let writer = |client: u64| {
        let (store, recorder, stop) = (store.clone(), recorder.clone(), stop.clone());
        tokio::spawn(async move {
            let mut round = client;
            while !stop.load(Ordering::SeqCst) {
                live(&store, &recorder, round, 5).await;
                round += 16;
            }
        })
    };
    (0..6).map(writer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_death_of_a_member_loses_nothing() {
    let mut members = Members::start(3, None);
    members.leader();
    let store = members.open("/dray").unwrap();
    let recorder = Arc::new(Recorder::default());
    let limits = Limits { history_events: 1_000_000, history_bytes: 1 << 30, ..Limits::default() };
    // Another server, that sees all of it.
    let observer = members.open_with("/dray", limits, Encryption::default()).unwrap();
    let mut watcher = observer.watch(PODS, "", observer.snapshot().revision()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&store, &recorder, &stop);
    for leads in [true, false, true] {
        let before = store.snapshot().revision();
        eventually("writes to go on", PATIENCE, || (store.snapshot().revision() > before + 40).then_some(()));
        let leader = members.leader();
        let victim = if leads { leader } else { (leader + 1) % 3 };
        members.kill(victim);
        let before = store.snapshot().revision();
        eventually("writes to go on by themselves", PATIENCE, || {
            (store.snapshot().revision() > before + 40).then_some(())
        });
        members.revive(victim);
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let newest = store.snapshot().revision();
    eventually("the other server to see it", PATIENCE, || {
        (observer.snapshot().revision() >= newest).then_some(())
    });
    let mut events = Vec::new();
    drain(&mut watcher, &mut events);
    assert!(events.len() > 200);
    recorder.check(&events, false);
    for server in [store, observer] {
        tokio::task::block_in_place(|| server.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_reads_go_on_and_writes_say_so() {
    let mut members = Members::start(1, None);
    let store = members.open("/dray").unwrap();
    let (_, mut watcher) = store.snapshot_and_watch(PODS, "").unwrap();
    let made = store.create(key("a/1"), draft("before")).await.unwrap();
    members.kill(0);
    assert_eq!(text(&store.get(&key("a/1")).unwrap()), "before");
    let refused = store.update(key("a/1"), draft("lost"), made.revision()).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().starts_with("etcd is not available: http://127.0.0.1:"), "{refused}");
    members.revive(0);
    let deadline = std::time::Instant::now() + PATIENCE;
    let written = loop {
        match store.update(key("a/1"), draft("after"), made.revision()).await {
            Ok(entry) => break entry,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    };
    let mut seen = Vec::new();
    while seen.last() != Some(&written.revision()) {
        seen.extend(watcher.next().await.unwrap().iter().map(|event| event.entry.revision()));
    }
    // The way over the loss has no gap.
    assert_eq!(seen, [made.revision(), written.revision()]);
    tokio::task::block_in_place(|| store.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_missed_what_etcd_gave_up_reads_anew() {
    let mut members = Members::start(3, None);
    members.leader();
    let store = members.open("/dray").unwrap();
    let made = store.create(key("a/1"), draft("1")).await.unwrap();
    let mut watcher = store.watch(PODS, "", made.revision()).unwrap();
    // Away from the other members, this one's server is cut off from what happens.
    let mut config = members.config("/dray");
    config.endpoints.truncate(1);
    let apart = std::thread::spawn(move || Store::in_etcd(&config, Limits::default(), Encryption::default()));
    let apart = apart.join().unwrap().unwrap();
    let mut behind = apart.watch(PODS, "", made.revision()).unwrap();
    members.kill(0);
    let mut last = made.revision();
    let deadline = std::time::Instant::now() + PATIENCE;
    for number in 0..20 {
        loop {
            match store.update(key("a/1"), draft(&number.to_string()), last).await {
                Ok(entry) => break last = entry.revision(),
                // One that was under way may have been written.
                Err(Error::Conflict { current, .. }) => break last = current.revision(),
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        }
    }
    members.compact(last);
    members.revive(0);
    eventually("the server to read anew", PATIENCE, || (apart.snapshot().revision() >= last).then_some(()));
    assert_eq!(apart.get(&key("a/1")).unwrap().revision(), last);
    assert!(matches!(behind.next().await, Err(Error::Expired { .. })));
    assert!(watcher.next().await.is_ok());
    for server in [store, apart] {
        tokio::task::block_in_place(|| server.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_servers_know_each_other_by_certificates() {
    let place = common::scratch();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let secret = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    leaf.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&secret, &issuer).unwrap();
    let file = |name: &str, content: String| {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let tls = Tls {
        authority: file("ca.crt", authority.pem()),
        certificate: file("etcd.crt", leaf.pem()),
        key: file("etcd.key", secret.serialize_pem()),
    };
    let members = Members::start(1, Some(tls));
    let config = file(
        "encryption.yaml",
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: \
         [{resources: [pods], providers: [{secretbox: {keys: \
         [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}, {identity: {}}]}]\n"
            .to_owned(),
    );
    let plain = members.open("/dray").unwrap();
    let made = plain.create(key("a/1"), draft("x")).await.unwrap();
    tokio::task::block_in_place(|| plain.close());
    // Values are sealed there too, and those of before are written anew.
    let encryption = Encryption::read(&config).unwrap();
    let store = members.open_with("/dray", Limits::default(), encryption).unwrap();
    store.rewrite().await.unwrap();
    let rewritten = store.get(&key("a/1")).unwrap();
    assert!(rewritten.revision() > made.revision());
    assert_eq!(text(&rewritten), "x");
    let refused = members.open("/dray").err().unwrap();
    assert!(matches!(refused, Error::Sealed { .. }), "{refused}");
    tokio::task::block_in_place(|| store.close());
    // Who has no certificate is not let in.
    let mut config = members.config("/dray");
    config.identity = None;
    let refused =
        std::thread::spawn(move || Store::in_etcd(&config, Limits::default(), Encryption::default()));
    assert!(matches!(refused.join().unwrap().err().unwrap(), Error::Unavailable { .. }));
}
