//! What becomes of a result: an image here, or files and archives for the client.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dray_build::{ArchiveOptions, Built, CacheMode, Compression, Exported};
use dray_engine::Root;
use dray_image::{Digest, Reference};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::client::SessionClient;
use crate::grpc::{Code, Metadata, Status};
use crate::kit::Inner;
use crate::pipe;
use crate::proto::control::{CacheOptionsEntry, Exporter};
use crate::proto::session::BytesMessage;
use crate::record::{Record, Work};
use crate::session::{FILE_SEND, Session};
use crate::{Push, content, sync};

/// What clients are told of their results.
pub(crate) type Response = BTreeMap<String, String>;

const DIGEST: &str = "containerimage.digest";
const CONFIG_DIGEST: &str = "containerimage.config.digest";
const DESCRIPTOR: &str = "containerimage.descriptor";
const NAME: &str = "image.name";
/// What a session calls the directory that a layout goes to.
const LAYOUT_STORE: &str = "export";

/// All that an export needs to know.
pub(crate) struct Export<'a> {
    pub(crate) kit: &'a Inner,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) record: &'a Record,
    /// The build's name.
    pub(crate) build: &'a str,
    pub(crate) built: &'a Arc<Built>,
    /// Whether each platform has a directory of its own also when there is only one.
    pub(crate) split: bool,
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, error.to_string())
}

