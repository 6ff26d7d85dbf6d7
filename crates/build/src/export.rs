//! Results as files: archives and directories in the layout of the OCI image specification, archives that Docker loads,
//! and the bare files of an image.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use dray_engine::Engine;
use dray_image::{Digest, Hold, ImageStore, Layer, NewImage, PackedLayer, Packing, Reference};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::builder::blocking;
use crate::error::IoContext;
use crate::request::CacheMode;
use crate::result::{Built, BuiltImage};
use crate::tree::{Copier, Ownership};
use crate::{Error, Result, attest, cache_manifest};

/// Where a layout has its blobs.
const BLOBS: &str = "blobs/sha256/";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// How layers are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
    /// Not at all.
    None,
}

/// How an archive is to be.
#[derive(Clone, Debug, Default)]
pub struct ArchiveOptions {
    /// The names in it.
    pub names: Vec<Reference>,
    /// How layers are packed.
    pub compression: Compression,
    /// Whether Docker's own description is part of it, so that every `docker load` takes it.
    pub docker: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The digest of the manifest, or of the index of several.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of the first image's configuration.
    pub config: Digest,
}

impl Built {
    /// Writes the images as one archive, an OCI layout.
    ///
    /// # Errors
    /// When a layer cannot be packed or the writer fails.
    pub async fn write_archive(
        &self,
        options: ArchiveOptions,
        writer: impl Write + Send + 'static,
    ) -> Result<Exported> {
        let (engine, images) = (self.engine.clone(), self.images.clone());
        let pins = (self.pins.clone(), self.holds.clone());
        blocking(move || {
            let _kept = pins;
            let mut builder = tar::Builder::new(writer);
            let mut hold = engine.images().hold([]);
            let exported = write(&engine, &images, &options, &mut Archive(&mut builder), &mut hold)?;
            builder.into_inner().and_then(|mut writer| writer.flush()).io("write", "archive")?;
            Ok(exported)
        })
        .await
    }

    /// Writes the images as an OCI layout into a directory; what is there stays.
    ///
    /// # Errors
    /// When a layer cannot be packed or the directory cannot be written.
    pub async fn write_layout(&self, options: ArchiveOptions, directory: &Path) -> Result<Exported> {
        let (engine, images) = (self.engine.clone(), self.images.clone());
        let (pins, directory) = ((self.pins.clone(), self.holds.clone()), directory.to_owned());
        blocking(move || {
            let _kept = pins;
            let mut hold = engine.images().hold([]);
            write(&engine, &images, &options, &mut Directory(directory), &mut hold)
        })
        .await
    }

    /// Records the images in the store, and an index of them and of what is stated about them under these names.
    ///
    /// # Errors
    /// When a layer cannot be packed or the store cannot be written.
    pub async fn record_index(&self, names: &[Reference]) -> Result<Exported> {
        let (built, names) = (self.clone(), names.to_owned());
        blocking(move || {
            let store = built.engine.images();
            let mut hold = store.hold([]);
            for image in &built.images {
                let (config, layers) = (image.config.clone(), image.layers.clone());
                let recorded = store.create(NewImage { config, layers })?;
                store.hold_more(&mut hold, [recorded.id]);
            }
            let options = ArchiveOptions { names: names.clone(), ..ArchiveOptions::default() };
            let exported = write(&built.engine, &built.images, &options, &mut Store(store), &mut hold)?;
            for name in &names {
                let image = store.name_index(name, &exported.digest)?;
                built.engine.image_event("tag", &image.id, &name.familiar());
            }
            Ok(exported)
        })
        .await
    }

    /// Writes the files of the images as one archive; of several platforms each has a directory.
    ///
    /// # Errors
    /// When a file cannot be read or the writer fails.
    pub async fn write_files(&self, writer: impl Write + Send + 'static) -> Result<()> {
        let built = self.clone();
        blocking(move || {
            let mut writer = writer;
            match built.images.as_slice() {
                [only] => match built.open(only)? {
                    Some(root) => {
                        let top = root.open_at(".", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty());
                        let top = top.map_err(|error| Error::invalid(error.to_string()))?;
                        dray_image::archive_contents(top, &mut writer)?;
                    }
                    None => writer.write_all(&[0; 1024]).io("write", "archive")?,
                },
                _ => {
                    // Put together in a directory first: one archive has one end.
                    let scratch = built.engine.scratch()?;
                    built.copy_files(scratch.path())?;
                    let top = crate::sources::Tree::open_path(scratch.path())?;
                    dray_image::archive_contents(top, &mut writer)?;
                }
            }
            writer.flush().io("write", "archive")
        })
        .await
    }

