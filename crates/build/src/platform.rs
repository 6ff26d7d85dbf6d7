//! Platforms in Docker's words: `linux/arm64/v8`.

use std::fmt;
use std::str::FromStr;

use dray_image::ImageConfig;

use crate::Error;

/// An operating system and a processor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`; empty when there is only one.
    pub variant: String,
}

impl Platform {
    /// This machine.
    #[must_use]
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: ImageConfig::host_architecture().to_owned(),
            variant: String::new(),
        }
    }

    /// Whether what is made for `other` can be used where this one is asked for.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant == other.variant || self.variant.is_empty() || other.variant.is_empty())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Takes `os`, `architecture`, `os/architecture` and `os/architecture/variant`, with the usual other names of
    /// processors (`x86_64`, `aarch64`, `armhf`).
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::invalid(format!(
                "invalid platform {text:?}: write it as OS/ARCHITECTURE, for example linux/amd64"
            ))
        };
        let lower = text.trim().to_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        let host = Self::host();
        match parts.as_slice() {
            ["local"] => Ok(host),
            [only @ ("linux" | "windows" | "darwin" | "freebsd" | "wasi")] => {
                Ok(Self { os: (*only).to_owned(), ..host })
            }
            [architecture] => {
                let (architecture, variant) = normal(architecture, "");
                Ok(Self { architecture, variant, ..host })
            }
            [os, architecture] => {
                let (architecture, variant) = normal(architecture, "");
                Ok(Self { os: (*os).to_owned(), architecture, variant })
            }
            [os, architecture, variant] => {
                let (architecture, variant) = normal(architecture, variant);
                Ok(Self { os: (*os).to_owned(), architecture, variant })
            }
            _ => Err(invalid()),
        }
    }
}

/// The one name that a processor has among us.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_name_each() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("linux/386", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "/", "linux/", "a/b/c/d", "linux/am d64", "$X"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert!("linux".parse::<Platform>().unwrap().matches(&Platform::host()));
    }
}
