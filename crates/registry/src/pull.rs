//! Pulling: from a reference over an index to a manifest, its configuration, and its layers, several at once.

use std::sync::Arc;

use dray_image::{Digest, Image, ImageConfig, Layer, NewLayer, Platform, Reference};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use crate::client::{Client, Fetched};
use crate::events::{Event, Events, Step};
use crate::session::Session;
use crate::{Credentials, Error, Result};
use dray_image::media::{Descriptor, Document, Manifest};

/// Layers that are fetched at once.
const LAYERS_AT_ONCE: usize = 4;
/// Indexes within indexes.
const INDEX_DEPTH: usize = 4;

/// An image to be pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// Which one.
    pub reference: Reference,
    /// For which platform; this machine's by default.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// What came of a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The digest of what the reference leads to: an index or a manifest.
    pub digest: Digest,
    /// Whether the name led to another image before, or to none.
    pub is_new: bool,
}

impl Client {
    /// Pulls an image. It has the name of the reference afterwards, and one by digest.
    ///
    /// # Errors
    /// When the registry does not have it, does not give it, or gives something else; nothing has been added then.
    /// [`Error::Cancelled`] when nobody listens to the events any more.
    pub async fn pull(&self, request: &PullRequest, events: &Events) -> Result<Pulled> {
        tokio::select! {
            pulled = self.pull_from_any(request, events) => pulled,
            () = events.abandoned() => Err(Error::Cancelled),
        }
    }

