//! Dockerfile to image: a parser, a plan and a cache, run on the engine and the image store.
//!
//! It knows no HTTP: the context comes as a reader, and what happens goes to a channel. RUN's processes are
//! containers of the engine like any other.
#![forbid(unsafe_code)]

mod builder;
mod cache;
mod client;
mod configure;
mod context;
mod describe;
mod error;
mod expand;
mod glob;
mod ignore;
mod images;
mod instruction;
mod lines;
mod parser;
mod platform;
mod progress;
mod request;
mod result;
mod run;
mod state;
mod steps;
mod transfer;
mod tree;

pub use builder::{Builder, Pruned};
pub use cache::CachedStep;
pub use client::{
    BoxFuture, Client, ClientError, Credentials, Duplex, LocalDirectory, LocalFilter, NoClient,
};
pub use configure::amend;
pub use describe::{CheckReport, Outline, TargetDescription};
pub use error::{Error, ParseError, Result};
pub use glob::Pattern;
pub use images::{ImageSource, Pull, PullError};
pub use instruction::{Command, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage, Transfer};
pub use lines::Heredoc;
pub use parser::{parse, parse_duration};
pub use platform::Platform;
pub use progress::{Event, SourceRange, Vertex, VertexLog, VertexStatus, Warning};
pub use request::{
    Attestations, BuildRequest, CacheImport, CacheMode, ContextSource, DockerfileSource, Entitlements,
    NamedContext, NoCache, Provenance,
};
pub use result::{Built, BuiltImage, Statement};
