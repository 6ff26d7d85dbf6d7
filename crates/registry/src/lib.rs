//! Images between registries and the store: a client that pulls and pushes, and a registry that gives out what is in the
//! store (OCI distribution specification 1.1).
//!
//! The crate knows the image store and no engine, no Docker API and no command line: who asks gives credentials and gets
//! [`Event`]s. What a registry says is hostile until a digest has proved it; what a client of ours says is hostile anyway.
#![forbid(unsafe_code)]

mod artifact;
mod challenge;
mod client;
mod connect;
mod credentials;
mod download;
mod error;
mod events;
mod exchange;
mod hosts;
mod pull;
mod push;
pub mod server;
mod session;
mod token;
mod uploading;

pub use artifact::Artifact;
pub use client::{Client, Inspected, Login};
pub use credentials::Credentials;
pub use dray_image::Platform;
pub use error::{Error, Result};
pub use events::{Event, Events, Step};
pub use hosts::Hosts;
pub use pull::{PullRequest, Pulled};
pub use push::{PushRequest, Pushed};
