//! Taking in a layer while its bytes come: they are stored as they are, and at the same time decompressed, hashed and
//! unpacked, each on a thread of its own and without a temporary file between them.
//!
//! What is unpacked stays in the ingest folder until both digests, that of the blob and that of the plain archive, have
//! proved right; only then is it moved to where images find it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::compression::{self, Compression};
use crate::error::IoContext;
use crate::pipe::{PipeReader, pipe, read_chunk};
use crate::store::{ImageStore, Layer};
use crate::unpack::{self, Form};
use crate::{Digest, Error, Result};

/// A layer that is to come.
#[derive(Clone, Debug)]
pub struct NewLayer {
    /// The digest of the blob.
    pub blob: Digest,
    /// Bytes of the blob: not one more is taken.
    pub size: u64,
    /// The digest of the plain archive.
    pub diff_id: Digest,
    /// The chain id of the layers below it.
    pub parent: Option<Digest>,
}

/// A directory of the ingest folder; what is still there when it is dropped goes.
pub(crate) struct Staged(PathBuf);

impl Staged {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "cannot remove what was unpacked in vain");
            }
            _ => {}
        }
    }
}

/// A layer that is unpacked and not yet published.
pub(crate) struct Unpacked {
    pub(crate) staged: Staged,
    /// The digest of the plain archive; none when it came plain, and has the digest of its blob.
    pub(crate) diff_id: Option<Digest>,
    /// Bytes of the regular files.
    pub(crate) size: u64,
}

/// A layer that is being unpacked while its bytes are given in.
pub(crate) struct Unpacking {
    staged: Option<Staged>,
    input: Option<SyncSender<Bytes>>,
    inflate: Option<JoinHandle<io::Result<()>>>,
    hash: Option<JoinHandle<Digest>>,
    unpack: Option<JoinHandle<Result<u64>>>,
}

fn ended_badly() -> Error {
    Error::InvalidArchive { why: "a layer could not be unpacked".to_owned() }
}

fn unpack_all(mut reader: PipeReader, target: &Path) -> Result<u64> {
    unpack::unpack(&mut reader, target, Form::Layer)
}

fn hash_all(reader: PipeReader) -> Digest {
    let mut hasher = Sha256::new();
    reader.into_chunks().for_each(|chunk| hasher.update(&chunk));
    Digest::of_hasher(hasher)
}

/// Gives what is decompressed to the one who hashes and to the one who unpacks. The latter may have what it needs, or have
/// failed; the digest covers all the same what follows.
fn inflate_all(
    compression: Compression,
    reader: PipeReader,
    to_hash: &SyncSender<Bytes>,
    to_unpack: &SyncSender<Bytes>,
) -> io::Result<()> {
    let mut plain = compression::decoder(compression, reader)?;
    loop {
        let chunk = read_chunk(&mut plain)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let _ = to_unpack.send(chunk.clone());
        let _ = to_hash.send(chunk);
    }
}

impl Unpacking {
    /// Begins to unpack into the new directory `staged`.
    pub(crate) fn begin(staged: PathBuf, compression: Compression) -> Result<Self> {
        let diff = staged.join("diff");
        fs::create_dir_all(&diff).io("create", &diff)?;
        let staged = Some(Staged(staged));
        let (to_unpack, plain) = pipe();
        let unpack = spawn("unpack", move || unpack_all(plain, &diff))?;
        if compression == Compression::None {
            let input = Some(to_unpack);
            return Ok(Self { staged, input, inflate: None, hash: None, unpack: Some(unpack) });
        }
        let (to_hash, hashed) = pipe();
        let hash = spawn("hash", move || hash_all(hashed))?;
        let (input, packed) = pipe();
        let inflate = spawn("inflate", move || inflate_all(compression, packed, &to_hash, &to_unpack))?;
        let (input, inflate, hash) = (Some(input), Some(inflate), Some(hash));
        Ok(Self { staged, input, inflate, hash, unpack: Some(unpack) })
    }

    /// Gives in more. What went wrong behind is told at the end.
    pub(crate) fn give(&self, chunk: Bytes) {
        if let Some(input) = &self.input {
            let _ = input.send(chunk);
        }
    }

    /// Waits until all is unpacked.
    pub(crate) fn finish(mut self) -> Result<Unpacked> {
        self.input = None;
        let inflated = join(&mut self.inflate).transpose()?;
        let diff_id = join(&mut self.hash).transpose()?;
        let size = join(&mut self.unpack).transpose()?;
        if let Some(Err(error)) = inflated {
            return Err(Error::InvalidArchive { why: format!("a layer cannot be decompressed: {error}") });
        }
        let size = size.ok_or_else(ended_badly)??;
        let staged = self.staged.take().ok_or_else(ended_badly)?;
        Ok(Unpacked { staged, diff_id, size })
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        self.input = None;
        let _ = join(&mut self.inflate);
        let _ = join(&mut self.hash);
        // It writes into the directory that goes next.
        let _ = join(&mut self.unpack);
    }
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).io("start a thread to", name)
}

fn join<T>(handle: &mut Option<JoinHandle<T>>) -> Option<Result<T>> {
    handle.take().map(|handle| handle.join().map_err(|_| ended_badly()))
}

