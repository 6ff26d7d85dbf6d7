//! COPY and ADD: finding the sources, telling what they are, and putting them in their place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use dray_engine::{Root, lookup_group, lookup_user};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat};

use crate::chmod::Chmod;
use crate::error::IoContext;
use crate::remote::{Content, FetchedSource as Fetched};
use crate::tree::{self, Copier, Hasher, Ownership};
use crate::{Error, Result};
use dray_dockerfile::glob::{self, Pattern};
use dray_dockerfile::ignore::Ignore;

/// Most sources that patterns of one instruction may name.
const MOST_SOURCES: usize = 100_000;
/// The part of an archive that tells what it is.
const ARCHIVE_HEAD: usize = 512;

/// A source of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Relative to the root of what is copied from.
    pub(crate) path: PathBuf,
    /// The directories that are kept above it.
    pub(crate) kept: PathBuf,
}

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
    pub(crate) chmod: Option<Chmod>,
    /// Whether owners stay as they are: the source is an image, not the context.
    pub(crate) keep_owners: bool,
    /// Whether the directories of the sources are made below the destination; those before `/./` are not.
    pub(crate) parents: bool,
    /// What is left out, relative to the context.
    pub(crate) excludes: Arc<Ignore>,
    /// Whether archives become the files in them.
    pub(crate) unpack: bool,
    /// Nothing is newer than this, in seconds since 1970.
    pub(crate) newest: Option<i64>,
    /// What addresses gave.
    pub(crate) fetched: Vec<Arc<Fetched>>,
}

impl Job {
    fn fail(&self, why: impl Into<String>) -> Error {
        Error::Copy { instruction: self.instruction, why: why.into() }
    }

