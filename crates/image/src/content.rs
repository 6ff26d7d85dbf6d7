//! Blobs on disk, named by their digest: written beside, checked, then renamed into place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::digest::Hashing;
use crate::error::IoContext;
use crate::{Digest, Error, Result};

/// How long the beginning of a blob waits for the rest.
const PARTIAL_AGE: Duration = Duration::from_hours(24);

/// The blobs, and the folders in which unfinished ones are written and in which those wait whose source broke off.
pub(crate) struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
    partial: PathBuf,
}

/// A blob that is being written; dropped without [`Ingest::commit`] it leaves nothing.
pub(crate) struct Ingest<'a> {
    content: &'a Content,
    path: PathBuf,
    writer: Hashing<File>,
}

impl Content {
    /// Opens the store below `root`; what a crash left half-written is removed.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let blobs = root.join("blobs/sha256");
        let ingest = root.join("ingest");
        let partial = root.join("partial");
        if ingest.exists() {
            fs::remove_dir_all(&ingest).io("clear", &ingest)?;
        }
        for path in [&blobs, &ingest, &partial] {
            fs::create_dir_all(path).io("create", path)?;
        }
        spread(&ingest);
        let content = Self { blobs, ingest, partial };
        content.forget_old_partials()?;
        Ok(content)
    }

    /// Removes beginnings of blobs that nobody came back for.
    pub(crate) fn forget_old_partials(&self) -> Result<()> {
        for entry in fs::read_dir(&self.partial).io("list", &self.partial)? {
            let entry = entry.io("list", &self.partial)?;
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
            if age > PARTIAL_AGE {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Where the beginning of a blob waits whose source broke off.
    pub(crate) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.partial.join(digest.hex())
    }

    /// Bytes of this blob.
    pub(crate) fn size(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest);
        fs::metadata(&path).map(|metadata| metadata.len()).io("read", path)
    }

    /// Puts a file of the ingest folder, whose digest is known to be `digest`, in its place.
    pub(crate) fn adopt(&self, path: &Path, digest: &Digest) -> Result<()> {
        fs::rename(path, self.path(digest)).io("rename", path)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).io("open", &path)
    }

    /// A small blob, whole.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).io("read", &path)
    }

    /// A fresh folder for unfinished things; it lives until the next start at the latest.
    pub(crate) fn scratch_path(&self) -> PathBuf {
        self.ingest.join(uuid::Uuid::new_v4().simple().to_string())
    }

    pub(crate) fn begin(&self) -> Result<Ingest<'_>> {
        let path = self.scratch_path();
        let file = File::create_new(&path).io("create", &path)?;
        Ok(Ingest { content: self, path, writer: Hashing::new(file) })
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.contains(&digest) {
            let mut ingest = self.begin()?;
            ingest.write_all(bytes).io("write", &ingest.path)?;
            ingest.commit(Some(&digest))?;
        }
        Ok(digest)
    }

    /// All blobs and their sizes.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.blobs).io("list", &self.blobs)? {
            let entry = entry.io("list", &self.blobs)?;
            if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
                blobs.push((digest, entry.metadata().map(|m| m.len()).unwrap_or(0)));
            }
        }
        Ok(blobs)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.io("remove", &path),
        }
    }
}

/// Lets ext4 put each directory of this one somewhere else on the disk, with the files in it. It takes no inode again that
/// was freed in the last minutes, and looks at every such one for each new file: after an image was removed, another
/// one in its place took twice the time. Other file systems know no such thing and need none.
fn spread(directory: &Path) {
    if let Ok(opened) = File::open(directory)
        && let Ok(flags) = ioctl_getflags(&opened)
    {
        let _ = ioctl_setflags(&opened, flags | IFlags::TOPDIR);
    }
}

impl Ingest<'_> {
    /// Checks the digest and puts the blob in its place.
    pub(crate) fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let path = self.path.clone();
        self.writer.flush().io("write", &path)?;
        let placeholder = Hashing::new(File::open("/dev/null").io("open", "/dev/null")?);
        let (_file, actual, size) = std::mem::replace(&mut self.writer, placeholder).finish();
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(Error::DigestMismatch {
                what: "blob".to_owned(),
                expected: expected.clone(),
                actual,
            });
        }
        let target = self.content.path(&actual);
        fs::rename(&path, &target).io("rename", &path)?;
        Ok((actual, size))
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        // After a commit the file has moved and there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}
