//! What tests stand on: isolation from the host. Used by tests only; knows no other crate of ours.
#![forbid(unsafe_code)]

mod isolate;
mod wait;

pub use isolate::isolate;
pub use wait::eventually;