    /// Writes the files of the images into a directory; of several platforms each into one of its own.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub async fn write_directory(&self, directory: &Path) -> Result<()> {
        let (built, directory) = (self.clone(), directory.to_owned());
        blocking(move || built.copy_files(&directory)).await
    }

    fn copy_files(&self, directory: &Path) -> Result<()> {
        for image in &self.images {
            let target = match self.images.len() {
                1 => directory.to_owned(),
                _ => directory.join(image.platform.to_string().replace('/', "_")),
            };
            std::fs::create_dir_all(&target).io("create", &target)?;
            let Some(root) = self.open(image)? else { continue };
            let from = root.open_at(".", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty());
            let from = from.map_err(|error| Error::invalid(error.to_string()))?;
            let to = crate::sources::Tree::open_path(&target)?;
            Copier::new(Ownership::default(), to.as_fd())?.contents(from.as_fd(), to.as_fd())?;
        }
        Ok(())
    }

    /// Writes what other builds need to take steps from this one, an OCI layout, into a directory.
    ///
    /// # Errors
    /// When a layer cannot be packed or the directory cannot be written.
    pub async fn export_cache(&self, mode: CacheMode, directory: &Path) -> Result<Exported> {
        let (built, directory) = (self.clone(), directory.to_owned());
        blocking(move || {
            let mut hold = built.engine.images().hold([]);
            built.write_cache(mode, &mut Directory(directory), &mut hold)
        })
        .await
    }

    /// Puts what other builds need to take steps from this one into the store, for as long as the answer is kept.
    ///
    /// # Errors
    /// When a layer cannot be packed or the store cannot be written.
    pub async fn store_cache(&self, mode: CacheMode) -> Result<StoredCache> {
        let built = self.clone();
        blocking(move || {
            let store = built.engine.images();
            let mut hold = store.hold([]);
            let exported = built.write_cache(mode, &mut Store(store), &mut hold)?;
            Ok(StoredCache { exported, _hold: hold })
        })
        .await
    }

    fn write_cache(&self, mode: CacheMode, sink: &mut dyn Sink, hold: &mut Hold) -> Result<Exported> {
        let options = ArchiveOptions::default();
        let mut layout =
            Layout { engine: &self.engine, sink, written: BTreeSet::new(), options: &options, hold };
        let mut cache = cache_manifest::Writer::default();
        let mut layers = Vec::new();
        let stages = self.stages.iter().filter(|_| mode == CacheMode::Max);
        for image in self.images.iter().chain(stages) {
            cache.add(image, |layer| {
                let PackedLayer { blob, size, packing } = layout.layer(layer)?;
                let media_type = format!("{LAYER}{}", suffix(packing));
                layers.push(cache_manifest::descriptor(&media_type, &blob, size, &layer.diff_id));
                Ok::<_, Error>(blob)
            })?;
        }
        let config = layout.document(cache_manifest::CONFIG, &cache.finish())?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let top = layout.document(MANIFEST, &manifest)?;
        layout.lists(std::slice::from_ref(&top), None)?;
        exported(&top, config["digest"].as_str().and_then(|text| text.parse().ok()))
    }
}

/// A cache that is in the store, for as long as this is kept.
pub struct StoredCache {
    /// Its manifest.
    pub exported: Exported,
    _hold: Hold,
}

/// Where the parts of a layout go.
trait Sink {
    fn file(&mut self, path: &str, size: u64, reader: &mut dyn Read) -> Result<()>;
}

/// The image store, which has the layers and takes the documents.
struct Store<'a>(&'a ImageStore);

impl Sink for Store<'_> {
    fn file(&mut self, path: &str, size: u64, reader: &mut dyn Read) -> Result<()> {
        let digest = path.strip_prefix(BLOBS).and_then(|hex| Digest::from_hex(hex).ok());
        let Some(digest) = digest.filter(|digest| !self.0.has_blob(digest)) else { return Ok(()) };
        let mut bytes = Vec::new();
        reader.take(size).read_to_end(&mut bytes).io("read", path)?;
        let put = self.0.put_blob(&bytes)?;
        if put == digest { Ok(()) } else { Err(Error::invalid(format!("{digest} has become {put}"))) }
    }
}

