//! Registries that lie, stall, cut and redirect; and what a transfer makes of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Liar, MANIFEST, Reply, Sample, assert_empty, client, pull, request, store};
use dray_image::Digest;
use dray_registry::{Client, Credentials, Error, Events, Hosts, PullRequest};
use serde_json::json;

const SIZE: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_layer_goes_on_where_it_broke() {
    let sample = Sample::new(SIZE);
    let layer = sample.layer.clone();
    let liar = Liar::start(move |asked| {
        let reply = sample.answer(asked);
        let is_layer = reply.body.len() > 1 << 20;
        // Every connection brings one more megabyte, and breaks.
        if is_layer { reply.cut(1 << 20) } else { reply }
    });
    let (_directory, store) = store();
    let pulled = pull(&store, &liar).await.unwrap();
    assert_eq!(pulled.image.size(), SIZE as u64);
    let ranges: Vec<String> = liar
        .asked()
        .iter()
        .filter(|asked| asked.path.ends_with(Digest::of(&layer).as_str()))
        .map(|asked| asked.header("range").unwrap_or("all").to_owned())
        .collect();
    assert!(ranges.len() > 2 && ranges[0] == "all" && ranges[1].starts_with("bytes="), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pull_goes_on_where_the_last_one_ended() {
    let sample = Sample::new(SIZE);
    let dead = Arc::new(AtomicUsize::new(0));
    let (honest, state) = (sample.clone(), Arc::clone(&dead));
    let liar = Liar::start(move |asked| {
        let reply = honest.answer(asked);
        if reply.body.len() < 1 << 20 {
            return reply;
        }
        match state.fetch_add(1, Ordering::SeqCst) {
            0 => reply.cut(2 << 20),
            // Then it is gone for good, until the second pull.
            1..=8 if asked.header("x-again").is_none() && state.load(Ordering::SeqCst) < 100 => {
                Reply::status(404)
            }
            _ => reply,
        }
    });
    let (directory, store) = store();
    assert!(pull(&store, &liar).await.is_err());
    let blob = Digest::of(&sample.layer);
    let kept = store.partial_size(&blob);
    assert!(kept > 1 << 20, "{kept}");
    drop(store);
    // Also when the daemon ended in between.
    let store = Arc::new(dray_image::ImageStore::open(directory.path().join("image")).unwrap());
    dead.store(100, Ordering::SeqCst);
    pull(&store, &liar).await.unwrap();
    let last = liar.asked().into_iter().rfind(|asked| asked.path.ends_with(blob.as_str())).unwrap();
    assert_eq!(last.header("range"), Some(format!("bytes={kept}-").as_str()));
    assert_eq!(store.partial_size(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_with_the_wrong_digest_is_never_used() {
    let sample = Sample::new(SIZE);
    for wrong in ["layer", "config", "manifest"] {
        let honest = sample.clone();
        let liar = Liar::start(move |asked| {
            let mut reply = honest.answer(asked);
            let is = |bytes: &[u8]| asked.path.ends_with(Digest::of(bytes).as_str());
            let (layer, config) = (is(&honest.layer), is(&honest.config));
            if wrong == "layer" && layer || wrong == "config" && config {
                let last = reply.body.len() - 1;
                reply.body[last] ^= 1;
            }
            if wrong == "manifest" && asked.path.contains("/manifests/") {
                reply = reply.with("Docker-Content-Digest", Digest::of(b"another").as_str());
            }
            reply
        });
        let (directory, store) = store();
        let error = pull(&store, &liar).await.unwrap_err();
        let text = error.chain();
        assert!(text.contains("does not match its digest"), "{wrong}: {text}");
        assert_empty(&directory, &store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_25153() {
    let sample = Sample::new(1024);
    let too_large = vec![b' '; 9 << 20];
    let long_layer = sample.manifest_with(|manifest| {
        let size = manifest["layers"][0]["size"].as_u64().unwrap();
        manifest["layers"][0]["size"] = json!(size - 1);
    });
    let huge_config = sample.manifest_with(|manifest| manifest["config"]["size"] = json!(1_u64 << 40));
    let short_config = sample.manifest_with(|manifest| manifest["config"]["size"] = json!(3));
    let layers = sample.manifest_with(|manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = json!(vec![layer; 501]);
    });
    for (manifest, words) in [
        (too_large, "larger than"),
        (long_layer, "longer than"),
        (huge_config, "larger than"),
        (short_config, "larger than"),
        (layers, "at most 500 layers"),
    ] {
        let honest = sample.clone();
        let liar = Liar::start(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::ok(&manifest).with("Content-Type", MANIFEST),
            false => honest.answer(asked),
        });
        let (directory, store) = store();
        let text = pull(&store, &liar).await.unwrap_err().chain();
        assert!(text.contains(words), "{words}: {text}");
        assert_empty(&directory, &store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_41190_what_is_called_an_index_is_one() {
    let sample = Sample::new(1024);
    for content_type in [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8",
    ] {
        let honest = sample.clone();
        let liar = Liar::start(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::ok(&honest.manifest).with("Content-Type", content_type),
            false => honest.answer(asked),
        });
        let (directory, store) = store();
        let error = pull(&store, &liar).await.unwrap_err();
        assert!(matches!(error, Error::Manifest { .. }), "{error:?}");
        assert_empty(&directory, &store);
    }
}

fn user() -> Option<Credentials> {
    let (username, password) = ("user".to_owned(), "secret".to_owned());
    Some(Credentials { username, password, ..Credentials::default() })
}

/// An honest registry that wants a password.
fn locked(sample: &Sample, asked: &common::Asked) -> Result<Reply, Reply> {
    match asked.header("authorization") {
        Some(_) => Ok(sample.answer(asked)),
        None => Err(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_15157_credentials_go_nowhere_else() {
    let sample = Sample::new(1024);
    let honest = sample.clone();
    let elsewhere = Liar::start(move |asked| match asked.path.as_str() {
        "/layer" => Reply::ok(&honest.layer),
        _ => Reply::status(404),
    });
    let place = format!("http://{}/layer", elsewhere.address);
    // Once by a redirect, once by a URL of the layer.
    for by_redirect in [true, false] {
        let (honest, place) = (sample.clone(), place.clone());
        let manifest = sample.manifest_with(|manifest| {
            if !by_redirect {
                manifest["layers"][0]["urls"] = json!([place]);
            }
        });
        let liar = Liar::start(move |asked| {
            let reply = match locked(&honest, asked) {
                Ok(reply) => reply,
                Err(refused) => return refused,
            };
            if asked.path.contains("/manifests/") {
                return Reply::ok(&manifest).with("Content-Type", MANIFEST);
            }
            if !asked.path.ends_with(Digest::of(&honest.layer).as_str()) {
                return reply;
            }
            if by_redirect { Reply::status(307).with("Location", &place) } else { Reply::status(404) }
        });
        let (_directory, store) = store();
        let request = PullRequest { credentials: user(), ..request(liar.reference()) };
        client(&store).pull(&request, &Events::ignored()).await.unwrap();
        let asked = elsewhere.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.header("authorization").is_none()),
            "{asked:?}"
        );
        assert!(liar.asked().iter().any(|asked| asked.header("authorization").is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_silent_is_given_up() {
    let liar = Liar::start(|asked| Reply { stall: asked.path != "/v2/", ..Reply::ok(b"{}") });
    let (directory, store) = store();
    let hosts = Hosts::default().with_certificates(Vec::new());
    let client = Client::with_patience(Arc::clone(&store), hosts, Duration::from_millis(50));
    let error = client.pull(&request(liar.reference()), &Events::ignored()).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_empty(&directory, &store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_is_asked_again() {
    let sample = Sample::new(1024);
    let refusals = AtomicUsize::new(0);
    let liar = Liar::start(move |asked| {
        let busy = asked.path != "/v2/" && refusals.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if busy { Reply::status(429).with("Retry-After", "0") } else { sample.answer(asked) }
    });
    let (_directory, store) = store();
    pull(&store, &liar).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_end() {
    let liar = Liar::start(|asked| match asked.path.as_str() {
        "/v2/" => Reply::ok(b"{}"),
        _ => Reply::status(302).with("Location", "/v2/round"),
    });
    let (_directory, store) = store();
    let text = pull(&store, &liar).await.unwrap_err().chain();
    assert!(text.contains("redirects too often"), "{text}");
    assert!(liar.asked().len() < 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_any_more_ends_the_pull() {
    let liar = Liar::start(|asked| Reply { stall: asked.path != "/v2/", ..Reply::ok(b"{}") });
    let (_directory, store) = store();
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let client = client(&store);
    let request = request(liar.reference());
    let task = tokio::spawn(async move { client.pull(&request, &Events::to(sender)).await });
    drop(receiver);
    assert!(matches!(task.await.unwrap(), Err(Error::Cancelled)));
}
