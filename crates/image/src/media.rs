//! Manifests and indexes, of the OCI image specification and of Docker, and the words for their types.
//!
//! A document is exactly one of the two, whatever it is read as: what is said of it by whoever names it, by the answer it
//! came in and by itself has to agree (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Platform};

/// An index, by OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest, by OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index, by Docker.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A manifest, by Docker.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An image's configuration, by Docker.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A layer packed with gzip, by Docker.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// An image's configuration, by OCI.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer, by OCI.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer packed with gzip, by OCI.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer packed with zstd, by OCI.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
/// What is asked for where a manifest is wanted.
pub const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Bytes of the largest manifest that is taken.
pub const MANIFEST_LIMIT: usize = 8 << 20;
/// Bytes of the largest image configuration that is taken.
pub const CONFIG_LIMIT: u64 = 8 << 20;
/// Indexes within indexes.
pub const INDEX_DEPTH: usize = 4;
/// Under which a descriptor's annotations say that it is about another manifest.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const STATEMENTS: &str = "attestation-manifest";
/// Layers of one image; overlayfs takes 500.
const LAYER_LIMIT: usize = 500;

/// What a manifest says of a blob or of another manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Bytes of it.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Where else it may be had, without credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// For which platform it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What is noted about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether it is said to be an index.
    #[must_use]
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type) == Some(true)
    }

    /// The manifest that this one holds statements about.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        let is_statement = self.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == STATEMENTS);
        self.annotations.get(REFERENCE_DIGEST).filter(|_| is_statement)?.parse().ok()
    }
}

/// An image's manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Whether its configuration is said to be that of an image.
    #[must_use]
    pub fn is_image(&self) -> bool {
        matches!(self.config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Whether every layer is compressed, as a registry is to have them.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        let is_packed = |layer: &Descriptor| {
            [".gzip", "+gzip", "+zstd"].iter().any(|ending| layer.media_type.ends_with(ending))
        };
        self.layers.iter().all(is_packed)
    }
}

/// A document that a reference leads to.
#[derive(Clone, Debug)]
pub enum Document {
    /// An image's manifest.
    Manifest(Manifest),
    /// An index: manifests of several platforms.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// The type without its parameters.
#[must_use]
pub fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Whether the type is that of an index; none for a type of neither.
#[must_use]
pub fn is_index(media_type: &str) -> Option<bool> {
    match essence(media_type) {
        OCI_INDEX | DOCKER_LIST => Some(true),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        _ => None,
    }
}

impl Document {
    /// Reads a document that is said to be of the types `said`, as far as anybody said anything.
    ///
    /// # Errors
    /// A message when it is not of one kind, and of the kind that it is said to be (CVE-2021-41190).
    pub fn parse(bytes: &[u8], said: &[Option<&str>]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let of_schema_1 = |media_type: &str| media_type.starts_with(DOCKER_SCHEMA_1);
        if raw.schema_version == Some(1)
            || raw.fs_layers.is_some()
            || said.iter().flatten().any(|said| of_schema_1(said))
        {
            let why = "it is of Docker's schema 1, which is not supported: push the image again with a newer client";
            return Err(why.to_owned());
        }
        if raw.schema_version != Some(2) {
            return Err("its schemaVersion is not 2".to_owned());
        }
        let index = match (&raw.manifests, &raw.config, &raw.layers) {
            (Some(_), None, None) => true,
            (None, Some(_), Some(_)) => false,
            (None, ..) => return Err("it has neither config and layers nor manifests".to_owned()),
            (Some(_), ..) => return Err("it cannot be an index and a manifest at once".to_owned()),
        };
        let said = said.iter().copied().chain([raw.media_type.as_deref()]).flatten();
        for media_type in said.filter(|media_type| !media_type.is_empty()) {
            if is_index(media_type).is_some_and(|said| said != index) {
                let (is, other) = if index { ("an index", "a manifest") } else { ("a manifest", "an index") };
                return Err(format!("it is {is} and is said to be {other} ({media_type})"));
            }
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), ..) => Ok(Self::Index(manifests)),
            (None, Some(_), Some(layers)) if layers.len() > LAYER_LIMIT => {
                Err(format!("an image has at most {LAYER_LIMIT} layers"))
            }
            (None, Some(config), Some(layers)) => Ok(Self::Manifest(Manifest { config, layers })),
            _ => Err("it has neither config and layers nor manifests".to_owned()),
        }
    }
}

/// The type that a document says it is of.
#[must_use]
pub fn own_type(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value.get("mediaType").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, said: Option<&str>) -> Result<Document, String> {
        Document::parse(text.as_bytes(), &[said])
    }

    #[test]
    fn cve_2021_41190() {
        let both = r#"{"schemaVersion":2,"config":{"size":1,"digest":"D"},"layers":[],"manifests":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = r#"{"schemaVersion":2,"config":{"size":1,"digest":"D"},"layers":[]}"#;
        let digest = Digest::of(b"").to_string();
        let [both, index, manifest] = [both, index, manifest].map(|text| text.replace('D', &digest));
        assert!(parse(&both, None).is_err());
        assert!(matches!(parse(&index, Some(OCI_INDEX)), Ok(Document::Index(_))));
        assert!(matches!(parse(&manifest, Some(DOCKER_MANIFEST)), Ok(Document::Manifest(_))));
        assert!(parse(&index, Some(OCI_MANIFEST)).is_err());
        assert!(parse(&manifest, Some(DOCKER_LIST)).is_err());
        let lying = manifest.replace(
            "\"schemaVersion\":2",
            "\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\"",
        );
        assert!(parse(&lying, Some(OCI_MANIFEST)).is_err());
        assert!(parse(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_document_is_two_things(text in r#"\{"schemaVersion":2(,"(manifests|layers|config|mediaType)":(\[\]|\{\}|"x")){0,4}\}"#) {
            let _ = Document::parse(text.as_bytes(), &[None]);
        }
    }
}
