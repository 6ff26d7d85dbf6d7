//! Pushing: layers that the registry lacks, several at once, then the configuration, then the manifest.
//!
//! An image that came from a registry goes back under the manifest under which it came, so its digest stays the same. What a
//! name leads to an index for goes as that index when all of it is here.

use std::sync::Arc;

use dray_image::{Digest, Image, ImageStore, Index, Layer, Packing, Platform, Reference};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::events::{Events, Step};
use crate::exchange::Payload;
use crate::pull::blocking;
use crate::session::Session;
use crate::{Credentials, Error, Result};
use dray_image::media::{
    CONFIG_LIMIT, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Document, MANIFEST_LIMIT, OCI_CONFIG,
    OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, own_type,
};

/// Layers that are sent at once.
const LAYERS_AT_ONCE: usize = 5;
/// Repositories that are asked to lend a layer.
const LENDERS: usize = 3;

/// An image to be pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The name that it has here, and there.
    pub reference: Reference,
    /// Of an index the one image to push alone.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// What came of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest, or of the index.
    pub digest: Digest,
    /// Bytes of it.
    pub size: u64,
    /// Its type.
    pub media_type: String,
    /// The index whose only image that is here was pushed in its place.
    pub instead_of: Option<Arc<Index>>,
}

/// A manifest that is ready, and what it is made of.
struct Ready {
    media_type: String,
    manifest: Vec<u8>,
    config: Digest,
    layers: Vec<Digest>,
}

/// A blob that is to go, and what it is called while it goes.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) blob: Digest,
}

/// What a name leads to, as it is to be pushed.
enum Wanted {
    /// An image, in place of an index of which nothing else is here.
    Image(Box<Image>, Option<Arc<Index>>),
    Index(Arc<Index>),
}

/// What of the store is to go under a name.
fn wanted(store: &ImageStore, request: &PushRequest) -> Result<Wanted> {
    let name = &request.reference;
    let missing = || dray_image::Error::NotFound { name: name.familiar() };
    let id = store.named(name).ok_or_else(missing)?;
    if request.platform.is_some() {
        let image = store.resolve_for(&name.to_string(), request.platform.as_ref())?;
        return Ok(Wanted::Image(Box::new(image), None));
    }
    let alone = |id: &Digest, index| -> Result<Wanted> {
        Ok(Wanted::Image(Box::new(store.resolve(id.as_str())?), index))
    };
    let Some(index) = store.index_of(name) else { return alone(&id, None) };
    if index.members.iter().all(|member| store.is_whole(member)) {
        return Ok(Wanted::Index(index));
    }
    let mut images: Vec<&Digest> = index.images().collect();
    images.dedup();
    match images.as_slice() {
        [only] => alone(only, Some(Arc::clone(&index))),
        _ => Err(Error::Incomplete { reference: name.familiar() }),
    }
}

impl Client {
    /// Pushes the image that has this name.
    ///
    /// # Errors
    /// [`dray_image::Error::NotFound`] when there is none; otherwise what the registry refuses.
    /// [`Error::Cancelled`] when nobody listens to the events any more.
    pub async fn push(&self, request: &PushRequest, events: &Events) -> Result<Pushed> {
        tokio::select! {
            pushed = self.push_all(request, events) => pushed,
            () = events.abandoned() => Err(Error::Cancelled),
        }
    }

    async fn push_all(&self, request: &PushRequest, events: &Events) -> Result<Pushed> {
        let (store, asked) = (Arc::clone(self.store()), request.clone());
        let wanted = tokio::task::spawn_blocking(move || wanted(&store, &asked)).await;
        match wanted.map_err(|_| Error::Cancelled)?? {
            Wanted::Index(index) => self.push_index(request, &index, events).await,
            Wanted::Image(image, instead_of) => {
                let pushed = self.push_image(request, *image, events).await?;
                Ok(Pushed { instead_of, ..pushed })
            }
        }
    }

