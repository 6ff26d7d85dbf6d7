//! Image references, normalised as Docker does (distribution/reference grammar).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Result};

/// A normalised reference: registry, repository, and a tag or a digest.
///
/// `nginx` is `docker.io/library/nginx:latest`. [`Reference::familiar`] gives the short form back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
/// The grammar's limit of a repository name, registry included.
const NAME_LIMIT: usize = 255;

impl Reference {
    /// Parses and normalises `text`; without a tag or digest the tag is `latest`.
    ///
    /// # Errors
    /// [`Error::InvalidReference`], naming the rule that is broken.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why| Err(Error::InvalidReference { reference: text.to_owned(), why });
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => match digest.parse() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return fail("the part behind @ is no sha256 digest"),
            },
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return fail(
                "a tag has 1 to 128 letters, digits, '_', '.' and '-', and begins with none of '.' and '-'",
            );
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if names_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !valid_registry(registry) {
            return fail("the registry is no host name with an optional port");
        }
        if path.is_empty() {
            return fail("the repository name is empty");
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return fail("repository name must be lowercase");
        }
        if !path.split('/').all(valid_component) {
            return fail(
                "a repository's parts are lower-case letters and digits, joined by '.', '_', '__' or '-'",
            );
        }
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > NAME_LIMIT {
            return fail("the repository name is longer than 255 characters");
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry's host and optional port, for example `docker.io`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, for example `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless the reference is by digest alone.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with this digest and no tag, as `RepoDigests` names what came from a registry.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The reference without its digest, when it has a tag.
    #[must_use]
    pub fn tagged(&self) -> Option<Self> {
        self.tag.is_some().then(|| Self { digest: None, ..self.clone() })
    }

    /// Whether both are of one repository.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }

    /// The repository as users write it: without the default registry and the `library/` of official images.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let short = self.repository.strip_prefix(OFFICIAL_PREFIX).filter(|rest| !rest.contains('/'));
        match self.repository.split_once('/') {
            // Without its registry it would be another's.
            Some((first, _)) if names_registry(first) => format!("{}/{}", self.registry, self.repository),
            _ => short.unwrap_or(&self.repository).to_owned(),
        }
    }

    /// The whole reference as users write it, for example `nginx:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffixes(self.familiar_name())
    }

    fn with_suffixes(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

/// Whether the first part of a name is that of a registry, by what only those have.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

pub(crate) fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128 && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_valid = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let host_valid = if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        inner.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty()
            && host.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            })
    };
    port_valid && host_valid
}

/// Whether this is a repository's name within a registry.
pub(crate) fn valid_repository(name: &str) -> bool {
    name.len() <= NAME_LIMIT && name.split('/').all(valid_component)
}

fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    // Between alphanumerics stand: one '.', one or two '_', or any number of '-'.
    component
        .split(|c: char| alphanumeric(c as u8) && c.is_ascii())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffixes(format!("{}/{}", self.registry, self.repository)))
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_of_one_part_is_short() {
        for (text, familiar) in [("library/box", "box:latest"), ("library/a/b", "library/a/b:latest")] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
        }
    }

    #[test]
    fn normalises_as_docker_does() {
        let digest = Digest::of(b"x");
        let by_digest = format!("a.b/c@{digest}");
        for (text, expected, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("a__b--c.d", "docker.io/library/a__b--c.d:latest", "a__b--c.d:latest"),
            ("docker.io/a.b/c:1", "docker.io/a.b/c:1", "docker.io/a.b/c:1"),
            ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
            (&by_digest, &by_digest, &by_digest),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), expected, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn refuses_what_docker_refuses() {
        for text in
            ["", ":", "a:", "A", "a/B", "a..b", "a___b", "-a", "a-", "a:-x", "a@sha256:0", "a//b", "ex ample"]
        {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        assert!(Reference::parse(&"a".repeat(256)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in "[a-zA-Z0-9._:/@\\-\\[\\]é]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                proptest::prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
