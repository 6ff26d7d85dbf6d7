//! What expressions cost, in the reference's units: the worst case before evaluation, and what it was after.

mod calls;
mod estimate;
mod range;
pub(crate) mod runtime;

pub(crate) use estimate::estimate;
pub use range::Range;

/// Reading a name or a field.
const SELECT: u64 = 1;
/// Making a list.
pub(crate) const LIST: u64 = 10;
/// Making a map.
pub(crate) const MAP: u64 = 30;
/// Making an object.
pub(crate) const OBJECT: u64 = 40;
/// For each letter that is looked at.
const LETTER: f64 = 0.1;
/// For each letter of a pattern.
const PATTERN_LETTER: f64 = 0.25;
/// Asking the authorizer: two questions fit into one expression.
const AUTHORIZATION: u64 = 350_000;

/// What one evaluation of an expression may cost.
pub const PER_CALL: u64 = 1_000_000;
/// What all rules of one object may cost together at run time.
pub const PER_OBJECT: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may cost together.
pub const PER_MATCH_CONDITIONS: u64 = 2_500_000;
/// What the worst case of one rule may be, however often its data can be in an object.
pub const STATIC_PER_RULE: u64 = 10_000_000;
/// What the worst cases of all rules of a definition may be together.
pub const STATIC_PER_DEFINITION: u64 = 100_000_000;

/// A size times a factor, rounded up, at most everything.
fn scaled(size: u64, factor: f64) -> u64 {
    let product = (size as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}

/// What a selector of this length costs to read: its list, its letters and its requirements.
fn selector(length: u64) -> u64 {
    let requirements = scaled(scaled(length, 0.5), (LIST + OBJECT) as f64);
    LIST.saturating_add(scaled(length, LETTER)).saturating_add(requirements)
}
