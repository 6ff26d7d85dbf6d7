//! Images that are not here: who brings them is told to the builder when it is made.

use std::sync::Arc;

use dray_image::{Digest, Layer, NewLayer};

use crate::client::{BoxFuture, Client};
use crate::platform::Platform;

/// Brings images of registries into the store.
pub trait ImageSource: Send + Sync {
    /// Pulls an image for a platform, unless it is here and `anew` is not set; answers its id. `client` may have
    /// credentials for its registry. `progress` is told parts, done and total bytes.
    fn pull<'a>(&'a self, pull: Pull<'a>) -> BoxFuture<'a, Result<Digest, PullError>>;

    /// What a registry has under a name, which may be the cache of a build and no image.
    fn cache<'a>(&'a self, pull: Pull<'a>) -> BoxFuture<'a, Result<Arc<dyn CacheBlobs>, PullError>>;
}

/// A manifest that is elsewhere, and the way to what it names.
pub trait CacheBlobs: Send + Sync {
    /// The manifest's bytes.
    fn manifest(&self) -> &[u8];

    /// A document that it names, which is not larger than `size` bytes.
    fn document<'a>(&'a self, digest: &'a Digest, size: u64) -> BoxFuture<'a, Result<Vec<u8>, PullError>>;

    /// A layer that it names, taken into the store; the caller holds it.
    fn layer<'a>(&'a self, layer: &'a NewLayer) -> BoxFuture<'a, Result<Layer, PullError>>;
}

/// What is to be pulled.
pub struct Pull<'a> {
    /// The image as the Dockerfile names it.
    pub name: &'a str,
    /// For what it is to be.
    pub platform: &'a Platform,
    /// Whether the registry is asked although the image is here.
    pub anew: bool,
    /// Who may have credentials.
    pub client: &'a Arc<dyn Client>,
    /// Told the part, the bytes that are done, and all there are (0 when that is not known).
    pub progress: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

/// Why an image was not pulled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// There is no such image, or not for this client.
    #[error("{why}")]
    NotFound {
        /// What the registry said.
        why: String,
    },
    /// The registry cannot be reached or failed.
    #[error("{why}")]
    Failed {
        /// The reason.
        why: String,
    },
}
