//! `fsutil.types`: a tree of files on the wire.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    /// An entry of the tree; without one, the tree is complete.
    Stat = 0,
    /// The receiver wants the content of an entry.
    Request = 1,
    /// A piece of content; an empty one ends it.
    Data = 2,
    /// All is well on this side.
    Finished = 3,
    /// All is not well; the data says why.
    Error = 4,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Packet {
    #[prost(enumeration = "Kind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<Stat>,
    /// The entry's place among those sent, from 0.
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
}

/// An entry of a tree, directories before what is in them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Stat {
    /// Relative to the tree's top, with slashes.
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    /// Permissions and kind, in the bits of Go's `os.FileMode`.
    #[prost(uint32, tag = "2")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) gid: u32,
    #[prost(int64, tag = "5")]
    pub(crate) size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(crate) modified: i64,
    /// The target of a symbolic link, or the earlier entry that this is a hard link to.
    #[prost(string, tag = "7")]
    pub(crate) link: String,
    #[prost(int64, tag = "8")]
    pub(crate) major: i64,
    #[prost(int64, tag = "9")]
    pub(crate) minor: i64,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}
