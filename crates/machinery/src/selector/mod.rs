//! Selectors: which objects a request or an object means.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;
