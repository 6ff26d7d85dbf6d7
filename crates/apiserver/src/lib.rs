//! The Kubernetes HTTP API: one generic handler over the kinds table of `dray-machinery`, objects in
//! `dray-store`, discovery, access, and the way through to the node agents.
//!
//! This crate must not know any kind by name outside of admission and of the subresources that are HTTP
//! protocols of their own, nor the controllers, the scheduler or the node agent.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod aggregator;
mod allocation;
mod audit;
mod authenticate;
mod body;
mod bootstrap;
mod bounded;
mod custom;
mod decode;
mod discovery;
mod duplicates;
mod error;
mod eviction;
mod flow;
mod grants;
mod handler;
mod health;
mod impersonate;
mod listen;
mod negotiate;
mod node;
mod openapi;
mod passage;
mod pki;
mod query;
mod read;
mod remove;
mod request;
mod respond;
mod review;
mod server;
mod service;
mod signing;
mod storage;
mod strategy;
mod subresources;
mod token_request;
mod tokens;
mod watching;
mod webhook_client;
mod write;

pub use audit::{Audit, Rotation};
pub use body::ResponseBody;
pub use dray_access::User;
pub use error::Error;
pub use server::{ApiServer, Config, Extension, NodeConnector, NodeStream};
pub use service::ApiService;
pub use storage::{EtcdConfig, StoreConfig};