fn is_true(text: Option<&String>) -> bool {
    text.is_some_and(|text| matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// The names of an image, which are written with commas between them.
fn names(exporter: &Exporter) -> Result<Vec<Reference>, Status> {
    let text = exporter.attrs.get("name").map(String::as_str).unwrap_or_default();
    let names = text.split(',').filter(|name| !name.is_empty());
    names
        .map(|name| match Reference::parse(name) {
            Ok(name) if name.digest().is_none() => Ok(name),
            Ok(name) => Err(Status::invalid(format!(
                "refusing to create a tag with a digest reference: {}",
                name.familiar()
            ))),
            Err(error) => Err(Status::invalid(error.to_string())),
        })
        .collect()
}

/// Refuses what no exporter of ours does before anything is built.
pub(crate) fn check(exporters: &[Exporter]) -> Result<(), Status> {
    for exporter in exporters {
        let refused = |what: &str| Err(Status::new(Code::Unimplemented, what));
        match exporter.kind.as_str() {
            "moby" | "image" => {
                names(exporter)?;
                if is_true(exporter.attrs.get("push")) && names(exporter)?.is_empty() {
                    return refused("tag is needed when pushing to registry");
                }
            }
            "oci" | "docker" => {
                names(exporter)?;
                compression(exporter)?;
            }
            "local" | "tar" => {}
            other => {
                return refused(&format!(
                    "exporter {other:?} could not be found: use image, local, tar, oci or docker"
                ));
            }
        }
    }
    Ok(())
}

fn compression(exporter: &Exporter) -> Result<Compression, Status> {
    match exporter.attrs.get("compression").map(String::as_str).unwrap_or_default() {
        "" | "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::None),
        other => Err(Status::invalid(format!(
            "unsupported layer compression type {other:?}: use gzip, zstd or uncompressed"
        ))),
    }
}

impl Export<'_> {
    /// Exports to the exporter of this number.
    pub(crate) async fn run(&self, number: usize, exporter: &Exporter) -> Result<Response, Status> {
        match exporter.kind.as_str() {
            "local" => {
                let work = self.work("exporting to client directory");
                let result = self.directory(&work, number).await;
                work.done(result).map(|()| Response::new())
            }
            "tar" => {
                let work = self.work("exporting to client tarball");
                let result = self.tarball(&work, number).await;
                work.done(result).map(|()| Response::new())
            }
            "oci" | "docker" => {
                let name = if exporter.kind == "oci" {
                    "exporting to oci image format"
                } else {
                    "exporting to docker image format"
                };
                let work = self.work(name);
                let result = self.archive(&work, number, exporter).await;
                work.done(result)
            }
            _ => {
                let work = self.work("exporting to image");
                let result = self.image(&work, exporter).await;
                work.done(result)
            }
        }
    }

    fn work(&self, name: &str) -> Work<'_> {
        Work::begin(self.record, self.build, name)
    }

    /// Records the image, and gives it its names.
    async fn image(&self, work: &Work<'_>, exporter: &Exporter) -> Result<Response, Status> {
        let names = names(exporter)?;
        // The layers are here already: that is how they were made.
        let begun = Timestamp::now();
        work.part("exporting layers", 0, 0, begun, true);
        let begun = Timestamp::now();
        let mut response = Response::new();
        let is_index = self.built.images.len() > 1
            || self.built.images.iter().any(|image| !image.attestations.is_empty());
        // What leads to an index is a name; without one there are only images.
        if is_index && !names.is_empty() {
            let exported = self.built.record_index(&names).await.map_err(|error| internal(error.chain()))?;
            work.part(&format!("exporting manifest list {}", exported.digest), 0, 0, begun, true);
            response.extend(described(&exported, &[]));
        } else {
            let id = self.built.record(&names).await.map_err(|error| internal(error.chain()))?;
            work.part(&format!("writing image {id}"), 0, 0, begun, true);
            response.insert(DIGEST.to_owned(), id.to_string());
            response.insert(CONFIG_DIGEST.to_owned(), id.to_string());
        }
        for name in &names {
            work.part(&format!("naming to {name}"), 0, 0, begun, true);
        }
        if is_true(exporter.attrs.get("push")) {
            for name in &names {
                let digest = self.push(work, name, None).await?;
                response.insert(DIGEST.to_owned(), digest.to_string());
            }
        }
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(Reference::to_string).collect();
            response.insert(NAME.to_owned(), names.join(","));
        }
        Ok(response)
    }

    /// Takes the image to the registry of a name.
    async fn push(
        &self,
        work: &Work<'_>,
        name: &Reference,
        manifest: Option<&Digest>,
    ) -> Result<Digest, Status> {
        let client = SessionClient::new(self.kit, Arc::clone(self.session));
        let begun = Timestamp::now();
        let progress =
            |part: &str, done, total| work.part(part, done, total, begun, total > 0 && done >= total);
        let push = Push { name, manifest, client: &client, progress: &progress };
        let pushed = self.kit.pusher.push(push).await;
        let digest = pushed.map_err(|why| internal(format!("failed to push {name}: {why}")))?;
        work.part(&format!("pushing manifest for {name}@{digest}"), 0, 0, begun, true);
        Ok(digest)
    }

    /// The files of each platform, with the directory that they go to.
    fn trees(&self) -> Result<Vec<(String, Option<Root>)>, Status> {
        let is_split = self.split || self.built.images.len() > 1;
        let tree = |image: &dray_build::BuiltImage| {
            let root = self.built.open(image).map_err(|error| internal(error.chain()))?;
            let directory =
                if is_split { image.platform.to_string().replace('/', "_") } else { String::new() };
            Ok((directory, root))
        };
        self.built.images.iter().map(tree).collect()
    }

    async fn directory(&self, work: &Work<'_>, number: usize) -> Result<(), Status> {
        let mut parts = Vec::new();
        for (directory, root) in self.trees()? {
            if let Some(root) = root {
                parts.push((directory, readable(root)?));
            }
        }
        parts.sort_by(|one, other| one.0.cmp(&other.0));
        let begun = Timestamp::now();
        let mut told = std::time::Instant::now();
        let mut size = 0;
        sync::send(self.session, number, parts, |sent| {
            size = sent;
            if told.elapsed() > std::time::Duration::from_millis(150) {
                told = std::time::Instant::now();
                work.part("copying files", sent, 0, begun, false);
            }
        })
        .await?;
        work.part("copying files", size, 0, begun, true);
        Ok(())
    }

    async fn tarball(&self, work: &Work<'_>, number: usize) -> Result<(), Status> {
        let (pipe, pieces) = pipe::writer();
        let (written, sent) =
            tokio::join!(self.built.write_files(pipe), self.send_pieces(work, number, pieces));
        match sent {
            Err(status) if status.code == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status),
            Ok(()) => written.map_err(|error| internal(error.chain())),
        }
    }

    async fn archive(&self, work: &Work<'_>, number: usize, exporter: &Exporter) -> Result<Response, Status> {
        let docker = exporter.kind == "docker";
        if docker && self.built.images.len() > 1 {
            return Err(Status::invalid(
                "docker exporter does not currently support exporting manifest lists: use type=oci",
            ));
        }
        let options = ArchiveOptions { names: names(exporter)?, compression: compression(exporter)?, docker };
        let shown: Vec<String> = options.names.iter().map(Reference::to_string).collect();
        if exporter.attrs.get("tar").is_some_and(|tar| !is_true(Some(tar))) {
            let exported = self.layout(work, options).await?;
            return Ok(described(&exported, &shown));
        }
        let begun = Timestamp::now();
        let (pipe, pieces) = pipe::writer();
        let writing = async {
            let exported = self.built.write_archive(options, pipe).await;
            let exported = exported.map_err(|error| internal(error.chain()))?;
            work.part("exporting layers", 0, 0, begun, true);
            work.part(&format!("exporting manifest {}", exported.digest), 0, 0, begun, true);
            Ok::<_, Status>(exported)
        };
        let (exported, sent) = tokio::join!(writing, self.send_pieces(work, number, pieces));
        match (exported, sent) {
            (Ok(exported), Ok(())) => Ok(described(&exported, &shown)),
            // The client has such a file, and does not want another.
            (_, Err(status)) if status.code == Code::AlreadyExists => Ok(Response::new()),
            (_, Err(status)) | (Err(status), Ok(())) => Err(status),
        }
    }

    /// The images in OCI's layout, blob by blob into a directory of the client's.
    async fn layout(&self, work: &Work<'_>, options: ArchiveOptions) -> Result<Exported, Status> {
        let begun = Timestamp::now();
        let scratch = self.kit.engine.scratch().map_err(|error| internal(error.chain()))?;
        let exported = self.built.write_layout(options, scratch.path()).await;
        let exported = exported.map_err(|error| internal(error.chain()))?;
        work.part("exporting layers", 0, 0, begun, true);
        let sent = |size| work.part("sending blobs", size, 0, begun, false);
        content::give(self.session, LAYOUT_STORE, scratch.path(), sent).await?;
        Ok(exported)
    }

    /// The cache of a build as the client wants it; `inline` is part of the image.
    pub(crate) async fn cache(&self, entry: &CacheOptionsEntry) -> Result<Response, Status> {
        let mode = match entry.attrs.get("mode").map(String::as_str).unwrap_or_default() {
            "" | "min" => CacheMode::Min,
            "max" => CacheMode::Max,
            other => return Err(Status::invalid(format!("invalid cache mode {other:?}: use min or max"))),
        };
        if entry.kind == "registry" {
            let work = self.work("exporting cache to registry");
            let result = self.registry_cache(&work, mode, entry).await;
            return work.done(result);
        }
        let destination = entry.attrs.get("dest").map(String::as_str).unwrap_or_default();
        let work = self.work("exporting cache to client directory");
        let result = self.local_cache(&work, mode, destination).await;
        work.done(result)
    }

    async fn registry_cache(
        &self,
        work: &Work<'_>,
        mode: CacheMode,
        entry: &CacheOptionsEntry,
    ) -> Result<Response, Status> {
        let name = entry.attrs.get("ref").map(String::as_str).unwrap_or_default();
        let name = Reference::parse(name).map_err(|error| Status::invalid(error.to_string()))?;
        let begun = Timestamp::now();
        let cache = self.built.store_cache(mode).await.map_err(|error| internal(error.chain()))?;
        work.part("preparing build cache for export", 0, 0, begun, true);
        work.part(&format!("writing cache manifest {}", cache.exported.digest), 0, 0, begun, true);
        self.push(work, &name, Some(&cache.exported.digest)).await?;
        Ok([("cache.manifest".to_owned(), descriptor(&cache.exported).to_string())].into())
    }

    async fn local_cache(&self, work: &Work<'_>, mode: CacheMode, to: &str) -> Result<Response, Status> {
        let begun = Timestamp::now();
        let scratch = self.kit.engine.scratch().map_err(|error| internal(error.chain()))?;
        let exported = self.built.export_cache(mode, scratch.path()).await;
        let exported = exported.map_err(|error| internal(error.chain()))?;
        work.part("preparing build cache for export", 0, 0, begun, true);
        let sent = |size| work.part("sending cache", size, 0, begun, false);
        content::give(self.session, &format!("local:{to}"), scratch.path(), sent).await?;
        work.part(&format!("writing cache manifest {}", exported.digest), 0, 0, begun, true);
        Ok([("cache.manifest".to_owned(), descriptor(&exported).to_string())].into())
    }

    async fn send_pieces(
        &self,
        work: &Work<'_>,
        number: usize,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Result<(), Status> {
        let metadata = Metadata::from([("buildkit-attachable-exporter-id".to_owned(), number.to_string())]);
        let begun = Timestamp::now();
        let mut told = std::time::Instant::now();
        let mut size = 0;
        let mut stream = self.session.call(FILE_SEND, &metadata)?;
        while let Some(data) = pieces.recv().await {
            size += data.len() as u64;
            stream.send(&BytesMessage { data }).await?;
            if told.elapsed() > std::time::Duration::from_millis(150) {
                told = std::time::Instant::now();
                work.part("sending tarball", size, 0, begun, false);
            }
        }
        stream.close();
        while stream.next::<BytesMessage>().await?.is_some() {}
        work.part("sending tarball", size, 0, begun, true);
        Ok(())
    }
}

fn descriptor(exported: &Exported) -> serde_json::Value {
    serde_json::json!({
        "mediaType": exported.media_type,
        "digest": exported.digest.as_str(),
        "size": exported.size,
    })
}

/// What clients are told of an archive or a layout.
fn described(exported: &Exported, names: &[String]) -> Response {
    let mut response = Response::new();
    response.insert(DIGEST.to_owned(), exported.digest.to_string());
    response.insert(CONFIG_DIGEST.to_owned(), exported.config.to_string());
    response.insert(DESCRIPTOR.to_owned(), STANDARD.encode(descriptor(exported).to_string()));
    if !names.is_empty() {
        response.insert(NAME.to_owned(), names.join(","));
    }
    response
}

/// A root that can be read from, for its own descriptor only names it.
fn readable(root: Root) -> Result<OwnedFd, Status> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    openat(root.into_descriptor(), ".", flags, Mode::empty()).map_err(internal)
}
