//! The messages that are spoken, as far as they are used, written after the public definitions of BuildKit and fsutil.
//!
//! Fields that nobody here reads are left out: decoding skips them. Numbers and types are the wire's and never change.

pub(crate) mod content;
pub(crate) mod control;
pub(crate) mod fsutil;
pub(crate) mod gateway;
pub(crate) mod google;
pub(crate) mod ops;
pub(crate) mod session;
