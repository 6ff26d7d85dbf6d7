//! Dockerfiles and `.dockerignore` as texts: a parser whose errors name line and column and suggest the remedy, the variables in
//! arguments, and patterns of paths. After the Dockerfile reference.
//!
//! It reads and writes no file, and knows no build: what an instruction does is told by who carries it out.
#![forbid(unsafe_code)]

mod error;
pub mod expand;
pub mod glob;
pub mod ignore;
mod instruction;
pub mod lines;
pub mod mounts;
mod parser;
mod suggest;
mod words;

pub use error::ParseError;
pub use glob::Pattern;
pub use instruction::{
    Command, Dockerfile, Healthcheck, Instruction, Kind, MountOptions, Run, Stage, Transfer,
};
pub use lines::{Directives, Heredoc};
pub use parser::{is_url, parse, parse_duration, parse_trigger};
pub use suggest::closest;
