//! The Common Expression Language as Kubernetes uses it: validation rules of custom resources, admission policies,
//! match conditions of webhooks, selectors of devices.
//!
//! [`Program`] compiles an expression against an [`Environment`], evaluates it over borrowed JSON, and estimates its worst
//! case. [`rules`] does what a schema's `x-kubernetes-validations` ask for. The crate is pure: it knows no HTTP, no store
//! and no kind, and whoever asks whether something is allowed is answered through the trait [`Authorizer`].
//!
//! Expressions come from outside: their length, their depth, the size of their types and values and what they cost are
//! bounded.
#![forbid(unsafe_code)]

pub mod admission;
mod check;
pub mod cost;
mod environment;
mod evaluate;
mod functions;
mod program;
pub mod rules;
mod schema;
mod source;
mod syntax;
mod types;
mod value;

pub use environment::{Environment, NEWEST};
pub use functions::authorizer::{Access, Authorizer, Decision, ResourceAccess, ServiceAccount};
pub use functions::regexes::Pattern;
pub use program::{Activation, Evaluation, Program, Variables};
pub use schema::{Declared, ListStyle, escape, unescape};
pub use source::{Error, Issue, Issues};
pub use types::{ObjectField, ObjectType, Type};
pub use value::{Entries, Fault, Hidden, Instance, List, Map, Text, Timestamp, Value};
