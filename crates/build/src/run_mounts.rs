//! `RUN --mount` carried out: from the words of the Dockerfile to paths that a container mounts.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_engine::{Engine, Mount, MountSource, OverlayMount, Root, Scratch};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::builder::blocking;
use crate::cache_mounts::{CacheMount, Sharing};
use crate::client::{Client, ClientError};
use crate::error::IoContext;
use crate::mount_place::MountPlace;
use crate::session::Session;
use crate::sources::Tree;
use crate::tree::{Copier, Hasher, Ownership};
use crate::{Builder, Error, Result, transfer};
use dray_dockerfile::MountOptions;
use dray_dockerfile::mounts::{parse_size, parse_switch};

/// One mount, with its variables replaced.
#[derive(Clone)]
pub(crate) struct RunMount {
    pub(crate) kind: Kind,
    /// Absolute; empty for a secret that is only in the environment.
    pub(crate) target: String,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Bind {
        from: Arc<Tree>,
        source: String,
        writable: bool,
    },
    Cache {
        id: String,
        from: Option<Arc<Tree>>,
        source: String,
        sharing: Sharing,
        owner: Owner,
        writable: bool,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        owner: Owner,
    },
    Ssh {
        id: String,
        required: bool,
        owner: Owner,
    },
}

/// Whose a mounted file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl RunMount {
    /// The mount that options mean; `from` is the tree that they name, and `number` that of ssh mounts before.
    pub(crate) fn new(
        options: &MountOptions,
        from: Option<Arc<Tree>>,
        working_dir: &str,
        number: usize,
    ) -> Result<Self> {
        let bad = |name: &str, value: &str| {
            Error::invalid(format!("invalid value for mount option {name}: {value}"))
        };
        let switch = |name: &str| match options.get(name) {
            None => Ok(None),
            Some(value) => parse_switch(value).map(Some).ok_or_else(|| bad(name, value)),
        };
        let integer = |name: &str, default: u32, radix: u32| match options.get(name) {
            None => Ok(default),
            Some(value) => u32::from_str_radix(value, radix).map_err(|_| bad(name, value)),
        };
        let owner = |mode: u32| -> Result<Owner> {
            let mode = integer("mode", mode, 8)?;
            if mode > 0o7777 {
                return Err(bad("mode", options.get("mode").unwrap_or_default()));
            }
            Ok(Owner { uid: integer("uid", 0, 10)?, gid: integer("gid", 0, 10)?, mode })
        };
        let writable = |default: bool| -> Result<bool> {
            Ok(match (switch("readwrite")?, switch("readonly")?) {
                (Some(writable), _) => writable,
                (None, Some(read_only)) => !read_only,
                (None, None) => default,
            })
        };
        let source = options.get("source").unwrap_or_default().to_owned();
        let mut target = options.get("target").unwrap_or_default().to_owned();
        let required = switch("required")?.unwrap_or(false);
        let kind = match options.kind.as_str() {
            "cache" => {
                let id = options.get("id").filter(|id| !id.is_empty()).unwrap_or(&target).to_owned();
                let sharing = match options.get("sharing").unwrap_or("shared") {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => return Err(bad("sharing", other)),
                };
                Kind::Cache { id, from, source, sharing, owner: owner(0o755)?, writable: writable(true)? }
            }
            "tmpfs" => {
                let size = options.get("size").map(|text| parse_size(text).ok_or_else(|| bad("size", text)));
                Kind::Tmpfs { size: size.transpose()? }
            }
            "secret" => {
                let id = options.get("id").or((!source.is_empty()).then_some(source.as_str()));
                let name = Path::new(&target).file_name().and_then(|name| name.to_str());
                let id = id.or(name).unwrap_or_default().to_owned();
                if id.is_empty() {
                    return Err(Error::invalid("a secret mount needs an id: add id=NAME"));
                }
                let env = options.get("env").map(str::to_owned);
                if target.is_empty() && env.is_none() {
                    let name =
                        Path::new(&id).file_name().map_or(id.as_str().into(), |name| name.to_string_lossy());
                    target = format!("/run/secrets/{name}");
                }
                Kind::Secret { id, env, required, owner: owner(0o400)? }
            }
            "ssh" => {
                let id = options.get("id").filter(|id| !id.is_empty()).unwrap_or("default").to_owned();
                if target.is_empty() {
                    target = format!("/run/buildkit/ssh_agent.{number}");
                }
                Kind::Ssh { id, required, owner: owner(0o600)? }
            }
            _ => {
                let from = from.ok_or_else(|| Error::invalid("a bind mount has nothing to bind"))?;
                Kind::Bind { from, source, writable: writable(false)? }
            }
        };
        if !target.is_empty() {
            let absolute = transfer::absolute(working_dir, &target);
            target = if absolute == "/" { absolute } else { absolute.trim_end_matches('/').to_owned() };
            if target == "/" {
                return Err(Error::invalid("a mount cannot have the target /"));
            }
        }
        Ok(Self { kind, target })
    }

    /// What of it can change what the step writes: the files that are bound, and where things are, but not what a
    /// cache or a secret holds.
    pub(crate) fn identity(&self, session: &Session) -> Result<String> {
        let Self { kind, target } = self;
        let source_digest = |from: &Tree, source: &str| -> Result<String> {
            let key = from.identity().map(|identity| format!("mount {identity} {source}"));
            if let Some(known) = key.as_deref().and_then(|key| session.memo(key)) {
                return Ok(known);
            }
            let digest = digest(from, source)?;
            if let Some(key) = key {
                session.remember(key, digest.clone());
            }
            Ok(digest)
        };
        Ok(match kind {
            Kind::Bind { from, source, writable } => {
                format!("bind {target:?} {} {writable}", source_digest(from, source)?)
            }
            Kind::Cache { id, source, sharing, owner, from, writable } => {
                let from = match from {
                    Some(from) => source_digest(from, source)?,
                    None => String::new(),
                };
                format!("cache {target:?} {id:?} {sharing:?} {owner:?} {from} {writable}")
            }
            Kind::Tmpfs { size } => format!("tmpfs {target:?} {size:?}"),
            Kind::Secret { id, env, required, owner } => {
                format!("secret {target:?} {id:?} {env:?} {required} {owner:?}")
            }
            Kind::Ssh { id, required, owner } => format!("ssh {target:?} {id:?} {required} {owner:?}"),
        })
    }
}

