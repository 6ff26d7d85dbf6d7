//! Results of builds that travel: inline in an image, or as a cache of their own in a registry or a directory, as records of
//! which step led to which layer. Layers come one by one, when a step is wanted.
//!
//! A record is believed because the caller named its place as one to take results from (CVE-2024-24557).

use std::collections::HashMap;
use std::sync::Arc;

use dray_image::{Digest, Image, ImageStore, Layer, NewImage, NewLayer};
use serde_json::Value;

use crate::builder::blocking;
use crate::cache::{self, Cache, Entry};
use crate::cache_manifest::{self, Step};
use crate::client::LocalDirectory;
use crate::images::{CacheBlobs, Pull};
use crate::platform::Platform;
use crate::request::CacheImport;
use crate::result::{BuiltImage, Trail};
use crate::session::Session;
use crate::{Error, Result, layout};

/// The field of an image's configuration that holds the records.
pub(crate) const FIELD: &str = "dev.dray.build.cache.v1";

/// A cache that is not here: its steps by their keys, and the way to their layers.
pub(crate) struct Elsewhere {
    steps: HashMap<String, Step>,
    blobs: Arc<dyn CacheBlobs>,
}

/// Takes over what the request names; a place that has nothing is passed by.
pub(crate) async fn import(session: &Session) -> Result<()> {
    for place in &session.request.cache_from {
        let imported = match place {
            CacheImport::Image(name) => of_image(session, name).await,
            CacheImport::Directory(directory) => of_directory(session, directory).await,
        };
        if let Err(error) = imported {
            tracing::info!(error = %error.chain(), "nothing is taken from a cache");
        }
    }
    Ok(())
}

/// A cache of a registry, or an image with its cache inline.
async fn of_image(session: &Session, name: &str) -> Result<()> {
    let platform = session.request.platforms.first().cloned().unwrap_or_else(Platform::host);
    let is_here = session.builder.engine.images().resolve(name).is_ok();
    if let Some(source) = session.builder.source.as_ref().filter(|_| !is_here) {
        let progress = |_: &str, _, _| ();
        let client = &session.client;
        let pull = Pull { name, platform: &platform, anew: true, client, progress: &progress };
        let blobs = source.cache(pull).await;
        let blobs =
            blobs.map_err(|error| Error::NoImage { name: name.to_owned(), why: error.to_string() })?;
        if take(session, blobs).await? {
            return Ok(());
        }
    }
    let image = session.image(name, &platform).await?;
    adopt(session, vec![image]).await
}

/// A cache in a directory, or images there with their caches inline.
async fn of_directory(session: &Session, directory: &LocalDirectory) -> Result<()> {
    let engine = session.builder.engine.clone();
    let (store, of) = (Arc::clone(engine.images()), directory.clone());
    let blobs = blocking(move || layout::Blobs::open(store, of)).await?;
    if take(session, Arc::new(blobs)).await? {
        return Ok(());
    }
    let (loading, directory) = (engine.clone(), directory.clone());
    let borrowed = blocking(move || layout::load_all(&loading, directory.path())).await?;
    let images = borrowed.images.iter().map(|(_, image)| image.clone()).collect();
    let adopted = adopt(session, images).await;
    // What only carried the cache is no image of this machine.
    blocking(move || borrowed.give_back(&engine)).await?;
    adopted
}

/// Notes the steps of a manifest that is a cache's; whether it is.
async fn take(session: &Session, blobs: Arc<dyn CacheBlobs>) -> Result<bool> {
    let Ok(manifest) = serde_json::from_slice::<Value>(blobs.manifest()) else { return Ok(false) };
    let Some((digest, size)) = cache_manifest::configuration(&manifest) else { return Ok(false) };
    let config = blobs.document(&digest, size).await;
    let config = config.map_err(|error| Error::invalid(format!("a cache cannot be read: {error}")))?;
    let steps = cache_manifest::steps(&manifest, &config);
    session.caches.lock().push(Arc::new(Elsewhere { steps, blobs }));
    Ok(true)
}

