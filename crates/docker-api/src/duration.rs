//! Durations in words, as `docker ps` shows them.

use jiff::Timestamp;

/// Docker's rounded words for the time since `then`.
pub(crate) fn since(then: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(then).as_secs();
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3_600 => format!("{} minutes", seconds / 60),
        // Docker rounds hours and says "About an hour" for the first one and a half.
        3_600..5_400 => "About an hour".to_owned(),
        5_400..172_800 => format!("{} hours", (seconds + 1_800) / 3_600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

/// A time in the form of Go's RFC 3339 with nanoseconds; none is Go's zero time.
pub(crate) fn rfc3339(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}
