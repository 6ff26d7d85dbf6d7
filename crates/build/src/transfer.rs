//! COPY and ADD: finding the sources, telling what they are, and putting them in their place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use dray_engine::{Root, lookup_group, lookup_user};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat};

use crate::error::IoContext;
use crate::glob::{self, Pattern};
use crate::parser::is_url;
use crate::tree::{self, Copier, Hasher, Ownership};
use crate::{Error, Result};

/// Most sources that patterns of one instruction may name.
const MOST_SOURCES: usize = 100_000;
/// The part of an archive that tells what it is.
const ARCHIVE_HEAD: usize = 512;

/// An instruction with its variables replaced.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// `COPY` or `ADD`.
    pub(crate) instruction: &'static str,
    pub(crate) sources: Vec<String>,
    /// Names and contents of files that the Dockerfile itself holds.
    pub(crate) texts: Vec<(String, String)>,
    /// An absolute path; a slash at its end says that it is a directory.
    pub(crate) destination: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<u32>,
    /// Whether owners stay as they are: the source is an image, not the context.
    pub(crate) keep_owners: bool,
}

impl Job {
    fn fail(&self, why: impl Into<String>) -> Error {
        Error::Copy { instruction: self.instruction, why: why.into() }
    }

    fn is_add(&self) -> bool {
        self.instruction == "ADD"
    }

