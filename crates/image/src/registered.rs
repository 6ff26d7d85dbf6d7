//! Images as registries know them: with a manifest, and with layers compressed for the way.

use std::io::{BufReader, Read as _, Write as _};

use crate::compression::{Compression, MAGIC_LENGTH};
use crate::error::IoContext;
use crate::gzip::Gzip;
use crate::store::{ImageStore, Layer, write_record};
use crate::{Digest, Error, Hold, Image, ImageConfig, Reference, Result};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstandard,
}

/// A layer's blob as it goes to a registry.
#[derive(Clone, Debug)]
pub struct PackedLayer {
    /// Its digest.
    pub blob: Digest,
    /// Bytes of it.
    pub size: u64,
    /// How it is compressed.
    pub packing: Packing,
}

impl ImageStore {
    /// Records an image that came from a registry: its configuration, its layers, all of them in the store and held, and
    /// the manifest under which it came.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`] when the configuration does not belong to these layers.
    pub fn register_image(&self, config: &[u8], layers: Vec<Layer>, manifest: &Digest) -> Result<Image> {
        let parsed: ImageConfig = serde_json::from_slice(config)
            .map_err(|error| Error::InvalidArchive { why: format!("image configuration: {error}") })?;
        if !parsed.rootfs.diff_ids.iter().eq(layers.iter().map(|layer| &layer.diff_id)) {
            let why = "the image's configuration names other layers than its manifest".to_owned();
            return Err(Error::InvalidArchive { why });
        }
        let image = {
            let _adding = self.adding.read();
            self.register(config, layers)?
        };
        self.set_manifest(&image.id, manifest)?;
        Ok(image)
    }

    /// The manifest, a blob of the store, under which a registry gave or took the image last.
    #[must_use]
    pub fn manifest_of(&self, id: &Digest) -> Option<Digest> {
        self.state.read().images.get(id)?.manifest.clone()
    }

    /// Notes the manifest, a blob of the store, under which a registry gave or took the image last.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the image has gone.
    pub fn set_manifest(&self, id: &Digest, manifest: &Digest) -> Result<()> {
        let mut state = self.state.write();
        let record = state.images.get_mut(id).ok_or_else(|| Error::NotFound { name: id.to_string() })?;
        if record.manifest.as_ref() == Some(manifest) {
            return Ok(());
        }
        record.manifest = Some(manifest.clone());
        write_record(&self.image_record(id), record)
    }

    /// The image that has exactly this name.
    #[must_use]
    pub fn named(&self, reference: &Reference) -> Option<Digest> {
        self.state.read().references.get(reference).cloned()
    }

    /// Reads a document that is a blob of the store and not larger than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`] when it is larger; [`Error::Io`] when it is not there.
    pub fn document_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let (mut file, _) = self.open_blob(digest)?;
        crate::pack::read_bounded(&mut file, limit, digest.as_str())
    }

    fn packing(&self, blob: &Digest) -> Result<Packing> {
        let (file, _) = self.open_blob(blob)?;
        let mut head = Vec::new();
        file.take(MAGIC_LENGTH as u64).read_to_end(&mut head).io("read", self.content.path(blob))?;
        Ok(match Compression::of(&head) {
            // What registries have no name for is packed again for the way.
            Compression::None | Compression::Bzip2 | Compression::Xz => Packing::Plain,
            Compression::Gzip => Packing::Gzip,
            Compression::Zstandard => Packing::Zstandard,
        })
    }

    /// The layer's blob as it goes to a registry: the one it came as when that is compressed, and otherwise one that is
    /// compressed now and kept. It is added to `hold`.
    ///
    /// # Errors
    /// When the layer cannot be read or its blob not written.
    pub fn packed_layer(&self, layer: &Layer, hold: &mut Hold) -> Result<PackedLayer> {
        self.hold_more(hold, [layer.chain_id.clone()]);
        // It may have been compressed since the image was looked up.
        let layer = self
            .layer(&layer.chain_id)?
            .ok_or_else(|| Error::NotFound { name: layer.chain_id.to_string() })?;
        if let Some(blob) = &layer.blob {
            self.hold_more(hold, [blob.clone()]);
            if self.has_blob(blob) {
                let packing = self.packing(blob)?;
                if packing != Packing::Plain {
                    return Ok(PackedLayer { blob: blob.clone(), size: self.content.size(blob)?, packing });
                }
            }
        }
        let mut ingest = self.content.begin()?;
        let path = self.content.path(&layer.diff_id);
        let mut gzip = Gzip::new(&mut ingest);
        self.write_layer(&layer, &mut gzip)?;
        gzip.finish().and_then(|ingest| ingest.flush()).io("write", &path)?;
        let (blob, size) = {
            let _adding = self.adding.read();
            let (blob, size) = ingest.commit(None)?;
            hold.add([blob.clone()]);
            (blob, size)
        };
        self.set_layer_blob(&layer, &blob)?;
        Ok(PackedLayer { blob, size, packing: Packing::Gzip })
    }

    /// From now on `blob` is the archive of the layer: the plain one is not needed beside it.
    fn set_layer_blob(&self, layer: &Layer, blob: &Digest) -> Result<()> {
        let changed = Layer { blob: Some(blob.clone()), ..layer.clone() };
        write_record(&self.layer_path(&layer.chain_id).join("layer.json"), &changed)?;
        let mut state = self.state.write();
        for (id, record) in &mut state.images {
            let mut touched = false;
            for known in record.layers.iter_mut().filter(|known| known.chain_id == layer.chain_id) {
                known.blob = Some(blob.clone());
                touched = true;
            }
            if touched {
                write_record(&self.image_record(id), record)?;
            }
        }
        Ok(())
    }

    /// The unpacked layer `diff_id` on `parent`, made of a blob that the store has.
    ///
    /// # Errors
    /// When the blob is not what it should be.
    pub fn unpack_layer(&self, parent: Option<&Digest>, blob: &Digest, diff_id: &Digest) -> Result<Layer> {
        self.unpack_blob(parent, blob, diff_id)
    }

    /// Reads a whole blob in pieces.
    ///
    /// # Errors
    /// When it is not there.
    pub fn blob_reader(&self, blob: &Digest) -> Result<impl std::io::Read + Send + use<>> {
        Ok(BufReader::with_capacity(1 << 18, self.content.open_blob(blob)?))
    }
}
