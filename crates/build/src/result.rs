//! What a build has become, before anybody has named or exported it.

use std::sync::Arc;

use dray_engine::{Engine, Root};
use dray_image::{Digest, Hold, ImageConfig, Layer, NewImage, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::builder::blocking;
use crate::cache::Pins;
use crate::platform::Platform;
use crate::state::State;
use crate::{Error, Result};

/// What a build has become: an image a platform. Its layers stay as long as this does.
#[derive(Clone)]
pub struct Built {
    /// One a platform that was asked for, in that order.
    pub images: Vec<BuiltImage>,
    pub(crate) engine: Engine,
    /// What the stages have become that the result was made with, for who keeps those as well.
    pub(crate) stages: Vec<BuiltImage>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) holds: Arc<Mutex<Vec<Hold>>>,
}

/// The image for one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The platform.
    pub platform: Platform,
    /// The configuration, with the diff ids of the layers.
    pub config: ImageConfig,
    /// The layers, lowest first; none for `FROM scratch` with nothing in it.
    pub layers: Vec<Layer>,
    /// The digest that the configuration has, and so the image's id.
    pub id: Digest,
    /// Statements about it.
    pub attestations: Vec<Statement>,
    /// The steps that led to it, by their keys.
    pub(crate) trail: Vec<Trail>,
}

/// A step that led to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trail {
    /// Its key in the cache.
    pub(crate) key: String,
    /// Its place in the history.
    pub(crate) history: usize,
    /// The place of its layer; none when it wrote nothing.
    pub(crate) layer: Option<usize>,
}

impl BuiltImage {
    pub(crate) fn of(platform: Platform, state: &State, inline_cache: bool) -> Result<Self> {
        let mut config = state.config.clone();
        if state.id.is_none() {
            return Err(Error::NoResult);
        }
        config.rootfs.diff_ids = state.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let mut image = Self {
            platform,
            id: NewImage { config: config.clone(), layers: state.layers.clone() }.id()?,
            config,
            layers: state.layers.clone(),
            attestations: Vec::new(),
            trail: state.trail.clone(),
        };
        if inline_cache {
            crate::cache_transfer::inscribe(&mut image)?;
        }
        Ok(image)
    }
}
/// An in-toto statement about an image, without its subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// `https://slsa.dev/provenance/v0.2`, `https://spdx.dev/Document`.
    pub predicate_type: String,
    /// The predicate.
    pub predicate: serde_json::Value,
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("images", &self.images).finish_non_exhaustive()
    }
}

impl Built {
    /// The image of the first platform.
    ///
    /// # Errors
    /// [`Error::NoResult`] when there is none.
    pub fn first(&self) -> Result<&BuiltImage> {
        self.images.first().ok_or(Error::NoResult)
    }

    /// Records the image of the first platform in the store under these names; answers its id. Those of the other platforms
    /// are recorded without a name.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn record(&self, names: &[Reference]) -> Result<Digest> {
        let image = self.first()?.clone();
        let others = self.images[1..].to_vec();
        let engine = self.engine.clone();
        let names = names.to_owned();
        blocking(move || {
            for other in others {
                engine.images().create(NewImage { config: other.config, layers: other.layers })?;
            }
            let recorded = engine.images().create(NewImage { config: image.config, layers: image.layers })?;
            debug_assert_eq!(recorded.id, image.id);
            for name in &names {
                engine.images().tag(&recorded.id, name)?;
                engine.image_event("tag", &recorded.id, &name.familiar());
            }
            Ok(recorded.id)
        })
        .await
    }

    /// The files of an image, read-only and on no path of the host; none when it has no layers.
    ///
    /// # Errors
    /// When the layers cannot be mounted.
    pub fn open(&self, image: &BuiltImage) -> Result<Option<Root>> {
        if image.layers.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.engine.open_layers(&image.layers)?))
    }
}
