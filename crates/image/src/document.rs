//! Indexes and manifests, as archives and the store hold them.
//!
//! One text is exactly one of the two, whatever it is read as (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Platform, Result};

/// Indexes, manifests and configurations larger than this are refused.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 * 1024 * 1024;
/// Indexes within indexes.
pub(crate) const INDEX_DEPTH: usize = 4;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Under which a descriptor's annotations say that it is about another manifest.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const STATEMENTS: &str = "attestation-manifest";

/// What a document says of another one or of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// The manifest that this one holds statements about.
    pub(crate) fn subject(&self) -> Option<Digest> {
        let is_statement = self.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == STATEMENTS);
        self.annotations.get(REFERENCE_DIGEST).filter(|_| is_statement)?.parse().ok()
    }
}

/// A list of manifests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexDocument {
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

impl IndexDocument {
    /// Refuses one that would be a manifest to another reader.
    pub(crate) fn check(&self, what: &str) -> Result<()> {
        let has_others = self.config.is_some() || self.layers.is_some();
        one_kind(what, true, self.media_type.as_deref(), has_others)
    }
}

/// What an image, or anything else, is made of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestDocument {
    media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    manifests: Option<IgnoredAny>,
}

impl ManifestDocument {
    /// Refuses one that would be an index to another reader.
    pub(crate) fn check(&self, what: &str) -> Result<()> {
        one_kind(what, false, self.media_type.as_deref(), self.manifests.is_some())
    }

    /// Whether its configuration is said to be that of an image.
    pub(crate) fn is_image(&self) -> bool {
        matches!(self.config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Whether every layer is compressed, as a registry is to have them.
    pub(crate) fn is_packed(&self) -> bool {
        let is_packed = |layer: &Descriptor| {
            [".gzip", "+gzip", "+zstd"].iter().any(|ending| layer.media_type.ends_with(ending))
        };
        self.layers.iter().all(is_packed)
    }
}

/// What a descriptor's media type, or a document's own, says that it is.
fn is_index(media_type: &str) -> bool {
    media_type.ends_with("index.v1+json") || media_type.ends_with("list.v2+json")
}

/// One text must not be an index to one reader and a manifest to the next: whatever it is said to be, by who names it or by
/// itself, it has the fields of that and none of the other.
fn one_kind(what: &str, index: bool, own_type: Option<&str>, has_others: bool) -> Result<()> {
    if has_others || own_type.is_some_and(|own| is_index(own) != index) {
        let why = format!("{what} cannot be an index and a manifest at once");
        return Err(Error::InvalidArchive { why });
    }
    Ok(())
}
