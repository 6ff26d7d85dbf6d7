//! The main context and the Dockerfile: brought here, and without what `.dockerignore` names.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use dray_engine::{Engine, Root};
use rustix::fs::{AtFlags, FileType, statat, unlinkat};

use crate::builder::blocking;
use crate::client::{Client, LocalFilter, ProgressFn};
use crate::error::IoContext;
use crate::request::{ContextSource, DockerfileSource};
use crate::sources::Tree;
use crate::{Error, Result, remote, tree};
use dray_dockerfile::ignore::Ignore;

/// Largest `.dockerignore`, in bytes.
const LONGEST_IGNORE: u64 = 1 << 20;

/// What is known before the first step.
pub(crate) struct Definition {
    /// The Dockerfile's path, for messages.
    pub(crate) path: String,
    pub(crate) dockerfile: Arc<[u8]>,
    pub(crate) main: Main,
    pub(crate) ignore: Arc<Ignore>,
}

/// The main context, as far as it is here.
pub(crate) enum Main {
    Empty,
    Ready(Arc<Tree>),
    /// The client is asked when files of it are needed.
    Local(String),
}

/// What is built of.
pub(crate) struct Loader<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) client: &'a Arc<dyn Client>,
    pub(crate) keep_git: bool,
}

impl Loader<'_> {
    pub(crate) async fn load(
        &self,
        context: ContextSource,
        dockerfile: &DockerfileSource,
        progress: ProgressFn<'_>,
    ) -> Result<Definition> {
        let mut given = None;
        let mut disposable = true;
        let main = match context {
            ContextSource::Empty => Main::Empty,
            ContextSource::Local(name) => Main::Local(name),
            ContextSource::Archive(reader) => {
                let engine = self.engine.clone();
                let reader = reader.into_inner();
                let unpacked = blocking(move || unpack(&engine, reader)).await?;
                Main::Ready(Arc::new(unpacked))
            }
            ContextSource::Directory(directory) => {
                disposable = false;
                Main::Ready(Arc::new(Tree::directory(directory)?))
            }
            ContextSource::Remote(address) => {
                let fetcher =
                    remote::Fetcher { engine: self.engine, client: self.client, keep_git: self.keep_git };
                match fetcher.context(&address).await? {
                    remote::Fetched::Tree(tree) => Main::Ready(Arc::new(tree)),
                    remote::Fetched::Dockerfile(bytes) => {
                        given = Some(bytes);
                        Main::Empty
                    }
                }
            }
        };
        let default = |path: &str| if path.is_empty() { "Dockerfile".to_owned() } else { path.to_owned() };
        let (path, bytes, beside) = match dockerfile {
            _ if given.is_some() => ("Dockerfile".to_owned(), given.unwrap_or_default(), None),
            DockerfileSource::Bytes(bytes) => ("Dockerfile".to_owned(), bytes.clone(), None),
            DockerfileSource::Local { name, path } => self.of_client(name, &default(path), progress).await?,
            DockerfileSource::Context(path) => {
                let path = default(path);
                match &main {
                    Main::Empty => return Err(Error::NoDockerfile { path }),
                    Main::Local(name) => self.of_client(name, &path, progress).await?,
                    Main::Ready(tree) => {
                        let (tree, path) = (Arc::clone(tree), path.clone());
                        blocking(move || {
                            let bytes = read_dockerfile(tree.root(), &path)?;
                            let beside = read_ignore(tree.root(), &format!("{path}.dockerignore"))?;
                            Ok((path, bytes, beside))
                        })
                        .await?
                    }
                }
            }
        };
        let patterns = match (beside, &main) {
            (Some(beside), _) => Some(beside),
            (None, Main::Empty) => None,
            (None, Main::Ready(tree)) => {
                let tree = Arc::clone(tree);
                blocking(move || read_ignore(tree.root(), ".dockerignore")).await?
            }
            (None, Main::Local(name)) => {
                let wanted = vec![".dockerignore".to_owned()];
                let filter =
                    LocalFilter { include: wanted.clone(), follow: wanted, ..LocalFilter::default() };
                let directory = self.client.local(name, &filter, progress).await?;
                blocking(move || read_ignore(Tree::directory(directory)?.root(), ".dockerignore")).await?
            }
        };
        let ignore = match patterns {
            Some(bytes) => Ignore::parse(&String::from_utf8_lossy(&bytes)).map_err(Error::invalid)?,
            None => Ignore::default(),
        };
        let ignore = Arc::new(ignore);
        let main = match main {
            Main::Ready(tree) if !ignore.is_empty() => {
                let (engine, ignore) = (self.engine.clone(), Arc::clone(&ignore));
                Main::Ready(blocking(move || without(&engine, tree, &ignore, disposable)).await?)
            }
            other => other,
        };
        Ok(Definition { path, dockerfile: bytes.into(), main, ignore })
    }

    async fn of_client(
        &self,
        name: &str,
        path: &str,
        progress: ProgressFn<'_>,
    ) -> Result<(String, Vec<u8>, Option<Vec<u8>>)> {
        let wanted = vec![path.to_owned(), format!("{path}.dockerignore")];
        let filter = LocalFilter { include: wanted.clone(), follow: wanted, ..LocalFilter::default() };
        let directory = self.client.local(name, &filter, progress).await?;
        let path = path.to_owned();
        blocking(move || {
            let tree = Tree::directory(directory)?;
            let bytes = read_dockerfile(tree.root(), &path)?;
            let beside = read_ignore(tree.root(), &format!("{path}.dockerignore"))?;
            Ok((path, bytes, beside))
        })
        .await
    }
}

