//! Custom kinds over HTTP: definitions, what they refuse, and what becomes of their objects.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/peer.rs"]
mod peer;
#[path = "support/server.rs"]
mod server;
#[path = "custom/support.rs"]
mod support;

#[path = "custom/conversion.rs"]
mod conversion;
#[path = "custom/definitions.rs"]
mod definitions;
#[path = "custom/documents.rs"]
mod documents;
#[path = "custom/hostile.rs"]
mod hostile;
#[path = "custom/instances.rs"]
mod instances;
