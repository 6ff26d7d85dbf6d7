//! Taking images in from an archive: Docker's `save` format and the OCI image layout.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{Read, Write as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use tar::{Archive, EntryType};

use crate::compression::{self, Compression};
use crate::config::ImageConfig;
use crate::error::IoContext;
use crate::hold::Hold;
use crate::ingest::{NewLayer, Unpacked, Unpacking};
use crate::media::{CONFIG_LIMIT, Descriptor, Document, INDEX_DEPTH, OCI_INDEX};
use crate::pack::read_bounded;
use crate::pipe::read_chunk;
use crate::store::{ImageStore, Layer};
use crate::{Digest, Error, Platform, Reference, Result};

/// Entries of one archive.
const ENTRY_LIMIT: usize = 100_000;
/// Images of one index.
const IMAGE_LIMIT: usize = 200;
/// Layers of one image; overlayfs takes 500.
const LAYER_LIMIT: usize = 500;

/// An image that an archive held, or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id; of an index that of the image which stands for all.
    pub id: Digest,
    /// The names that the archive gave it.
    pub references: Vec<Reference>,
    /// The images of an index's other platforms.
    pub others: Vec<Digest>,
    /// The digest of the manifest or index, when the archive's list is that of an OCI layout.
    pub target: Option<Digest>,
}

/// What of an archive is taken in, and how.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Of several platforms only these, if any are given.
    pub platforms: Vec<Platform>,
    /// Whether the images get none of the names that the archive has for them.
    pub nameless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What the archive is found to say about one image.
struct Found {
    config: Digest,
    layers: Vec<Digest>,
    /// The manifest that names these layers as a registry may have them.
    manifest: Option<Digest>,
}

/// What one entry of the archive's list leads to.
struct Entry {
    images: Vec<Found>,
    references: Vec<Reference>,
    /// The index that the images are of.
    index: Option<Digest>,
    /// The index, or the manifest of the only image.
    target: Option<Digest>,
}

/// A walk through an index of an archive and those within it.
struct Walk<'a> {
    /// For which platforms images are wanted; for all when there is none.
    platforms: &'a [Platform],
    found: Vec<Found>,
    /// The documents that were looked into: once is enough.
    seen: BTreeSet<Digest>,
}

/// What of an archive is in the store: which path has which content, and the layers that were unpacked as they came.
struct Taken {
    files: HashMap<PathBuf, Digest>,
    layers: HashMap<Digest, Result<Unpacked>>,
    hold: Hold,
}

/// Layers that are still being unpacked while the archive is read on.
const UNPACKED_AT_ONCE: usize = 3;

impl ImageStore {
    /// Takes in every image of the archive `reader` (compressed or not).
    ///
    /// # Errors
    /// [`Error::InvalidArchive`] or a digest that does not match; then no image of the archive has been added.
    pub fn load(&self, reader: impl Read + Send) -> Result<Vec<Loaded>> {
        self.load_with(reader, &LoadOptions::default())
    }

    /// Takes in the images of an archive that the options name.
    ///
    /// # Errors
    /// As [`ImageStore::load`], and [`Error::OtherPlatform`] when the archive has nothing for their platforms.
    pub fn load_with(&self, reader: impl Read + Send, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let mut taken =
            Taken { files: HashMap::new(), layers: HashMap::new(), hold: self.hold(std::iter::empty()) };
        let result = self.take_in(reader, &mut taken).and_then(|()| self.load_files(&mut taken, options));
        let Taken { files, layers, hold } = taken;
        drop((layers, hold));
        self.forget_unused(files.values());
        result
    }

    /// Whether a layer was unpacked of this blob before.
    fn is_unpacked(&self, blob: &Digest) -> bool {
        let state = self.state.read();
        let mut layers = state.images.values().flat_map(|image| &image.layers);
        layers.any(|layer| layer.blob.as_ref() == Some(blob))
    }