fn digest(from: &Tree, source: &str) -> Result<String> {
    let path = clean(source)?;
    let missing =
        || Error::invalid(format!("failed to calculate checksum of \"/{}\": not found", path.display()));
    let stat = from.root().stat(&path).map_err(|_| missing())?;
    let mut hasher = Hasher::new(from.keeps_owners());
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        let directory = from.root().open_at(&path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
        hasher.directory(directory.map_err(|_| missing())?.as_fd())?;
    } else {
        let mut file = from.root().open_file(&path).map_err(|_| missing())?;
        hasher.file(&mut file, &stat, &path)?;
    }
    Ok(hasher.finish())
}

fn clean(source: &str) -> Result<PathBuf> {
    transfer::clean(source)
        .ok_or_else(|| Error::invalid(format!("forbidden path outside the mount's source: {source}")))
}

/// Mounts that are ready for a container, and all that keeps them.
pub(crate) struct Ready {
    pub(crate) mounts: Vec<Mount>,
    /// Variables that only the step's process has: secrets, and where agents are.
    pub(crate) env: Vec<String>,
    place: MountPlace,
    kept: Kept,
}

/// What lives as long as the mounts do.
#[derive(Default)]
struct Kept {
    caches_taken: Vec<CacheMount>,
    written_over: Vec<Scratch>,
    agents_forwarded: Vec<Aborting>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Whose turn a cache is next is told last.
        self.agents_forwarded.clear();
        self.written_over.clear();
        self.caches_taken.clear();
    }
}

