//! The Docker Engine API over HTTP: it translates between the wire and the engine, and decides nothing.
//!
//! A rule that would hold without HTTP lives in the engine, the image store or the builder.
#![forbid(unsafe_code)]
#![recursion_limit = "256"]

mod absent;
mod archive;
mod body;
mod build;
mod build_images;
mod build_push;
mod buildkit;
mod commit;
mod containers;
mod create;
mod disk_usage;
mod duration;
mod endpoints;
mod error;
mod events;
mod exec;
mod filters;
mod hijack;
mod host_config;
mod images;
mod inspect;
mod list;
mod logs;
mod manifests;
mod metrics;
mod mounts;
mod networks;
mod observe;
mod query;
mod resources;
mod router;
mod server;
mod swarm;
mod system;
mod top;
mod transfer;
mod version;
mod volumes;
mod websocket;
mod wire;

pub use server::{Api, serve};

/// The newest version of the API that is spoken.
pub const API_VERSION: &str = "1.53";
/// The oldest.
pub const MINIMUM_API_VERSION: &str = "1.24";
