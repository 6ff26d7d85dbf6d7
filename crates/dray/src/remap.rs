//! `--userns-remap`: which users of the host a container's users are.

use std::path::Path;

use dray_engine::Remap;

use crate::error::Error;

/// The user whose subordinate numbers are taken where nobody is named, as Docker has it.
const DEFAULT_USER: &str = "dockremap";

/// Reads `default`, `USER[:GROUP]` (whose numbers /etc/subuid and /etc/subgid have), or a range `FIRST-LAST`.
///
/// # Errors
/// [`Error::Remap`], saying what to write into which file.
pub(crate) fn parse(text: &str) -> Result<Remap, Error> {
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
    {
        let size = last.checked_sub(first).filter(|_| first > 0).and_then(|size| size.checked_add(1));
        let size = size.ok_or_else(|| Error::Remap {
            why: format!("{text} is no range of users: give FIRST-LAST, FIRST being at least 1"),
        })?;
        return Ok(Remap { uid: first, gid: first, size });
    }
    let (user, group) = match text {
        "default" => (DEFAULT_USER, DEFAULT_USER),
        other => other.split_once(':').unwrap_or((other, other)),
    };
    let (uid, users) = range_of("/etc/subuid", user)?;
    let (gid, groups) = range_of("/etc/subgid", group)?;
    Ok(Remap { uid, gid, size: users.min(groups) })
}

/// The first range that a file gives to a name.
fn range_of(file: &str, name: &str) -> Result<(u32, u32), Error> {
    let text = std::fs::read_to_string(Path::new(file)).unwrap_or_default();
    first_range(&text, name).ok_or_else(|| Error::Remap {
        why: format!("{file} has no range for {name}: add a line such as {name}:100000:65536"),
    })
}

/// `NAME:FIRST:COUNT`, one a line (subuid(5)).
fn first_range(text: &str, name: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (first, count): (u32, u32) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
        let is_whole = count > 0 && first.checked_add(count).is_some() && first > 0;
        (owner == name && is_whole).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_from_files_or_as_they_are() {
        assert_eq!(parse("100000-165535").unwrap(), Remap { uid: 100_000, gid: 100_000, size: 65_536 });
        assert!(parse("0-10").is_err() && parse("9-3").is_err());
        let text = "a:1:2\nb:x:y\nb:200000:65536\nb:1:1\n";
        assert_eq!(first_range(text, "b"), Some((200_000, 65_536)));
        assert_eq!(first_range(text, "c"), None);
        let error = parse("nobody-has-this").unwrap_err().to_string();
        assert!(error.contains("/etc/subuid") && error.contains("nobody-has-this:100000:65536"), "{error}");
    }
}
