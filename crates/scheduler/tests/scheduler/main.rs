//! The scheduler against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod devices;
mod placing;
mod profiles;
mod support;
mod volumes;
