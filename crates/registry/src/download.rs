//! Fetching one layer: its bytes go to the store as they come. A connection that breaks is made anew from where it broke,
//! and what a pull that ended had fetched is not fetched again by the next.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dray_image::{Layer, NewLayer};
use http::header::{CONTENT_RANGE, RANGE};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::events::{Events, Step};
use crate::exchange::{Payload, next_piece};
use crate::pull::blocking;
use crate::session::{ATTEMPTS, Header, Session, pause};
use crate::{Error, Result};
use dray_image::media::Descriptor;

/// Pieces that the network may be ahead of the store.
const AHEAD: usize = 32;
/// Between two words about progress.
const TELL: Duration = Duration::from_millis(100);

/// Where a layer's bytes are taken on.
type Sink = mpsc::Sender<io::Result<Bytes>>;

impl Client {
    /// Fetches a layer and takes it in. One that is not what its digest says is fetched once more from the beginning.
    pub(crate) async fn download(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        wanted: &NewLayer,
        events: &Events,
    ) -> Result<Layer> {
        let id = wanted.blob.short();
        let resumed = self.store().partial_size(&wanted.blob) > 0;
        let result = self.download_once(session, descriptor, wanted, events).await;
        let result = match result {
            // What was kept of an earlier time may be at fault.
            Err(Error::Store(dray_image::Error::DigestMismatch { .. })) if resumed => {
                self.download_once(session, descriptor, wanted, events).await
            }
            other => other,
        };
        let layer = result?;
        events.layer(id, Step::Pulled).await;
        Ok(layer)
    }

    async fn download_once(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        wanted: &NewLayer,
        events: &Events,
    ) -> Result<Layer> {
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let store = Arc::clone(self.store());
        let from = store.partial_size(&wanted.blob);
        let layer = wanted.clone();
        let taking = tokio::spawn(blocking(move || {
            store.ingest_layer(&layer, std::iter::from_fn(move || receiver.blocking_recv()))
        }));
        let fetched = fetch(session, descriptor, from, &sender, events).await;
        if let Err(error) = &fetched {
            let _ = sender.send(Err(io::Error::other(error.chain()))).await;
        }
        drop(sender);
        if fetched.is_ok() {
            let id = wanted.blob.short();
            events.layer(id, Step::Verifying).await;
            events.layer(id, Step::Downloaded).await;
            events.layer(id, Step::Extracting(wanted.size, wanted.size)).await;
        }
        let taken = taking.await.map_err(|_| Error::Cancelled)?;
        match (fetched, taken) {
            (_, Err(error @ Error::Store(dray_image::Error::DigestMismatch { .. }))) => Err(error),
            // The store has ended first, and knows why.
            (Err(Error::Cancelled), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(()), taken) => taken,
        }
    }
}

/// Asks for a layer's bytes from `from` on. Whoever is asked at another address gets no credentials.
async fn ask(session: &Session, descriptor: &Descriptor, from: u64) -> Result<Response<Incoming>> {
    let range: Vec<Header> = if from > 0 { vec![(RANGE, format!("bytes={from}-"))] } else { Vec::new() };
    let url = session.url(&format!("blobs/{}", descriptor.digest));
    let mut response = session.request(Method::GET, &url, &range, Payload::Nothing).await?;
    let elsewhere =
        descriptor.urls.iter().filter(|url| url.starts_with("https://") || url.starts_with("http://"));
    for url in elsewhere.take(4) {
        if response.status() != StatusCode::NOT_FOUND {
            break;
        }
        if let Ok(other) = session.request(Method::GET, url, &range, Payload::Nothing).await {
            response = other;
        }
    }
    Ok(response)
}

/// How many bytes of an answer come before those that were asked for.
fn surplus(response: &Response<Incoming>, from: u64) -> Option<u64> {
    match response.status() {
        StatusCode::OK => Some(from),
        StatusCode::PARTIAL_CONTENT => {
            let header = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
            let begin: u64 = header.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()?;
            from.checked_sub(begin)
        }
        _ => None,
    }
}

async fn fetch(
    session: &Session,
    descriptor: &Descriptor,
    from: u64,
    sink: &Sink,
    events: &Events,
) -> Result<()> {
    let id = descriptor.digest.short();
    let size = descriptor.size;
    let mut at = from;
    let mut failed = 0;
    while at < size {
        let before = at;
        let error = match stream(session, descriptor, &mut at, sink, events).await {
            Ok(()) if at >= size => break,
            Ok(()) => Error::Interrupted {
                url: session.url(&format!("blobs/{}", descriptor.digest)),
                why: format!("it ended after {at} of {size} bytes"),
            },
            Err(error) => error,
        };
        failed = if at > before { 1 } else { failed + 1 };
        if !error.may_pass() || failed >= ATTEMPTS {
            return Err(error);
        }
        let pause = pause(failed);
        tracing::debug!(
            layer = id,
            at,
            error = error.chain(),
            "a layer is fetched on from where it broke off"
        );
        events.layer(id, Step::Retrying(pause.as_secs().max(1))).await;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn stream(
    session: &Session,
    descriptor: &Descriptor,
    at: &mut u64,
    sink: &Sink,
    events: &Events,
) -> Result<()> {
    let id = descriptor.digest.short();
    let response = ask(session, descriptor, *at).await?;
    let Some(mut surplus) = surplus(&response, *at) else { return Err(session.failure(response).await) };
    let url = session.url(&format!("blobs/{}", descriptor.digest));
    let mut body = response.into_body();
    let mut told: Option<Instant> = None;
    while let Some(mut piece) = next_piece(&mut body, &url, session.shared.patience()).await? {
        let skipped = usize::try_from(surplus).unwrap_or(usize::MAX).min(piece.len());
        let _ = piece.split_to(skipped);
        surplus -= skipped as u64;
        if piece.is_empty() {
            continue;
        }
        *at += piece.len() as u64;
        if *at > descriptor.size {
            let why = format!("layer {id} is longer than the {} bytes of its manifest", descriptor.size);
            return Err(Error::Protocol { registry: session.endpoint.authority.clone(), why });
        }
        if sink.send(Ok(piece)).await.is_err() {
            // The store does not want any more, and says why.
            return Err(Error::Cancelled);
        }
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            told = Some(Instant::now());
            events.progress(id, Step::Downloading(*at, descriptor.size));
        }
    }
    Ok(())
}
