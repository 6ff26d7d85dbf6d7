//! Who takes results to registries: told to the API when it is made, for it knows none.

use dray_build::{BoxFuture, Client};
use dray_image::{Digest, Reference};

/// An image that is to go to its registry.
pub struct Push<'a> {
    /// The name that it has here, and there.
    pub name: &'a Reference,
    /// A manifest of the image store that goes under the name, in place of the image that has it.
    pub manifest: Option<&'a Digest>,
    /// Who may have credentials.
    pub client: &'a dyn Client,
    /// Told the part, the bytes that are done, and all there are (0 when that is not known).
    pub progress: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

/// Takes images to registries.
pub trait Pusher: Send + Sync {
    /// Pushes an image; the answer is the digest that the registry has it by, or why it has not.
    fn push<'a>(&'a self, push: Push<'a>) -> BoxFuture<'a, Result<Digest, String>>;
}
