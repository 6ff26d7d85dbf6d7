//! A mirror: what another registry has is fetched when it is first asked for, and kept. A tag is asked for each time, as it
//! may have moved; when the other registry is out of reach, what was kept serves.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use dray_image::{BlobDigest, ImageStore, ManifestLink, Reference};
use http::header::ACCEPT;
use http::{Method, StatusCode};
use parking_lot::Mutex;

use super::answer::{Refusal, blocking};
use super::manifests::link_of;
use crate::exchange::{Payload, next_piece, read_all};
use crate::hosts::Endpoint;
use crate::session::Session;
use crate::{Client, Error, Result};
use dray_image::media::{ACCEPTED, MANIFEST_LIMIT};

/// Blobs that are fetched at once.
const AT_ONCE: usize = 16;
/// Tags of one repository that are taken over.
const TAG_LIMIT: usize = 10_000;

/// Another registry, whose content is given out here.
pub(crate) struct Mirror {
    client: Client,
    upstream: Endpoint,
    turns: tokio::sync::Semaphore,
    /// Blobs that are being fetched: who wants the same waits.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Mirror {
    pub(crate) fn new(client: Client, upstream: Endpoint) -> Result<Self> {
        let turns = tokio::sync::Semaphore::new(AT_ONCE);
        Ok(Self { client, upstream, turns, busy: Mutex::default() })
    }

    async fn session(&self, name: &str) -> Result<Session> {
        // What is asked for is in the path; the name only has to be one.
        let reference = Reference::parse(&format!("{}/{name}", self.upstream.authority))?;
        let endpoint = Endpoint { is_mirror: false, ..self.upstream.clone() };
        self.client.first_session(vec![endpoint], &reference, "pull", None).await
    }

    /// Sees to it that a manifest is here, as it is there now.
    pub(crate) async fn manifest(
        &self,
        store: &Arc<ImageStore>,
        name: &str,
        reference: &str,
    ) -> Result<(), Refusal> {
        let known = match reference.contains(':') {
            true => Some(super::blobs::parse_digest(reference)?),
            false => None,
        };
        if let Some(digest) = known.clone() {
            let (store, name) = (Arc::clone(store), name.to_owned());
            // What has a digest does not change.
            if blocking(move || Ok(store.repository(&name)?.manifest(&digest)?.is_some())).await? {
                return Ok(());
            }
        }
        let fetched = self.fetch_manifest(store, name, reference, known.as_ref()).await;
        match fetched {
            Ok(()) => Ok(()),
            Err(Error::NotFound { .. } | Error::Denied { .. } | Error::Unauthorized { .. }) => {
                if known.is_none() {
                    let (store, name, tag) = (Arc::clone(store), name.to_owned(), reference.to_owned());
                    blocking(move || Ok(store.repository(&name)?.remove_tag(&tag)?)).await?;
                }
                Err(Refusal::manifest_unknown(reference))
            }
            Err(error) => {
                tracing::info!(
                    name,
                    reference,
                    error = error.chain(),
                    "the mirrored registry is out of reach"
                );
                Ok(())
            }
        }
    }

    async fn fetch_manifest(
        &self,
        store: &Arc<ImageStore>,
        name: &str,
        what: &str,
        expected: Option<&BlobDigest>,
    ) -> Result<()> {
        let session = self.session(name).await?;
        let url = session.url(&format!("manifests/{what}"));
        let accept = [(ACCEPT, ACCEPTED.to_owned())];
        if expected.is_none() {
            // A tag that has not moved costs no manifest.
            let digest = session.head_digest(what).await?.map(BlobDigest::Sha256);
            let (store, name, tag) = (Arc::clone(store), name.to_owned(), what.to_owned());
            let is_current = blocking_here(move || {
                let repository = store.repository(&name)?;
                let Some(digest) =
                    digest.filter(|digest| repository.manifest(digest).is_ok_and(|link| link.is_some()))
                else {
                    return Ok(false);
                };
                if repository.tag(&tag)?.as_ref() != Some(&digest) {
                    repository.set_tag(&tag, &digest)?;
                }
                Ok(true)
            });
            if is_current.await? {
                return Ok(());
            }
        }
        let response = session.request(Method::GET, &url, &accept, Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Err(session.failure(response).await);
        }
        let header = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = dray_image::media::essence(header.unwrap_or_default()).to_owned();
        let body = read_all(response.into_body(), &url, MANIFEST_LIMIT, self.client.patience()).await?;
        if let Some(expected) = expected.filter(|expected| !expected.fits(&body)) {
            return Err(Error::DigestMismatch {
                what: format!("manifest {what}"),
                expected: expected.to_string(),
                actual: dray_image::Digest::of(&body).to_string(),
            });
        }
        let link: ManifestLink = link_of(&body, &media_type).ok_or_else(|| Error::Manifest {
            why: format!("{what} is no manifest of type {media_type:?}"),
        })?;
        let tag = expected.is_none().then(|| what.to_owned());
        let digest = expected.cloned().unwrap_or_else(|| BlobDigest::Sha256(link.blob.clone()));
        let (store, name) = (Arc::clone(store), name.to_owned());
        blocking_here(move || {
            let hold = store.hold([link.blob.clone()]);
            store.put_blob(&body)?;
            let repository = store.repository(&name)?;
            repository.put_manifest(&digest, &link)?;
            if let Some(tag) = tag {
                repository.set_tag(&tag, &digest)?;
            }
            drop(hold);
            Ok(())
        })
        .await
    }

