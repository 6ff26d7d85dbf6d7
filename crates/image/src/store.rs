//! The store: records of images, references and layers, in memory and on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::content::Content;
use crate::digest::Hashing;
use crate::error::IoContext;
use crate::hold::Holds;
use crate::{Digest, Error, Reference, Result, compression, pack, unpack};

/// Images, their layers and their names, below one directory.
///
/// Records are written beside and renamed into place, so a crash leaves either the old or the new one; unpacked
/// layers appear under their chain id only when they are whole and their digest has been checked.
pub struct ImageStore {
    pub(crate) content: Content,
    root: PathBuf,
    pub(crate) state: RwLock<State>,
    /// Held shared by whoever adds content and exclusively by the sweep, which would take unnamed content away.
    pub(crate) adding: RwLock<()>,
    /// One writer of `references.json` at a time.
    references_file: Mutex<()>,
    /// What transfers under way keep.
    pub(crate) holds: Arc<Holds>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    pub(crate) references: BTreeMap<Reference, Digest>,
    /// Chain ids that must stay, by who needs them.
    pub(crate) leases: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) layers: Vec<Layer>,
    /// When the image came into this store, RFC 3339.
    pub(crate) added: String,
    /// The manifest under which a registry gave or took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
}

/// A layer: what it is called, how large it is, and its archive when the store keeps one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The id of this layer on top of those below it.
    pub chain_id: Digest,
    /// Bytes of the regular files.
    pub size: u64,
    /// The chain id of the layers below it.
    pub parent: Option<Digest>,
    /// The archive as it came; a layer that was made here has none and is packed again when it is needed.
    pub blob: Option<Digest>,
}

/// An image of the store, as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The names, in order.
    pub references: Vec<Reference>,
    /// When it came into this store, RFC 3339.
    pub added: String,
}

impl Image {
    /// Bytes of the regular files of all layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// The chain id of the topmost layer; none for an image without layers.
    #[must_use]
    pub fn chain_id(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }
}

/// An image to be made of layers that the store has.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The configuration; its diff ids are set from `layers`.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl NewImage {
    /// The id that the image will have.
    ///
    /// # Errors
    /// When the configuration cannot be encoded.
    pub fn id(&self) -> Result<Digest> {
        Ok(Digest::of(&self.encode()?))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut config = self.config.clone();
        config.rootfs.diff_ids = self.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        serde_json::to_vec(&config)
            .map_err(|source| Error::Record { path: "image configuration".into(), source })
    }
}

