//! Pushing: layers that the registry lacks, several at once, then the configuration, then the manifest.
//!
//! An image that came from a registry goes back under the manifest under which it came, so its digest stays the same.

use std::sync::Arc;

use dray_image::{Digest, Image, Packing, Reference};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::events::{Events, Step};
use crate::exchange::Payload;
use crate::media::{
    CONFIG_LIMIT, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Document, MANIFEST_LIMIT, OCI_CONFIG,
    OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST, own_type,
};
use crate::pull::blocking;
use crate::session::Session;
use crate::{Credentials, Error, Result};

/// Layers that are sent at once.
const LAYERS_AT_ONCE: usize = 5;
/// Repositories that are asked to lend a layer.
const LENDERS: usize = 3;

/// An image to be pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The name that it has here, and there.
    pub reference: Reference,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// What came of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

/// A manifest that is ready, and what it is made of.
struct Ready {
    media_type: String,
    manifest: Vec<u8>,
    config: Digest,
    layers: Vec<Digest>,
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
        let reference = &request.reference;
        let store = Arc::clone(self.store());
        let name = reference.clone();
        let (image, mut hold) = blocking(move || {
            let missing = || dray_image::Error::NotFound { name: name.familiar() };
            let id = store.named(&name).ok_or_else(missing)?;
            let image = store.resolve(id.as_str())?;
            let mut kept: Vec<Digest> = image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
            kept.extend(image.layers.iter().filter_map(|layer| layer.blob.clone()));
            kept.extend(store.manifest_of(&image.id).into_iter().chain([image.id.clone()]));
            let hold = store.hold(kept);
            Ok((image, hold))
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
        self.push_layers(&session, reference, &image, &ready, events).await?;
        let config = blob(self, &ready.config).await?;
        session.push_blob(&ready.config, config, &[], Arc::new(|_| ())).await?;
        let pushed = self.push_manifest(&session, reference, &ready).await?;
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

    async fn push_layers(
        &self,
        session: &Session,
        reference: &Reference,
        image: &Image,
        ready: &Ready,
        events: &Events,
    ) -> Result<()> {
        let lenders = self.lenders(reference, image).await?;
        let lenders = &lenders;
        let turns = Semaphore::new(LAYERS_AT_ONCE);
        let turns = &turns;
        let mut running = FuturesUnordered::new();
        let mut seen = std::collections::BTreeSet::new();
        for (layer, digest) in image.layers.iter().zip(&ready.layers) {
            // An image may have one layer twice.
            if !seen.insert(digest) {
                continue;
            }
            running.push(async move {
                let id = layer.diff_id.short();
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

    /// Other repositories of the same registry that are known to have the layers of this image.
    async fn lenders(&self, reference: &Reference, image: &Image) -> Result<Vec<String>> {
        let store = Arc::clone(self.store());
        let (reference, layers) = (reference.clone(), image.layers.clone());
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

    async fn push_manifest(&self, session: &Session, reference: &Reference, ready: &Ready) -> Result<Pushed> {
        let digest = Digest::of(&ready.manifest);
        let what = reference.tag().map_or_else(|| digest.to_string(), ToOwned::to_owned);
        let url = session.url(&format!("manifests/{what}"));
        let headers = [(CONTENT_TYPE, ready.media_type.clone())];
        let payload = Payload::Bytes(ready.manifest.clone().into());
        let response = session.request(Method::PUT, &url, &headers, payload).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
            return Err(session.failure(response).await);
        }
        Ok(Pushed { digest, size: ready.manifest.len() as u64 })
    }
}

async fn blob(client: &Client, digest: &Digest) -> Result<(Arc<std::fs::File>, u64)> {
    let (store, digest) = (Arc::clone(client.store()), digest.clone());
    blocking(move || store.open_blob(&digest)).await.map(|(file, size)| (Arc::new(file), size))
}

/// The manifest under which a registry had the image before, when all of it is still here.
fn kept_manifest(store: &dray_image::ImageStore, image: &Image) -> Option<Ready> {
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
        _ => OCI_LAYER,
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