    /// The paths that the sources name, relative to the root of `from`.
    pub(crate) fn find(&self, from: &Root) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        if let Some(url) = self.sources.iter().find(|source| is_url(source)) {
            return Err(
                self.fail(format!("a URL is not supported: fetch {url} into the build context, or with RUN"))
            );
        }
        for source in &self.sources {
            let Some(clean) = clean(source) else {
                return Err(self.fail(format!("forbidden path outside the build context: {source} ()")));
            };
            if glob::is_pattern(source) {
                self.expand(from, source, &clean, &mut found)?;
            } else {
                // Looked at here, so that what is missing is told before anything is done.
                from.stat(&clean).map_err(|_| self.missing(source))?;
                found.push(clean);
            }
        }
        if found.is_empty() && self.texts.is_empty() {
            return Err(self.fail("no source files were specified"));
        }
        if found.len() + self.texts.len() > 1 && !self.destination.ends_with('/') {
            return Err(self.fail(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.instruction
            )));
        }
        Ok(found)
    }

    fn missing(&self, source: &str) -> Error {
        let path = source.trim_start_matches('/').to_owned();
        Error::NoSource { instruction: self.instruction, path }
    }

    fn expand(&self, from: &Root, source: &str, pattern: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        let mut candidates = vec![PathBuf::new()];
        let components: Vec<&OsStr> = pattern.iter().collect();
        for (index, component) in components.iter().enumerate() {
            let text = component.to_string_lossy();
            let matcher = Pattern::parse(&text)
                .ok_or_else(|| self.fail(format!("syntax error in pattern: {source}")))?;
            let last = index + 1 == components.len();
            let mut next = Vec::new();
            for candidate in candidates {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
                let Ok(directory) = from.open_at(&candidate, flags, Mode::empty()) else { continue };
                for name in tree::names(directory.as_fd(), &candidate)? {
                    if name.to_str().is_some_and(|name| matcher.fits(name)) {
                        let path = candidate.join(&name);
                        // A link to nothing is no source, and behind a file nothing can follow.
                        if last && from.stat(&path).is_err() {
                            continue;
                        }
                        next.push(path);
                    }
                    if next.len() > MOST_SOURCES {
                        return Err(self.fail(format!("{source} names more than {MOST_SOURCES} files")));
                    }
                }
            }
            candidates = next;
        }
        found.extend(candidates);
        Ok(())
    }

    /// A digest of all that is copied: what makes two jobs alike.
    pub(crate) fn digest(&self, from: &Root, found: &[PathBuf]) -> Result<String> {
        let mut hasher = Hasher::new(self.keep_owners);
        for path in found {
            // The name counts: a file that is copied into a directory keeps it.
            hasher.word(path.file_name().unwrap_or_default().as_encoded_bytes());
            let stat = self.stat(from, path)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    hasher.word(b"directory");
                    let directory = open_directory(from, path).map_err(|why| self.fail(why))?;
                    hasher.directory(directory.as_fd(), path)?;
                }
                FileType::RegularFile => {
                    let mut file = self.open_file(from, path)?;
                    hasher.file(&mut file, &stat, path)?;
                }
                _ => return Err(self.fail(format!("{} is no file and no directory", path.display()))),
            }
        }
        for (name, content) in &self.texts {
            hasher.word(name.as_bytes());
            hasher.word(content.as_bytes());
        }
        Ok(hasher.finish())
    }

    fn stat(&self, from: &Root, path: &Path) -> Result<Stat> {
        from.stat(path).map_err(|_| self.missing(&path.to_string_lossy()))
    }

    fn open_file(&self, from: &Root, path: &Path) -> Result<File> {
        from.open_file(path).map_err(|error| self.fail(error.to_string()))
    }

    /// Copies the sources into the file system `to`.
    pub(crate) fn run(&self, from: &Root, found: &[PathBuf], to: &Root) -> Result<()> {
        let owner = match &self.chown {
            Some(text) => Some(parse_owner(to, text).map_err(|why| self.fail(why))?),
            None if self.keep_owners => None,
            None => Some((0, 0)),
        };
        let ownership = Ownership { owner, mode: self.chmod };
        let destination = Path::new(&self.destination);
        let is_directory = self.destination.ends_with('/')
            || to
                .stat(destination)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        for path in found {
            let stat = self.stat(from, path)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.copy_directory(from, path, &stat, to, ownership)?;
                continue;
            }
            let mut file = self.open_file(from, path)?;
            if self.is_add()
                && is_archive(&mut file).map_err(|why| self.fail(format!("{}: {why}", path.display())))?
            {
                let directory = make_directories(to, destination, ownership.owner)?;
                dray_image::extract_archive(file, directory.as_fd())?;
                continue;
            }
            let (directory, name) = self.place(path.file_name(), is_directory, to, ownership)?;
            let copier = Copier::new(ownership, directory.as_fd())?;
            copier.file(file, &stat, directory.as_fd(), &name, path)?;
        }
        for (name, content) in &self.texts {
            let (directory, name) = self.place(Some(OsStr::new(name)), is_directory, to, ownership)?;
            let mut file = tree::create(directory.as_fd(), &name, Path::new(&name))?;
            file.write_all(content.as_bytes()).io("write", &name)?;
            let mut stat = fstat(&file).io("read attributes of", &name)?;
            // Equal texts make equal layers, whenever they are built.
            (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
            let mode = Some(self.chmod.unwrap_or(0o644));
            let copier = Copier::new(Ownership { mode, ..ownership }, directory.as_fd())?;
            copier.attributes(directory.as_fd(), &name, &stat, Path::new(&name))?;
        }
        Ok(())
    }

    /// The directory and the name that a file gets.
    fn place(
        &self,
        own_name: Option<&OsStr>,
        is_directory: bool,
        to: &Root,
        ownership: Ownership,
    ) -> Result<(std::os::fd::OwnedFd, std::ffi::OsString)> {
        let destination = Path::new(&self.destination);
        let (directory, name) = if is_directory {
            (destination, own_name)
        } else {
            (destination.parent().unwrap_or(Path::new("/")), destination.file_name())
        };
        let name = name.ok_or_else(|| self.fail(format!("{} is no name of a file", self.destination)))?;
        Ok((make_directories(to, directory, ownership.owner)?, name.to_owned()))
    }

    fn copy_directory(
        &self,
        from: &Root,
        path: &Path,
        stat: &Stat,
        to: &Root,
        ownership: Ownership,
    ) -> Result<()> {
        let destination = Path::new(&self.destination);
        let fresh = match to.stat(destination) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => false,
            Ok(_) => {
                return Err(self.fail(format!("cannot copy to non-directory: {}", self.destination)));
            }
            Err(_) => true,
        };
        let source = open_directory(from, path).map_err(|why| self.fail(why))?;
        let target = make_directories(to, destination, ownership.owner)?;
        Copier::new(ownership, target.as_fd())?.contents(source.as_fd(), target.as_fd())?;
        if fresh {
            let copier = Copier::new(ownership, target.as_fd())?;
            copier.attributes(target.as_fd(), OsStr::new("."), stat, destination)?;
        }
        Ok(())
    }
}

fn open_directory(root: &Root, path: &Path) -> Result<std::os::fd::OwnedFd, String> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    root.open_at(path, flags, Mode::empty()).map_err(|error| error.to_string())
}

