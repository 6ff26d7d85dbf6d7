//! What is true of every Kubernetes object: the kinds table, metadata, names, selectors, quantities,
//! patches, apply, schemas, and the errors that clients know.
//!
//! Pure: this crate must not know HTTP, the store, the clock of others or the network.
#![forbid(unsafe_code)]

pub mod apply;
pub mod kinds;
pub mod metadata;
pub mod names;
pub mod object;
pub mod patch;
pub mod pick;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod wire;

pub use kinds::{Kind, Subresource};
pub use status::{Cause, FieldError, FieldErrors, Reason, Status};