    /// The paths that the sources name, relative to the root of `from`.
    pub(crate) fn find(&self, from: &Root) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for source in &self.sources {
            let Some(clean) = clean(source) else {
                return Err(self.fail(format!("forbidden path outside the build context: {source} ()")));
            };
            if glob::is_pattern(source) {
                let mut paths = Vec::new();
                self.expand(from, source, &clean, &mut paths)?;
                found.extend(paths.into_iter().map(|path| self.place_of(source, path)));
            } else {
                // Looked at here, so that what is missing is told before anything is done.
                from.stat(&clean).map_err(|_| self.missing(source))?;
                found.push(self.place_of(source, clean));
            }
        }
        // A file that is left out by name is no source at all.
        found.retain(|found: &Found| {
            let name = found.kept.join(found.path.file_name().unwrap_or_default());
            let is_file = || from.stat(&found.path).is_ok_and(|stat| !is_directory(&stat));
            !(self.is_excluded(&name) && is_file())
        });
        let count = found.len() + self.texts.len() + self.fetched.len();
        if count == 0 {
            return Err(self.fail("no source files were specified"));
        }
        if count > 1 && !self.destination.ends_with('/') && !self.parents {
            return Err(self.fail(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.instruction
            )));
        }
        Ok(found)
    }

    /// With `--parents`, the directories above a source are kept, but for those before `/./`.
    fn place_of(&self, source: &str, path: PathBuf) -> Found {
        if !self.parents {
            return Found { path, kept: PathBuf::new() };
        }
        let pivot = source.strip_prefix("./").unwrap_or(source);
        let skipped = pivot.split_once("/./").and_then(|(before, _)| clean(before));
        let skipped = skipped.map_or(0, |before| before.iter().count());
        let parent = path.parent().unwrap_or(Path::new("")).iter().skip(skipped).collect();
        Found { path, kept: parent }
    }

    fn is_excluded(&self, path: &Path) -> bool {
        !self.excludes.is_empty() && self.excludes.excludes(&path.to_string_lossy())
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
            if text == "**" && !last {
                for candidate in candidates {
                    directories_below(from, candidate, &mut next, 0)?;
                }
                candidates = next;
                continue;
            }
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
    pub(crate) fn digest(&self, from: &Root, found: &[Found]) -> Result<String> {
        let wanted = |path: &Path| !self.is_excluded(path);
        let mut hasher = Hasher::new(self.keep_owners).leaving_out(&wanted);
        for Found { path, kept } in found {
            // The name counts: a file that is copied into a directory keeps it.
            hasher.word(path.file_name().unwrap_or_default().as_encoded_bytes());
            hasher.word(kept.as_os_str().as_encoded_bytes());
            let stat = self.stat(from, path)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    hasher.word(b"directory");
                    let directory = open_directory(from, path).map_err(|why| self.fail(why))?;
                    hasher.directory(directory.as_fd())?;
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
        for fetched in &self.fetched {
            hasher.word(fetched.name.as_bytes());
            hasher.word(fetched.digest.as_bytes());
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
    pub(crate) fn run(&self, from: &Root, found: &[Found], to: &Root) -> Result<()> {
        let owner = match &self.chown {
            Some(text) => Some(parse_owner(to, text).map_err(|why| self.fail(why))?),
            None if self.keep_owners => None,
            None => Some((0, 0)),
        };
        let ownership = Ownership { owner, mode: self.chmod, newest: self.newest };
        let destination = Path::new(&self.destination);
        let into_directory =
            self.destination.ends_with('/') || to.stat(destination).is_ok_and(|stat| is_directory(&stat));
        for Found { path, kept } in found {
            let stat = self.stat(from, path)?;
            if self.parents {
                self.copy_with_parents(from, path, kept, to, ownership)?;
                continue;
            }
            if is_directory(&stat) {
                self.copy_directory(from, path, &stat, to, destination, ownership)?;
                continue;
            }
            let mut file = self.open_file(from, path)?;
            if self.unpack
                && is_archive(&mut file).map_err(|why| self.fail(format!("{}: {why}", path.display())))?
            {
                self.unpack_into(file, to, destination, ownership)?;
                continue;
            }
            let (directory, name) = self.place(path.file_name(), into_directory, to, ownership)?;
            let copier = Copier::new(ownership, directory.as_fd())?;
            copier.file(file, &stat, directory.as_fd(), &name, path)?;
        }
        for fetched in &self.fetched {
            self.put_fetched(fetched, into_directory, to, ownership)?;
        }
        for (name, content) in &self.texts {
            let (directory, name) = self.place(Some(OsStr::new(name)), into_directory, to, ownership)?;
            let mut file = tree::create(directory.as_fd(), &name, Path::new(&name))?;
            file.write_all(content.as_bytes()).io("write", &name)?;
            let mut stat = fstat(&file).io("read attributes of", &name)?;
            // Equal texts make equal layers, whenever they are built.
            (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
            stat.st_mode = stat.st_mode & !0o7777 | 0o644;
            let copier = Copier::new(ownership, directory.as_fd())?;
            copier.attributes(directory.as_fd(), &name, &stat, Path::new(&name))?;
        }
        Ok(())
    }

    fn unpack_into(&self, archive: File, to: &Root, destination: &Path, ownership: Ownership) -> Result<()> {
        let directory = make_directories(to, destination, ownership.owner)?;
        if self.chown.is_none() && self.chmod.is_none() {
            dray_image::extract_archive(archive, directory.as_fd())?;
            return Ok(());
        }
        // Unpacked beside, so that only what the archive brings changes its owner.
        let beside = tempdir_in(to)?;
        dray_image::extract_archive(archive, beside.1.as_fd())?;
        let ownership = Ownership { owner: self.chown.as_ref().and(ownership.owner), ..ownership };
        let copied = Copier::new(ownership, directory.as_fd())
            .and_then(|mut copier| copier.contents(beside.1.as_fd(), directory.as_fd()));
        tree::remove_all(to.as_fd(), beside.0.as_ref())?;
        copied
    }

    /// What an address gave: a file, or the files of a repository.
    fn put_fetched(
        &self,
        fetched: &Fetched,
        into_directory: bool,
        to: &Root,
        ownership: Ownership,
    ) -> Result<()> {
        let destination = Path::new(&self.destination);
        let ownership = Ownership { owner: ownership.owner.or(Some((0, 0))), ..ownership };
        match &fetched.content {
            Content::File { .. } if fetched.unpack => {
                self.unpack_into(fetched.open()?, to, destination, ownership)
            }
            Content::File { .. } => {
                let (directory, name) =
                    self.place(Some(OsStr::new(&fetched.name)), into_directory, to, ownership)?;
                let file = fetched.open()?;
                let mut stat = fstat(&file).io("read attributes of", &name)?;
                // As those who fetch files by an address are used to.
                stat.st_mode = stat.st_mode & !0o7777 | 0o600;
                (stat.st_mtime, stat.st_mtime_nsec) = (fetched.modified, 0);
                let copier = Copier::new(ownership, directory.as_fd())?;
                copier.file(file, &stat, directory.as_fd(), &name, Path::new(&name))
            }
            Content::Tree(tree) => {
                let root = tree.root();
                let stat = self.stat(root, Path::new(""))?;
                self.copy_directory(root, Path::new(""), &stat, to, destination, ownership)
            }
        }
    }

    /// A source below the directories that it has in the context.
    fn copy_with_parents(
        &self,
        from: &Root,
        path: &Path,
        kept: &Path,
        to: &Root,
        ownership: Ownership,
    ) -> Result<()> {
        let mut target = PathBuf::from(&self.destination);
        // The directories come with what they are in the context.
        let skipped = path.parent().map_or(0, |parent| parent.iter().count()) - kept.iter().count();
        let mut source: PathBuf = path.iter().take(skipped).collect();
        for name in kept {
            source.push(name);
            target.push(name);
            let is_new = to.stat(&target).is_err();
            let made = make_directories(to, &target, ownership.owner)?;
            if is_new {
                let stat = self.stat(from, &source)?;
                let copier = Copier::new(ownership, made.as_fd())?;
                copier.attributes(made.as_fd(), OsStr::new("."), &stat, &target)?;
            }
        }
        let stat = self.stat(from, path)?;
        let name = path.file_name().unwrap_or_default();
        if is_directory(&stat) {
            return self.copy_directory(from, path, &stat, to, &target.join(name), ownership);
        }
        let directory = make_directories(to, &target, ownership.owner)?;
        let file = self.open_file(from, path)?;
        let copier = Copier::new(ownership, directory.as_fd())?;
        copier.file(file, &stat, directory.as_fd(), name, path)
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
        destination: &Path,
        ownership: Ownership,
    ) -> Result<()> {
        let fresh = match to.stat(destination) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => false,
            Ok(_) => {
                return Err(self.fail(format!("cannot copy to non-directory: {}", destination.display())));
            }
            Err(_) => true,
        };
        let source = open_directory(from, path).map_err(|why| self.fail(why))?;
        let target = make_directories(to, destination, ownership.owner)?;
        let wanted = |path: &Path| !self.is_excluded(path);
        let mut copier = Copier::new(ownership, target.as_fd())?;
        if !self.excludes.is_empty() {
            copier = copier.leaving_out(&wanted);
        }
        copier.contents(source.as_fd(), target.as_fd())?;
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

/// All directories below one, and itself. Links are not followed.
fn directories_below(from: &Root, path: PathBuf, found: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    /// Deeper ones are not found.
    const DEEPEST: usize = 100;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
    let Ok(directory) = from.open_at(&path, flags, Mode::empty()) else { return Ok(()) };
    let names = tree::names(directory.as_fd(), &path)?;
    found.push(path.clone());
    if depth < DEEPEST && found.len() < MOST_SOURCES {
        for name in names {
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| is_directory(&stat)) {
                directories_below(from, path.join(name), found, depth + 1)?;
            }
        }
    }
    Ok(())
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A new directory at the top of a root.
fn tempdir_in(root: &Root) -> Result<(String, std::os::fd::OwnedFd)> {
    let name = format!(".unpacked-{}", uuid::Uuid::new_v4().simple());
    let fail = |error: &dyn std::fmt::Display| Error::invalid(error.to_string());
    root.make_directories(&name, Mode::from_raw_mode(0o700)).map_err(|error| fail(&error))?;
    let opened = open_directory(root, Path::new(&name)).map_err(|why| fail(&why))?;
    Ok((name, opened))
}

/// A path without its root, `.` and `..`; none when it leads out.
pub(crate) fn clean(path: &str) -> Option<PathBuf> {
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
pub(crate) fn parse_owner(root: &Root, text: &str) -> Result<(u32, u32), String> {
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

/// Whether a file is an archive that ADD unpacks: plain, or compressed in a way that is known. The file is left at
/// its beginning.
fn is_archive(file: &mut File) -> Result<bool, String> {
    let mut head = Vec::with_capacity(ARCHIVE_HEAD);
    let read = Read::by_ref(file).take(ARCHIVE_HEAD as u64).read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(|error| error.to_string())?;
    if !dray_image::looks_compressed(&head) {
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
}
