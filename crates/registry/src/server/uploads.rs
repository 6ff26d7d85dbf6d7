//! Blobs on their way in: in one piece, in several, as a stream, or lent by another repository.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dray_image::{BlobDigest, Upload};
use http::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::access::Rights;
use super::answer::{Answer, Refusal, blocking, empty};
use super::blobs::{CONTENT_DIGEST, parse_digest};
use super::router::{parameter, query};
use super::{BODY_PATIENCE, Peer, State};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Uploads at once.
const UPLOAD_LIMIT: usize = 4096;
/// Pieces that the network may be ahead of the disk.
const AHEAD: usize = 16;

/// An upload between and during requests.
pub(crate) struct Slot {
    repository: String,
    upload: tokio::sync::Mutex<Option<Upload>>,
    /// Ends the request that is at it: its client has come anew.
    current: Mutex<CancellationToken>,
    touched: Mutex<Instant>,
}

impl State {
    pub(crate) fn forget_idle_uploads(&self, age: Duration) {
        self.uploads.lock().retain(|_, slot| slot.touched.lock().elapsed() < age);
    }

    fn slot(&self, name: &str, id: &str) -> Result<Arc<Slot>, Refusal> {
        let slot = self.uploads.lock().get(id).filter(|slot| slot.repository == name).cloned();
        let slot = slot.ok_or_else(Refusal::upload_unknown)?;
        *slot.touched.lock() = Instant::now();
        Ok(slot)
    }
}

impl Slot {
    /// Takes the upload over from a request that may still be at it, because its connection has broken unnoticed.
    async fn take_over(&self) -> (tokio::sync::MutexGuard<'_, Option<Upload>>, CancellationToken) {
        let mine = CancellationToken::new();
        std::mem::replace(&mut *self.current.lock(), mine.clone()).cancel();
        (self.upload.lock().await, mine)
    }
}

fn place(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn progress(status: StatusCode, name: &str, id: &str, size: u64) -> Answer {
    let headers = [
        (LOCATION, place(name, id)),
        (RANGE, format!("0-{}", size.saturating_sub(1))),
        (UPLOAD_ID, id.to_owned()),
    ];
    Ok(empty(status, &headers))
}

fn created(name: &str, digest: &BlobDigest) -> Answer {
    let headers = [(LOCATION, format!("/v2/{name}/blobs/{digest}")), (CONTENT_DIGEST, digest.to_string())];
    Ok(empty(StatusCode::CREATED, &headers))
}

/// Begins an upload, or is done with it at once.
pub(crate) async fn begin(
    state: &Arc<State>,
    peer: Peer,
    rights: &Rights,
    name: &str,
    request: Request<Incoming>,
) -> Answer {
    let query = query(&request);
    if let Some(digest) = parameter(&query, "mount") {
        let digest = parse_digest(digest)?;
        if mount(state, peer, rights, name, parameter(&query, "from"), &digest).await? {
            return created(name, &digest);
        }
    }
    let store = Arc::clone(&state.store);
    let upload = blocking(move || Ok(store.begin_upload()?)).await?;
    if let Some(digest) = parameter(&query, "digest") {
        let digest = parse_digest(digest)?;
        let (upload, failed) = receive(upload, request.into_body(), &CancellationToken::new()).await?;
        if let Some(refusal) = failed {
            return Err(refusal);
        }
        return complete(state, name, upload, digest).await;
    }
    let id = uuid();
    {
        let mut uploads = state.uploads.lock();
        if uploads.len() >= UPLOAD_LIMIT {
            let message = "too many uploads are under way";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message));
        }
        let slot = Slot {
            repository: name.to_owned(),
            upload: tokio::sync::Mutex::new(Some(upload)),
            current: Mutex::default(),
            touched: Mutex::new(Instant::now()),
        };
        uploads.insert(id.clone(), Arc::new(slot));
    }
    progress(StatusCode::ACCEPTED, name, &id, 0)
}

/// 128 random bits: who knows the id may go on with the upload.
fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Links a blob that another repository has; whether one had it. Without a repository's name any that the client may read
/// will do, and for a client on this machine what only images have.
async fn mount(
    state: &Arc<State>,
    peer: Peer,
    rights: &Rights,
    name: &str,
    from: Option<&str>,
    digest: &BlobDigest,
) -> Result<bool, Refusal> {
    let lender = from.filter(|from| !from.is_empty()).map(str::to_owned);
    if lender.as_deref().is_some_and(|lender| !rights.may_pull(lender)) {
        return Ok(false);
    }
    let is_local = peer.address.ip().to_canonical().is_loopback() && rights.all();
    let (store, name, digest, rights) =
        (Arc::clone(&state.store), name.to_owned(), digest.clone(), rights.clone());
    blocking(move || {
        // Held before it is looked for, so that it does not go meanwhile.
        let held = match &digest {
            BlobDigest::Sha256(digest) => Some(store.hold([digest.clone()])),
            BlobDigest::Sha512(_) => None,
        };
        let find = |repository: &str| -> Result<_, Refusal> {
            let Ok(repository) = store.repository(repository) else { return Ok(None) };
            Ok(repository.blob(&digest)?)
        };
        let mut found = None;
        match &lender {
            Some(lender) => found = find(lender)?,
            None => {
                for repository in store.repositories()? {
                    if rights.may_pull(&repository) && found.is_none() {
                        found = find(&repository)?;
                    }
                }
            }
        }
        if let (None, true, None, BlobDigest::Sha256(digest)) = (&found, is_local, &lender, &digest) {
            found = store.has_blob(digest).then(|| digest.clone());
        }
        if let Some(blob) = &found {
            store.repository(&name)?.link_blob(&digest, blob)?;
        }
        drop(held);
        Ok(found.is_some())
    })
    .await
}

