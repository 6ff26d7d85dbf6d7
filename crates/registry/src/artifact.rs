//! Manifests that are none of images: the caches of builds. They are brought document by document and layer by layer, as
//! they are asked for, and pushed with all that they name.

use std::sync::Arc;

use dray_image::{Digest, Layer, NewLayer, Reference};

use crate::client::Client;
use crate::events::Events;
use crate::pull::blocking;
use crate::push::{Part, push_manifest};
use crate::session::Session;
use crate::{Credentials, Error, Pushed, Result};
use dray_image::media::{Descriptor, Document, MANIFEST_LIMIT, OCI_MANIFEST, own_type};

/// A manifest of a registry, and the way to what it names.
pub struct Artifact {
    client: Client,
    session: Session,
    manifest: bytes::Bytes,
}

impl Artifact {
    /// The manifest's bytes.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// A small blob, which is not larger than `size` bytes.
    ///
    /// # Errors
    /// When the registry does not give it, or something else.
    pub async fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let bytes = self.session.small_blob(&descriptor(digest, size)).await?;
        Ok(bytes.to_vec())
    }

    /// A layer, taken into the store. The caller holds its blob and its chain id.
    ///
    /// # Errors
    /// When the registry does not give it, or something else.
    pub async fn layer(&self, layer: &NewLayer) -> Result<Layer> {
        let described = descriptor(&layer.blob, layer.size);
        self.client.download(&self.session, &described, layer, &Events::ignored()).await
    }
}

fn descriptor(digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        size,
        digest: digest.clone(),
        urls: Vec::new(),
        platform: None,
        annotations: Default::default(),
    }
}

impl Client {
    /// What a registry has under a name.
    ///
    /// # Errors
    /// When it cannot be reached, has nothing or gives nothing.
    pub async fn artifact(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Artifact> {
        let session = self.session(reference, "pull", credentials).await?;
        let manifest = session.manifest(reference).await?.bytes;
        Ok(Artifact { client: self.clone(), session, manifest })
    }

    /// Pushes a manifest of the store, with all that it names, under a name that nothing here has. The caller holds it all.
    ///
    /// # Errors
    /// When something of it is not here, or what the registry refuses.
    pub async fn push_artifact(
        &self,
        reference: &Reference,
        manifest: &Digest,
        credentials: Option<&Credentials>,
        events: &Events,
    ) -> Result<Pushed> {
        let (store, digest) = (Arc::clone(self.store()), manifest.clone());
        let bytes = blocking(move || store.document_blob(&digest, MANIFEST_LIMIT as u64)).await?;
        let Document::Manifest(document) =
            Document::parse(&bytes, &[]).map_err(|why| Error::Manifest { why })?
        else {
            return Err(Error::Manifest { why: "it is an index".to_owned() });
        };
        let session = self.session(reference, "pull,push", credentials).await?;
        let named = document.layers.iter().chain([&document.config]);
        let parts: Vec<Part> = named
            .map(|part| Part { name: part.digest.short().to_owned(), blob: part.digest.clone() })
            .collect();
        self.push_layers(&session, &[], &parts, events).await?;
        let media_type = own_type(&bytes).unwrap_or_else(|| OCI_MANIFEST.to_owned());
        push_manifest(&session, reference.tag(), &media_type, &bytes).await
    }
}
