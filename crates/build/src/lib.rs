//! Dockerfile to image: a parser, a plan and a cache, run on the engine and the image store.
//!
//! It knows no HTTP: the context comes as a reader, and what happens goes to a channel. RUN's processes are
//! containers of the engine like any other.
#![forbid(unsafe_code)]

mod builder;
mod cache;
mod configure;
mod context;
mod error;
mod expand;
mod glob;
mod ignore;
mod instruction;
mod lines;
mod parser;
mod run;
mod state;
mod steps;
mod transfer;
mod tree;

pub use builder::{BuildRequest, Builder, Progress, Pruned};
pub use cache::CachedStep;
pub use configure::amend;
pub use error::{Error, ParseError, Result};
pub use glob::Pattern;
pub use instruction::{Command, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage, Transfer};
pub use lines::Heredoc;
pub use parser::{parse, parse_duration};
