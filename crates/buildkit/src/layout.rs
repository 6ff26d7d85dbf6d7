//! Images as archives for clients: an OCI layout in a tar, with Docker's manifest beside it where that is wanted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use dray_build::BuiltImage;
use dray_image::{Digest, ImageStore, Layer, Reference};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

use crate::grpc::{Code, Status};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How layers are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compression {
    Uncompressed,
    #[default]
    Gzip,
}

impl Compression {
    /// What a client has asked for.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "gzip" => Ok(Self::Gzip),
            "uncompressed" => Ok(Self::Uncompressed),
            other => Err(Status::invalid(format!("unsupported layer compression type: {other}: use gzip or uncompressed"))),
        }
    }
}

/// An image with all that names it by digest.
struct Prepared<'a> {
    image: &'a BuiltImage,
    config: Vec<u8>,
    layers: Vec<Blob>,
    manifest: Vec<u8>,
}

/// A layer's archive, in a file without a name.
struct Blob {
    digest: Digest,
    size: u64,
    file: File,
}

/// What an archive is to hold, ready to be written.
pub(crate) struct Archive<'a> {
    images: Vec<Prepared<'a>>,
    names: Vec<Reference>,
    /// The index of several images, or of one that the client wants an index for.
    index: Option<Vec<u8>>,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Status {
    move |error| Status::new(Code::Internal, format!("cannot {what} the exported image: {error}"))
}

fn encode(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of(bytes).as_str(), "size": bytes.len() })
}

impl<'a> Archive<'a> {
    /// Packs the layers into files below `scratch`, and writes what names them.
    pub(crate) fn prepare(
        store: &ImageStore,
        images: &'a [BuiltImage],
        names: Vec<Reference>,
        compression: Compression,
        scratch: &Path,
    ) -> Result<Self, Status> {
        let prepared =
            images.iter().map(|image| prepare(store, image, compression, scratch)).collect::<Result<Vec<_>, _>>()?;
        let index = (prepared.len() > 1).then(|| {
            let manifests: Vec<Value> = prepared.iter().map(Prepared::descriptor).collect();
            encode(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }))
        });
        Ok(Self { images: prepared, names, index })
    }

    /// What the whole is known by: the index, or the only image's manifest.
    pub(crate) fn descriptor(&self) -> Value {
        let mut descriptor = match (&self.index, self.images.first()) {
            (Some(index), _) => descriptor(INDEX, index),
            (None, Some(image)) => descriptor(MANIFEST, &image.manifest),
            (None, None) => json!({}),
        };
        descriptor["annotations"] =
            json!({ "org.opencontainers.image.created": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string() });
        descriptor
    }

    /// Writes the archive.
    pub(crate) fn write(&mut self, writer: impl Write, with_docker: bool) -> Result<(), Status> {
        let mut builder = Builder::new(writer);
        let write = failed("write");
        self.append_all(&mut builder, with_docker).and_then(|()| builder.into_inner()?.flush()).map_err(write)
    }

    fn append_all<W: Write>(&mut self, builder: &mut Builder<W>, with_docker: bool) -> io::Result<()> {
        let mut written = BTreeSet::new();
        for image in &mut self.images {
            for layer in &mut image.layers {
                if written.insert(layer.digest.clone()) {
                    layer.file.rewind()?;
                    append(builder, &path(&layer.digest), layer.size, &layer.file)?;
                }
            }
            for bytes in [&image.config, &image.manifest] {
                let digest = Digest::of(bytes);
                if written.insert(digest.clone()) {
                    append(builder, &path(&digest), bytes.len() as u64, bytes.as_slice())?;
                }
            }
        }
        if let Some(index) = &self.index {
            append(builder, &path(&Digest::of(index)), index.len() as u64, index.as_slice())?;
        }
        let layout = encode(&json!({ "imageLayoutVersion": "1.0.0" }));
        append(builder, "oci-layout", layout.len() as u64, layout.as_slice())?;
        let whole = self.descriptor();
        let mut manifests = Vec::new();
        for name in &self.names {
            let mut named = whole.clone();
            named["annotations"]["io.containerd.image.name"] = json!(name.to_string());
            named["annotations"]["org.opencontainers.image.ref.name"] = json!(name.tag().unwrap_or("latest"));
            manifests.push(named);
        }
        if manifests.is_empty() {
            manifests.push(whole);
        }
        let index = encode(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }));
        append(builder, "index.json", index.len() as u64, index.as_slice())?;
        if with_docker {
            let images: Vec<Value> = self.images.iter().map(|image| image.docker(&self.names)).collect();
            let manifest = encode(&json!(images));
            append(builder, "manifest.json", manifest.len() as u64, manifest.as_slice())?;
        }
        builder.finish()
    }
}

impl Prepared<'_> {
    fn descriptor(&self) -> Value {
        let mut descriptor = descriptor(MANIFEST, &self.manifest);
        let platform = &self.image.platform;
        descriptor["platform"] = json!({ "architecture": platform.architecture, "os": platform.os });
        if !platform.variant.is_empty() {
            descriptor["platform"]["variant"] = json!(platform.variant);
        }
        descriptor
    }

    /// The image as Docker's `load` looks for it.
    fn docker(&self, names: &[Reference]) -> Value {
        json!({
            "Config": path(&Digest::of(&self.config)),
            "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": self.layers.iter().map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
        })
    }
}

fn prepare<'a>(
    store: &ImageStore,
    image: &'a BuiltImage,
    compression: Compression,
    scratch: &Path,
) -> Result<Prepared<'a>, Status> {
    let mut config = image.config.clone();
    config.rootfs.diff_ids = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = serde_json::to_vec(&config).map_err(|error| failed("encode")(error.into()))?;
    if Digest::of(&config) != image.id {
        return Err(Status::new(Code::Internal, format!("image {} is not what it was named for", image.id)));
    }
    let layers = image
        .layers
        .iter()
        .map(|layer| pack(store, layer, compression, scratch))
        .collect::<Result<Vec<_>, _>>()?;
    let kind = match compression {
        Compression::Uncompressed => LAYER.to_owned(),
        Compression::Gzip => format!("{LAYER}+gzip"),
    };
    let manifest = encode(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers
            .iter()
            .map(|layer| json!({ "mediaType": kind, "digest": layer.digest.as_str(), "size": layer.size }))
            .collect::<Vec<_>>(),
    }));
    Ok(Prepared { image, config, layers, manifest })
}

/// A writer that knows the digest and the size of all that went through it.
struct Measured<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn pack(store: &ImageStore, layer: &Layer, compression: Compression, scratch: &Path) -> Result<Blob, Status> {
    let file = tempfile::tempfile_in(scratch).map_err(failed("write"))?;
    let mut measured = Measured { inner: io::BufWriter::new(file), hash: Sha256::new(), size: 0 };
    let wrote = |error: dray_image::Error| Status::new(Code::Internal, format!("cannot export a layer: {error}"));
    match compression {
        Compression::Uncompressed => store.write_layer(layer, &mut measured).map_err(wrote)?,
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(&mut measured, flate2::Compression::default());
            store.write_layer(layer, &mut encoder).map_err(wrote)?;
            encoder.finish().map_err(failed("write"))?;
        }
    }
    let Measured { inner, hash, size } = measured;
    let file = inner.into_inner().map_err(|error| failed("write")(error.into_error()))?;
    let hex = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let digest = Digest::from_hex(&hex).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    Ok(Blob { digest, size, file })
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn append<W: Write>(builder: &mut Builder<W>, path: &str, size: u64, reader: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    builder.append_data(&mut header, path, reader)
}
