//! `moby.buildkit.v1.frontend`: what a client that leads its build asks for.

use std::collections::BTreeMap;

use super::control::WorkerRecord;
use super::fsutil::Stat;
use super::google;
use super::ops::{Definition, Platform, Range, SourceInfo, SourceOp};

/// A result: one reference, or one for each platform.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SolveResult {
    #[prost(oneof = "References", tags = "1, 2, 3, 4")]
    pub(crate) result: Option<References>,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum References {
    #[prost(string, tag = "1")]
    OldOne(String),
    #[prost(message, tag = "2")]
    OldMap(OldRefMap),
    #[prost(message, tag = "3")]
    One(Ref),
    #[prost(message, tag = "4")]
    Map(RefMap),
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct OldRefMap {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) refs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ref {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) def: Option<Definition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RefMap {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) refs: BTreeMap<String, Ref>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) result: Option<SolveResult>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<google::Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InputsResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) definitions: BTreeMap<String, Definition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResolveImageConfigRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) platform: Option<Platform>,
    #[prost(string, tag = "3")]
    pub(crate) resolve_mode: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResolveImageConfigResponse {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) reference: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResolveSourceMetaRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<SourceOp>,
    #[prost(message, optional, tag = "2")]
    pub(crate) platform: Option<Platform>,
    #[prost(string, tag = "4")]
    pub(crate) resolve_mode: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResolveSourceMetaResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<SourceOp>,
    #[prost(message, optional, tag = "2")]
    pub(crate) image: Option<ResolveSourceImageResponse>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResolveSourceImageResponse {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) frontend_opt: BTreeMap<String, String>,
    #[prost(bool, tag = "5")]
    pub(crate) allow_result_return: bool,
    #[prost(bool, tag = "6")]
    pub(crate) allow_result_array_ref: bool,
    #[prost(btree_map = "string, message", tag = "13")]
    pub(crate) frontend_inputs: BTreeMap<String, Definition>,
    #[prost(bool, tag = "14")]
    pub(crate) evaluate: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SolveResponse {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) result: Option<SolveResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReadFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) range: Option<FileRange>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct FileRange {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "2")]
    pub(crate) length: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadFileResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadDirRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(string, tag = "3")]
    pub(crate) include: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadDirResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Stat>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatFileResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) stat: Option<Stat>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct EvaluateRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) frontend_caps: Vec<ApiCap>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) llb_caps: Vec<ApiCap>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) workers: Vec<WorkerRecord>,
}

/// Something that the daemon can do, by name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ApiCap {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) enabled: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WarnRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) level: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) short: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) detail: Vec<Vec<u8>>,
    #[prost(string, tag = "5")]
    pub(crate) url: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) info: Option<SourceInfo>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) ranges: Vec<Range>,
}
