//! What can go wrong while an expression is evaluated, in the reference's words.

use std::fmt;

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No function takes what it was given.
    NoSuchOverload,
    /// The expression itself went wrong: a missing key, an overflow, a division by zero.
    Failed(Box<str>),
    /// The evaluation cost more than it may. No operator of the language hides this.
    CostExceeded,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoSuchOverload => f.write_str("no such overload"),
            Fault::Failed(message) => f.write_str(message),
            Fault::CostExceeded => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for Fault {}

/// What an evaluation gives.
pub(crate) type Outcome<'a> = Result<super::Value<'a>, Fault>;

/// A fault with a message.
pub(crate) fn fault<T>(message: impl Into<Box<str>>) -> Result<T, Fault> {
    Err(Fault::Failed(message.into()))
}

pub(crate) fn no_such_overload<T>() -> Result<T, Fault> {
    Err(Fault::NoSuchOverload)
}

pub(crate) fn no_such_key<T>(key: impl fmt::Display) -> Result<T, Fault> {
    fault(format!("no such key: {key}"))
}
