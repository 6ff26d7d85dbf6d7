//! Giving images out as an archive: an OCI layout with Docker's own list, so that every `load` takes it.
//!
//! An image goes with its layers plain, packed again from what was unpacked. What a name leads to an index for goes as it
//! came, byte by byte, under the same digests, with as many of its platforms as are here and wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::error::IoContext;
use crate::index::{Index, Member, MemberKind};
use crate::media::{Document, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::store::ImageStore;
use crate::{Digest, Image, Platform, Reference, Result};

/// An index, and those of its manifests that are wanted.
type Chosen = (Arc<Index>, BTreeSet<Digest>);

/// What goes into an archive under some names.
struct Wanted {
    image: Image,
    references: Vec<Reference>,
    /// The index that it goes with.
    index: Option<Chosen>,
}

impl ImageStore {
    /// Writes the images `names` as one archive. A name by reference is kept in it. Of images of several platforms those
    /// for `platforms` are written, or all that are here when it is empty.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] and [`crate::Error::OtherPlatform`] before anything is written; otherwise when reading
    /// or writing fails.
    pub fn save(&self, names: &[String], platforms: &[Platform], writer: impl Write) -> Result<()> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for name in names {
            let (image, index) = self.wanted(name, platforms)?;
            let reference = Reference::parse(name).ok();
            let reference = reference.filter(|name| name.tag().is_some() && self.named(name).is_some());
            let is_same = |present: &&mut Wanted| {
                present.image.id == image.id
                    && present.index.as_ref().map(|(index, _)| &index.digest)
                        == index.as_ref().map(|(index, _)| &index.digest)
            };
            match wanted.iter_mut().find(is_same) {
                Some(present) => present.references.extend(reference),
                None => wanted.push(Wanted { image, references: reference.into_iter().collect(), index }),
            }
        }
        let mut hold = self.hold(std::iter::empty());
        for Wanted { image, index, .. } in &wanted {
            self.hold_more(
                &mut hold,
                image.layers.iter().map(|layer| layer.chain_id.clone()).chain([image.id.clone()]),
            );
            self.hold_more(&mut hold, image.layers.iter().filter_map(|layer| layer.blob.clone()));
            self.hold_more(&mut hold, index.iter().flat_map(|(index, _)| index.reached()).cloned());
        }
        let mut archive = Archive {
            store: self,
            builder: Builder::new(writer),
            written: BTreeMap::new(),
            manifests: Vec::new(),
        };
        let mut listed = Vec::new();
        for wanted in &wanted {
            let layers = match &wanted.index {
                Some((index, manifests)) => archive.index(index, manifests, wanted)?,
                None => archive.image(wanted)?,
            };
            let tags: Vec<String> = wanted.references.iter().map(Reference::familiar).collect();
            listed.push(json!({
                "Config": blob_path(&wanted.image.id),
                "RepoTags": if tags.is_empty() { json!(null) } else { json!(tags) },
                "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": archive.manifests });
        let files = [
            ("manifest.json", json!(listed)),
            ("index.json", index),
            ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ];
        for (path, document) in files {
            let text = document.to_string();
            append(&mut archive.builder, path, text.len() as u64, text.as_bytes())?;
        }
        archive.builder.finish().io("write", "image archive")
    }

    /// The image that stands for a name, and the index that goes with it: when more than one platform is wanted, and all of
    /// what is wanted is here as it came.
    fn wanted(&self, name: &str, platforms: &[Platform]) -> Result<(Image, Option<Chosen>)> {
        let first = self.resolve_for(name, platforms.first())?;
        let Some(index) = self.index_named(name) else {
            for platform in platforms {
                self.resolve_for(name, Some(platform))?;
            }
            return Ok((first, None));
        };
        let mut images = BTreeSet::new();
        for platform in platforms {
            images.insert(self.resolve_for(name, Some(platform))?.id);
        }
        let is_image = |member: &Member| match &member.image {
            Some(image) => images.is_empty() || images.contains(image),
            None => false,
        };
        let chosen: Vec<&Member> = index.members.iter().filter(|member| is_image(member)).collect();
        let is_about = |member: &Member| {
            chosen.iter().any(|image| member.subject.as_ref() == Some(&image.digest)) && self.is_whole(member)
        };
        let others = index.members.iter().filter(|member| match member.kind {
            MemberKind::Statements => is_about(member),
            MemberKind::Index => self.has_blob(&member.digest),
            MemberKind::Image | MemberKind::Unknown => false,
        });
        let manifests = chosen.iter().copied().chain(others).map(|member| member.digest.clone()).collect();
        let is_index = platforms.len() != 1 && chosen.iter().all(|member| self.is_whole(member));
        Ok((first, is_index.then_some((index, manifests))))
    }
}

/// An archive while it is written.
struct Archive<'a, W: Write> {
    store: &'a ImageStore,
    builder: Builder<W>,
    /// The blobs in it, and their sizes.
    written: BTreeMap<Digest, u64>,
    /// What its list names.
    manifests: Vec<Value>,
}

impl<W: Write> Archive<'_, W> {
    /// Names a document in the list, once for each name.
    fn list(&mut self, descriptor: &Value, references: &[Reference]) {
        for name in references {
            let mut entry = descriptor.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
            });
            self.manifests.push(entry);
        }
        if references.is_empty() {
            self.manifests.push(descriptor.clone());
        }
    }

    /// An image with its layers plain; answers the layers' digests.
    fn image(&mut self, wanted: &Wanted) -> Result<Vec<Digest>> {
        let image = &wanted.image;
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let size = self.layer(layer)?;
            layers.push(json!({ "mediaType": OCI_LAYER, "digest": layer.diff_id.as_str(), "size": size }));
        }
        let config = self.store.config_bytes(&image.id)?;
        self.bytes(&image.id, &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": image.id.as_str(), "size": config.len() },
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        self.bytes(&digest, &manifest)?;
        let descriptor = json!({
            "mediaType": OCI_MANIFEST, "digest": digest.as_str(), "size": manifest.len(),
            "platform": Platform::of(&image.config),
        });
        self.list(&descriptor, &wanted.references);
        Ok(image.layers.iter().map(|layer| layer.diff_id.clone()).collect())
    }

    /// A layer's plain archive; answers its size.
    fn layer(&mut self, layer: &crate::Layer) -> Result<u64> {
        if let Some(size) = self.written.get(&layer.diff_id) {
            return Ok(*size);
        }
        let _hold = self.store.hold([layer.diff_id.clone()]);
        let mut ingest = self.store.content.begin()?;
        self.store.write_layer(layer, &mut ingest)?;
        let fresh = !self.store.content.contains(&layer.diff_id);
        let (blob, size) = ingest.commit(Some(&layer.diff_id))?;
        let appended = self.store.content.open_blob(&blob).and_then(|file| self.once(&blob, size, file));
        if fresh {
            self.store.content.remove(&blob)?;
        }
        appended.map(|()| size)
    }

    /// An index with those of its manifests that are wanted; answers the blobs of the layers of the image that stands for
    /// all.
    fn index(&mut self, index: &Index, manifests: &BTreeSet<Digest>, wanted: &Wanted) -> Result<Vec<Digest>> {
        let mut layers = Vec::new();
        for member in index.members.iter().filter(|member| manifests.contains(&member.digest)) {
            for (part, _) in &member.parts {
                self.blob(part)?;
            }
            self.blob(&member.digest)?;
            if layers.is_empty()
                && member.image.as_ref() == Some(&wanted.image.id)
                && let Document::Manifest(manifest) = self.store.document(&member.digest, None)?
            {
                layers = manifest.layers.into_iter().map(|layer| layer.digest).collect();
            }
        }
        self.blob(&index.digest)?;
        let descriptor = json!({
            "mediaType": index.media_type, "digest": index.digest.as_str(), "size": index.size,
        });
        self.list(&descriptor, &wanted.references);
        Ok(layers)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        let (file, size) = self.store.open_blob(digest)?;
        self.once(digest, size, file)
    }

    fn bytes(&mut self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.once(digest, bytes.len() as u64, bytes)
    }

    fn once(&mut self, digest: &Digest, size: u64, reader: impl Read) -> Result<()> {
        if self.written.insert(digest.clone(), size).is_some() {
            return Ok(());
        }
        append(&mut self.builder, &blob_path(digest), size, reader)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn append<W: Write>(builder: &mut Builder<W>, path: &str, size: u64, reader: impl Read) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    builder.append_data(&mut header, path, reader).io("write", "image archive")
}