/// Makes a directory and those above it that are missing, which then belong to `owner`, and opens it.
pub(crate) fn make_directories(
    root: &Root,
    path: &Path,
    owner: Option<(u32, u32)>,
) -> Result<std::os::fd::OwnedFd> {
    let fail = |error: &dyn std::fmt::Display| Error::invalid(error.to_string());
    let missing: Vec<&Path> = path.ancestors().take_while(|path| root.stat(path).is_err()).collect();
    root.make_directories(path, Mode::from_raw_mode(0o755)).map_err(|error| fail(&error))?;
    for made in missing {
        let (uid, gid) = owner.unwrap_or_default();
        let directory = root.locate(made).map_err(|error| fail(&error))?;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(&directory, "", owner.0, owner.1, AtFlags::EMPTY_PATH).io("change owner of", made)?;
    }
    open_directory(root, path).map_err(|why| fail(&why))
}

/// A path without its root, `.` and `..`; none when it leads out.
fn clean(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir if !clean.pop() => return None,
            _ => {}
        }
    }
    Some(clean)
}

/// A destination as an absolute path without `.` and `..`; one that names a directory keeps a slash at its end.
pub(crate) fn absolute(working_dir: &str, path: &str) -> String {
    let joined = Path::new(if working_dir.is_empty() { "/" } else { working_dir }).join(path);
    let mut clean = PathBuf::from("/");
    for component in joined.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let mut text = clean.to_string_lossy().into_owned();
    let names_directory = path.ends_with('/') || matches!(path.rsplit('/').next(), Some("." | ".." | ""));
    if names_directory && !text.ends_with('/') {
        text.push('/');
    }
    text
}

/// `user[:group]`, names by the image's own files; without a group the one of the same name or number.
fn parse_owner(root: &Root, text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let group = if group.is_empty() { user } else { group };
    if user.is_empty() {
        return Err(format!("invalid chown string {text:?}"));
    }
    let uid = lookup_user(root, user)
        .map_err(|error| format!("unable to convert uid/gid chown string to host mapping: {error}"))?;
    let gid = match group.parse::<u32>() {
        Ok(gid) if gid <= i32::MAX as u32 => gid,
        _ => lookup_group(root, group)
            .map_err(|error| format!("unable to convert uid/gid chown string to host mapping: {error}"))?,
    };
    Ok((uid.uid, gid))
}

/// `0755` and the like.
pub(crate) fn parse_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// Whether a file is an archive that ADD unpacks: plain, or compressed in a way that is known. The file is left at
/// its beginning.
fn is_archive(file: &mut File) -> Result<bool, String> {
    let mut head = Vec::with_capacity(ARCHIVE_HEAD);
    let read = Read::by_ref(file).take(ARCHIVE_HEAD as u64).read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(|error| error.to_string())?;
    // What is compressed in a way that is not supported is told so when it is unpacked.
    if head.starts_with(b"BZh") || head.starts_with(b"\xfd7zXZ\0") {
        return Ok(true);
    }
    let compressed = head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if !compressed {
        return Ok(is_archive_head(&head));
    }
    let inner = dray_image::decompressed_head(&mut *file, ARCHIVE_HEAD);
    file.rewind().map_err(|error| error.to_string())?;
    // What only looks compressed is a file like others.
    Ok(inner.is_ok_and(|head| is_archive_head(&head)))
}

fn is_archive_head(head: &[u8]) -> bool {
    head.len() == ARCHIVE_HEAD && &head[257..262] == b"ustar"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_absolute() {
        for (working_dir, path, expected) in [
            ("", "a", "/a"),
            ("/w", "a", "/w/a"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "../../..", "/"),
            ("/w", "/a/b/", "/a/b/"),
            ("/w", "/a/./b/../c", "/a/c"),
        ] {
            assert_eq!(absolute(working_dir, path), expected, "{working_dir} {path}");
        }
    }

    #[test]
    fn sources_stay_in_the_context() {
        assert_eq!(clean("/a/./b/../c"), Some("a/c".into()));
        assert_eq!(clean("."), Some("".into()));
        assert_eq!(clean("a/../../b"), None);
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0755"), Some(0o755));
        assert_eq!((parse_mode("9"), parse_mode("10000"), parse_mode("")), (None, None, None));
    }
}
