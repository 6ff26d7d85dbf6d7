//! The store: records of images, references and layers, in memory and on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::content::Content;
use crate::digest::Hashing;
use crate::error::IoContext;
use crate::hold::Holds;
use crate::index::Index;
use crate::{Digest, Error, Reference, Result, compression, pack, unpack};

/// Which names lead to which index.
const INDEXES: &str = "indexes.json";

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
    /// One writer of `references.json` and `indexes.json` at a time, and what the latter holds.
    references_file: Mutex<BTreeMap<Reference, Digest>>,
    /// One writer of leases at a time: what is on disk is what is known.
    pub(crate) leasing: Mutex<()>,
    /// What transfers under way keep.
    pub(crate) holds: Arc<Holds>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    pub(crate) references: BTreeMap<Reference, Digest>,
    /// Those of the references that lead to an index.
    pub(crate) index_names: BTreeMap<Reference, Digest>,
    pub(crate) indexes: BTreeMap<Digest, Arc<Index>>,
    /// Chain ids that must stay, by who needs them.
    pub(crate) leases: BTreeMap<String, Digest>,
}

/// What a name leads to: an image, and the index that it stands for, if there is one.
pub(crate) struct Resolved {
    pub(crate) image: Digest,
    pub(crate) index: Option<Digest>,
}

impl State {
    fn by_name(&self, name: &Reference) -> Option<Resolved> {
        let image = self.references.get(name)?.clone();
        Some(Resolved { image, index: self.index_names.get(name).cloned() })
    }

    /// An image by its id or its manifest's digest, or an index.
    fn by_digest(&self, digest: &Digest) -> Option<Resolved> {
        if self.images.contains_key(digest) {
            return Some(Resolved { image: digest.clone(), index: None });
        }
        if let Some(index) = self.indexes.get(digest) {
            return Some(Resolved { image: index.preferred()?.clone(), index: Some(digest.clone()) });
        }
        let mut members = self.indexes.values().flat_map(|index| &index.members);
        let member = members.find(|member| member.digest == *digest)?;
        Some(Resolved { image: member.image.clone()?, index: None })
    }
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
            clear_unfinished(&path)?;
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
        let store = Self {
            content,
            root,
            state: RwLock::new(state),
            adding: RwLock::new(()),
            references_file: Mutex::default(),
            leasing: Mutex::default(),
            holds: Arc::default(),
        };
        store.open_indexes()?;
        Ok(store)
    }

    fn open_indexes(&self) -> Result<()> {
        let path = self.root.join(INDEXES);
        if !path.exists() {
            return Ok(());
        }
        let names: BTreeMap<Reference, Digest> = read_record(&path)?;
        let wanted: BTreeSet<&Digest> = names.values().collect();
        let mut indexes = Vec::new();
        for digest in wanted.into_iter().filter(|digest| self.content.contains(digest)) {
            match self.read_index(digest) {
                Ok(index) => indexes.push(index),
                Err(error) => tracing::warn!(%digest, %error, "an index is damaged and left out"),
            }
        }
        self.references_file.lock().clone_from(&names);
        self.state.write().take_index_names(names, indexes);
        Ok(())
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
        self.resolve_name(name).map(|found| found.image)
    }

    pub(crate) fn resolve_name(&self, name: &str) -> Result<Resolved> {
        let state = self.state.read();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if let Some(found) = Digest::from_hex(hex).ok().and_then(|digest| state.by_digest(&digest)) {
            return Ok(found);
        }
        if !name.starts_with("sha256:") {
            let reference = Reference::parse(name);
            if let Ok(reference) = &reference {
                // What has a digest is that, whatever tag stands before it.
                let by_digest = reference.digest().map(|digest| reference.at_digest(digest.clone()));
                let names = [Some(reference), by_digest.as_ref()];
                if let Some(found) = names.into_iter().flatten().find_map(|name| state.by_name(name)) {
                    return Ok(found);
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
                    0 => Ok(Resolved { image: first.clone(), index: None }),
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
            if state.index_names.remove(reference).is_some() {
                state.forget_unnamed_indexes();
            }
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
        let mut written = self.references_file.lock();
        let (references, index_names) = {
            let state = self.state.read();
            (state.references.clone(), state.index_names.clone())
        };
        write_record(&self.root.join("references.json"), &references)?;
        if *written != index_names {
            write_record(&self.root.join(INDEXES), &index_names)?;
            *written = index_names;
        }
        Ok(())
    }

    pub(crate) fn remove_image_record(&self, id: &Digest) -> Result<()> {
        {
            let mut state = self.state.write();
            state.images.remove(id);
            state.forget_image(id);
        }
        self.save_references()?;
        let path = self.image_record(id);
        fs::remove_file(&path).io("remove", &path)
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Removes what [`write_atomically`] began below `directory` and a crash kept it from finishing.
fn clear_unfinished(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).io("list", directory)? {
        let path = entry.io("list", directory)?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path).io("remove", &path)?;
        }
    }
    Ok(())
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

/// Writes a file of its own, which then takes the place of `path`: whoever reads sees one whole content, also where
/// several write at once.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", WRITES.fetch_add(1, Ordering::Relaxed)));
    fs::write(&name, bytes).io("write", &name)?;
    fs::rename(&name, path).io("rename", path)
}