    /// Stores every file of the archive by content. What looks like a layer is unpacked at the same time: which image it
    /// belongs to is only told at the archive's end.
    fn take_in(&self, reader: impl Read + Send, taken: &mut Taken) -> Result<()> {
        let plain = compression::decompress(reader).io("read", "image archive")?;
        let mut archive = Archive::new(plain);
        let mut symlinks: Vec<(PathBuf, PathBuf)> = Vec::new();
        let mut unpacking: VecDeque<(Digest, Unpacking)> = VecDeque::new();
        let damaged = |error: std::io::Error| Error::InvalidArchive { why: error.to_string() };
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            if taken.files.len() + symlinks.len() >= ENTRY_LIMIT {
                return Err(Error::InvalidArchive { why: format!("it has more than {ENTRY_LIMIT} entries") });
            }
            let path = normalise(&entry.path().map_err(damaged)?);
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let expected = path
                        .strip_prefix("blobs/sha256")
                        .ok()
                        .and_then(|name| name.to_str().and_then(|hex| Digest::from_hex(hex).ok()));
                    let is_known = expected.as_ref().is_some_and(|blob| self.is_unpacked(blob));
                    let (digest, layer) =
                        self.take_file(&mut entry, expected.as_ref(), is_known, &mut taken.hold)?;
                    unpacking.extend(layer.map(|layer| (digest.clone(), layer)));
                    taken.files.insert(path, digest);
                }
                EntryType::Symlink | EntryType::Link => {
                    let target = entry.link_name().map_err(damaged)?.unwrap_or_default();
                    let base = match entry.header().entry_type() {
                        EntryType::Symlink => path.parent().unwrap_or(Path::new("")).to_owned(),
                        _ => PathBuf::new(),
                    };
                    symlinks.push((path, normalise(&base.join(target))));
                }
                _ => {}
            }
            if unpacking.len() > UNPACKED_AT_ONCE
                && let Some((digest, layer)) = unpacking.pop_front()
            {
                taken.layers.insert(digest, layer.finish());
            }
        }
        taken.layers.extend(unpacking.into_iter().map(|(digest, layer)| (digest, layer.finish())));
        // Older archives name a layer that occurs twice by a link.
        for (path, target) in symlinks {
            if let Some(digest) = taken.files.get(&target).cloned() {
                taken.files.insert(path, digest);
            }
        }
        Ok(())
    }

    /// Stores a file of an archive; with it comes what unpacks it, when it looks like a layer that is not `known` yet.
    fn take_file(
        &self,
        reader: &mut impl Read,
        expected: Option<&Digest>,
        is_known: bool,
        hold: &mut Hold,
    ) -> Result<(Digest, Option<Unpacking>)> {
        let mut ingest = self.content.begin()?;
        let mut layer: Option<Unpacking> = None;
        let mut is_first = true;
        loop {
            let chunk = read_chunk(reader).io("read", "image archive")?;
            if chunk.is_empty() {
                break;
            }
            ingest.write_all(&chunk).io("write", "a blob")?;
            if is_first && !is_known && looks_like_layer(&chunk) {
                layer = Some(Unpacking::begin(self.content.scratch_path(), Compression::of(&chunk))?);
            }
            is_first = false;
            if let Some(layer) = &layer {
                layer.give(chunk);
            }
        }
        let _adding = self.adding.read();
        let (digest, _) = ingest.commit(expected)?;
        hold.add([digest.clone()]);
        Ok((digest, layer))
    }

    fn load_files(&self, taken: &mut Taken, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let (files, platforms) = (&taken.files, options.platforms.as_slice());
        let [docker, layout] =
            ["manifest.json", "index.json"].map(|name| files.contains_key(Path::new(name)));
        let mut entries = Vec::new();
        if layout {
            let index = self.document(file(files, "index.json")?, Some(OCI_INDEX))?;
            let Document::Index(descriptors) = index else {
                return Err(Error::InvalidArchive { why: "its index.json is none".to_owned() });
            };
            for descriptor in &descriptors {
                entries.extend(self.layout_entry(descriptor, platforms)?);
            }
        }
        if docker {
            self.docker_entries(files, platforms, &mut entries)?;
        }
        if !docker && !layout {
            return Err(Error::InvalidArchive {
                why: "it has neither manifest.json nor index.json".to_owned(),
            });
        }
        if let (true, Some(platform)) = (entries.is_empty(), platforms.first()) {
            return Err(Error::OtherPlatform { name: "archive".to_owned(), platform: platform.to_string() });
        }
        let mut ready = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut images = Vec::with_capacity(entry.images.len());
            for image in &entry.images {
                images.push(self.unpack_image(image, &mut taken.layers, &mut taken.hold)?);
            }
            ready.push((entry, images));
        }
        let mut loaded = Vec::new();
        for (mut entry, images) in ready {
            if options.nameless {
                entry.references.clear();
            }
            loaded.extend(self.register_entry(entry, images)?);
        }
        Ok(loaded)
    }

    fn register_entry(&self, entry: Entry, images: Vec<(Vec<u8>, Vec<Layer>)>) -> Result<Option<Loaded>> {
        let mut ids = Vec::with_capacity(images.len());
        for ((config, layers), found) in images.into_iter().zip(&entry.images) {
            let id = self.register(&config, layers)?.id;
            if let Some(manifest) = &found.manifest {
                self.set_manifest(&id, manifest)?;
            }
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let Some(mut first) = ids.first().cloned() else { return Ok(None) };
        if let Some(index) = &entry.index {
            first = self.read_index(index)?.preferred().cloned().unwrap_or(first);
        }
        for reference in &entry.references {
            match &entry.index {
                Some(index) => self.name_index(reference, index).map(drop)?,
                None => self.tag(&first, reference)?,
            }
        }
        ids.retain(|id| *id != first);
        Ok(Some(Loaded { id: first, references: entry.references, others: ids, target: entry.target }))
    }

    /// Adds what Docker's own list names and the layout does not.
    fn docker_entries(
        &self,
        files: &HashMap<PathBuf, Digest>,
        platforms: &[Platform],
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let manifests: Vec<DockerManifest> =
            self.read_json(file(files, "manifest.json")?, "manifest.json")?;
        let of_layout = entries.len();
        for manifest in manifests {
            let config = file(files, &manifest.config)?.clone();
            let tags = manifest.repo_tags.unwrap_or_default();
            let mut references: Vec<Reference> =
                tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<_>>()?;
            references
                .retain(|name| !entries[..of_layout].iter().any(|entry| entry.references.contains(name)));
            let known = entries[..of_layout]
                .iter_mut()
                .find(|entry| entry.images.iter().any(|image| image.config == config));
            if let Some(known) = known {
                if known.index.is_none() {
                    known.references.append(&mut references);
                }
                continue;
            }
            if !platforms.is_empty() {
                let parsed: ImageConfig = self.read_json(&config, &manifest.config)?;
                let own = Platform::of(&parsed);
                if !platforms.iter().any(|platform| platform.suits(&own)) {
                    continue;
                }
            }
            let layers =
                manifest.layers.iter().map(|path| file(files, path).cloned()).collect::<Result<_>>()?;
            entries.push(Entry {
                images: vec![Found { config, layers, manifest: None }],
                references,
                index: None,
                target: None,
            });
        }
        Ok(())
    }

    /// What an entry of a layout's list leads to; none when nothing of it is here or wanted.
    fn layout_entry(&self, descriptor: &Descriptor, platforms: &[Platform]) -> Result<Option<Entry>> {
        let name = descriptor.annotations.get("io.containerd.image.name");
        let references = name.map(|name| Reference::parse(name)).into_iter().collect::<Result<_>>()?;
        let mut walk = Walk { platforms, found: Vec::new(), seen: BTreeSet::new() };
        self.layout_images(descriptor, &mut walk, 0)?;
        let index = descriptor.is_index().then(|| descriptor.digest.clone());
        let target = Some(descriptor.digest.clone());
        Ok((!walk.found.is_empty()).then_some(Entry { images: walk.found, references, index, target }))
    }

    fn layout_images(&self, descriptor: &Descriptor, walk: &mut Walk<'_>, depth: usize) -> Result<()> {
        if depth >= INDEX_DEPTH {
            return Err(Error::InvalidArchive { why: "its indexes are nested too deeply".to_owned() });
        }
        if !self.content.contains(&descriptor.digest) || !walk.seen.insert(descriptor.digest.clone()) {
            return Ok(());
        }
        let manifest = match self.document(&descriptor.digest, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => manifest,
            Document::Index(nested) => {
                return nested
                    .iter()
                    .try_for_each(|descriptor| self.layout_images(descriptor, walk, depth + 1));
            }
        };
        if descriptor.subject().is_some() || !manifest.is_image() {
            return Ok(());
        }
        if walk.found.len() >= IMAGE_LIMIT {
            return Err(Error::InvalidArchive { why: format!("an index has at most {IMAGE_LIMIT} images") });
        }
        if !walk.platforms.is_empty() {
            let own = match &descriptor.platform {
                Some(own) => own.clone(),
                None => Platform::of(&self.read_json(&manifest.config.digest, "the image configuration")?),
            };
            if !walk.platforms.iter().any(|platform| platform.suits(&own)) {
                return Ok(());
            }
        }
        let packed = manifest.is_packed().then(|| descriptor.digest.clone());
        let layers = manifest.layers.into_iter().map(|layer| layer.digest).collect();
        walk.found.push(Found { config: manifest.config.digest, layers, manifest: packed });
        Ok(())
    }

    fn unpack_image(
        &self,
        image: &Found,
        unpacked: &mut HashMap<Digest, Result<Unpacked>>,
        hold: &mut Hold,
    ) -> Result<(Vec<u8>, Vec<Layer>)> {
        if !self.content.contains(&image.config) {
            return Err(Error::InvalidArchive { why: format!("configuration {} is missing", image.config) });
        }
        let mut reader = self.content.open_blob(&image.config)?;
        let bytes = read_bounded(&mut reader, CONFIG_LIMIT, "the image configuration")?;
        let config: ImageConfig = serde_json::from_slice(&bytes)
            .map_err(|error| Error::InvalidArchive { why: format!("image configuration: {error}") })?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let (have, want) = (image.layers.len(), diff_ids.len());
            return Err(Error::InvalidArchive {
                why: format!("it holds {have} layers where its configuration names {want}"),
            });
        }
        if diff_ids.len() > LAYER_LIMIT {
            return Err(Error::InvalidArchive { why: format!("an image has at most {LAYER_LIMIT} layers") });
        }
        if let Some(missing) = image.layers.iter().find(|layer| !self.content.contains(layer)) {
            return Err(Error::InvalidArchive { why: format!("layer {missing} is missing") });
        }
        let mut parents: Vec<Option<Digest>> = vec![None];
        for diff_id in diff_ids {
            parents.push(Some(Digest::chain(parents.last().and_then(Option::as_ref), diff_id)));
        }
        self.hold_more(hold, parents.iter().flatten().cloned());
        for ((parent, blob), diff_id) in parents.iter().zip(&image.layers).zip(diff_ids) {
            self.publish_taken(parent.as_ref(), blob, diff_id, unpacked)?;
        }
        // What is left: a layer that an image has twice, and what came with an earlier archive.
        let work: Vec<_> = parents.iter().zip(&image.layers).zip(diff_ids).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut layers = Vec::with_capacity(work.len());
        for batch in work.chunks(threads) {
            let results: Vec<Result<Layer>> = std::thread::scope(|scope| {
                let handles: Vec<_> = batch
                    .iter()
                    .map(|((parent, blob), diff_id)| {
                        scope.spawn(move || self.unpack_blob(parent.as_ref(), blob, diff_id))
                    })
                    .collect();
                handles
                    .into_iter()
                    .map(|handle| {
                        handle.join().unwrap_or_else(|_| {
                            Err(Error::InvalidArchive { why: "a layer could not be unpacked".to_owned() })
                        })
                    })
                    .collect()
            });
            for layer in results {
                layers.push(layer?);
            }
        }
        Ok((bytes, layers))
    }

    /// Puts a layer in its place that was unpacked as it came, unless it is there already.
    fn publish_taken(
        &self,
        parent: Option<&Digest>,
        blob: &Digest,
        diff_id: &Digest,
        unpacked: &mut HashMap<Digest, Result<Unpacked>>,
    ) -> Result<()> {
        if self.layer(&Digest::chain(parent, diff_id))?.is_some() {
            return Ok(());
        }
        let Some(taken) = unpacked.remove(blob) else { return Ok(()) };
        let taken = taken?;
        let actual = taken.diff_id.clone().unwrap_or_else(|| blob.clone());
        if actual != *diff_id {
            let (what, expected) = (format!("layer {blob}"), diff_id.clone());
            return Err(Error::DigestMismatch { what, expected, actual });
        }
        let size = self.content.size(blob)?;
        let (blob, diff_id, parent) = (blob.clone(), diff_id.clone(), parent.cloned());
        self.publish_unpacked(taken, &NewLayer { blob, size, diff_id, parent }).map(drop)
    }
}

/// Whether a file of an archive may be a layer: compressed, or an archive itself.
fn looks_like_layer(head: &[u8]) -> bool {
    const MAGIC: std::ops::Range<usize> = 257..262;
    const BLOCK: usize = 512;
    let is_empty_archive = head.len() >= BLOCK && head[..BLOCK].iter().all(|byte| *byte == 0);
    Compression::of(head) != Compression::None || head.get(MAGIC) == Some(b"ustar") || is_empty_archive
}

fn file<'a>(files: &'a HashMap<PathBuf, Digest>, path: &str) -> Result<&'a Digest> {
    files
        .get(&normalise(Path::new(path)))
        .ok_or_else(|| Error::InvalidArchive { why: format!("{path} is missing") })
}

/// A path of the archive without `.`, with `..` resolved by words alone; it only serves as a key.
fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}
