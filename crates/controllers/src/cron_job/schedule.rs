//! Schedules of CronJobs as sets of minutes, and the times that they name. It must not know what is to happen then.
//!
//! A time is named when its minute, hour, day and month as a clock on the wall shows them are in the sets. What the clock
//! skips in spring does not happen, and what it shows twice in autumn happens twice.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MACROS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule that names nothing for so long names nothing.
const YEARS: i64 = 5;

/// Numbers from 0 to 63 that a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// Whether the field says that it does not care.
    any: bool,
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits & 1_u64.checked_shl(number).unwrap_or(0) != 0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Clock { minutes: Set, hours: Set, days: Set, months: Set, weekdays: Set },
    Every(Duration),
}

/// When something is to happen.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a schedule; says what is wrong with it.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Schedule, String> {
        let text = text.trim();
        if let Some(span) = text.strip_prefix("@every ") {
            let span = duration(span).ok_or_else(|| format!("failed to parse duration {text}"))?;
            // It goes by whole seconds.
            let span = Duration::from_secs(span.as_secs().max(1));
            return Ok(Schedule { rule: Rule::Every(span), zone });
        }
        let text = match MACROS.iter().find(|(name, _)| *name == text) {
            Some((_, meaning)) => meaning,
            None if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            None => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let rule = Rule::Clock {
            minutes: set(minutes, 0, 59, &[])?,
            hours: set(hours, 0, 23, &[])?,
            days: set(days, 1, 31, &[])?,
            months: set(months, 1, 12, MONTHS)?,
            weekdays: set(weekdays, 0, 6, DAYS)?,
        };
        Ok(Schedule { rule, zone })
    }

    /// The first time after another, if there is one in the next years.
    pub(super) fn after(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(span) => {
                let second =
                    Timestamp::from_second(time.as_nanosecond().div_euclid(1_000_000_000) as i64).ok()?;
                second.checked_add(*span).ok()
            }
            Rule::Clock { .. } => self.next(time),
        }
    }

    fn next(&self, time: Timestamp) -> Option<Timestamp> {
        let minute = Timestamp::from_second((time.as_second().div_euclid(60) + 1) * 60).ok()?;
        let mut now = minute.to_zoned(self.zone.clone());
        // Clocks that were off by seconds once show no whole minute here.
        let last = i64::from(now.year()) + YEARS;
        while i64::from(now.year()) <= last {
            let Some(pause) = self.pause(&now) else { return Some(now.timestamp()) };
            now = pause;
        }
        None
    }

    /// The next time to look at, if this one is not named.
    fn pause(&self, now: &Zoned) -> Option<Zoned> {
        let Rule::Clock { minutes, hours, months, .. } = &self.rule else { return None };
        let minute = || now.checked_add(1.minute()).ok();
        let later = |next: Option<Zoned>| {
            // Where the clock goes back over midnight, the beginning of a day may be in the past.
            next.filter(|next| next > now).or_else(minute)
        };
        if !months.has(now.month()) {
            let next = now.date().first_of_month().checked_add(1.month()).ok();
            return later(next.and_then(|day| day.to_zoned(self.zone.clone()).ok()));
        }
        if !self.takes_day(now) {
            let next = now.date().tomorrow().ok();
            return later(next.and_then(|day| day.to_zoned(self.zone.clone()).ok()));
        }
        if !hours.has(now.hour()) {
            let left = i64::from(60 - now.minute());
            // The clock may be set in between.
            let next = now.checked_add(left.minutes()).ok().filter(|next| next.offset() == now.offset());
            return later(next);
        }
        if minutes.has(now.minute()) && now.second() == 0 { None } else { minute() }
    }

    /// Whether a day is taken: by its number and its name where one of them does not matter, else by either.
    fn takes_day(&self, now: &Zoned) -> bool {
        let Rule::Clock { days, weekdays, .. } = &self.rule else { return true };
        let number = days.has(now.day());
        let name = weekdays.has(now.weekday().to_sunday_zero_offset());
        if days.any || weekdays.any { number && name } else { number || name }
    }

    /// The last time after one and not after another.
    pub(super) fn last_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        if let Rule::Every(span) = &self.rule {
            let first = self.after(after)?;
            let passed =
                u64::try_from(until.duration_since(first).as_secs()).ok().filter(|_| first <= until)?;
            let whole = passed / span.as_secs() * span.as_secs();
            return first.checked_add(Duration::from_secs(whole)).ok();
        }
        // Back by growing steps, so that few times have to be gone through.
        let mut step = SignedDuration::from_hours(1);
        loop {
            let from = until.checked_sub(step).unwrap_or(after).max(after);
            let mut found = None;
            let mut at = from;
            while let Some(next) = self.after(at).filter(|next| *next <= until) {
                found = Some(next);
                at = next;
            }
            if found.is_some() || from == after {
                return found;
            }
            step = step.saturating_mul(16);
        }
    }
}

/// The numbers of one field.
fn set(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Set, String> {
    let mut set = Set { bits: 0, any: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => (span, Some(number(step, 0, &[])?)),
            None => (part, None),
        };
        let step_by = step.unwrap_or(1);
        let (first, last) = match span.split_once('-') {
            _ if matches!(span, "*" | "?") => {
                set.any |= step_by == 1;
                (least, most)
            }
            Some((first, last)) => (number(first, least, names)?, number(last, least, names)?),
            None => {
                let first = number(span, least, names)?;
                (first, if step.is_some() { most } else { first })
            }
        };
        if first < least || last > most || first > last || step_by == 0 {
            return Err(format!("{part} is not between {least} and {most}"));
        }
        for number in (first..=last).step_by(step_by as usize) {
            set.bits |= 1 << number;
        }
    }
    Ok(set)
}

