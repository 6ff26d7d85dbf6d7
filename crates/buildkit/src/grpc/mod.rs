//! gRPC over HTTP/2 connections that are there already: messages with a length before them, and a status in the
//! trailers (grpc's PROTOCOL-HTTP2).
//!
//! Both directions are here, for the two connections of a build are one each: the client calls the daemon on the one, and
//! the daemon calls the client on the other. It knows no service and no message.

mod client;
mod frame;
mod server;
mod status;

pub(crate) use client::{Client, Metadata, Stream};
pub(crate) use server::{Call, serve};
pub(crate) use status::{Code, Status};

/// The largest message that is taken, in bytes: BuildKit's own limit.
pub(crate) const LARGEST_MESSAGE: usize = 16 << 20;
/// Bytes of a stream that may be under way unread: what bounds memory, for streams are few.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of a whole connection. It is this wide because h2 ends a connection on which small frames wait that would cost
/// half of it at 256 bytes each, and a tree of files is nothing but small frames.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// The largest frame that is taken, in bytes.
const LARGEST_FRAME: u32 = 256 << 10;
/// Messages to a slow reader that wait.
const AHEAD: usize = 16;
