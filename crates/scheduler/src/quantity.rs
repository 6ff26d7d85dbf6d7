//! Quantities of resources as numbers. What cannot be read counts as nothing: the API has checked it.

/// A quantity in thousandths, rounded up: of "100m" 100, of "2" 2000.
pub(crate) fn thousandths(text: &str) -> i64 {
    scaled(text, 1000)
}

/// A quantity in whole units, rounded up: of "1Ki" 1024, of "1500m" 2.
pub(crate) fn units(text: &str) -> i64 {
    scaled(text, 1)
}

fn scaled(text: &str, scale: i128) -> i64 {
    parse(text, scale).and_then(|value| i64::try_from(value).ok()).unwrap_or_default()
}

/// The value times `scale`, rounded up.
fn parse(text: &str, scale: i128) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|letter: char| !matches!(letter, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => exponent(other)?,
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > 18 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let ten = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let value = whole.checked_mul(ten)?.checked_add(fraction)?;
    let value = value.checked_mul(multiplier)?.checked_mul(scale)?;
    let below = ten.checked_mul(divisor)?;
    let value = value.checked_add(below - 1)? / below;
    Some(if negative { -value } else { value })
}

/// Of "e3" and "E-3".
fn exponent(text: &str) -> Option<(i128, i128)> {
    let power: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, factor) } else { (factor, 1) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(thousandths("100m"), 100);
        assert_eq!(thousandths("1.5"), 1500);
        assert_eq!(thousandths("0.0001"), 1);
        assert_eq!(units("1Gi"), 1 << 30);
        assert_eq!(units("1.5Gi"), 3 << 29);
        assert_eq!(units("1e3"), 1000);
        assert_eq!(units("128974848000m"), 128_974_848);
        assert_eq!(units("2E"), 2_000_000_000_000_000_000);
        assert_eq!(units("nonsense"), 0);
        assert_eq!(units(""), 0);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            thousandths(&text);
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0..i64::MAX / 1000) {
            prop_assert_eq!(units(&number.to_string()), number);
            prop_assert_eq!(thousandths(&number.to_string()), number * 1000);
        }
    }
}