fn number(text: &str, least: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match (least..).zip(names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => text.parse().map_err(|_| format!("failed to parse int from {text}")),
    }
}

/// A span as Go writes it, "1h30m".
fn duration(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, f64)] =
        &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text.trim();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (digits, tail) = rest.split_at(end);
        let units = UNITS.iter().filter(|(unit, _)| tail.starts_with(unit));
        let (unit, size) = units.max_by_key(|(unit, _)| unit.len())?;
        seconds += digits.parse::<f64>().ok()? * size;
        rest = &tail[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, super::super::zone::zone(zone).unwrap()).unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_time() {
        for (text, zone, from, expected) in [
            ("* * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "UTC", "2026-01-01T00:00:59.9Z", "2026-01-01T00:01:00Z"),
            ("*/15 9-17 * * mon-FRI", "UTC", "2026-01-02T17:45:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 13 * fri", "UTC", "2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 13 * fri", "UTC", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"),
            ("0 0 */1 * fri", "UTC", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"),
            ("0 0 29 2 ?", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("5/20 * * * *", "UTC", "2026-01-01T00:25:00Z", "2026-01-01T00:45:00Z"),
            ("@hourly", "UTC", "2026-01-01T00:25:00Z", "2026-01-01T01:00:00Z"),
            ("@yearly", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@weekly", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 1h30m", "UTC", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
            ("0 9 * * *", "Europe/Zurich", "2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z"),
            ("0 9 * * *", "America/New_York", "2026-07-01T00:00:00Z", "2026-07-01T13:00:00Z"),
            // An hour that is skipped, and one that comes twice.
            ("30 2 * * *", "Europe/Zurich", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            ("30 2 * * *", "Europe/Zurich", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Zurich", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            // Half an hour is skipped, a whole day is.
            ("0 3 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-03T16:00:00Z"),
            ("0 0 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", "2012-12-29T10:00:00Z"),
        ] {
            assert_eq!(schedule(text, zone).after(time(from)), Some(time(expected)), "{text} {zone} {from}");
        }
        assert_eq!(schedule("59 23 31 2 *", "UTC").after(time("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "1/2/3 * * * *",
            "1-2-3 * * * *",
            "@reboot",
            "@every x",
            "@every",
            "@every 5",
            "-1 * * * *",
            "99999999999 * * * *",
        ] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_time() {
        for (text, after, until, expected) in [
            ("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z", Some("2026-01-01T00:00:00Z")),
            ("0 0 1 1 *", "2020-06-01T00:00:00Z", "2026-01-01T00:00:00Z", Some("2026-01-01T00:00:00Z")),
            ("0 0 1 1 *", "2020-06-01T00:00:00Z", "2025-12-31T00:00:00Z", Some("2025-01-01T00:00:00Z")),
            ("0 0 1 1 *", "2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z", None),
            ("@every 7s", "2026-01-01T00:00:00Z", "2026-01-01T00:00:20Z", Some("2026-01-01T00:00:14Z")),
            ("@every 7s", "2026-01-01T00:00:00Z", "2026-01-01T00:00:06Z", None),
        ] {
            let last = schedule(text, "UTC").last_between(time(after), time(until));
            assert_eq!(last, expected.map(time), "{text} {until}");
        }
    }

    /// What a person with a clock and patience finds.
    fn slow(schedule: &Schedule, from: Timestamp, minutes: i64) -> Option<Timestamp> {
        let Rule::Clock { minutes: minute, hours, months, .. } = &schedule.rule else { unreachable!() };
        let first = (from.as_second().div_euclid(60) + 1) * 60;
        let mut times = (0..minutes).map(|number| Timestamp::from_second(first + number * 60).unwrap());
        times.find(|time| {
            let now = time.to_zoned(schedule.zone.clone());
            minute.has(now.minute())
                && hours.has(now.hour())
                && months.has(now.month())
                && schedule.takes_day(&now)
        })
    }

    fn field(least: u32, most: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            2 => (least..=most).prop_map(|number| number.to_string()),
            1 => (1_u32..10).prop_map(|step| format!("*/{step}")),
            1 => (least..=most, least..=most).prop_map(|(one, two)| format!("{}-{}", one.min(two), one.max(two))),
            1 => (least..=most, least..=most).prop_map(|(one, two)| format!("{one},{two}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn times_are_those_that_a_clock_shows(
            fields in (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)),
            zone in prop::sample::select(vec!["UTC", "Europe/Zurich", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu"]),
            // Around the days on which clocks are set, and at any time.
            from in prop_oneof![
                1_774_600_000_i64..1_774_900_000, 1_792_800_000_i64..1_793_000_000, 1_600_000_000_i64..1_900_000_000
            ],
        ) {
            let (minute, hour, day, month, weekday) = fields;
            let text = format!("{minute} {hour} {day} {month} {weekday}");
            let schedule = schedule(&text, zone);
            let from = Timestamp::from_second(from).unwrap();
            const MINUTES: i64 = 3 * 24 * 60;
            let end = Timestamp::from_second((from.as_second().div_euclid(60) + MINUTES) * 60).unwrap();
            let fast = schedule.after(from);
            match slow(&schedule, from, MINUTES) {
                Some(time) => prop_assert_eq!(fast, Some(time), "{} {}", text, zone),
                None => prop_assert!(fast.is_none_or(|fast| fast > end), "{} {} {:?}", text, zone, fast),
            }
            if let Some(last) = schedule.last_between(from, end) {
                prop_assert!(last > from && last <= end && schedule.after(last).is_none_or(|next| next > end));
            }
        }
    }
}
