//! Dockerfile to image: a plan and a cache, run on the engine and the image store.
//!
//! It knows no HTTP: the context comes as a reader, and what happens goes to a channel. RUN's processes are
//! containers of the engine like any other.
#![forbid(unsafe_code)]

mod attest;
mod builder;
mod cache;
mod cache_manifest;
mod cache_mounts;
mod cache_transfer;
mod check_rules;
mod check_variables;
mod checks;
mod chmod;
mod client;
mod configure;
mod context;
mod describe;
mod error;
mod export;
mod git;
mod git_address;
mod git_pack;
mod git_ssh;
mod git_wire;
mod graph;
mod http_client;
mod images;
mod layout;
mod mount_place;
mod plan;
mod platform;
pub mod pressure;
mod progress;
mod remote;
mod request;
mod result;
mod run;
mod run_mounts;
mod sbom;
mod session;
mod sources;
mod stage;
mod state;
mod steps;
mod transcript;
mod transfer;
mod tree;

pub use builder::{Builder, Pruned};
pub use cache::CachedStep;
pub use client::{
    BoxFuture, Client, ClientError, Credentials, Duplex, LocalDirectory, LocalFilter, NoClient, ProgressFn,
};
pub use configure::amend;
pub use describe::{CheckReport, Outline, TargetDescription};
pub use dray_dockerfile::{ParseError, Pattern, parse_duration};
pub use error::{Error, Place, Result};
pub use export::{ArchiveOptions, Compression, Exported, StoredCache};
pub use images::{CacheBlobs, ImageSource, Pull, PullError};
pub use platform::Platform;
pub use progress::{Event, SourceRange, Vertex, VertexLog, VertexStatus, Warning};
pub use request::{
    Attestations, BuildRequest, CacheImport, CacheMode, ContextSource, DockerfileSource, Entitlements,
    NamedContext, NoCache, Provenance,
};
pub use result::{Built, BuiltImage, Statement};
