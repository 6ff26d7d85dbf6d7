//! The client: commands as docker and kubectl have them, spoken over HTTP to a daemon.
//!
//! It knows the two APIs and nothing of the server: whatever it does, a user can do with any other client.
#![forbid(unsafe_code)]

pub mod docker;
mod error;
mod format;
pub mod kubectl;
mod table;
mod terminal;
mod text;

pub use error::{Error, Result};
