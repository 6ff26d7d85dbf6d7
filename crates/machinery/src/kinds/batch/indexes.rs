//! Sets of indexes as Jobs write them: "1,3-5,7".

/// The intervals of a text, where it is in order and below `completions`.
pub(super) fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(intervals);
    }
    for part in text.split(',') {
        let limits: Vec<&str> = part.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts \
                 separated by '-'"
            ));
        }
        let number = |text: &str| {
            text.parse::<u32>()
                .map(i64::from)
                .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
        };
        let first = number(limits[0])?;
        let last = if limits.len() == 2 { number(limits[1])? } else { first };
        for (text, index) in limits.iter().zip([first, last]) {
            if index >= completions {
                return Err(format!("too large index: {text:?}"));
            }
        }
        if limits.len() == 2 && first >= last {
            return Err(format!("non-increasing order, previous: {first}, current: {last}"));
        }
        if let Some((_, previous)) = intervals.last()
            && first <= *previous
        {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

/// How many indexes there are.
pub(super) fn count(intervals: &[(i64, i64)]) -> i64 {
    intervals.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index that two sets share.
pub(super) fn overlap(left: &[(i64, i64)], right: &[(i64, i64)]) -> Option<i64> {
    left.iter()
        .flat_map(|one| right.iter().map(move |two| (one, two)))
        .find(|(one, two)| one.0 <= two.1 && two.0 <= one.1)
        .map(|(one, two)| one.0.max(two.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_in_order_and_below_their_end() {
        let all = parse("1,3-5,7", 10).unwrap();
        assert_eq!(count(&all), 5);
        assert_eq!(overlap(&all, &parse("0,5-6", 10).unwrap()), Some(5));
        assert_eq!(overlap(&all, &parse("0,2", 10).unwrap()), None);
        for (bad, why) in [
            ("1,1", "non-increasing order, previous: 1, current: 1"),
            ("5-3", "non-increasing order, previous: 5, current: 3"),
            ("10", "too large index: \"10\""),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("1-2-3", "the fragment \"1-2-3\" violates"),
        ] {
            assert!(parse(bad, 10).unwrap_err().starts_with(why), "{bad}");
        }
    }
}
