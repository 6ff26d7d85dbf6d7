//! The embedded store against a model, and many clients at once whose histories are checked.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::PathBuf;

use common::{
    PODS,
    history::{Call, Recorder},
    key,
    model::{self, Opener},
    scratch,
};
use dray_store::{Event, Limits, Store};
use proptest::prelude::*;

struct Embedded(PathBuf);

impl Opener for Embedded {
    fn open(&self) -> Store {
        Store::open(&self.0, model::limits()).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in model::steps()) {
        let directory = scratch();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(model::check(&Embedded(directory.path().join("store")), &steps));
    }
}

const CLIENTS: u64 = 8;
const CALLS: u64 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_see_one_history() {
    let directory = scratch();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    let recorder = std::sync::Arc::new(Recorder::default());
    let mut watcher = store.watch(PODS, "", 0).unwrap();
    let clients = (0..CLIENTS).map(|client| {
        let (store, recorder) = (store.clone(), recorder.clone());
        tokio::spawn(async move { common::history::live(&store, &recorder, client, CALLS).await })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut events: Vec<Event> = Vec::new();
    loop {
        let batch = watcher.pending().unwrap();
        if batch.is_empty() {
            break;
        }
        events.extend(batch.iter().map(|event| (**event).clone()));
    }
    assert!(events.len() > 300, "only {} writes succeeded", events.len());
    recorder.check(&events, true);
}

/// The checker finds what it is there to find.
#[tokio::test]
#[should_panic(expected = "acknowledged and lost")]
async fn a_lost_write_is_found() {
    let directory = scratch();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    let recorder = Recorder::default();
    let begun = recorder.begin();
    let result = store.create(key("a/1"), common::draft("x")).await;
    recorder.write(begun, Call::Create, "a/1", &result);
    recorder.check(&[], true);
}