/// A task that ends when this is dropped.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ready {
    /// Makes the mounts; for locked caches this waits for their turn.
    pub(crate) async fn new(
        builder: &Builder,
        client: &Arc<dyn Client>,
        wanted: &[RunMount],
    ) -> Result<Self> {
        let mut ready = Self {
            mounts: Vec::new(),
            env: Vec::new(),
            place: MountPlace::new(builder.mount_directory()),
            kept: Kept::default(),
        };
        // Always in one order, so that two builds do not wait for each other.
        let mut order: Vec<&RunMount> = wanted.iter().collect();
        order.sort_by_key(|mount| match &mount.kind {
            Kind::Cache { id, .. } => Some(id.clone()),
            _ => None,
        });
        for mount in order {
            match &mount.kind {
                Kind::Tmpfs { size } => {
                    let source = MountSource::Tmpfs { size: *size, mode: None, options: Vec::new() };
                    ready.add(source, &mount.target, false);
                }
                Kind::Secret { id, env, required, owner } => match client.secret(id).await {
                    Ok(bytes) => ready.secret(bytes, env.as_deref(), &mount.target, *owner)?,
                    Err(ClientError::Missing { .. }) if !required => {}
                    Err(ClientError::Missing { .. }) => {
                        let message =
                            format!("secret {id}: not found: pass it with --secret id={id},src=FILE");
                        return Err(Error::invalid(message));
                    }
                    Err(error) => return Err(error.into()),
                },
                Kind::Ssh { id, required, owner } => {
                    ready.ssh(client, id, *required, &mount.target, *owner).await?;
                }
                Kind::Bind { from, source, writable } => {
                    let (engine, from, source, writable) =
                        (builder.engine.clone(), Arc::clone(from), source.clone(), *writable);
                    let mut place =
                        std::mem::replace(&mut ready.place, MountPlace::new(builder.mount_directory()));
                    let (place, path, scratch) = blocking(move || {
                        let (path, scratch) = bind(&engine, &mut place, &from, &source, writable)?;
                        Ok((place, path, scratch))
                    })
                    .await?;
                    ready.place = place;
                    ready.kept.written_over.extend(scratch);
                    ready.bind(&path, &mount.target, !writable);
                }
                Kind::Cache { id, from, source, sharing, owner, writable } => {
                    let identity = match from {
                        Some(from) => {
                            let (from, source) = (Arc::clone(from), source.clone());
                            blocking(move || digest(&from, &source)).await?
                        }
                        None => String::new(),
                    };
                    let cache = builder.cache_mounts.take(id, &identity, *sharing).await?;
                    let (from, source, owner) = (from.clone(), source.clone(), *owner);
                    let mut place =
                        std::mem::replace(&mut ready.place, MountPlace::new(builder.mount_directory()));
                    let (place, path, cache) = blocking(move || {
                        let path = prepare_cache(&cache, from.as_deref(), &source, owner, &mut place)?;
                        Ok((place, path, cache))
                    })
                    .await?;
                    ready.place = place;
                    ready.kept.caches_taken.push(cache);
                    ready.bind(&path, &mount.target, !*writable);
                }
            }
        }
        // Those above come first, whatever order they were made in.
        ready.mounts.sort_by_key(|mount| mount.target.matches('/').count());
        Ok(ready)
    }

    fn add(&mut self, source: MountSource, target: &str, read_only: bool) {
        self.mounts.push(Mount {
            source,
            target: target.to_owned(),
            read_only,
            only_top_read_only: false,
            propagation: String::new(),
        });
    }

    fn bind(&mut self, path: &Path, target: &str, read_only: bool) {
        let path = path.to_string_lossy().into_owned();
        self.add(MountSource::Bind { path, create: false, non_recursive: false }, target, read_only);
    }

    fn secret(&mut self, bytes: Vec<u8>, env: Option<&str>, target: &str, owner: Owner) -> Result<()> {
        if let Some(name) = env {
            let value = String::from_utf8(bytes.clone())
                .ok()
                .filter(|value| !value.contains('\0'))
                .ok_or_else(|| Error::invalid(format!("the secret for {name} is no text")))?;
            self.env.push(format!("{name}={value}"));
        }
        if target.is_empty() {
            return Ok(());
        }
        let path = self.place.memory()?.join("secret");
        fs::write(&path, &bytes).io("write", &path)?;
        owner.give(&path)?;
        self.bind(&path, target, true);
        Ok(())
    }

    async fn ssh(
        &mut self,
        client: &Arc<dyn Client>,
        id: &str,
        required: bool,
        target: &str,
        owner: Owner,
    ) -> Result<()> {
        match client.ssh(id).await {
            Ok(first) => drop(first),
            Err(ClientError::Missing { .. }) if !required => return Ok(()),
            Err(ClientError::Missing { .. }) => {
                let message = format!("unset ssh forward key {id}: pass it with --ssh {id}");
                return Err(Error::invalid(message));
            }
            Err(error) => return Err(error.into()),
        }
        let path = self.place.memory()?.join("agent");
        let listener = tokio::net::UnixListener::bind(&path).io("listen on", &path)?;
        owner.give(&path)?;
        let (client, id) = (Arc::clone(client), id.to_owned());
        self.kept.agents_forwarded.push(Aborting(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (client, id) = (Arc::clone(&client), id.clone());
                connections.spawn(async move {
                    if let Ok(mut agent) = client.ssh(&id).await {
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        })));
        if !self.env.iter().any(|entry| entry.starts_with("SSH_AUTH_SOCK=")) {
            self.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        self.bind(&path, target, false);
        Ok(())
    }

    /// A file with a program of the Dockerfile's own.
    pub(crate) fn script(&mut self, content: &str, target: &str) -> Result<()> {
        // Memory of ours cannot be executed, so this is a file.
        let directory = self.place.memory()?;
        rustix::mount::mount_remount(&directory, rustix::mount::MountFlags::NOSUID, "")
            .io("remount", &directory)?;
        let path = directory.join("script");
        fs::write(&path, content).io("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).io("change mode of", &path)?;
        self.bind(&path, target, true);
        Ok(())
    }
}

impl Owner {
    fn give(self, path: &Path) -> Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode)).io("change mode of", path)?;
        chown(path, Some(self.uid), Some(self.gid)).io("change owner of", path)
    }
}

