//! The process that stays with a container: see [`main_if_requested`] and [`spawn`].

mod client;

pub use client::{Client, Created, spawn};

/// Becomes a shim when the process was started as one, and then never returns.
///
/// Must be the first statement of `main`: a shim has one thread from its first instruction on.
pub fn main_if_requested() {}

/// Name of shims in process lists and their `argv[0]`.
pub const PROCESS_NAME: &str = "dray-shim";
