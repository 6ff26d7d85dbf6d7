//! Sets of completion indexes, as a Job's status writes them: three and more in a row as "3-5". They may have a hundred
//! thousand members, so that they are kept as ranges.

use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// First and last of each range, in order, with a gap between any two.
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads a set; leaves out what is not below `end`, and what is no range.
    pub(super) fn parse(text: &str, end: i32) -> Indexes {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            let last = last.min(end.saturating_sub(1));
            if (0..=last).contains(&first) {
                ranges.push((first, last));
            }
        }
        Indexes::of(ranges)
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Indexes {
        ranges.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Indexes { ranges: joined }
    }

    /// The same with further ones.
    pub(super) fn with(&self, more: &BTreeSet<i32>) -> Indexes {
        let mut ranges = self.ranges.clone();
        ranges.extend(more.iter().map(|index| (*index, *index)));
        Indexes::of(ranges)
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).is_some_and(|before| self.ranges[before].1 >= index)
    }

    /// How many there are.
    pub(super) fn count(&self) -> i32 {
        self.ranges.iter().fold(0, |sum, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }

    /// How many are in both.
    pub(super) fn shared(&self, other: &Indexes) -> i32 {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut count = 0;
        while let (Some(one), Some(two)) = (left.peek(), right.peek()) {
            count += (one.1.min(two.1) - one.0.max(two.0) + 1).max(0);
            if one.1 < two.1 {
                left.next()
            } else {
                right.next()
            };
        }
        count
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.ranges.iter().enumerate() {
            if number > 0 {
                formatter.write_str(",")?;
            }
            match last - first {
                0 => write!(formatter, "{first}")?,
                1 => write!(formatter, "{first},{last}")?,
                _ => write!(formatter, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn are_written_short() {
        for (given, end, written, count) in [
            ("", 5, "", 0),
            ("1,3,4,5,7", 10, "1,3-5,7", 5),
            ("3,4", 10, "3,4", 2),
            ("0-9", 4, "0-3", 4),
            ("7", 7, "", 0),
            ("x,1-,2", 7, "2", 1),
        ] {
            let indexes = Indexes::parse(given, end);
            assert_eq!((indexes.to_string().as_str(), indexes.count()), (written, count), "{given}");
        }
    }

    proptest! {
        #[test]
        fn are_what_a_plain_set_is(one in prop::collection::btree_set(0..40_i32, 0..30),
                                   two in prop::collection::btree_set(0..40_i32, 0..30)) {
            let left = Indexes::default().with(&one);
            let right = Indexes::default().with(&two);
            prop_assert_eq!(Indexes::parse(&left.to_string(), 40), left.clone());
            prop_assert_eq!(left.count() as usize, one.len());
            prop_assert_eq!(left.shared(&right) as usize, one.intersection(&two).count());
            let both: BTreeSet<i32> = one.union(&two).copied().collect();
            prop_assert_eq!(left.with(&two), Indexes::default().with(&both));
            for index in 0..40 {
                prop_assert_eq!(left.contains(index), one.contains(&index));
            }
        }
    }
}