/// Takes a body into an upload. When it breaks off, what came stays and the refusal comes beside it.
async fn receive(
    upload: Upload,
    mut body: Incoming,
    stop: &CancellationToken,
) -> Result<(Upload, Option<Refusal>), Refusal> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        let mut upload = upload;
        while let Some(bytes) = receiver.blocking_recv() {
            if let Err(error) = upload.append(&bytes) {
                return (upload, Err(error));
            }
        }
        (upload, Ok(()))
    });
    let broken = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", why.to_owned());
    let failed = loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(BODY_PATIENCE, body.frame()) => frame,
            () = stop.cancelled() => break Some(broken("another request goes on with this upload")),
        };
        match frame {
            Err(_) => break Some(broken("nothing came for too long")),
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some(broken("the connection broke off")),
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data()
                    && sender.send(bytes).await.is_err()
                {
                    break None;
                }
            }
        }
    };
    drop(sender);
    let (upload, written) = writing.await.map_err(|error| Refusal::internal(&error))?;
    match written {
        Ok(()) => Ok((upload, failed)),
        Err(error) => Err(error.into()),
    }
}

async fn complete(state: &Arc<State>, name: &str, upload: Upload, digest: BlobDigest) -> Answer {
    let (store, repository) = (Arc::clone(&state.store), name.to_owned());
    let expected = digest.clone();
    blocking(move || {
        let (blob, hold) = upload.finish(&expected)?;
        store.repository(&repository)?.link_blob(&expected, &blob)?;
        drop(hold);
        Ok(())
    })
    .await?;
    created(name, &digest)
}

/// Whether a piece begins where the last one ended: `Content-Range: FIRST-LAST`.
fn check_order(request: &Request<Incoming>, name: &str, id: &str, size: u64) -> Result<(), Refusal> {
    let Some(header) = request.headers().get(CONTENT_RANGE) else { return Ok(()) };
    let refuse = |message: &str| {
        Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message.to_owned())
            .with(LOCATION, place(name, id))
            .with(RANGE, format!("0-{}", size.saturating_sub(1)))
            .with(UPLOAD_ID, id.to_owned())
    };
    let text = header.to_str().unwrap_or_default();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next().unwrap_or_default();
    let numbers = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    });
    match numbers {
        Some((first, last)) if first == size && last >= first => Ok(()),
        Some(_) => Err(refuse("the piece does not begin where the last one ended")),
        None => Err(refuse("its Content-Range is not FIRST-LAST")),
    }
}

pub(crate) async fn append(state: &Arc<State>, name: &str, id: &str, request: Request<Incoming>) -> Answer {
    let slot = state.slot(name, id)?;
    let (mut held, stop) = slot.take_over().await;
    let size = held.as_ref().ok_or_else(Refusal::upload_unknown)?.size();
    check_order(&request, name, id, size)?;
    let upload = held.take().ok_or_else(Refusal::upload_unknown)?;
    let (upload, failed) = receive(upload, request.into_body(), &stop).await?;
    let size = upload.size();
    *held = Some(upload);
    *slot.touched.lock() = Instant::now();
    match failed {
        Some(refusal) => Err(refusal),
        None => progress(StatusCode::ACCEPTED, name, id, size),
    }
}

pub(crate) async fn finish(state: &Arc<State>, name: &str, id: &str, request: Request<Incoming>) -> Answer {
    let query = query(&request);
    let digest = parameter(&query, "digest").ok_or_else(|| Refusal::digest(""))?;
    let digest = parse_digest(digest)?;
    let slot = state.slot(name, id)?;
    let (mut held, stop) = slot.take_over().await;
    let size = held.as_ref().ok_or_else(Refusal::upload_unknown)?.size();
    check_order(&request, name, id, size)?;
    let upload = held.take().ok_or_else(Refusal::upload_unknown)?;
    let (upload, failed) = receive(upload, request.into_body(), &stop).await?;
    if let Some(refusal) = failed {
        *held = Some(upload);
        return Err(refusal);
    }
    // What has the wrong digest now will never have the right one.
    state.uploads.lock().remove(id);
    complete(state, name, upload, digest).await
}

pub(crate) async fn status(state: &Arc<State>, name: &str, id: &str) -> Answer {
    let slot = state.slot(name, id)?;
    let (held, _) = slot.take_over().await;
    let size = held.as_ref().ok_or_else(Refusal::upload_unknown)?.size();
    progress(StatusCode::NO_CONTENT, name, id, size)
}

pub(crate) async fn cancel(state: &Arc<State>, name: &str, id: &str) -> Answer {
    let slot = state.slot(name, id)?;
    slot.current.lock().cancel();
    state.uploads.lock().remove(id);
    Ok(empty(StatusCode::NO_CONTENT, &[]))
}
