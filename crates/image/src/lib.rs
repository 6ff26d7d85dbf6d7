//! Images: a content-addressed store of blobs, the layers unpacked from them, and the references that name them.
//!
//! One store serves both halves: what the builder commits or a user loads is at once what a pod runs.
//! The crate knows no other crate of ours, no container and no HTTP. It is synchronous: callers that run on an
//! asynchronous runtime call it from a blocking thread.
//!
//! Every byte that enters is hostile until its digest has been checked, and nothing that an image says decides
//! anything about the host: unpacking happens beneath one directory descriptor and never leaves it.
#![forbid(unsafe_code)]

mod collect;
mod commit;
mod compression;
mod config;
mod content;
mod digest;
mod error;
mod gzip;
mod hold;
mod index;
mod ingest;
mod lease;
mod links;
mod load;
pub mod media;
mod pack;
mod pipe;
mod platform;
mod reference;
mod registered;
mod repository;
mod save;
mod store;
mod unpack;
mod upload;

pub use collect::{Deletion, UsageTotals, User};
pub use compression::{decompressed_head, looks_compressed};
pub use config::{ContainerDefaults, History, ImageConfig, RootFs};
pub use digest::Digest;
pub use error::{Error, Result};
pub use hold::Hold;
pub use index::{Index, Member, MemberKind};
pub use ingest::NewLayer;
pub use load::{LoadOptions, Loaded};
pub use pack::{archive_contents, archive_path, copy_directory};
pub use platform::Platform;
pub use reference::Reference;
pub use registered::{PackedLayer, Packing};
pub use repository::{BlobDigest, ManifestLink, Repository};
pub use store::{Image, ImageStore, Layer, NewImage};
pub use unpack::extract_archive;
pub use upload::Upload;
