//! As much of SPDY/3.1 as `kubectl port-forward` speaks: frames, their header blocks, nothing of HTTP.
//!
//! The peer's bytes are hostile: lengths are bounded, and every error ends the connection.

pub(crate) mod frame;
mod headers;
