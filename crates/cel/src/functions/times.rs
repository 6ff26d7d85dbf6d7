//! Parts of points in time and of durations.

use jiff::{civil::DateTime, tz::TimeZone};

use super::{Caller, Row, text};
use crate::value::{Fault, Outcome, Value, no_such_overload, time::zone};

/// The rows of one part: with the zone of a name and without.
macro_rules! part {
    ($call:ident, $function:literal, $plain:literal, $zoned:literal) => {
        [
            ($plain, concat!("timestamp.", $function, "() -> int"), $call),
            ($zoned, concat!("timestamp.", $function, "(string) -> int"), $call),
        ]
    };
}

const PARTS: [[Row; 2]; 10] = [
    part!(full_year, "getFullYear", "timestamp_to_year", "timestamp_to_year_with_tz"),
    part!(month, "getMonth", "timestamp_to_month", "timestamp_to_month_with_tz"),
    part!(day_of_year, "getDayOfYear", "timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz"),
    part!(day_of_month, "getDayOfMonth", "timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz"),
    part!(date, "getDate", "timestamp_to_day_of_month_1_based", "timestamp_to_day_of_month_1_based_with_tz"),
    part!(day_of_week, "getDayOfWeek", "timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz"),
    part!(hours, "getHours", "timestamp_to_hours", "timestamp_to_hours_with_tz"),
    part!(minutes, "getMinutes", "timestamp_to_minutes", "timestamp_to_minutes_with_tz"),
    part!(seconds, "getSeconds", "timestamp_to_seconds", "timestamp_to_seconds_tz"),
    part!(milliseconds, "getMilliseconds", "timestamp_to_milliseconds", "timestamp_to_milliseconds_with_tz"),
];

const DURATIONS: [[Row; 2]; 2] = [
    [
        ("duration_to_hours", "duration.getHours() -> int", hours),
        ("duration_to_minutes", "duration.getMinutes() -> int", minutes),
    ],
    [
        ("duration_to_seconds", "duration.getSeconds() -> int", seconds),
        ("duration_to_milliseconds", "duration.getMilliseconds() -> int", milliseconds),
    ],
];

const ALL: [[Row; 2]; 12] = {
    let mut all = [PARTS[0]; 12];
    let mut index = 0;
    while index < 12 {
        all[index] = if index < 10 { PARTS[index] } else { DURATIONS[index - 10] };
        index += 1;
    }
    all
};

pub(super) const TIMES: &[Row] = ALL.as_flattened();

/// The time in the zone that is asked for, UTC otherwise.
fn clock(arguments: &[Value<'_>]) -> Result<DateTime, Fault> {
    let Some(Value::Timestamp(time)) = arguments.first() else { return no_such_overload() };
    let zone = if arguments.len() > 1 { zone(text(arguments, 1)?)? } else { TimeZone::UTC };
    time.at(&zone)
}

fn part<'a>(arguments: &[Value<'a>], of: impl Fn(&DateTime) -> i64) -> Outcome<'a> {
    clock(arguments).map(|time| Value::Int(of(&time)))
}

/// A part of a duration, which is a whole of it, or of a point in time.
fn of_either<'a>(arguments: &[Value<'a>], unit: i64, of: impl Fn(&DateTime) -> i64) -> Outcome<'a> {
    match arguments {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => part(arguments, of),
    }
}

fn full_year<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| time.year().into())
}

fn month<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| i64::from(time.month()) - 1)
}

fn day_of_year<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| i64::from(time.day_of_year()) - 1)
}

fn day_of_month<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| i64::from(time.day()) - 1)
}

fn date<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| time.day().into())
}

fn day_of_week<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    part(arguments, |time| time.weekday().to_sunday_zero_offset().into())
}

fn hours<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    of_either(arguments, 3_600_000_000_000, |time| time.hour().into())
}

fn minutes<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    of_either(arguments, 60_000_000_000, |time| time.minute().into())
}

fn seconds<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    of_either(arguments, 1_000_000_000, |time| time.second().into())
}

fn milliseconds<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    of_either(arguments, 1_000_000, |time| time.millisecond().into())
}
