//! Results of builds that travel: inline in an image, or in a directory, as records of which step led to which layer.
//!
//! A record is believed because the caller named its place as one to take results from (CVE-2024-24557).

use std::sync::Arc;

use dray_image::{Image, ImageStore, NewImage};

use crate::builder::blocking;
use crate::cache::{self, Cache, Entry};
use crate::platform::Platform;
use crate::request::CacheImport;
use crate::result::{BuiltImage, Trail};
use crate::session::Session;
use crate::{Error, Result, layout};

/// The field of an image's configuration that holds the records.
pub(crate) const FIELD: &str = "dev.dray.build.cache.v1";

/// Takes over what the request names; a place that has nothing is passed by.
pub(crate) async fn import(session: &Session) -> Result<()> {
    for place in &session.request.cache_from {
        let imported = match place {
            CacheImport::Image(name) => {
                let platform = session.request.platforms.first().cloned().unwrap_or_else(Platform::host);
                match session.image(name, &platform).await {
                    Ok(image) => adopt(session, vec![image]).await,
                    Err(error) => Err(error),
                }
            }
            CacheImport::Directory(directory) => {
                let (engine, directory) = (session.builder.engine.clone(), directory.clone());
                let loaded = blocking(move || layout::load_all(&engine, directory.path())).await;
                match loaded {
                    Ok(borrowed) => {
                        let images = borrowed.images.iter().map(|(_, image)| image.clone()).collect();
                        let adopted = adopt(session, images).await;
                        let engine = session.builder.engine.clone();
                        // What only carried the cache is no image of this machine.
                        blocking(move || borrowed.give_back(&engine)).await?;
                        adopted
                    }
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = imported {
            tracing::info!(error = %error.chain(), "nothing is taken from a cache");
        }
    }
    Ok(())
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
    if let Some(layer) = &layer {
        store.lease(&cache::owner(&trail.key), &layer.chain_id)?;
    }
    let entry =
        Entry { history: history.clone(), layer, kind: "regular".to_owned(), made: jiff::Timestamp::now() };
    cache.put(&trail.key, &entry)
}