    /// Sees to it that a blob is here.
    pub(crate) async fn blob(
        &self,
        store: &Arc<ImageStore>,
        name: &str,
        digest: &BlobDigest,
    ) -> Result<(), Refusal> {
        let is_here = || {
            let (store, name, digest) = (Arc::clone(store), name.to_owned(), digest.clone());
            blocking(move || Ok(store.repository(&name)?.blob(&digest)?.is_some()))
        };
        if is_here().await? {
            return Ok(());
        }
        let lock = {
            let mut busy = self.busy.lock();
            busy.retain(|_, lock| lock.strong_count() > 0);
            let key = format!("{name}@{digest}");
            let known = busy.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                busy.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        let _mine = lock.lock().await;
        if is_here().await? {
            return Ok(());
        }
        let Ok(_turn) = self.turns.acquire().await else { return Err(Refusal::blob_unknown()) };
        match self.fetch_blob(store, name, digest).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::info!(name, %digest, error = error.chain(), "cannot fetch a blob from the mirrored registry");
                Err(Refusal::blob_unknown())
            }
        }
    }

    async fn fetch_blob(&self, store: &Arc<ImageStore>, name: &str, digest: &BlobDigest) -> Result<()> {
        let session = self.session(name).await?;
        let url = session.url(&format!("blobs/{digest}"));
        let response = session.request(Method::GET, &url, &[], Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Err(session.failure(response).await);
        }
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(32);
        let (store, named, expected) = (Arc::clone(store), name.to_owned(), digest.clone());
        let (whole, is_whole) = std::sync::mpsc::channel();
        let taking = tokio::spawn(blocking_here(move || {
            let mut upload = store.begin_upload()?;
            while let Some(piece) = receiver.blocking_recv() {
                upload.append(&piece)?;
            }
            // Without the word that all has come, what came is thrown away.
            if is_whole.recv().is_err() {
                return Ok(());
            }
            let (blob, hold) = upload.finish(&expected)?;
            store.repository(&named)?.link_blob(&expected, &blob)?;
            drop(hold);
            Ok(())
        }));
        let mut body = response.into_body();
        let broken = loop {
            match next_piece(&mut body, &url, self.client.patience()).await {
                Ok(Some(piece)) => {
                    if sender.send(piece).await.is_err() {
                        break None;
                    }
                }
                Ok(None) => {
                    let _ = whole.send(());
                    break None;
                }
                Err(error) => break Some(error),
            }
        };
        drop((sender, whole));
        let taken = taking.await.map_err(|_| Error::Cancelled)?;
        broken.map_or(taken, Err)
    }

    /// The tags that a repository has there; none when it cannot be asked.
    pub(crate) async fn tags(&self, name: &str) -> Option<Vec<String>> {
        let session = self.session(name).await.ok()?;
        let url = session.url("tags/list");
        let response = session.request(Method::GET, &url, &[], Payload::Nothing).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        #[derive(serde::Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let body = read_all(response.into_body(), &url, MANIFEST_LIMIT, self.client.patience()).await.ok()?;
        let mut tags = serde_json::from_slice::<Tags>(&body).ok()?.tags.unwrap_or_default();
        tags.truncate(TAG_LIMIT);
        Some(tags)
    }
}

async fn blocking_here<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled)?
}
