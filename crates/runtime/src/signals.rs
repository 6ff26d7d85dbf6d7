//! Signals by name or number, as `docker kill -s`, `STOPSIGNAL` and `runc kill` take them.

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// The number of a signal given by number or by name, with or without `SIG`, in any case, `RTMIN+n` and `RTMAX-n`
/// included; none when there is no such signal.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|number| (1..=64).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |prefix| name.strip_prefix(prefix)?.parse::<u8>().ok().map(i32::from);
    let real_time =
        offset("RTMIN+").map(|offset| 34 + offset).or_else(|| offset("RTMAX-").map(|offset| 64 - offset));
    real_time.filter(|number| (34..=64).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, expected) in [
            ("9", 9),
            ("15", 15),
            ("KILL", 9),
            ("kill", 9),
            ("SIGKILL", 9),
            ("TERM", 15),
            ("sigterm", 15),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse_signal(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "SIG",
            "nope",
            "SIGFOO",
            "-9",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN+x",
            "-1",
            "RTMIN+2147483647",
        ] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }
}
