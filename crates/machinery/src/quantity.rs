//! Quantities of resources: "100m", "1.5Gi", "1e3" (apimachinery's `resource.Quantity`).

use std::{cmp::Ordering, fmt, str::FromStr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSuffix,
    BinarySuffix,
    DecimalExponent,
}

/// A quantity, kept in billionths as the reference does; finer parts are rounded up.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct NotAQuantity;

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// The reference's bound: 2^63 - 1 units.
const LIMIT: i128 = (i64::MAX as i128) * NANO;

impl Quantity {
    /// A whole number of units.
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format: Format::DecimalSuffix }
    }

    /// In thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        i64::try_from(div_up(self.nanos, NANO / 1000)).unwrap_or(i64::MAX)
    }

    /// In whole units, rounded up.
    pub fn units(&self) -> i64 {
        i64::try_from(div_up(self.nanos, NANO)).unwrap_or(i64::MAX)
    }

    /// Together with another, in its own form.
    #[must_use]
    pub fn plus(&self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Quantity, NotAQuantity> {
        if text.len() > 64 {
            return Err(NotAQuantity);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(NotAQuantity);
        }
        let (format, base, exponent) = scale(suffix)?;
        // digits * 10^-fraction * base^exponent, in billionths
        let digits: i128 = format!("{whole}{fraction}").parse().or_else(|_| {
            let trimmed = format!("{whole}{fraction}");
            if trimmed.bytes().all(|byte| byte.is_ascii_digit()) { Ok(i128::MAX) } else { Err(NotAQuantity) }
        })?;
        let shift = 9 - i32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let nanos = if base == 2 {
            let factor = 1_i128 << exponent;
            scale_ten(digits.saturating_mul(factor), shift)
        } else {
            scale_ten(digits, shift + exponent)
        };
        let nanos = nanos.min(LIMIT);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

fn scale(suffix: &str) -> Result<(Format, u32, i32), NotAQuantity> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::DecimalSuffix, 10, *exponent));
    }
    if let Some(index) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Format::BinarySuffix, 2, (index as i32 + 1) * 10));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(NotAQuantity)?;
    let exponent: i32 = exponent.parse().map_err(|_| NotAQuantity)?;
    if exponent.abs() > 100 {
        return Err(NotAQuantity);
    }
    Ok((Format::DecimalExponent, 10, exponent))
}

fn scale_ten(value: i128, power: i32) -> i128 {
    if power >= 0 {
        (0..power).fold(value, |value, _| value.saturating_mul(10))
    } else {
        let mut divisor = 1_i128;
        for _ in 0..-power {
            match divisor.checked_mul(10) {
                Some(next) => divisor = next,
                None => return i128::from(value != 0),
            }
        }
        div_up(value, divisor)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySuffix && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO {
            let (mut units, mut index) = (self.nanos / NANO, 0);
            while units % 1024 == 0 && index < BINARY.len() {
                units /= 1024;
                index += 1;
            }
            let suffix = if index == 0 { "" } else { BINARY[index - 1] };
            return write!(f, "{units}{suffix}");
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, power)| *power == exponent).map_or("", |(name, _)| name);
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("12345", "12345"),
            ("1Gi", "1Gi"),
            ("0.1n", "1n"),
            ("128Mi", "128Mi"),
            ("-1", "-1"),
            ("500Ki", "500Ki"),
            ("1000000", "1M"),
            (".5", "500m"),
            ("2.", "2"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), canonical, "{text}");
        }
        for bad in ["", "x", "1x", "1.2.3", "1e", "--1", "1 ", "Gi", "."] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
        assert_eq!("1500m".parse::<Quantity>().unwrap().units(), 2);
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse::<Quantity>().unwrap());
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_the_same_quantity(text in "[0-9]{1,6}(\\.[0-9]{1,4})?(m|k|Ki|Mi|M|Gi|e2)?") {
            let quantity: Quantity = text.parse().unwrap();
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn any_text_is_answered(text in ".{0,70}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
