//! Layers that are made here: of directories that containers wrote, of archives, and of other layers.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::digest::Hashing;
use crate::error::IoContext;
use crate::store::{ImageStore, Layer};
use crate::{Digest, Result, compression, pack};

impl ImageStore {
    /// Makes the directory `upper` (an overlayfs upper directory that nobody writes to any more) a layer on top of
    /// `parent`, and leases it to `owner` before any sweep can take it away. The directory moves into the store.
    ///
    /// # Errors
    /// When it cannot be packed or moved.
    pub fn commit_directory(&self, parent: Option<&Digest>, upper: &Path, owner: &str) -> Result<Layer> {
        let _adding = self.adding.read();
        let mut writer = Hashing::new(std::io::sink());
        let size = pack::pack(upper, true, &mut writer)?;
        let (_, diff_id, _) = writer.finish();
        let layer = self.adopt(parent, diff_id, size, upper)?;
        self.lease(owner, &layer.chain_id)?;
        Ok(layer)
    }

    /// Packs `upper` as it is now, without moving it, makes a layer of the archive, and leases it to `owner`. Only
    /// paths that are `wanted` become part of it.
    ///
    /// # Errors
    /// When it cannot be packed or unpacked.
    pub fn commit_copy(
        &self,
        parent: Option<&Digest>,
        upper: &Path,
        wanted: &dyn Fn(&Path) -> bool,
        owner: &str,
    ) -> Result<Layer> {
        let _adding = self.adding.read();
        let mut ingest = self.content.begin()?;
        pack::pack_wanted(upper, wanted, &mut ingest)?;
        let (blob, _) = ingest.commit(None)?;
        let layer = self.unpack_blob(parent, &blob, &blob)?;
        self.lease(owner, &layer.chain_id)?;
        Ok(layer)
    }

    /// Makes the archive `reader` a layer without parent (`docker import`), and leases it to `owner`.
    ///
    /// # Errors
    /// When the archive is damaged.
    pub fn import_layer(&self, reader: impl Read + Send, owner: &str) -> Result<Layer> {
        let mut plain = compression::decompress(reader).io("read", "archive")?;
        let mut ingest = self.content.begin()?;
        // A sweep is not kept waiting for whoever sends this.
        std::io::copy(&mut plain, &mut ingest).io("write", "archive")?;
        let _adding = self.adding.read();
        let (blob, _) = ingest.commit(None)?;
        let layer = self.unpack_blob(None, &blob, &blob)?;
        self.lease(owner, &layer.chain_id)?;
        Ok(layer)
    }

    /// Puts a layer that was made on nothing on another one, without a copy of its files, and leases it to `owner`.
    ///
    /// # Errors
    /// When the layer is not there or the file system refuses.
    pub fn put_layer_on(&self, below: &Digest, layer: &Layer, owner: &str) -> Result<Layer> {
        let _adding = self.adding.read();
        let chain_id = Digest::chain(Some(below), &layer.diff_id);
        let put = match self.layer(&chain_id)? {
            Some(present) => present,
            None => {
                let staged = self.content.scratch_path();
                fs::create_dir(&staged).io("create", &staged)?;
                let source = self.layer_path(&layer.chain_id).join("diff");
                let put = Layer { chain_id, parent: Some(below.clone()), ..layer.clone() };
                let linked = crate::links::link_directory(&source, &staged.join("diff"));
                match linked.and_then(|()| self.publish(&staged, &put)) {
                    Ok(()) => put,
                    Err(error) => {
                        let _ = fs::remove_dir_all(&staged);
                        return Err(error);
                    }
                }
            }
        };
        self.lease(owner, &put.chain_id)?;
        Ok(put)
    }

    fn adopt(&self, parent: Option<&Digest>, diff_id: Digest, size: u64, directory: &Path) -> Result<Layer> {
        let chain_id = Digest::chain(parent, &diff_id);
        let layer = Layer { chain_id, diff_id, size, parent: parent.cloned(), blob: None };
        if let Some(present) = self.layer(&layer.chain_id)? {
            fs::remove_dir_all(directory).io("remove", directory)?;
            return Ok(present);
        }
        let staged = self.content.scratch_path();
        fs::create_dir(&staged).io("create", &staged)?;
        fs::rename(directory, staged.join("diff")).io("move", directory)?;
        self.publish(&staged, &layer)?;
        Ok(layer)
    }
}
