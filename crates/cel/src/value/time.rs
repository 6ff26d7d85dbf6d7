//! Durations as Go writes them, and points in time as RFC 3339 does.

use std::{cmp::Ordering, fmt};

use jiff::{
    SignedDuration, civil,
    tz::{Offset, TimeZone},
};

use super::{Fault, fault};

const SECOND: i128 = 1_000_000_000;
/// The first second of the year 1 and the last of 9999.
const RANGE: (i64, i64) = (-62_135_596_800, 253_402_300_799);

/// A point in time between the first second of the year 1 and the last of 9999.
///
/// It is written with the offset that it was read with, which is no part of what it is.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    seconds: i64,
    nanos: i32,
    /// How many seconds its clock is ahead of UTC.
    ahead: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Timestamp) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Timestamp) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Timestamp) -> Ordering {
        self.as_nanoseconds().cmp(&other.as_nanoseconds())
    }
}

impl Timestamp {
    /// The first second of the year 1, where Go's times begin.
    pub(crate) const ZERO: Timestamp = Timestamp { seconds: RANGE.0, nanos: 0, ahead: 0 };

    /// A point in time so far from the beginning of 1970.
    ///
    /// # Errors
    /// Where it is out of range.
    pub fn new(seconds: i128, nanos: i128) -> Result<Timestamp, Fault> {
        let total = seconds * SECOND + nanos;
        let seconds = total.div_euclid(SECOND);
        if seconds < i128::from(RANGE.0) || seconds > i128::from(RANGE.1) {
            return fault("timestamp overflow");
        }
        Ok(Timestamp { seconds: seconds as i64, nanos: total.rem_euclid(SECOND) as i32, ahead: 0 })
    }

    /// The whole seconds since the beginning of 1970.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    pub(crate) fn as_nanoseconds(self) -> i128 {
        i128::from(self.seconds) * SECOND + i128::from(self.nanos)
    }

    /// So many nanoseconds later.
    pub(crate) fn later(self, nanos: i128) -> Result<Timestamp, Fault> {
        Ok(Timestamp { ahead: self.ahead, ..Timestamp::new(0, self.as_nanoseconds() + nanos)? })
    }

    /// The date and the time of a clock so many seconds ahead of UTC.
    fn clock(self, ahead: i64) -> Option<civil::DateTime> {
        let epoch = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        epoch.checked_add(SignedDuration::new(self.seconds + ahead, self.nanos)).ok()
    }

    /// The date and the time in a zone.
    pub(crate) fn at(self, zone: &TimeZone) -> Result<civil::DateTime, Fault> {
        // The zones' rules end a day before the years do.
        let nearest = jiff::Timestamp::new(self.seconds, self.nanos).unwrap_or(jiff::Timestamp::MAX);
        let ahead = i64::from(zone.to_offset(nearest).seconds());
        self.clock(ahead).map_or_else(|| fault("timestamp overflow"), Ok)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(clock) = self.clock(i64::from(self.ahead)) else { return Err(fmt::Error) };
        write!(f, "{clock}")?;
        if self.ahead == 0 {
            return f.write_str("Z");
        }
        let (sign, minutes) = (if self.ahead < 0 { '-' } else { '+' }, self.ahead.abs() / 60);
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// A duration, if Go's nanoseconds hold it.
pub(crate) fn duration(nanos: i128) -> Result<i64, Fault> {
    i64::try_from(nanos).or_else(|_| fault("duration overflow"))
}

/// Reads RFC 3339 and nothing else.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i32> {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    let separators =
        is(4, b'-') && is(7, b'-') && (is(10, b'T') || is(10, b't')) && is(13, b':') && is(16, b':');
    if !separators {
        return None;
    }
    let mut end = 19;
    let mut nanos = 0;
    if is(19, b'.') {
        let digits = bytes[20..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let kept: String = text[20..20 + digits].chars().chain("000000000".chars()).take(9).collect();
        nanos = kept.parse().ok()?;
        end = 20 + digits;
    }
    let offset = match bytes.get(end)? {
        b'Z' | b'z' if bytes.len() == end + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == end + 6 && is(end + 3, b':') => {
            let (hours, minutes) = (number(end + 1, end + 3)?, number(end + 4, end + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    let clock = civil::DateTime::new(
        number(0, 4)? as i16,
        number(5, 7)? as i8,
        number(8, 10)? as i8,
        number(11, 13)? as i8,
        number(14, 16)? as i8,
        number(17, 19)? as i8,
        nanos,
    )
    .ok()?;
    let since = clock.duration_since(civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    let time = Timestamp::new(-i128::from(offset), since.as_nanos()).ok()?;
    Some(Timestamp { ahead: offset, ..time })
}

/// Reads a date, `2006-01-02`.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    parse_timestamp(&format!("{text}T00:00:00Z"))
}

/// Reads a duration as Go does: `1h30m`, `-1.5s`, `0`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() || rest.len() > 128 {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end =
            after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3_600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * unit;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        rest = after;
    }
    i64::try_from(sign * total).ok()
}

/// A duration as CEL writes it: seconds.
pub(crate) fn write_duration(nanos: i64) -> String {
    let (sign, nanos) = if nanos < 0 { ("-", nanos.unsigned_abs()) } else { ("", nanos.unsigned_abs()) };
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// The zone of a name or of an offset, `-08:00`.
pub(crate) fn zone(name: &str) -> Result<TimeZone, Fault> {
    let digits = name.strip_prefix(['+', '-']).unwrap_or(name);
    if let Some((hours, minutes)) = digits.split_once(':') {
        let parse =
            |text: &str| text.parse::<i32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        if let (Some(hours), Some(minutes)) = (parse(hours), parse(minutes)) {
            let seconds = (hours * 60 + minutes) * if name.starts_with('-') { -60 } else { 60 };
            if let Ok(offset) = Offset::from_seconds(seconds) {
                return Ok(TimeZone::fixed(offset));
            }
        }
    }
    match TimeZone::get(name) {
        Ok(found) => Ok(found),
        Err(_) => fault(format!("unknown time zone {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (text, written) in [
            ("2009-02-13T23:31:30Z", "2009-02-13T23:31:30Z"),
            ("2009-02-13T23:31:30.5+01:30", "2009-02-13T23:31:30.5+01:30"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
            ("2000-02-29T12:00:00-23:59", "2000-02-29T12:00:00-23:59"),
        ] {
            assert_eq!(parse_timestamp(text).unwrap().to_string(), written, "{text}");
        }
        for text in [
            "",
            "2009-02-13",
            "2009-02-13 23:31:30Z",
            "2009-02-13T23:31:30",
            "2009-13-13T23:31:30Z",
            "2009-02-30T23:31:30Z",
            "2009-02-13T23:31:30.Z",
            "0001-01-01T00:00:00+01:00",
            "2009-02-13T23:31:30\u{e9}",
            "2009-02-13T23:31:30.\u{e9}Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, nanos, written) in [
            ("1h30m", 5_400_000_000_000, "5400s"),
            ("-1.5s", -1_500_000_000, "-1.5s"),
            ("0", 0, "0s"),
            ("1ns", 1, "0.000000001s"),
            (".5ms", 500_000, "0.0005s"),
            ("2562047h47m16.854775807s", i64::MAX, "9223372036.854775807s"),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(write_duration(nanos), written);
        }
        for text in ["", "1", "s", "1x", "--1s", "1s2", "1.2.3s", "9999999999999999999h", "."] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
