//! Images that are not here: who brings them is told to the builder when it is made.

use std::sync::Arc;

use dray_image::Digest;

use crate::client::{BoxFuture, Client};
use crate::platform::Platform;

/// Brings images of registries into the store.
pub trait ImageSource: Send + Sync {
    /// Pulls an image for a platform, unless it is here and `anew` is not set; answers its id. `client` may have
    /// credentials for its registry. `progress` is told parts, done and total bytes.
    fn pull<'a>(&'a self, pull: Pull<'a>) -> BoxFuture<'a, Result<Digest, PullError>>;
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