struct Archive<'a, W: Write>(&'a mut tar::Builder<W>);

impl<W: Write> Sink for Archive<'_, W> {
    fn file(&mut self, path: &str, size: u64, reader: &mut dyn Read) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        self.0.append_data(&mut header, path, reader).io("write", "archive")
    }
}

struct Directory(PathBuf);

impl Sink for Directory {
    fn file(&mut self, path: &str, _size: u64, reader: &mut dyn Read) -> Result<()> {
        let path = self.0.join(path);
        let parent = path.parent().unwrap_or(&self.0);
        std::fs::create_dir_all(parent).io("create", parent)?;
        let staged = path.with_extension("new");
        let mut file = File::create(&staged).io("create", &staged)?;
        std::io::copy(reader, &mut file).io("write", &staged)?;
        std::fs::rename(&staged, &path).io("rename", &staged)
    }
}

/// Writes with the parts that are there already left out.
struct Layout<'a> {
    engine: &'a Engine,
    sink: &'a mut dyn Sink,
    written: BTreeSet<Digest>,
    options: &'a ArchiveOptions,
    /// Keeps what is made in the store on the way.
    hold: &'a mut Hold,
}

fn write(
    engine: &Engine,
    images: &[BuiltImage],
    options: &ArchiveOptions,
    sink: &mut dyn Sink,
    hold: &mut Hold,
) -> Result<Exported> {
    let first = images.first().ok_or(Error::NoResult)?;
    let mut layout = Layout { engine, sink, written: BTreeSet::new(), options, hold };
    let mut manifests = Vec::new();
    let mut statements = Vec::new();
    let mut described = Vec::new();
    for image in images {
        let (descriptor, layers) = layout.image(image)?;
        if !image.attestations.is_empty() {
            statements.push(layout.statements(image, &descriptor)?);
        }
        if options.docker {
            let names: Vec<String> = options.names.iter().map(Reference::familiar).collect();
            described.push(json!({ "Config": blob_path(&image.id), "RepoTags": names, "Layers": layers }));
        }
        manifests.push(descriptor);
    }
    let single = manifests.len() == 1 && statements.is_empty();
    manifests.extend(statements);
    let top = if single {
        let mut only = manifests.remove(0);
        // One image says itself what it is for.
        only.as_object_mut().map(|descriptor| descriptor.remove("platform"));
        only
    } else {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        layout.document(INDEX, &index)?
    };
    let mut entries = Vec::new();
    for name in &options.names {
        let mut entry = top.clone();
        entry["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag().unwrap_or("latest"),
        });
        entries.push(entry);
    }
    if entries.is_empty() {
        entries.push(top.clone());
    }
    layout.lists(&entries, options.docker.then(|| json!(described)))?;
    exported(&top, Some(first.id.clone()))
}

