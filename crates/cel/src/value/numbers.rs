//! Numbers: exact conversions, comparison across types, and how Go writes doubles.

use std::cmp::Ordering;

/// The whole number that a double is, if it is one of this type.
pub(crate) fn as_int(number: f64) -> Option<i64> {
    let in_range = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number);
    (in_range && number.fract() == 0.0).then_some(number as i64)
}

/// The whole number that a double is, if it is one of this type.
pub(crate) fn as_uint(number: f64) -> Option<u64> {
    let in_range = (0.0..18_446_744_073_709_551_616.0).contains(&number);
    (in_range && number.fract() == 0.0).then_some(number as u64)
}

/// How a whole number and a double compare: as doubles, as the reference does it; nothing for what is no number.
pub(crate) fn compare_with_double(whole: i128, double: f64) -> Option<Ordering> {
    (whole as f64).partial_cmp(&double)
}

/// A double as Go's `%g` writes it: the shortest digits, with an exponent below 1e-4 and from 1e6 on.
pub(crate) fn go_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    } else {
        format!("{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_go_does() {
        for (number, written) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (-1.25, "-1.25"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (123_456.5, "123456.5"),
            (123_456_789.125, "1.23456789125e+08"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1e300, "1e+300"),
            (6.02214e23, "6.02214e+23"),
            (999_999.5, "999999.5"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(go_double(number), written);
        }
    }

    #[test]
    fn comparison_with_doubles_is_one_of_doubles() {
        let largest = i128::from(i64::MAX);
        assert_eq!(compare_with_double(largest, 9_223_372_036_854_775_808.0), Some(Ordering::Equal));
        assert_eq!(compare_with_double(1, 1.5), Some(Ordering::Less));
        assert_eq!(compare_with_double(-1, -1.5), Some(Ordering::Greater));
        assert_eq!(compare_with_double(2, 2.0), Some(Ordering::Equal));
        assert_eq!(compare_with_double(0, f64::INFINITY), Some(Ordering::Less));
        assert_eq!(compare_with_double(0, f64::NAN), None);
        assert_eq!(as_int(9_223_372_036_854_775_808.0), None);
        assert_eq!(as_uint(-1.0), None);
        assert_eq!(as_int(2.5), None);
    }
}
