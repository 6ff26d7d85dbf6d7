//! Revisioned keys with watch: what every object of the cluster is kept in.
//!
//! One writer thread turns many requests into one durable batch; readers share an immutable snapshot in
//! memory and never wait for the disk. Values are JSON texts whose `resourceVersion` the store fills in at
//! commit. This crate must not know what the objects mean, nor HTTP, nor Kubernetes beyond that one field.
#![forbid(unsafe_code)]

mod backend;
mod encryption;
mod entry;
mod error;
mod etcd;
mod history;
mod key;
mod publication;
mod snapshot;
mod store;
mod writer;

pub use backend::{Backend, Change, Done, Embedded, Loaded, Memory, backup};
pub use encryption::Encryption;
pub use entry::{Draft, Entry};
pub use error::Error;
pub use etcd::EtcdConfig;
pub use history::{Event, EventKind, Watcher};
pub use key::Key;
pub use snapshot::Snapshot;
pub use store::{Limits, Store};
