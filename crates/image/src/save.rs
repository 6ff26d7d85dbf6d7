//! Giving images out as an archive that Docker's `load` takes.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use serde_json::json;
use tar::{Builder, Header};

use crate::error::IoContext;
use crate::store::ImageStore;
use crate::{Digest, Image, Reference, Result};

impl ImageStore {
    /// Writes the images `names` as one archive in Docker's `save` format. A name by reference is kept in it.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] before anything is written; otherwise when reading or writing fails.
    pub fn save(&self, names: &[String], writer: impl Write) -> Result<()> {
        let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
        for name in names {
            let image = self.resolve(name)?;
            let reference =
                Reference::parse(name).ok().filter(|reference| image.references.contains(reference));
            match images.iter_mut().find(|(present, _)| present.id == image.id) {
                Some((_, references)) => references.extend(reference),
                None => images.push((image, reference.into_iter().collect())),
            }
        }
        let mut builder = Builder::new(writer);
        let mut written = BTreeSet::new();
        let mut manifest = Vec::new();
        for (image, references) in &images {
            let config = self.config_bytes(&image.id)?;
            self.append_once(&mut builder, &mut written, &image.id, config.len() as u64, config.as_slice())?;
            for layer in &image.layers {
                if written.contains(&layer.diff_id) {
                    continue;
                }
                let mut ingest = self.content.begin()?;
                self.write_layer(layer, &mut ingest)?;
                let fresh = !self.content.contains(&layer.diff_id);
                let (blob, size) = ingest.commit(Some(&layer.diff_id))?;
                let appended =
                    self.append_once(&mut builder, &mut written, &blob, size, self.content.open_blob(&blob)?);
                if fresh {
                    self.content.remove(&blob)?;
                }
                appended?;
            }
            let tags: Vec<String> = references.iter().map(Reference::familiar).collect();
            manifest.push(json!({
                "Config": blob_path(&image.id),
                "RepoTags": if tags.is_empty() { json!(null) } else { json!(tags) },
                "Layers": image.layers.iter().map(|layer| blob_path(&layer.diff_id)).collect::<Vec<_>>(),
            }));
        }
        let manifest = json!(manifest).to_string();
        append(&mut builder, "manifest.json", manifest.len() as u64, manifest.as_bytes())?;
        builder.finish().io("write", "image archive")
    }

    fn append_once<W: Write>(
        &self,
        builder: &mut Builder<W>,
        written: &mut BTreeSet<Digest>,
        digest: &Digest,
        size: u64,
        reader: impl Read,
    ) -> Result<()> {
        if !written.insert(digest.clone()) {
            return Ok(());
        }
        append(builder, &blob_path(digest), size, reader)
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