/// A place at which the source is, and what keeps what is written to it.
fn bind(
    engine: &Engine,
    place: &mut MountPlace,
    from: &Tree,
    source: &str,
    writable: bool,
) -> Result<(PathBuf, Option<Scratch>)> {
    let path = clean(source)?;
    let directories = from.host_directories(engine)?;
    if !writable && let [only] = directories.as_slice() {
        // A descriptor of the host's own mounts, which a mount can be made of.
        let root = Root::open(only).map_err(dray_engine_error)?;
        let pinned = root.locate(&path).map_err(dray_engine_error)?;
        return Ok((place.bind(pinned.as_fd())?, None));
    }
    let scratch = if writable { Some(engine.scratch()?) } else { None };
    let (mut upper, mut work) = (None, None);
    if let Some(scratch) = &scratch {
        let paths = (scratch.path().join("upper"), scratch.path().join("work"));
        for path in [&paths.0, &paths.1] {
            fs::create_dir(path).io("create", path)?;
        }
        (upper, work) = (Some(paths.0), Some(paths.1));
    }
    let mounted = OverlayMount::detached(&directories, upper.as_deref(), work.as_deref());
    let mounted: OwnedFd = mounted.map_err(dray_engine_error)?;
    let at = place.place(&mounted)?;
    if path.as_os_str().is_empty() {
        return Ok((at, scratch));
    }
    let root = Root::open(&at).map_err(dray_engine_error)?;
    let pinned = root.locate(&path).map_err(dray_engine_error)?;
    Ok((place.bind(pinned.as_fd())?, scratch))
}

fn dray_engine_error(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("cannot mount: {error}"))
}

/// Gives a new cache its first content and its owner, and mounts it where it waits.
fn prepare_cache(
    cache: &CacheMount,
    from: Option<&Tree>,
    source: &str,
    owner: Owner,
    place: &mut MountPlace,
) -> Result<PathBuf> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(CWD, cache.path(), flags, Mode::empty()).io("open", cache.path())?;
    if cache.is_new {
        if let Some(from) = from {
            let path = clean(source)?;
            let opened = from.root().open_at(&path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
            let opened = opened.map_err(dray_engine_error)?;
            Copier::new(Ownership::default(), target.as_fd())?.contents(opened.as_fd(), target.as_fd())?;
        }
        owner.give(cache.path())?;
        cache.mark_filled()?;
    }
    place.bind(target.as_fd())
}
