//! From a pod's container to what the engine is asked for.

pub(crate) mod build;
pub(crate) mod environment;
pub(crate) mod names;
pub(crate) mod security;