    async fn pull_from_any(&self, request: &PullRequest, events: &Events) -> Result<Pulled> {
        let reference = &request.reference;
        let mut last = Error::Cancelled;
        for endpoint in self.hosts().endpoints(reference.registry(), true) {
            let is_mirror = endpoint.is_mirror;
            let credentials = request.credentials.as_ref().filter(|_| !is_mirror);
            let error = match self.first_session(vec![endpoint], reference, "pull", credentials).await {
                Ok(session) => match self.pull_over(&session, request, events).await {
                    Ok(pulled) => return Ok(pulled),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let unreachable = matches!(error, Error::Connect { .. } | Error::Interrupted { .. });
            if !(unreachable || is_mirror && error.elsewhere()) {
                return Err(error);
            }
            tracing::debug!(reference = %reference, error = error.chain(), "a place to pull from is left out");
            last = error;
        }
        Err(last)
    }

    /// What the store has under this name already, if the registry says that this is what it would give.
    async fn present(&self, session: &Session, request: &PullRequest) -> Result<Option<Pulled>> {
        let reference = &request.reference;
        let (Some(tag), None, None) = (reference.tag(), reference.digest(), &request.platform) else {
            return Ok(None);
        };
        let Some(id) = self.store().named(reference) else { return Ok(None) };
        // Of an index the images of other platforms may be here alone.
        if self
            .store()
            .index_of(reference)
            .is_some_and(|index| index.image_for(&Platform::host()) != Some(&id))
        {
            return Ok(None);
        }
        let Some(digest) = session.head_digest(tag).await? else { return Ok(None) };
        if self.store().named(&reference.at_digest(digest.clone())).as_ref() != Some(&id) {
            return Ok(None);
        }
        let store = Arc::clone(self.store());
        let image = blocking(move || store.resolve(id.as_str())).await?;
        Ok(Some(Pulled { image, digest, is_new: false }))
    }

    async fn pull_over(&self, session: &Session, request: &PullRequest, events: &Events) -> Result<Pulled> {
        let reference = &request.reference;
        let what = reference.tag().map_or_else(
            || reference.digest().map(ToString::to_string).unwrap_or_default(),
            ToOwned::to_owned,
        );
        let pulling = Event::Pulling { what, repository: reference.repository().to_owned() };
        if let Some(pulled) = self.present(session, request).await? {
            events.tell(pulling).await;
            events.tell(Event::Digest(pulled.digest.clone())).await;
            return Ok(pulled);
        }
        let top = session.manifest(reference).await?;
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let Chosen { indexes, fetched, manifest } = choose(session, &top, &platform).await?;
        events.tell(pulling).await;
        let config = session.small_blob(&manifest.config).await?;
        let parsed: ImageConfig = serde_json::from_slice(&config).map_err(|error| Error::Manifest {
            why: format!("its configuration is none of an image: {error}"),
        })?;
        if let Some(wanted) = &request.platform {
            let own: Platform = serde_json::from_slice(&config).map_err(|error| Error::Manifest {
                why: format!("its configuration names no platform: {error}"),
            })?;
            if !wanted.suits(&own) {
                let (reference, platform) = (reference.familiar(), wanted.to_string());
                return Err(Error::OtherPlatform { reference, platform });
            }
        }
        let wanted = layers(&manifest, &parsed)?;
        let chains: Vec<Digest> =
            wanted.iter().map(|layer| Digest::chain(layer.parent.as_ref(), &layer.diff_id)).collect();
        let mut kept: Vec<Digest> = chains.clone();
        kept.extend(wanted.iter().map(|layer| layer.blob.clone()));
        kept.extend([manifest.config.digest.clone(), fetched.digest.clone()]);
        kept.extend(indexes.iter().map(|index| index.digest.clone()));
        let store = Arc::clone(self.store());
        // Until the image has its name, nothing else keeps what comes.
        let hold = blocking(move || Ok(store.hold(kept))).await?;
        let layers = self.fetch_layers(session, &manifest, &wanted, &chains, events).await?;
        events.tell(Event::Digest(top.digest.clone())).await;
        let store = Arc::clone(self.store());
        let (reference, digest) = (reference.clone(), top.digest.clone());
        let (image, is_new) = blocking(move || {
            let manifest = store.put_blob(&fetched.bytes)?;
            let image = store.register_image(&config, layers, &manifest)?;
            for index in &indexes {
                store.put_blob(&index.bytes)?;
            }
            let mut is_new = false;
            // A tag with a digest behind it is what one asks for, and the digest what one keeps.
            let tagged = if reference.digest().is_some() { None } else { reference.tagged() };
            for name in tagged.into_iter().chain([reference.at_digest(digest.clone())]) {
                let by_tag = name.tag().is_some() || reference.digest().is_some();
                let led_here = match store.index_of(&name) {
                    Some(index) => index.digest == digest && index.images().any(|own| *own == image.id),
                    None => store.named(&name).as_ref() == Some(&image.id),
                };
                is_new |= by_tag && !led_here;
                match indexes.first() {
                    Some(index) => store.name_index(&name, &index.digest).map(drop)?,
                    None if led_here && store.index_of(&name).is_none() => {}
                    None => store.tag(&image.id, &name)?,
                }
            }
            let image = store.resolve(image.id.as_str())?;
            Ok((image, is_new))
        })
        .await?;
        drop(hold);
        Ok(Pulled { image, digest: top.digest, is_new })
    }

    async fn fetch_layers(
        &self,
        session: &Session,
        manifest: &Manifest,
        wanted: &[NewLayer],
        chains: &[Digest],
        events: &Events,
    ) -> Result<Vec<Layer>> {
        for layer in wanted {
            events.layer(layer.blob.short(), Step::Needed).await;
        }
        let turns = Semaphore::new(LAYERS_AT_ONCE);
        let mut running = FuturesUnordered::new();
        for (index, ((layer, chain), descriptor)) in
            wanted.iter().zip(chains).zip(&manifest.layers).enumerate()
        {
            let turns = &turns;
            running.push(async move {
                let fetched = self.fetch_layer(session, descriptor, layer, chain, turns, events).await;
                (index, fetched)
            });
        }
        let mut layers: Vec<Option<Layer>> = vec![None; wanted.len()];
        while let Some((index, layer)) = running.next().await {
            layers[index] = Some(layer?);
        }
        Ok(layers.into_iter().flatten().collect())
    }

    async fn fetch_layer(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        wanted: &NewLayer,
        chain: &Digest,
        turns: &Semaphore,
        events: &Events,
    ) -> Result<Layer> {
        let id = wanted.blob.short();
        // Two pulls of one layer, or one image that has it twice on the same layers.
        let turn = self.turn(chain);
        let _turn = turn.lock().await;
        let (store, looked_for) = (Arc::clone(self.store()), chain.clone());
        if let Some(present) = blocking(move || store.layer(&looked_for)).await? {
            events.layer(id, Step::Exists).await;
            return Ok(present);
        }
        let (store, new) = (Arc::clone(self.store()), wanted.clone());
        if self.store().has_blob(&wanted.blob) {
            // It came with another image, above other layers.
            events.layer(id, Step::Extracting(wanted.size, wanted.size)).await;
            let layer =
                blocking(move || store.unpack_layer(new.parent.as_ref(), &new.blob, &new.diff_id)).await?;
            events.layer(id, Step::Pulled).await;
            return Ok(layer);
        }
        let waiting = match turns.try_acquire() {
            Ok(turn) => Ok(turn),
            Err(_) => {
                events.layer(id, Step::Waiting).await;
                turns.acquire().await
            }
        };
        let _turn = waiting.map_err(|_| Error::Cancelled)?;
        self.download(session, descriptor, wanted, events).await
    }
}

/// An image's manifest, and the indexes on the way to it.
struct Chosen {
    /// The first is the one that the reference leads to.
    indexes: Vec<Fetched>,
    fetched: Fetched,
    manifest: Manifest,
}

/// The manifest that an index has for a platform, or the one that it is already.
async fn choose(session: &Session, top: &Fetched, platform: &Platform) -> Result<Chosen> {
    let mut current = top.clone();
    let mut indexes = Vec::new();
    for _ in 0..INDEX_DEPTH {
        let descriptors = match &current.document {
            Document::Manifest(manifest) => {
                let manifest = manifest.clone();
                return Ok(Chosen { indexes, fetched: current, manifest });
            }
            Document::Index(descriptors) => descriptors,
        };
        let chosen = descriptors.iter().find(|descriptor| {
            dray_image::media::is_index(&descriptor.media_type).is_some()
                && descriptor.platform.as_ref().is_some_and(|own| platform.suits(own))
        });
        // An index within an index names no platform.
        let nested = || {
            let is_open = |descriptor: &&Descriptor| {
                descriptor.platform.is_none() && dray_image::media::is_index(&descriptor.media_type).is_some()
            };
            descriptors.iter().find(is_open)
        };
        let chosen =
            chosen.or_else(nested).ok_or_else(|| Error::NoPlatform { platform: platform.to_string() })?;
        let said = [Some(chosen.media_type.as_str())];
        let next = session.manifest_by(chosen.digest.as_str(), Some(&chosen.digest), &said).await?;
        indexes.push(std::mem::replace(&mut current, next));
    }
    Err(Error::Manifest { why: "indexes are nested too deeply".to_owned() })
}

/// The layers that are to come: each blob of the manifest belongs to one digest of the configuration.
fn layers(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<NewLayer>> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (have, want) = (manifest.layers.len(), diff_ids.len());
        let why = format!("it has {have} layers where its configuration names {want}: it is no image to run");
        return Err(Error::Manifest { why });
    }
    let mut parent = None;
    let new = diff_ids.iter().zip(&manifest.layers).map(|(diff_id, descriptor)| {
        let layer = NewLayer {
            blob: descriptor.digest.clone(),
            size: descriptor.size,
            diff_id: diff_id.clone(),
            parent: parent.clone(),
        };
        parent = Some(Digest::chain(layer.parent.as_ref(), diff_id));
        layer
    });
    Ok(new.collect())
}

/// Runs work of the store where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> dray_image::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Cancelled),
    }
}
