//! Taking images in from an archive: Docker's `save` format and the OCI image layout.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use tar::{Archive, EntryType};

use crate::config::ImageConfig;
use crate::error::IoContext;
use crate::hold::Hold;
use crate::ingest::{NewLayer, Unpacked, Unpacking};
use crate::pack::read_bounded;
use crate::pipe::read_chunk;
use crate::store::{ImageStore, Layer};
use crate::compression::{self, Compression};
use crate::{Digest, Error, Reference, Result};

/// Manifests and configurations larger than this are refused.
const DOCUMENT_LIMIT: u64 = 8 * 1024 * 1024;
/// Entries of one archive.
const ENTRY_LIMIT: usize = 100_000;
/// Layers of one image; overlayfs takes 500.
const LAYER_LIMIT: usize = 500;

/// An image that an archive held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names that the archive gave it.
    pub references: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    manifests: Option<IgnoredAny>,
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

/// What the archive is found to say about one image.
struct Found {
    config: Digest,
    layers: Vec<Digest>,
    references: Vec<Reference>,
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
        let mut taken =
            Taken { files: HashMap::new(), layers: HashMap::new(), hold: self.hold(std::iter::empty()) };
        let result = self.take_in(reader, &mut taken).and_then(|()| self.load_files(&mut taken));
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

    fn load_files(&self, taken: &mut Taken) -> Result<Vec<Loaded>> {
        let files = &taken.files;
        let found = if files.contains_key(Path::new("manifest.json")) {
            self.docker_images(files)?
        } else if files.contains_key(Path::new("index.json")) {
            let index: Index = self.document(file(files, "index.json")?, "index.json")?;
            let mut found = Vec::new();
            self.index_images(&index, &[], &mut found, 0)?;
            found
        } else {
            return Err(Error::InvalidArchive {
                why: "it has neither manifest.json nor index.json".to_owned(),
            });
        };
        let mut ready = Vec::with_capacity(found.len());
        for image in found {
            ready.push((self.unpack_image(&image, &mut taken.layers, &mut taken.hold)?, image));
        }
        let mut loaded = Vec::new();
        for ((config, layers), image) in ready {
            let registered = self.register(&config, layers)?;
            for reference in &image.references {
                self.tag(&registered.id, reference)?;
            }
            loaded.push(Loaded { id: registered.id, references: image.references });
        }
        Ok(loaded)
    }

    fn docker_images(&self, files: &HashMap<PathBuf, Digest>) -> Result<Vec<Found>> {
        let manifests: Vec<DockerManifest> = self.document(file(files, "manifest.json")?, "manifest.json")?;
        manifests
            .into_iter()
            .map(|manifest| {
                let layers =
                    manifest.layers.iter().map(|path| file(files, path).cloned()).collect::<Result<_>>()?;
                let references = manifest
                    .repo_tags
                    .unwrap_or_default()
                    .iter()
                    .map(|tag| Reference::parse(tag))
                    .collect::<Result<_>>()?;
                Ok(Found { config: file(files, &manifest.config)?.clone(), layers, references })
            })
            .collect()
    }

    fn index_images(
        &self,
        index: &Index,
        inherited: &[Reference],
        found: &mut Vec<Found>,
        depth: usize,
    ) -> Result<()> {
        if depth > 3 {
            return Err(Error::InvalidArchive { why: "its indexes are nested too deeply".to_owned() });
        }
        let has_others = index.config.is_some() || index.layers.is_some();
        one_kind("an index of the archive", true, index.media_type.as_deref(), has_others)?;
        for descriptor in &index.manifests {
            let suits = descriptor.platform.as_ref().is_none_or(|platform| {
                platform.os == "linux" && platform.architecture == ImageConfig::host_architecture()
            });
            if !suits || !self.content.contains(&descriptor.digest) {
                continue;
            }
            let mut references = inherited.to_vec();
            if let Some(name) = descriptor.annotations.get("io.containerd.image.name") {
                references.push(Reference::parse(name)?);
            }
            let what = descriptor.digest.as_str();
            if is_index(&descriptor.media_type) {
                let nested: Index = self.document(&descriptor.digest, what)?;
                self.index_images(&nested, &references, found, depth + 1)?;
                continue;
            }
            let manifest: Manifest = self.document(&descriptor.digest, what)?;
            one_kind(what, false, manifest.media_type.as_deref(), manifest.manifests.is_some())?;
            let layers = manifest.layers.into_iter().map(|layer| layer.digest).collect();
            found.push(Found { config: manifest.config.digest, layers, references });
        }
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
        let bytes = read_bounded(&mut reader, DOCUMENT_LIMIT, "the image configuration")?;
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

    fn document<T: for<'de> Deserialize<'de>>(&self, digest: &Digest, what: &str) -> Result<T> {
        let bytes = read_bounded(&mut self.content.open_blob(digest)?, DOCUMENT_LIMIT, what)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::InvalidArchive { why: format!("{what}: {error}") })
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