/// Unpacks an archive from outside where it can do no harm.
pub(crate) fn unpack(engine: &Engine, archive: impl Read + Send) -> Result<Tree> {
    let scratch = engine.scratch()?;
    let directory = Tree::open_path(scratch.path())?;
    dray_image::extract_archive(archive, directory.as_fd()).map_err(|source| Error::Context { source })?;
    let path = scratch.path().to_owned();
    Ok(Tree::of_descriptor(directory, path, scratch))
}

/// The tree without what is left out; one that is not ours is copied first.
fn without(engine: &Engine, tree: Arc<Tree>, ignore: &Ignore, disposable: bool) -> Result<Arc<Tree>> {
    if disposable {
        leave_out(tree.root().as_fd(), "", ignore)?;
        return Ok(tree);
    }
    let scratch = engine.scratch()?;
    let directory = Tree::open_path(scratch.path())?;
    let wanted = |path: &Path| !ignore.excludes(&path.to_string_lossy());
    let mut copier = tree::Copier::new(tree::Ownership::default(), directory.as_fd())?.leaving_out(&wanted);
    let opened = tree.open_for_reading()?;
    copier.contents(opened.as_fd(), directory.as_fd())?;
    let path = scratch.path().to_owned();
    Ok(Arc::new(Tree::of_descriptor(directory, path, scratch)))
}

/// A tree of the caller's without what its own `.dockerignore` names; what is there stays as it is.
pub(crate) fn without_ignored(engine: &Engine, tree: Tree) -> Result<Arc<Tree>> {
    let tree = Arc::new(tree);
    let Some(bytes) = read_ignore(tree.root(), ".dockerignore")? else { return Ok(tree) };
    let ignore = Ignore::parse(&String::from_utf8_lossy(&bytes)).map_err(Error::invalid)?;
    if ignore.is_empty() { Ok(tree) } else { without(engine, tree, &ignore, false) }
}

fn read_ignore(root: &Root, path: &str) -> Result<Option<Vec<u8>>> {
    if root.lstat(path).is_err() {
        return Ok(None);
    }
    let bytes = root.read(path, LONGEST_IGNORE);
    bytes.map(Some).map_err(|error| Error::invalid(format!("error reading {path}: {error}")))
}

fn read_dockerfile(root: &Root, path: &str) -> Result<Vec<u8>> {
    let missing = || Error::NoDockerfile { path: path.to_owned() };
    let found = root.stat(path).map_err(|_| missing())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(missing());
    }
    let bytes = root.read(path, dray_dockerfile::lines::LONGEST as u64);
    let bytes = bytes.map_err(|error| Error::invalid(format!("cannot read the Dockerfile: {error}")))?;
    if bytes.is_empty() {
        return Err(Error::EmptyDockerfile { path: path.to_owned() });
    }
    Ok(bytes)
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