impl ImageStore {
    /// Opens the store below `root`, making it when it is not there, and clears what a crash left half-done.
    ///
    /// # Errors
    /// When the directory cannot be used or a record is damaged.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        for name in ["images", "layers", "leases"] {
            let path = root.join(name);
            fs::create_dir_all(&path).io("create", &path)?;
        }
        let content = Content::open(&root)?;
        let mut state = State::default();
        for (name, path) in list(&root.join("images"))? {
            let Some(id) = name.strip_suffix(".json").and_then(|hex| Digest::from_hex(hex).ok()) else {
                continue;
            };
            state.images.insert(id, read_record(&path)?);
        }
        let references = root.join("references.json");
        if references.exists() {
            let all: BTreeMap<Reference, Digest> = read_record(&references)?;
            state.references = all.into_iter().filter(|(_, id)| state.images.contains_key(id)).collect();
        }
        for (owner, path) in list(&root.join("leases"))? {
            if let Ok(chain) = fs::read_to_string(&path).io("read", &path)?.trim().parse() {
                state.leases.insert(owner, chain);
            }
        }
        Ok(Self {
            content,
            root,
            state: RwLock::new(state),
            adding: RwLock::new(()),
            references_file: Mutex::new(()),
            holds: Arc::default(),
        })
    }

    /// All images, in the order of their ids.
    ///
    /// # Errors
    /// When a configuration cannot be read.
    pub fn list(&self) -> Result<Vec<Image>> {
        let ids: Vec<Digest> = self.state.read().images.keys().cloned().collect();
        // One that vanishes meanwhile is simply no longer listed.
        ids.iter().filter_map(|id| self.image(id).transpose()).collect()
    }

    /// The image with this reference, id or unique prefix of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AmbiguousId`], [`Error::InvalidReference`].
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let id = self.resolve_id(name)?;
        self.image(&id)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })
    }

    pub(crate) fn resolve_id(&self, name: &str) -> Result<Digest> {
        let state = self.state.read();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if let Some(id) = Digest::from_hex(hex).ok().filter(|id| state.images.contains_key(id)) {
            return Ok(id);
        }
        if !name.starts_with("sha256:") {
            let reference = Reference::parse(name);
            if let Ok(reference) = &reference {
                // What has a digest is that, whatever tag stands before it.
                let by_digest = reference.digest().map(|digest| reference.at_digest(digest.clone()));
                let names = [Some(reference), by_digest.as_ref()];
                if let Some(id) = names.into_iter().flatten().find_map(|name| state.references.get(name)) {
                    return Ok(id.clone());
                }
            }
            if !is_hex {
                reference?;
            }
        }
        if is_hex {
            let mut matches = state.images.keys().filter(|id| id.hex().starts_with(hex));
            if let Some(first) = matches.next() {
                return match matches.count() {
                    0 => Ok(first.clone()),
                    more => Err(Error::AmbiguousId { prefix: hex.to_owned(), matches: more + 1 }),
                };
            }
        }
        let name = Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar());
        Err(Error::NotFound { name })
    }

    pub(crate) fn image(&self, id: &Digest) -> Result<Option<Image>> {
        let (record, references) = {
            let state = self.state.read();
            let Some(record) = state.images.get(id) else { return Ok(None) };
            let references =
                state.references.iter().filter(|(_, of)| *of == id).map(|(r, _)| r.clone()).collect();
            (record.clone(), references)
        };
        let bytes = self.content.read(id)?;
        let config = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Record { path: self.content.path(id), source })?;
        Ok(Some(Image { id: id.clone(), config, layers: record.layers, references, added: record.added }))
    }

    /// The configuration exactly as its digest covers it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config_bytes(&self, id: &Digest) -> Result<Vec<u8>> {
        self.content.read(id)
    }

    /// Gives the image `id` one more name, taking it from the image that had it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such image.
    pub fn tag(&self, id: &Digest, reference: &Reference) -> Result<()> {
        {
            let mut state = self.state.write();
            if !state.images.contains_key(id) {
                return Err(Error::NotFound { name: id.to_string() });
            }
            state.references.insert(reference.clone(), id.clone());
        }
        self.save_references()
    }

    /// The directories of the layers up to `chain_id`, topmost first, as overlayfs takes lower directories.
    ///
    /// # Errors
    /// [`Error::NotFound`] when a layer is not there.
    pub fn lower_directories(&self, layers: &[Layer]) -> Result<Vec<PathBuf>> {
        layers
            .iter()
            .rev()
            .map(|layer| {
                let path = self.layer_path(&layer.chain_id).join("diff");
                if path.exists() {
                    Ok(path)
                } else {
                    Err(Error::NotFound { name: layer.chain_id.to_string() })
                }
            })
            .collect()
    }

    /// Keeps the layers up to `chain_id` for `owner` (letters, digits, '-', '_' and '.'), whatever becomes of the image.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn lease(&self, owner: &str, chain_id: &Digest) -> Result<()> {
        let path = self.lease_path(owner);
        write_atomically(&path, chain_id.as_str().as_bytes())?;
        self.state.write().leases.insert(owner.to_owned(), chain_id.clone());
        Ok(())
    }

    /// Ends a lease; what only it kept goes with the next sweep.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn release(&self, owner: &str) -> Result<()> {
        if self.state.write().leases.remove(owner).is_some() {
            let path = self.lease_path(owner);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.io("remove", &path)?,
            }
        }
        Ok(())
    }

    /// The owners of all leases.
    #[must_use]
    pub fn lease_owners(&self) -> Vec<String> {
        self.state.read().leases.keys().cloned().collect()
    }

    fn lease_path(&self, owner: &str) -> PathBuf {
        let safe: String = owner
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        self.root.join("leases").join(safe)
    }

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

    /// The layer with this chain id, when it is unpacked.
    ///
    /// # Errors
    /// When its record is damaged.
    pub fn layer(&self, chain_id: &Digest) -> Result<Option<Layer>> {
        let path = self.layer_path(chain_id).join("layer.json");
        if path.exists() { read_record(&path).map(Some) } else { Ok(None) }
    }

    /// Unpacks the archive `blob` on top of `parent`, unless that is done already.
    pub(crate) fn unpack_blob(
        &self,
        parent: Option<&Digest>,
        blob: &Digest,
        diff_id: &Digest,
    ) -> Result<Layer> {
        let chain_id = Digest::chain(parent, diff_id);
        if let Some(present) = self.layer(&chain_id)? {
            return Ok(present);
        }
        let staged = self.content.scratch_path();
        let diff = staged.join("diff");
        fs::create_dir_all(&diff).io("create", &diff)?;
        let result = (|| {
            let blob_path = self.content.path(blob);
            let plain = compression::decompress(self.content.open_blob(blob)?).io("read", &blob_path)?;
            let mut hashing = Hashing::new(plain);
            let size = unpack::unpack(&mut hashing, &diff, unpack::Form::Layer)?;
            // The digest covers also what follows the archive's end mark.
            std::io::copy(&mut hashing, &mut std::io::sink()).io("read", &blob_path)?;
            let (_, actual, _) = hashing.finish();
            if actual != *diff_id {
                return Err(Error::DigestMismatch {
                    what: format!("layer {blob}"),
                    expected: diff_id.clone(),
                    actual,
                });
            }
            let layer = Layer {
                diff_id: diff_id.clone(),
                chain_id,
                size,
                parent: parent.cloned(),
                blob: Some(blob.clone()),
            };
            self.publish(&staged, &layer)?;
            Ok(layer)
        })();
        if result.is_err() {
            let _ = fs::remove_dir_all(&staged);
        }
        result
    }

    pub(crate) fn publish(&self, staged: &Path, layer: &Layer) -> Result<()> {
        write_record(&staged.join("layer.json"), layer)?;
        let target = self.layer_path(&layer.chain_id);
        match fs::rename(staged, &target) {
            // Another load of the same layer was faster.
            Err(_) if target.join("layer.json").exists() => fs::remove_dir_all(staged).io("remove", staged),
            result => result.io("rename", staged),
        }
    }

    /// Records an image made of layers that the store has.
    ///
    /// # Errors
    /// When a layer is missing or the record cannot be written.
    pub fn create(&self, new: NewImage) -> Result<Image> {
        let _adding = self.adding.read();
        let bytes = new.encode()?;
        let layers = new.layers;
        if let Some(gone) = layers.iter().find(|layer| !self.layer_path(&layer.chain_id).exists()) {
            return Err(Error::NotFound { name: gone.chain_id.to_string() });
        }
        self.register(&bytes, layers)
    }

    pub(crate) fn register(&self, config: &[u8], layers: Vec<Layer>) -> Result<Image> {
        let id = self.content.put(config)?;
        let record = ImageRecord { layers, added: now(), manifest: None };
        let fresh = !self.state.read().images.contains_key(&id);
        if fresh {
            write_record(&self.image_record(&id), &record)?;
            self.state.write().images.insert(id.clone(), record);
        }
        self.image(&id)?.ok_or_else(|| Error::NotFound { name: id.to_string() })
    }

    /// Writes the archive of `layer`, uncompressed: as it came, or packed again and checked to be the same.
    ///
    /// # Errors
    /// When it cannot be read or written, or is no longer what its digest says.
    pub fn write_layer(&self, layer: &Layer, writer: impl Write) -> Result<()> {
        let mut writer = Hashing::new(writer);
        match &layer.blob {
            Some(blob) => {
                let path = self.content.path(blob);
                let mut plain = compression::decompress(self.content.open_blob(blob)?).io("read", &path)?;
                std::io::copy(&mut plain, &mut writer).io("read", &path)?;
            }
            None => {
                pack::pack(&self.layer_path(&layer.chain_id).join("diff"), true, &mut writer)?;
            }
        }
        let (_, actual, _) = writer.finish();
        if actual != layer.diff_id {
            return Err(Error::DigestMismatch {
                what: format!("layer {}", layer.chain_id),
                expected: layer.diff_id.clone(),
                actual,
            });
        }
        Ok(())
    }

    pub(crate) fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.layers_root().join(chain_id.hex())
    }

    /// Where everything is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn image_record(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    pub(crate) fn layers_root(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn save_references(&self) -> Result<()> {
        let _writer = self.references_file.lock();
        let references = self.state.read().references.clone();
        write_record(&self.root.join("references.json"), &references)
    }

    pub(crate) fn remove_image_record(&self, id: &Digest) -> Result<()> {
        self.state.write().images.remove(id);
        let path = self.image_record(id);
        fs::remove_file(&path).io("remove", &path)
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).io("list", directory)? {
        let entry = entry.io("list", directory)?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.ends_with(".new")
        {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

pub(crate) fn read_record<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).io("read", path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Record { path: path.to_owned(), source })
}

pub(crate) fn write_record(path: &Path, record: &impl Serialize) -> Result<()> {
    let bytes =
        serde_json::to_vec(record).map_err(|source| Error::Record { path: path.to_owned(), source })?;
    write_atomically(path, &bytes)
}

pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, bytes).io("write", &name)?;
    fs::rename(&name, path).io("rename", path)
}
