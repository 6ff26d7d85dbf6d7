//! Repositories of git as far as a build needs them: one commit without its history, checked out, with its modules.
//! Nothing of a repository is interpreted but its objects. How they come is `git_wire`'s.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dray_engine::Engine;
use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps, mkdirat, openat, openat2, symlinkat};

use crate::builder::blocking;
use crate::client::Client;
use crate::error::IoContext;
pub(crate) use crate::git_address::GitAddress;
use crate::git_address::Transport;
use crate::git_pack::{ObjectId, ObjectKind, Pack, hex, loose, parse_id};
use crate::git_wire::Server;
use crate::http_client;
use crate::sources::Tree;
use crate::{Error, Result, remote};

/// Directories within directories of a repository.
const DEEPEST: usize = 200;
/// Repositories within repositories.
const DEEPEST_MODULE: usize = 5;

/// A commit's files.
pub(crate) struct Checkout {
    pub(crate) tree: Tree,
    pub(crate) commit: String,
}

/// Brings the files of a repository. `checksum` is the commit that they must be of, or its beginning.
pub(crate) async fn fetch(
    engine: &Engine,
    client: &Arc<dyn Client>,
    address: &GitAddress,
    checksum: Option<&str>,
    keep_git: bool,
) -> Result<Checkout> {
    let made = engine.clone();
    let scratch = blocking(move || Ok(made.scratch()?)).await?;
    let files = scratch.path().join("files");
    std::fs::create_dir(&files).io("create", &files)?;
    let job = Job { engine, client, scratch: scratch.path(), keep_git };
    let target = Tree::open_path(&files)?;
    let commit = job.bring(address, None, target, 0).await?;
    if let Some(expected) = checksum
        && !commit.starts_with(&expected.to_lowercase())
    {
        let why = format!("expected checksum to match {expected}, got {commit}");
        return Err(Error::Fetch { address: http_client::shown(&address.remote), why });
    }
    let directory = address.directory.as_deref().unwrap_or(".").trim_matches('/');
    let directory = if directory.is_empty() { "." } else { directory };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    // A link of the repository's leads nowhere, not even within it.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = openat2(Tree::open_path(&files)?, directory, flags, Mode::empty(), resolve);
    let opened = opened.map_err(|_| {
        let why = format!("it has no directory {directory}");
        Error::Fetch { address: http_client::shown(&address.remote), why }
    })?;
    let path = files.join(directory);
    Ok(Checkout { tree: Tree::of_descriptor(opened, path, scratch), commit })
}

struct Job<'a> {
    engine: &'a Engine,
    client: &'a Arc<dyn Client>,
    scratch: &'a Path,
    keep_git: bool,
}

impl Job<'_> {
    /// Checks a commit out into a directory; answers which one it was.
    async fn bring(
        &self,
        address: &GitAddress,
        commit: Option<ObjectId>,
        target: OwnedFd,
        depth: usize,
    ) -> Result<String> {
        let shown = http_client::shown(&address.remote);
        let fail = |why: String| Error::Fetch { address: shown.clone(), why };
        let login = match address.transport {
            Transport::Http => remote::login(self.client, &address.remote).await,
            _ => None,
        };
        let server = Server { engine: self.engine, client: self.client, address, login };
        let commit = match (commit, address.reference.as_deref().and_then(parse_id)) {
            (Some(commit), _) | (None, Some(commit)) => commit,
            (None, None) => {
                let list = server.list().await?;
                resolve(&list, address.reference.as_deref()).map_err(&fail)?
            }
        };
        let path = self.scratch.join(format!("pack-{depth}-{}", hex(&commit)));
        let pack = server.pack(&commit, &path).await?;
        let keep_git = self.keep_git;
        let at = shown.clone();
        let (modules, commit) = blocking(move || {
            let shown = at;
            let pack = Pack::open(pack).map_err(|why| Error::Fetch { address: shown.clone(), why })?;
            let checked = check_out(&pack, &commit, target.as_fd(), keep_git);
            let checked = checked.map_err(|why| Error::Fetch { address: shown.clone(), why });
            let _ = std::fs::remove_file(&path);
            checked
        })
        .await?;
        for module in modules {
            if depth >= DEEPEST_MODULE {
                return Err(fail(format!("modules are nested deeper than {DEEPEST_MODULE}")));
            }
            let Some(inner) = module.address(address) else {
                return Err(fail(format!("the module {} has no address that is known", module.path)));
            };
            Box::pin(self.bring(&inner, Some(module.commit), module.directory, depth + 1)).await?;
        }
        Ok(commit)
    }
}

