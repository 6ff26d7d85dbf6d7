//! Names of signals.

use std::str::FromStr as _;

use crate::error::{Error, Result};

/// The number of a signal by its name, with or without SIG, or its number.
pub(crate) fn parse(name: &str) -> Result<i32> {
    let unknown = || Error::UnknownSignal { name: name.into() };
    if let Ok(number) = name.parse::<i32>() {
        return Some(number).filter(|number| (1..=64).contains(number)).ok_or_else(unknown);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let real_time = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest).map(|offset| 34 + offset),
        (_, Some(rest)) => offset(rest).map(|offset| 64 + offset),
        _ => None,
    };
    if let Some(number) = real_time {
        return Some(number).filter(|number| (34..=64).contains(number)).ok_or_else(unknown);
    }
    let long = match short {
        "IOT" => "SIGABRT".to_owned(),
        "CLD" => "SIGCHLD".to_owned(),
        "POLL" => "SIGIO".to_owned(),
        _ => format!("SIG{short}"),
    };
    nix::sys::signal::Signal::from_str(&long).map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers_are_understood() {
        for (name, number) in
            [("TERM", 15), ("SIGKILL", 9), ("kill", 9), ("15", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(name).ok(), Some(number), "{name}");
        }
        for name in ["", "0", "65", "SIG", "SIGFOO", "-9", "RTMIN-1", "RTMIN+x"] {
            assert!(parse(name).is_err(), "{name}");
        }
    }
}
