//! OCI layouts of a client's: its session lends blobs by their digests and takes others.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dray_image::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::grpc::{Code, Metadata, Status};
use crate::proto::content::{
    ReadContentRequest, ReadContentResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use crate::session::{READ_CONTENT, Session, WRITE_CONTENT};

/// Bytes of one message.
const PIECE: usize = 1 << 20;
/// Bytes of a manifest, an index or a configuration that is read for what it names.
const LARGEST_DOCUMENT: u64 = 4 << 20;
/// Blobs of one layout.
const MOST_BLOBS: usize = 10_000;

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Status {
    let words = format!("cannot {what} {}", path.display());
    move |error| Status::new(Code::Internal, format!("{words}: {error}"))
}

fn store(id: &str) -> Metadata {
    Metadata::from([("buildkit-attachable-store-id".to_owned(), id.to_owned())])
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn digest(text: &str) -> Result<Digest, Status> {
    let hex = text.strip_prefix("sha256:");
    let parsed = hex.and_then(|hex| Digest::from_hex(hex).ok());
    parsed.ok_or_else(|| Status::invalid(format!("{text:?} is no digest of sha256")))
}

/// Brings one blob of a client's store, and checks that it is what its digest says.
async fn bring(session: &Session, id: &str, digest: &Digest, layout: &Path) -> Result<(), Status> {
    let path = blob(layout, digest);
    let mut stream = session.call(READ_CONTENT, &store(id))?;
    let request = ReadContentRequest { digest: digest.to_string(), ..ReadContentRequest::default() };
    stream.send(&request).await?;
    stream.close();
    let mut file = File::create(&path).map_err(failed("write", &path))?;
    let mut hash = Sha256::new();
    while let Some(piece) = stream.next::<ReadContentResponse>().await? {
        hash.update(&piece.data);
        // A piece is small, and the disk is waited for rather than filled up behind.
        file.write_all(&piece.data).map_err(failed("write", &path))?;
    }
    let actual = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    if actual != digest.hex() {
        return Err(Status::invalid(format!("the client sent something else than {digest}")));
    }
    Ok(())
}

/// What a document names, by digest: manifests, a configuration, layers.
fn named(document: &Value) -> Result<Vec<(Digest, bool)>, Status> {
    let mut found = Vec::new();
    let mut add = |descriptor: &Value, is_document: bool| {
        if let Some(text) = descriptor.get("digest").and_then(Value::as_str) {
            found.push((digest(text)?, is_document));
        }
        Ok::<_, Status>(())
    };
    for manifest in document.get("manifests").and_then(Value::as_array).into_iter().flatten() {
        // The index of a cache names layers as well.
        let kind = manifest.get("mediaType").and_then(Value::as_str).unwrap_or("manifest");
        add(manifest, ["manifest", "index"].iter().any(|word| kind.contains(word)))?;
    }
    if let Some(config) = document.get("config") {
        add(config, false)?;
    }
    for layer in document.get("layers").and_then(Value::as_array).into_iter().flatten() {
        add(layer, false)?;
    }
    Ok(found)
}

/// Brings what a digest names in a client's store, and all that it leads to, into a directory in OCI's layout.
///
/// # Errors
/// When the client has it not, sends something else, or the disk refuses.
pub(crate) async fn fetch(session: &Session, id: &str, top: &str, layout: &Path) -> Result<(), Status> {
    let top = digest(top)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
    let mut left = VecDeque::from([(top.clone(), true)]);
    let mut seen = BTreeSet::new();
    let mut size = 0;
    while let Some((digest, is_document)) = left.pop_front() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        if seen.len() > MOST_BLOBS {
            return Err(Status::invalid(format!("the layout names more than {MOST_BLOBS} blobs")));
        }
        match bring(session, id, &digest, layout).await {
            // Layouts need not hold what was made for other machines.
            Err(status) if status.code == Code::NotFound && digest != top => {
                let _ = fs::remove_file(blob(layout, &digest));
                continue;
            }
            brought => brought?,
        }
        if is_document {
            let path = blob(layout, &digest);
            let mut bytes = Vec::new();
            let file = File::open(&path).map_err(failed("read", &path))?;
            file.take(LARGEST_DOCUMENT).read_to_end(&mut bytes).map_err(failed("read", &path))?;
            if digest == top {
                size = bytes.len();
            }
            let document: Value = serde_json::from_slice(&bytes)
                .map_err(|error| Status::invalid(format!("{digest} is no manifest: {error}")))?;
            left.extend(named(&document)?);
        }
    }
    let is_index = fs::read(blob(layout, &top))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .is_some_and(|document| document.get("manifests").is_some());
    let kind = if is_index { "index" } else { "manifest" };
    let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": media_type, "digest": top.as_str(), "size": size }],
    });
    for (name, document) in [("index.json", index), ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))]
    {
        let path = layout.join(name);
        fs::write(&path, document.to_string()).map_err(failed("write", &path))?;
    }
    Ok(())
}

/// Gives a client's store all blobs of a directory in OCI's layout.
///
/// # Errors
/// When the client refuses, or a blob cannot be read.
pub(crate) async fn give(
    session: &Session,
    id: &str,
    layout: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), Status> {
    let blobs = layout.join("blobs/sha256");
    let mut size = 0;
    for entry in fs::read_dir(&blobs).map_err(failed("read", &blobs))? {
        let path = entry.map_err(failed("read", &blobs))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match give_one(session, id, &path, &name).await {
            Ok(bytes) => size += bytes,
            // The client has it.
            Err(status) if status.code == Code::AlreadyExists => {}
            Err(status) => return Err(status),
        }
        progress(size);
    }
    Ok(())
}

async fn give_one(session: &Session, id: &str, path: &Path, hex: &str) -> Result<u64, Status> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    let total = file.metadata().map_err(failed("read", path))?.len();
    let mut request = WriteContentRequest {
        action: WriteAction::Stat as i32,
        reference: format!("dray-{hex}"),
        total: i64::try_from(total).unwrap_or(i64::MAX),
        expected: format!("sha256:{hex}"),
        ..WriteContentRequest::default()
    };
    let mut stream = session.call(WRITE_CONTENT, &store(id))?;
    let mut ask = async |request: &WriteContentRequest| {
        stream.send(request).await?;
        let answer = stream.next::<WriteContentResponse>().await?;
        answer.ok_or_else(|| Status::new(Code::Unavailable, "the client ended the transfer early"))
    };
    ask(&request).await?;
    let mut offset = 0;
    loop {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).map_err(failed("read", path))?;
        piece.truncate(read);
        offset += read as u64;
        let is_last = offset >= total || read == 0;
        request.action = if is_last { WriteAction::Commit } else { WriteAction::Write } as i32;
        request.data = Bytes::from(piece);
        let answer = ask(&request).await?;
        if is_last {
            return Ok(total);
        }
        request.offset = answer.offset;
    }
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