/// A chunk that is long enough to tell its compression by.
fn head(chunks: &mut impl Iterator<Item = io::Result<Bytes>>) -> io::Result<Bytes> {
    let mut head = Bytes::new();
    while head.len() < compression::MAGIC_LENGTH {
        let Some(more) = chunks.next().transpose()? else { break };
        head = match head.is_empty() {
            true => more,
            false => {
                let mut joined = BytesMut::from(head);
                joined.extend_from_slice(&more);
                joined.freeze()
            }
        };
    }
    Ok(head)
}

/// A shorter beginning is not worth to be kept.
const SHORTEST_PARTIAL: u64 = 64 * 1024;

/// A blob on its way: in the ingest folder while it is written, and kept aside when its source breaks off.
struct Incoming<'a> {
    store: &'a ImageStore,
    layer: &'a NewLayer,
    path: PathBuf,
    output: File,
    hasher: Sha256,
    taken: u64,
    unpacking: Option<Unpacking>,
    keep: bool,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // After success the file has moved and there is nothing here.
        let _ = match self.keep && self.taken >= SHORTEST_PARTIAL {
            true => fs::rename(&self.path, self.store.content.partial_path(&self.layer.blob)),
            false => fs::remove_file(&self.path),
        };
    }
}

impl Incoming<'_> {
    /// Passes on a chunk that is in the file already.
    fn pass(&mut self, chunk: Bytes) -> Result<()> {
        self.taken += chunk.len() as u64;
        if self.taken > self.layer.size {
            let NewLayer { blob, size, .. } = self.layer;
            let why = format!("layer {blob} is longer than the {size} bytes of its manifest");
            return Err(Error::InvalidArchive { why });
        }
        self.hasher.update(&chunk);
        if self.unpacking.is_none() {
            let place = self.store.content.scratch_path();
            self.unpacking = Some(Unpacking::begin(place, Compression::of(&chunk))?);
        }
        if let Some(unpacking) = &self.unpacking {
            unpacking.give(chunk);
        }
        Ok(())
    }

    fn take(&mut self, chunk: Bytes) -> Result<()> {
        self.output.write_all(&chunk).io("write", &self.path)?;
        self.pass(chunk)
    }

    fn broken(&mut self, source: io::Error) -> Error {
        self.keep = true;
        Error::Io { action: "receive", path: self.layer.blob.to_string().into(), source }
    }
}

impl ImageStore {
    /// How many bytes of this blob are there since its source broke off.
    #[must_use]
    pub fn partial_size(&self, blob: &Digest) -> u64 {
        fs::metadata(self.content.partial_path(blob)).map_or(0, |metadata| metadata.len())
    }

    /// Takes in a layer: `rest` gives its blob from [`ImageStore::partial_size`] on. The caller holds its blob and chain id.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] when it is not what it should be; [`Error::Io`] when `rest` breaks off, and then what came
    /// is kept for the next time.
    pub fn ingest_layer(
        &self,
        layer: &NewLayer,
        mut rest: impl Iterator<Item = io::Result<Bytes>>,
    ) -> Result<Layer> {
        let path = self.content.scratch_path();
        let partial = self.content.partial_path(&layer.blob);
        match fs::rename(&partial, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).io("take", &partial),
            _ => {}
        }
        let output = File::options().create(true).append(true).open(&path).io("create", &path)?;
        let mut incoming = Incoming {
            store: self,
            layer,
            output,
            hasher: Sha256::new(),
            taken: 0,
            unpacking: None,
            keep: false,
            path,
        };
        let mut before = File::open(&incoming.path).io("open", &incoming.path)?;
        loop {
            let chunk = read_chunk(&mut before).io("read", &incoming.path)?;
            if chunk.is_empty() {
                break;
            }
            incoming.pass(chunk)?;
        }
        if incoming.taken == 0 {
            let first = head(&mut rest).map_err(|error| incoming.broken(error))?;
            incoming.take(first)?;
        }
        for chunk in rest {
            let chunk = chunk.map_err(|error| incoming.broken(error))?;
            incoming.take(chunk)?;
        }
        if incoming.taken < layer.size {
            return Err(incoming.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        check("blob", &layer.blob, Digest::of_hasher(incoming.hasher.clone()))?;
        let unpacked = incoming.unpacking.take().ok_or_else(ended_badly)?.finish()?;
        let actual = unpacked.diff_id.clone().unwrap_or_else(|| layer.blob.clone());
        check("layer", &layer.diff_id, actual)?;
        self.content.adopt(&incoming.path, &layer.blob)?;
        self.publish_unpacked(unpacked, layer)
    }

    /// Puts what was unpacked where images find it.
    pub(crate) fn publish_unpacked(&self, unpacked: Unpacked, layer: &NewLayer) -> Result<Layer> {
        let published = Layer {
            diff_id: layer.diff_id.clone(),
            chain_id: Digest::chain(layer.parent.as_ref(), &layer.diff_id),
            size: unpacked.size,
            parent: layer.parent.clone(),
            blob: Some(layer.blob.clone()),
        };
        self.publish(unpacked.staged.path(), &published)?;
        Ok(published)
    }
}

fn check(what: &str, expected: &Digest, actual: Digest) -> Result<()> {
    if *expected == actual {
        return Ok(());
    }
    Err(Error::DigestMismatch { what: format!("{what} {expected}"), expected: expected.clone(), actual })
}