/// The commit that a name means: a branch, then a tag, then any full name; without one what `HEAD` is.
fn resolve(list: &[(String, ObjectId)], name: Option<&str>) -> Result<ObjectId, String> {
    let find = |wanted: &str| list.iter().find(|(name, _)| name == wanted).map(|(_, id)| *id);
    let Some(name) = name else {
        return find("HEAD").ok_or_else(|| "the repository is empty".to_owned());
    };
    let forms =
        [format!("refs/heads/{name}"), format!("refs/tags/{name}"), format!("refs/{name}"), name.to_owned()];
    forms.iter().find_map(|form| find(form)).ok_or_else(|| {
        format!("it has no branch and no tag {name:?}: a commit is named by all of its 40 digits")
    })
}

/// A repository within a repository.
struct Module {
    path: String,
    url: String,
    commit: ObjectId,
    directory: OwnedFd,
}

impl Module {
    fn address(&self, outer: &GitAddress) -> Option<GitAddress> {
        let url = if self.url.starts_with("./") || self.url.starts_with("../") {
            let mut base = outer.remote.trim_end_matches('/').to_owned();
            let mut rest = self.url.as_str();
            loop {
                if let Some(inner) = rest.strip_prefix("../") {
                    // In `user@host:path` the path begins behind the colon.
                    let begin = base.find("://").map_or_else(|| base.find(':'), |at| Some(at + 2))?;
                    match base.rfind('/').filter(|at| *at > begin) {
                        Some(at) => base.truncate(at),
                        None if base.len() > begin + 1 && !base.contains("://") => base.truncate(begin + 1),
                        None => return None,
                    }
                    rest = inner;
                } else if let Some(inner) = rest.strip_prefix("./") {
                    rest = inner;
                } else if base.ends_with(':') {
                    break format!("{base}{rest}");
                } else {
                    break format!("{base}/{rest}");
                }
            }
        } else {
            self.url.clone()
        };
        let mut inner = GitAddress::parse(&url).or_else(|| {
            // Within a repository an address needs no ending to be one of git's.
            let remote = format!("{url}.git");
            dray_dockerfile::is_url(&url).then(|| GitAddress::parse(&remote)).flatten()
        })?;
        if !inner.remote.starts_with("git://") && !url.ends_with(".git") {
            inner.remote = url;
        }
        Some(GitAddress { reference: None, directory: None, ..inner })
    }
}