    async fn push_image(&self, request: &PushRequest, image: Image, events: &Events) -> Result<Pushed> {
        let reference = &request.reference;
        let store = Arc::clone(self.store());
        let kept = image.clone();
        let mut hold = blocking(move || {
            let mut all: Vec<Digest> = kept.layers.iter().map(|layer| layer.chain_id.clone()).collect();
            all.extend(kept.layers.iter().filter_map(|layer| layer.blob.clone()));
            all.extend(store.manifest_of(&kept.id).into_iter().chain([kept.id.clone()]));
            Ok(store.hold(all))
        })
        .await?;
        for layer in &image.layers {
            events.layer(layer.diff_id.short(), Step::Preparing).await;
        }
        let session = self.session(reference, "pull,push", request.credentials.as_ref()).await?;
        let store = Arc::clone(self.store());
        let preparing = image.clone();
        let ready = blocking(move || {
            if let Some(kept) = kept_manifest(&store, &preparing) {
                return Ok((kept, hold));
            }
            let mut packed = Vec::with_capacity(preparing.layers.len());
            for layer in &preparing.layers {
                packed.push(store.packed_layer(layer, &mut hold)?);
            }
            let config = store.config_bytes(&preparing.id)?;
            Ok((new_manifest(&preparing.id, config.len(), &packed), hold))
        });
        let (ready, hold) = ready.await?;
        let lenders = self.lenders(reference, image.layers.clone()).await?;
        let names = image.layers.iter().map(|layer| layer.diff_id.short().to_owned());
        let parts: Vec<Part> =
            names.zip(&ready.layers).map(|(name, blob)| Part { name, blob: blob.clone() }).collect();
        self.push_layers(&session, &lenders, &parts, events).await?;
        let config = blob(self, &ready.config).await?;
        session.push_blob(&ready.config, config, &[], Arc::new(|_| ())).await?;
        let pushed = push_manifest(&session, reference.tag(), &ready.media_type, &ready.manifest).await?;
        let store = Arc::clone(self.store());
        let (name, digest, id) =
            (reference.at_digest(pushed.digest.clone()), pushed.digest.clone(), image.id);
        blocking(move || {
            let manifest = store.put_blob(&ready.manifest)?;
            debug_assert_eq!(manifest, digest);
            store.set_manifest(&id, &manifest)?;
            store.tag(&id, &name)
        })
        .await?;
        drop(hold);
        Ok(pushed)
    }

    /// Pushes an index after all that it names.
    async fn push_index(&self, request: &PushRequest, index: &Arc<Index>, events: &Events) -> Result<Pushed> {
        let reference = &request.reference;
        let (store, held) = (Arc::clone(self.store()), Arc::clone(index));
        let (hold, layers) = blocking(move || {
            let parts = held.members.iter().flat_map(|member| member.parts.iter().map(|(part, _)| part));
            let documents = held.members.iter().map(|member| &member.digest).chain([&held.digest]);
            let hold = store.hold(parts.chain(documents).cloned());
            let mut layers = Vec::new();
            for id in held.images() {
                layers.extend(store.resolve(id.as_str())?.layers);
            }
            Ok((hold, layers))
        })
        .await?;
        let session = self.session(reference, "pull,push", request.credentials.as_ref()).await?;
        let lenders = self.lenders(reference, layers).await?;
        let blobs = index.members.iter().flat_map(|member| &member.parts);
        let parts: Vec<Part> =
            blobs.map(|(blob, _)| Part { name: blob.short().to_owned(), blob: blob.clone() }).collect();
        for part in &parts {
            events.layer(&part.name, Step::Preparing).await;
        }
        self.push_layers(&session, &lenders, &parts, events).await?;
        for member in &index.members {
            let manifest = self.document(&member.digest).await?;
            push_manifest(&session, None, &member.media_type, &manifest).await?;
        }
        let document = self.document(&index.digest).await?;
        let pushed = push_manifest(&session, reference.tag(), &index.media_type, &document).await?;
        let (store, name) = (Arc::clone(self.store()), reference.at_digest(index.digest.clone()));
        let digest = index.digest.clone();
        blocking(move || store.name_index(&name, &digest)).await?;
        drop(hold);
        Ok(pushed)
    }

