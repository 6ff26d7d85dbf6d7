//! The build context: an archive from outside, unpacked where it can do no harm.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use dray_engine::{Engine, Root, Scratch};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat, unlinkat};

use crate::error::IoContext;
use crate::ignore::Ignore;
use crate::{Error, Result, lines, tree};

/// Largest `.dockerignore`, in bytes.
const LONGEST_IGNORE: u64 = 1 << 20;

/// An unpacked context, which goes when this is dropped.
pub(crate) struct Context {
    root: Root,
    _scratch: Scratch,
}

impl Context {
    /// Unpacks the archive, reads the Dockerfile at `dockerfile`, and then takes out what `.dockerignore` names: that
    /// may be the Dockerfile itself.
    pub(crate) fn unpack(
        engine: &Engine,
        archive: impl Read + Send,
        dockerfile: &str,
    ) -> Result<(Self, Vec<u8>)> {
        let scratch = engine.scratch()?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let directory = openat(CWD, scratch.path(), flags, Mode::empty()).io("open", scratch.path())?;
        dray_image::extract_archive(archive, directory.as_fd())
            .map_err(|source| Error::Context { source })?;
        let context = Self { root: Root::from_descriptor(directory), _scratch: scratch };
        let dockerfile = context.dockerfile(dockerfile)?;
        if context.root.lstat(".dockerignore").is_ok() {
            let bytes = context.root.read(".dockerignore", LONGEST_IGNORE);
            let bytes =
                bytes.map_err(|error| Error::invalid(format!("error reading .dockerignore: {error}")))?;
            let ignore = Ignore::parse(&String::from_utf8_lossy(&bytes)).map_err(Error::invalid)?;
            if !ignore.is_empty() {
                leave_out(context.root.as_fd(), "", &ignore)?;
            }
        }
        Ok((context, dockerfile))
    }

    /// Where sources are looked for.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    fn dockerfile(&self, path: &str) -> Result<Vec<u8>> {
        let missing = || Error::NoDockerfile { path: path.to_owned() };
        let found = self.root.stat(path).map_err(|_| missing())?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(missing());
        }
        let limit = lines::LONGEST as u64;
        let bytes = self.root.read(path, limit);
        let bytes = bytes.map_err(|error| Error::invalid(format!("cannot read the Dockerfile: {error}")))?;
        if bytes.is_empty() {
            return Err(Error::EmptyDockerfile { path: path.to_owned() });
        }
        Ok(bytes)
    }
}

/// Takes away what is left out below a directory. A directory that is left out stays when something in it is not.
fn leave_out(directory: BorrowedFd<'_>, path: &str, ignore: &Ignore) -> Result<()> {
    for name in tree::names(directory, Path::new(path))? {
        let text = name.to_string_lossy();
        let inner = if path.is_empty() { text.into_owned() } else { format!("{path}/{text}") };
        // The archive's paths have at most 4096 bytes, so this ends.
        let stat = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).io("read attributes of", &inner)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory {
            let opened = tree::open_directory(directory, &name).io("open", &inner)?;
            leave_out(opened.as_fd(), &inner, ignore)?;
        }
        if ignore.excludes(&inner) {
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match unlinkat(directory, &name, flags) {
                Ok(()) | Err(rustix::io::Errno::NOTEMPTY) => {}
                Err(error) => return Err(error).io("remove", &inner),
            }
        }
    }
    Ok(())
}
