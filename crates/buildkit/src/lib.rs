//! BuildKit's API on the builder: the two gRPC connections of a build, and what goes over them.
//!
//! On the one a client asks for builds (`moby.buildkit.v1.Control`) and leads them (`moby.buildkit.v1.frontend`). On the
//! other, its session, the daemon asks the client: for files, secrets, keys, and a place for the result. How a Dockerfile
//! becomes an image is the builder's; this crate knows no HTTP but the connections that it is given.
#![forbid(unsafe_code)]

mod bridge;
mod client;
mod content;
mod control;
mod definition;
mod error;
mod export;
mod failure;
mod frontend;
mod grpc;
mod history;
mod jobs;
mod kit;
mod pipe;
mod proto;
mod push;
mod record;
mod session;
mod subrequest;
mod sync;
mod usage;

pub use error::Error;
pub use kit::BuildKit;
pub use push::{Push, Pusher};

/// A name that nothing else has, and nobody guesses.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