    async fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let (store, digest) = (Arc::clone(self.store()), digest.clone());
        blocking(move || store.document_blob(&digest, MANIFEST_LIMIT as u64)).await
    }

    pub(crate) async fn push_layers(
        &self,
        session: &Session,
        lenders: &[String],
        parts: &[Part],
        events: &Events,
    ) -> Result<()> {
        let turns = Semaphore::new(LAYERS_AT_ONCE);
        let turns = &turns;
        let mut running = FuturesUnordered::new();
        let mut seen = std::collections::BTreeSet::new();
        for Part { name, blob: digest } in parts {
            // An image may have one layer twice, and images of several platforms one together.
            if !seen.insert(digest) {
                continue;
            }
            running.push(async move {
                let id = name.as_str();
                let turn = match turns.try_acquire() {
                    Ok(turn) => Ok(turn),
                    Err(_) => {
                        events.layer(id, Step::Waiting).await;
                        turns.acquire().await
                    }
                };
                let _turn = turn.map_err(|_| Error::Cancelled)?;
                let (file, size) = blob(self, digest).await?;
                let told = (events.clone(), id.to_owned(), std::sync::atomic::AtomicU64::new(0));
                let sent = move |bytes| {
                    let (events, id, total) = &told;
                    let at = total.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
                    events.progress(id, Step::Pushing(at.min(size), size));
                };
                let step = session.push_blob(digest, (file, size), lenders, Arc::new(sent)).await?;
                events.layer(id, step).await;
                Ok::<(), Error>(())
            });
        }
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    /// Other repositories of the same registry that are known to have some of these layers.
    async fn lenders(&self, reference: &Reference, layers: Vec<Layer>) -> Result<Vec<String>> {
        let store = Arc::clone(self.store());
        let reference = reference.clone();
        blocking(move || {
            let mut lenders = Vec::new();
            for image in store.list()? {
                if !image.layers.iter().any(|layer| layers.iter().any(|own| own.chain_id == layer.chain_id)) {
                    continue;
                }
                // A name by digest tells that a registry has it.
                let there = image.references.iter().filter(|name| {
                    name.digest().is_some()
                        && name.registry() == reference.registry()
                        && name.repository() != reference.repository()
                });
                for name in there {
                    if lenders.len() < LENDERS && !lenders.iter().any(|known| known == name.repository()) {
                        lenders.push(name.repository().to_owned());
                    }
                }
            }
            Ok(lenders)
        })
        .await
    }
}

/// Puts a document under a tag; without one it is only there by its digest.
pub(crate) async fn push_manifest(
    session: &Session,
    tag: Option<&str>,
    media_type: &str,
    manifest: &[u8],
) -> Result<Pushed> {
    let digest = Digest::of(manifest);
    let what = tag.map_or_else(|| digest.to_string(), ToOwned::to_owned);
    let url = session.url(&format!("manifests/{what}"));
    let headers = [(CONTENT_TYPE, media_type.to_owned())];
    let payload = Payload::Bytes(manifest.to_vec().into());
    let response = session.request(Method::PUT, &url, &headers, payload).await?;
    if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
        return Err(session.failure(response).await);
    }
    let (size, media_type) = (manifest.len() as u64, media_type.to_owned());
    Ok(Pushed { digest, size, media_type, instead_of: None })
}

async fn blob(client: &Client, digest: &Digest) -> Result<(Arc<std::fs::File>, u64)> {
    let (store, digest) = (Arc::clone(client.store()), digest.clone());
    blocking(move || store.open_blob(&digest)).await.map(|(file, size)| (Arc::new(file), size))
}

/// The manifest under which a registry had the image before, when all of it is still here.
fn kept_manifest(store: &ImageStore, image: &Image) -> Option<Ready> {
    let bytes = store.document_blob(&store.manifest_of(&image.id)?, MANIFEST_LIMIT as u64).ok()?;
    let Document::Manifest(manifest) = Document::parse(&bytes, &[]).ok()? else { return None };
    let layers: Vec<Digest> = manifest.layers.into_iter().map(|layer| layer.digest).collect();
    let whole = manifest.config.digest == image.id && layers.iter().all(|layer| store.has_blob(layer));
    let media_type = own_type(&bytes).unwrap_or_else(|| OCI_MANIFEST.to_owned());
    whole.then(|| Ready { media_type, manifest: bytes, config: image.id.clone(), layers })
}

/// A manifest as Docker makes it; one of the OCI where Docker's words have no name for how a layer is compressed.
fn new_manifest(config: &Digest, config_size: usize, layers: &[dray_image::PackedLayer]) -> Ready {
    debug_assert!(config_size as u64 <= CONFIG_LIMIT);
    let docker = layers.iter().all(|layer| layer.packing == Packing::Gzip);
    let (media_type, config_type) =
        if docker { (DOCKER_MANIFEST, DOCKER_CONFIG) } else { (OCI_MANIFEST, OCI_CONFIG) };
    let layer_type = |packing| match packing {
        Packing::Gzip | Packing::Plain if docker => DOCKER_LAYER,
        Packing::Zstandard => OCI_LAYER_ZSTD,
        _ => OCI_LAYER_GZIP,
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": { "mediaType": config_type, "size": config_size, "digest": config.as_str() },
        "layers": layers.iter().map(|layer| json!({
            "mediaType": layer_type(layer.packing), "size": layer.size, "digest": layer.blob.as_str(),
        })).collect::<Vec<_>>(),
    });
    Ready {
        media_type: media_type.to_owned(),
        manifest: manifest.to_string().into_bytes(),
        config: config.clone(),
        layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
    }
}
