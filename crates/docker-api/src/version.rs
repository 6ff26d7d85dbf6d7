//! Versions of the API: what a client speaks decides how it is answered where versions differ.

use crate::error::{ApiError, Result};
use crate::{API_VERSION, MINIMUM_API_VERSION};

/// A version, as `1.43`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl Version {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self(major, minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }

    /// The newest.
    pub(crate) fn newest() -> Self {
        Self::parse(API_VERSION).unwrap_or(Self(1, 0))
    }

    /// Takes `/v1.43` off a path, and checks that the version is spoken. Without one it is the newest.
    pub(crate) fn of(path: &str) -> Result<(Self, &str)> {
        let Some(rest) = path.strip_prefix("/v") else { return Ok((Self::newest(), path)) };
        let (version, rest) = match rest.find('/') {
            Some(end) => rest.split_at(end),
            None => (rest, "/"),
        };
        let Some(asked) = Self::parse(version) else { return Ok((Self::newest(), path)) };
        if asked > Self::newest() {
            return Err(ApiError::bad_request(format!(
                "client version {version} is too new. Maximum supported API version is {API_VERSION}"
            )));
        }
        if Self::parse(MINIMUM_API_VERSION).is_some_and(|oldest| asked < oldest) {
            return Err(ApiError::bad_request(format!(
                "client version {version} is too old. Minimum supported API version is {MINIMUM_API_VERSION}, please upgrade your client to a newer version"
            )));
        }
        Ok((asked, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_version() {
        assert_eq!(Version::of("/v1.43/info").unwrap(), (Version(1, 43), "/info"));
        assert_eq!(Version::of("/volumes").unwrap(), (Version::newest(), "/volumes"));
        assert!(Version::of("/v1.23/info").is_err() && Version::of("/v1.999/info").is_err());
        assert!(Version(1, 9) < Version(1, 44));
    }
}
