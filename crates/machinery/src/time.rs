//! Times as the API writes them: RFC 3339 in UTC, to the second or to the microsecond.

use jiff::Timestamp;

/// `metav1.Time` of an instant: "2026-01-02T03:04:05Z".
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime` of an instant: "2026-01-02T03:04:05.000006Z".
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `metav1.Time` of now.
pub fn now() -> String {
    seconds(Timestamp::now())
}

/// Reads either form.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago, as `kubectl get` shows it ("5s", "3m10s", "2d4h"): `duration.HumanDuration`.
pub fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second() - from.as_second();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        let rest = seconds % 60;
        return if rest == 0 { format!("{minutes}m") } else { format!("{minutes}m{rest}s") };
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        let rest = minutes % 60;
        return if rest == 0 { format!("{hours}h") } else { format!("{hours}h{rest}m") };
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 192 {
        let rest = hours % 24;
        return if rest == 0 { format!("{days}d") } else { format!("{days}d{rest}h") };
    }
    if days < 365 * 2 {
        return format!("{days}d");
    }
    let years = days / 365;
    if days < 365 * 8 {
        let rest = days % 365;
        return if rest == 0 { format!("{years}y") } else { format!("{years}y{rest}d") };
    }
    format!("{years}y")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (190, "3m10s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (52 * 3600, "2d4h"),
            (400 * 86400, "400d"),
        ] {
            assert_eq!(age(start, Timestamp::from_second(seconds).unwrap()), expected);
        }
        assert_eq!(seconds(start), "1970-01-01T00:00:00Z");
        assert_eq!(micros(start), "1970-01-01T00:00:00.000000Z");
    }
}
