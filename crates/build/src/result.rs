//! What a build has become, before anybody has named or exported it.

use std::path::Path;
use std::sync::Arc;

use dray_engine::{Engine, Root};
use dray_image::{Digest, ImageConfig, Layer, NewImage, Reference};

use crate::builder::blocking;
use crate::cache::Pins;
use crate::platform::Platform;
use crate::{Error, Result};

/// What a build has become: an image a platform. Its layers stay as long as this does.
#[derive(Clone)]
pub struct Built {
    /// One a platform that was asked for, in that order.
    pub images: Vec<BuiltImage>,
    pub(crate) engine: Engine,
    pub(crate) _pins: Arc<Pins>,
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

    /// Records the image of the first platform in the store under these names; answers its id.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn record(&self, names: &[Reference]) -> Result<Digest> {
        let image = self.first()?.clone();
        let engine = self.engine.clone();
        let names = names.to_owned();
        blocking(move || {
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

    /// Writes what other builds need to take steps from this one: an OCI layout in the directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn export_cache(&self, _mode: crate::CacheMode, _directory: &Path) -> Result<()> {
        Err(Error::invalid("this cache cannot be exported yet"))
    }
}