/// The result of a step from elsewhere, on the layers up to `below`: its own layer is brought here, and it is kept.
pub(crate) async fn find(session: &Session, key: &str, below: Option<&Digest>) -> Result<Option<Entry>> {
    let caches = session.caches.lock().clone();
    for cache in caches {
        let Some(step) = cache.steps.get(key) else { continue };
        let layer = match &step.layer {
            None => None,
            Some(new) if new.parent.as_ref() != below => continue,
            Some(new) => match bring(session, &cache, new).await {
                Ok(layer) => Some(layer),
                Err(error) => {
                    tracing::info!(error = %error.chain(), "a step is not taken from a cache");
                    continue;
                }
            },
        };
        let made = jiff::Timestamp::now();
        let entry = Entry { history: step.history.clone(), layer, kind: "regular".to_owned(), made };
        let (cache, store) =
            (Arc::clone(&session.builder.cache), Arc::clone(session.builder.engine.images()));
        let (key, kept) = (key.to_owned(), entry.clone());
        blocking(move || keep(&cache, &store, &key, &kept)).await?;
        return Ok(Some(entry));
    }
    Ok(None)
}

async fn bring(session: &Session, cache: &Elsewhere, new: &NewLayer) -> Result<Layer> {
    let store = Arc::clone(session.builder.engine.images());
    let wanted = new.clone();
    let (hold, present) = blocking(move || {
        let chain = Digest::chain(wanted.parent.as_ref(), &wanted.diff_id);
        let hold = store.hold([chain.clone(), wanted.blob.clone()]);
        Ok((hold, store.layer(&chain)?))
    })
    .await?;
    session.holds.lock().push(hold);
    match present {
        Some(present) => Ok(present),
        None => {
            let brought = cache.blobs.layer(new).await;
            brought.map_err(|error| Error::invalid(format!("a layer cannot be had: {error}")))
        }
    }
}

fn keep(cache: &Cache, store: &ImageStore, key: &str, entry: &Entry) -> Result<()> {
    if let Some(layer) = &entry.layer {
        store.lease(&cache::owner(key), &layer.chain_id)?;
    }
    cache.put(key, entry)
}

/// Writes the records of an image's steps into its configuration.
pub(crate) fn inscribe(image: &mut BuiltImage) -> Result<()> {
    let records = serde_json::to_value(&image.trail).map_err(|error| Error::invalid(error.to_string()))?;
    image.config.other.insert(FIELD.to_owned(), records);
    let new = NewImage { config: image.config.clone(), layers: image.layers.clone() };
    image.id = new.id()?;
    Ok(())
}

async fn adopt(session: &Session, images: Vec<Image>) -> Result<()> {
    let (cache, store) = (Arc::clone(&session.builder.cache), Arc::clone(session.builder.engine.images()));
    let pins = Arc::clone(&session.pins);
    blocking(move || {
        for image in &images {
            for trail in trails(image) {
                pins.add(&trail.key);
                adopt_step(&cache, &store, image, &trail)?;
            }
        }
        Ok(())
    })
    .await
}

fn trails(image: &Image) -> Vec<Trail> {
    /// More steps no image has.
    const MOST: usize = 10_000;
    let field = image.config.other.get(FIELD);
    let trails: Vec<Trail> =
        field.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default();
    let is_key = |trail: &Trail| trail.key.len() == 64 && trail.key.bytes().all(|b| b.is_ascii_hexdigit());
    trails.into_iter().take(MOST).filter(is_key).collect()
}

fn adopt_step(cache: &Cache, store: &ImageStore, image: &Image, trail: &Trail) -> Result<()> {
    let Some(history) = image.config.history.get(trail.history) else { return Ok(()) };
    let layer = match trail.layer {
        None => None,
        Some(index) => match image.layers.get(index) {
            Some(layer) => Some(layer.clone()),
            None => return Ok(()),
        },
    };
    if cache.find(&trail.key, layer.as_ref().and_then(|layer| layer.parent.as_ref())).is_some() {
        return Ok(());
    }
    let entry =
        Entry { history: history.clone(), layer, kind: "regular".to_owned(), made: jiff::Timestamp::now() };
    keep(cache, store, &trail.key, &entry)
}
