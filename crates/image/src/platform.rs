//! Platforms in Go's words: `linux/arm64/v8`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ImageConfig, Result};

/// An operating system and a processor, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// For example `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// For example `linux`.
    #[serde(default)]
    pub os: String,
    /// For example `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        Self {
            architecture: ImageConfig::host_architecture().to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }

    /// Parses `os/architecture[/variant]`, or either of the first two alone.
    ///
    /// # Errors
    /// [`Error::InvalidPlatform`] when it is nothing of the kind.
    pub fn parse(text: &str) -> Result<Self> {
        let host = Self::host();
        let known = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let invalid = || Error::InvalidPlatform { platform: text.to_owned() };
        if parts.len() > 3 || !parts.iter().all(|part| known(part)) {
            return Err(invalid());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux"] => ("linux", host.architecture.as_str(), None),
            [architecture] => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(invalid()),
        };
        let (architecture, variant) = normal(architecture, variant);
        Ok(Self { architecture, os: os.to_ascii_lowercase(), variant })
    }

    /// The platform of an image, as its configuration has it.
    #[must_use]
    pub fn of(config: &ImageConfig) -> Self {
        let variant = config.other.get("variant").and_then(Value::as_str).map(str::to_owned);
        Self { architecture: config.architecture.clone(), os: config.os.clone(), variant }
    }

    /// Whether an image for `other` is one for this platform.
    #[must_use]
    pub fn suits(&self, other: &Self) -> bool {
        let (architecture, variant) = normal(&other.architecture, other.variant.as_deref());
        let same = self.os == other.os && self.architecture == architecture;
        same && (self.variant.is_none() || variant.is_none() || self.variant == variant)
    }
}

/// The one name of an architecture that has several.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
    let (architecture, variant) = match (architecture.as_str(), variant) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("amd64", Some(variant)) if variant == "v1" => ("amd64", None),
        ("aarch64", variant) => ("arm64", variant),
        ("i386" | "i686", variant) => ("386", variant),
        (other, variant) => {
            return (
                other.to_owned(),
                variant.filter(|variant| !(other == "arm64" && matches!(variant.as_str(), "8" | "v8"))),
            );
        }
    };
    (
        architecture.to_owned(),
        variant.filter(|variant| !(architecture == "arm64" && matches!(variant.as_str(), "8" | "v8"))),
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_name() {
        let arm = Platform::parse("linux/arm64/v8").unwrap();
        assert_eq!(arm.to_string(), "linux/arm64");
        assert!(arm.suits(&Platform {
            architecture: "aarch64".into(),
            os: "linux".into(),
            variant: Some("v8".into())
        }));
        assert!(!arm.suits(&Platform::parse("linux/amd64").unwrap()));
        assert!(!Platform::parse("linux/arm/v7").unwrap().suits(&Platform::parse("linux/arm/v6").unwrap()));
        for text in ["", "/", "a/b/c/d", "linux/", "li nux"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }
}
