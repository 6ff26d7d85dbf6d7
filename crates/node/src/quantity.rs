//! Amounts as Kubernetes writes them ("500m", "64Mi", "1e3"), in whole units or thousandths.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths of a unit, rounded up; none when it is no quantity.
pub(crate) fn thousandths(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits_end = text
        .char_indices()
        .find(|(index, c)| !(c.is_ascii_digit() || *c == '.' || (*index == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(index, _)| index);
    let (number, suffix) = text.split_at(digits_end);
    let (mantissa, scale) = decimal(number)?;
    // The value is mantissa * 10^(3 - scale) * suffix thousandths.
    let (factor, exponent): (i128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| e.abs() <= 18)?),
    };
    let value = mantissa.checked_mul(factor)?;
    let exponent = exponent + 3 - i32::try_from(scale).ok()?;
    if exponent >= 0 {
        return value.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?);
    }
    let divisor = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0))
}

fn decimal(number: &str) -> Option<(i128, usize)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, fraction.len()))
}

/// The amount in whole units, rounded up.
pub(crate) fn units(text: &str) -> Option<i64> {
    let thousandths = thousandths(text)?;
    let whole = thousandths.div_euclid(1000) + i128::from(thousandths.rem_euclid(1000) != 0);
    Some(i64::try_from(whole).unwrap_or(i64::MAX))
}

/// A resource of a list in thousandths of its unit; none when it is not in it.
pub(crate) fn milli_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let amount = thousandths(&list?.get(name)?.0)?;
    Some(i64::try_from(amount).unwrap_or(i64::MAX))
}

/// A resource of a list in whole units; none when it is not in it.
pub(crate) fn units_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    units(&list?.get(name)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.1", Some(100)),
            ("1.5", Some(1500)),
            ("64Mi", Some(67_108_864_000)),
            ("1e3", Some(1_000_000)),
            ("2E", Some(2_000_000_000_000_000_000_000)),
            ("100n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("x", None),
            ("1x", None),
            ("1e99", None),
            (".", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("1Ki"), Some(1024));
    }

    #[test]
    fn long_digits_do_not_panic() {
        assert_eq!(thousandths(&"9".repeat(200)), None);
        assert!(thousandths("0.000000000000000000000000001").is_some());
    }
}
