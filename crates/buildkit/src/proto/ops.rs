//! `pb`: the graph that clients and frontends send, and places in source files.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A graph: encoded operations, of which the last names the result.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Definition {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) def: Vec<Bytes>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) metadata: BTreeMap<String, OpMetadata>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct OpMetadata {
    #[prost(bool, tag = "1")]
    pub(crate) ignore_cache: bool,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) description: BTreeMap<String, String>,
    #[prost(btree_map = "string, bool", tag = "5")]
    pub(crate) caps: BTreeMap<String, bool>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Op {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<Input>,
    #[prost(message, optional, tag = "3")]
    pub(crate) source: Option<SourceOp>,
    /// The other kinds of operation, which are only told apart.
    #[prost(message, optional, tag = "2")]
    pub(crate) exec: Option<Unread>,
    #[prost(message, optional, tag = "4")]
    pub(crate) file: Option<Unread>,
    #[prost(message, optional, tag = "5")]
    pub(crate) build: Option<Unread>,
    #[prost(message, optional, tag = "6")]
    pub(crate) merge: Option<Unread>,
    #[prost(message, optional, tag = "7")]
    pub(crate) diff: Option<Unread>,
    #[prost(message, optional, tag = "10")]
    pub(crate) platform: Option<Platform>,
}

/// A message that is not looked into.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Unread {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Input {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) index: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SourceOp {
    #[prost(string, tag = "1")]
    pub(crate) identifier: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) attrs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Platform {
    #[prost(string, tag = "1")]
    pub(crate) architecture: String,
    #[prost(string, tag = "2")]
    pub(crate) os: String,
    #[prost(string, tag = "3")]
    pub(crate) variant: String,
}

/// A file that steps come from.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SourceInfo {
    #[prost(string, tag = "1")]
    pub(crate) filename: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) language: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Range {
    #[prost(message, optional, tag = "1")]
    pub(crate) start: Option<Position>,
    #[prost(message, optional, tag = "2")]
    pub(crate) end: Option<Position>,
}

/// A line from 1, a character from 0.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Position {
    #[prost(int32, tag = "1")]
    pub(crate) line: i32,
    #[prost(int32, tag = "2")]
    pub(crate) character: i32,
}
