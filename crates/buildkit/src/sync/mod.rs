//! A client's directory, kept here from build to build: only what has changed goes over the wire.
//!
//! The client tells of every entry, the daemon asks for the content of those that differ from what it has (fsutil's
//! DiffCopy). What comes is hostile: an entry has a place only in a directory that was told of before, and the kernel
//! resolves every path beneath the tree's top without following a link.

mod keep;
mod receive;
mod send;
mod stat;
mod tree;

pub(crate) use keep::Keep;
pub(crate) use receive::{Wanted, receive};
pub(crate) use send::send;
pub(crate) use stat::stat_of;
