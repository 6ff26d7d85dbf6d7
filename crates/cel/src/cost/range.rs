//! A least and a most, of sizes and of costs. Nothing overflows: the most there is stays the most.

use super::scaled;

/// The least and the most of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Range {
    pub(super) const NONE: Range = Range::exactly(0);
    pub(super) const ONE: Range = Range::exactly(1);
    /// Nothing is known.
    pub(super) const ANY: Range = Range { least: 0, most: u64::MAX };
    /// What a union begins with.
    pub(super) const EMPTY: Range = Range { least: u64::MAX, most: 0 };

    pub(super) const fn exactly(value: u64) -> Range {
        Range { least: value, most: value }
    }

    pub(super) const fn upto(most: u64) -> Range {
        Range { least: 0, most }
    }

    pub(super) fn plus(self, other: Range) -> Range {
        Range { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    pub(super) fn times(self, other: Range) -> Range {
        Range { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    pub(super) fn scaled(self, factor: f64) -> Range {
        Range { least: scaled(self.least, factor), most: scaled(self.most, factor) }
    }

    pub(super) fn or(self, other: Range) -> Range {
        Range { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}