/// What is told of a layout that leads to this document.
fn exported(top: &Value, config: Option<Digest>) -> Result<Exported> {
    Ok(Exported {
        digest: top["digest"].as_str().and_then(|text| text.parse().ok()).ok_or(Error::NoResult)?,
        media_type: top["mediaType"].as_str().unwrap_or_default().to_owned(),
        size: top["size"].as_u64().unwrap_or(0),
        config: config.ok_or(Error::NoResult)?,
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

impl Layout<'_> {
    fn blob(&mut self, digest: &Digest, size: u64, reader: &mut dyn Read) -> Result<()> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        self.sink.file(&blob_path(digest), size, reader)
    }

    /// A small blob; answers its descriptor.
    fn document(&mut self, media_type: &str, document: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(document).map_err(|error| Error::invalid(error.to_string()))?;
        let digest = Digest::of(&bytes);
        self.engine.images().hold_more(self.hold, [digest.clone()]);
        self.blob(&digest, bytes.len() as u64, &mut bytes.as_slice())?;
        Ok(json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() }))
    }

    /// The lists by which others find what is in the layout; Docker's own is one of them, if it is given.
    fn lists(&mut self, entries: &[Value], docker: Option<Value>) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let mut files = vec![("index.json", index), ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))];
        files.extend(docker.map(|list| ("manifest.json", list)));
        for (path, document) in files {
            let text = document.to_string();
            self.sink.file(path, text.len() as u64, &mut text.as_bytes())?;
        }
        Ok(())
    }

    /// An image; answers its manifest's descriptor and the paths of its layers.
    fn image(&mut self, image: &BuiltImage) -> Result<(Value, Vec<String>)> {
        let (mut layers, mut paths) = (Vec::new(), Vec::new());
        for layer in &image.layers {
            let PackedLayer { blob, size, packing } = self.layer(layer)?;
            paths.push(blob_path(&blob));
            layers.push(json!({
                "mediaType": format!("{LAYER}{}", suffix(packing)), "digest": blob.as_str(), "size": size,
            }));
        }
        let config = serde_json::to_vec(&image.config).map_err(|error| Error::invalid(error.to_string()))?;
        let digest = Digest::of(&config);
        self.blob(&digest, config.len() as u64, &mut config.as_slice())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": digest.as_str(), "size": config.len() },
            "layers": layers,
        });
        let mut descriptor = self.document(MANIFEST, &manifest)?;
        let mut platform = json!({ "architecture": image.platform.architecture, "os": image.platform.os });
        if !image.platform.variant.is_empty() {
            platform["variant"] = json!(image.platform.variant);
        }
        descriptor["platform"] = platform;
        Ok((descriptor, paths))
    }

    /// The manifest of the statements about an image.
    fn statements(&mut self, image: &BuiltImage, subject: &Value) -> Result<Value> {
        let hex = subject["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        let platform = image.platform.to_string();
        let mut subjects: Vec<String> =
            self.options.names.iter().map(|name| attest::package(&name.to_string(), &platform)).collect();
        if subjects.is_empty() {
            subjects.push("_".to_owned());
        }
        let subjects: Vec<Value> =
            subjects.into_iter().map(|name| json!({ "name": name, "digest": { "sha256": hex } })).collect();
        for statement in &image.attestations {
            let document = json!({
                "_type": "https://in-toto.io/Statement/v0.1",
                "predicateType": statement.predicate_type,
                "subject": subjects,
                "predicate": statement.predicate,
            });
            let mut descriptor = self.document(STATEMENT, &document)?;
            descriptor["annotations"] = json!({ "in-toto.io/predicate-type": statement.predicate_type });
            diff_ids.push(descriptor["digest"].clone());
            layers.push(descriptor);
        }
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.document(CONFIG, &config)?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut descriptor = self.document(MANIFEST, &manifest)?;
        descriptor["annotations"] = json!({
            "vnd.docker.reference.digest": subject["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        });
        descriptor["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        Ok(descriptor)
    }

    /// A layer, packed. What is wanted with gzip goes as the store has it, or will have it from now on: the same blob that
    /// a push takes, and one that came with zstd stays so.
    fn layer(&mut self, layer: &Layer) -> Result<PackedLayer> {
        let images = self.engine.images();
        if self.options.compression == Compression::Gzip {
            let packed = images.packed_layer(layer, self.hold)?;
            let (mut file, size) = images.open_blob(&packed.blob)?;
            self.blob(&packed.blob, size, &mut file)?;
            return Ok(packed);
        }
        let scratch = self.engine.scratch()?;
        let path = scratch.path().join("layer");
        let file = File::options().read(true).write(true).create_new(true).open(&path).io("create", &path)?;
        let mut hashing = Hashing { file, hash: Sha256::new(), size: 0 };
        let packing = if self.options.compression == Compression::Zstd {
            let mut encoder = zstd::Encoder::new(&mut hashing, 3).io("compress", &path)?;
            images.write_layer(layer, &mut encoder)?;
            encoder.finish().io("compress", &path)?;
            Packing::Zstandard
        } else {
            images.write_layer(layer, &mut hashing)?;
            Packing::Plain
        };
        let Hashing { mut file, hash, size } = hashing;
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let blob = Digest::from_hex(&hex)?;
        file.rewind().io("read", &path)?;
        self.blob(&blob, size, &mut file)?;
        Ok(PackedLayer { blob, size, packing })
    }
}

/// What the type of a layer ends with.
fn suffix(packing: Packing) -> &'static str {
    match packing {
        Packing::Gzip => "+gzip",
        Packing::Zstandard => "+zstd",
        Packing::Plain => "",
    }
}

struct Hashing {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