/// Writes the files of a commit; answers the modules that belong into them, and the commit's name.
fn check_out(
    pack: &Pack,
    id: &ObjectId,
    target: BorrowedFd<'_>,
    keep_git: bool,
) -> Result<(Vec<Module>, String), String> {
    let (mut id, mut kind, mut bytes) = {
        let (kind, bytes) = pack.read(id)?;
        (*id, kind, bytes)
    };
    for _ in 0..8 {
        if kind != ObjectKind::Tag {
            break;
        }
        let inner = field(&bytes, "object").and_then(|text| parse_id(&text)).ok_or("a tag names nothing")?;
        (kind, bytes) = pack.read(&inner)?;
        id = inner;
    }
    if kind != ObjectKind::Commit {
        return Err("the reference is no commit".to_owned());
    }
    let tree = field(&bytes, "tree").and_then(|text| parse_id(&text)).ok_or("a commit has no tree")?;
    let time = field(&bytes, "committer").and_then(|line| line.rsplit(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let mut modules = Vec::new();
    write_tree(pack, &tree, target, "", time, 0, &mut modules)?;
    if !modules.is_empty() {
        let (_, tree) = pack.read(&tree)?;
        let addresses = entries(&tree)?.into_iter().find(|entry| entry.1 == ".gitmodules");
        let text = match addresses {
            Some((_, _, blob)) => String::from_utf8_lossy(&pack.read(&blob)?.1).into_owned(),
            None => String::new(),
        };
        let known = parse_modules(&text);
        // One without an address is an empty directory, as git leaves it.
        modules.retain_mut(|module| match known.iter().find(|(path, _)| *path == module.path) {
            Some((_, url)) => {
                module.url.clone_from(url);
                true
            }
            None => false,
        });
    }
    let commit = hex(&id);
    if keep_git {
        write_repository(pack, &commit, target)
            .map_err(|error| format!("cannot keep its directory: {error}"))?;
    }
    Ok((modules, commit))
}

/// The first line of an object's head that begins with a word.
fn field(bytes: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\n\n").next()?;
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
}

/// Modes, names and digests of a tree.
fn entries(mut tree: &[u8]) -> Result<Vec<(u32, String, ObjectId)>, String> {
    let bad = || "a directory of it is damaged".to_owned();
    let mut all = Vec::new();
    while !tree.is_empty() {
        let end = tree.iter().position(|byte| *byte == 0).ok_or_else(bad)?;
        let head = std::str::from_utf8(&tree[..end]).map_err(|_| "a name in it is no UTF-8".to_owned())?;
        let (mode, name) = head.split_once(' ').ok_or_else(bad)?;
        let mode = u32::from_str_radix(mode, 8).map_err(|_| bad())?;
        let id: ObjectId = tree.get(end + 1..end + 21).ok_or_else(bad)?.try_into().map_err(|_| bad())?;
        let unfit = name.is_empty() || name == "." || name == ".." || name.contains('/');
        if unfit || name.eq_ignore_ascii_case(".git") {
            return Err(format!("it has a file of the name {name:?}"));
        }
        all.push((mode, name.to_owned(), id));
        tree = &tree[end + 21..];
    }
    Ok(all)
}

fn write_tree(
    pack: &Pack,
    id: &ObjectId,
    target: BorrowedFd<'_>,
    path: &str,
    time: i64,
    depth: usize,
    modules: &mut Vec<Module>,
) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("directories are nested deeper than {DEEPEST}"));
    }
    let (kind, bytes) = pack.read(id)?;
    if kind != ObjectKind::Tree {
        return Err("a directory of it is none".to_owned());
    }
    for (mode, name, id) in entries(&bytes)? {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        let failed = |error: rustix::io::Errno| format!("cannot write {inner}: {error}");
        let directory = |name: &str| {
            mkdirat(target, name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            openat(target, name, flags, Mode::empty())
        };
        match mode {
            0o40000 => {
                let opened = directory(&name).map_err(failed)?;
                write_tree(pack, &id, opened.as_fd(), &inner, time, depth + 1, modules)?;
            }
            0o160000 => {
                let directory = directory(&name).map_err(failed)?;
                modules.push(Module { path: inner.clone(), url: String::new(), commit: id, directory });
            }
            0o120000 => {
                let (_, link) = pack.read(&id)?;
                let link = std::ffi::OsString::from(String::from_utf8_lossy(&link).into_owned());
                symlinkat(&link, target, &name).map_err(failed)?;
            }
            mode if mode & 0o170_000 == 0o100_000 => {
                let (_, bytes) = pack.read(&id)?;
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let bits = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
                let file = openat(target, &name, flags, Mode::from_raw_mode(bits)).map_err(failed)?;
                // Whatever mask the process has.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(bits)).map_err(failed)?;
                let mut file = File::from(file);
                file.write_all(&bytes).map_err(|error| format!("cannot write {inner}: {error}"))?;
            }
            other => return Err(format!("{inner} has the unknown mode {other:o}")),
        }
        let stamp = Timespec { tv_sec: time.max(0), tv_nsec: 0 };
        let times = Timestamps { last_access: stamp, last_modification: stamp };
        rustix::fs::utimensat(target, &name, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
    }
    Ok(())
}

/// Paths and addresses of a `.gitmodules`.
fn parse_modules(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            all.push(Default::default());
        } else if let (Some(last), Some((name, value))) = (all.last_mut(), line.split_once('=')) {
            let value = value.trim().trim_matches('"').to_owned();
            match name.trim() {
                "path" => last.0 = value,
                "url" => last.1 = value,
                _ => {}
            }
        }
    }
    all.retain(|(path, url)| !path.is_empty() && !url.is_empty() && !url.starts_with('-'));
    all
}

/// A `.git` in which the commit can be looked at.
fn write_repository(pack: &Pack, commit: &str, target: BorrowedFd<'_>) -> std::io::Result<()> {
    let bits = Mode::from_raw_mode(0o755);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let make = |parent: BorrowedFd<'_>, name: &str| -> std::io::Result<OwnedFd> {
        match mkdirat(parent, name, bits) {
            Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(openat(parent, name, flags, Mode::empty())?),
            Err(error) => Err(error.into()),
        }
    };
    let write = |parent: BorrowedFd<'_>, name: &str, bytes: &[u8]| -> std::io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(openat(parent, name, flags, Mode::from_raw_mode(0o644))?).write_all(bytes)
    };
    let git = make(target, ".git")?;
    write(git.as_fd(), "HEAD", format!("{commit}\n").as_bytes())?;
    write(git.as_fd(), "shallow", format!("{commit}\n").as_bytes())?;
    write(git.as_fd(), "config", b"[core]\n\trepositoryformatversion = 0\n\tbare = false\n")?;
    make(git.as_fd(), "refs")?;
    let objects = make(git.as_fd(), "objects")?;
    for id in pack.ids() {
        let (kind, bytes) = pack.read(id).map_err(std::io::Error::other)?;
        let name = hex(id);
        let directory = make(objects.as_fd(), &name[..2])?;
        write(directory.as_fd(), &name[2..], &loose(kind, &bytes)?)?;
    }
    Ok(())
}
