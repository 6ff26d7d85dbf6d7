//! Trees that COPY, ADD and mounts read: of a context, of a stage, of an image.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_engine::{Engine, Root};
use dray_image::Layer;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::Result;
use crate::client::LocalDirectory;
use crate::error::IoContext;

/// A tree that does not change while it is used.
pub(crate) struct Tree {
    root: Root,
    kind: Kind,
    /// What keeps the files where they are.
    _keep: Arc<dyn Any + Send + Sync>,
}

enum Kind {
    /// A directory of the host.
    Path(PathBuf),
    /// Layers, lowest first.
    Layers(Vec<Layer>),
}

impl Tree {
    pub(crate) fn open_path(path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        openat(CWD, path, flags, Mode::empty()).io("open", path)
    }

    pub(crate) fn directory(directory: LocalDirectory) -> Result<Self> {
        let descriptor = Self::open_path(directory.path())?;
        let path = directory.path().to_owned();
        Ok(Self::of_descriptor(descriptor, path, directory))
    }

    pub(crate) fn of_descriptor(descriptor: OwnedFd, path: PathBuf, keep: impl Any + Send + Sync) -> Self {
        Self { root: Root::from_descriptor(descriptor), kind: Kind::Path(path), _keep: Arc::new(keep) }
    }

    /// The files of layers, which somebody else must lease.
    pub(crate) fn layers(engine: &Engine, layers: Vec<Layer>) -> Result<Self> {
        let root = engine.open_layers(&layers)?;
        Ok(Self { root, kind: Kind::Layers(layers), _keep: Arc::new(()) })
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Whether its owners count: a context has none.
    pub(crate) fn keeps_owners(&self) -> bool {
        matches!(self.kind, Kind::Layers(_))
    }

    /// What it is called by, when equal names mean equal files for ever.
    pub(crate) fn identity(&self) -> Option<&str> {
        match &self.kind {
            Kind::Path(_) => None,
            Kind::Layers(layers) => layers.last().map(|layer| layer.chain_id.as_str()),
        }
    }

    /// The directories that make it, the uppermost first.
    pub(crate) fn host_directories(&self, engine: &Engine) -> Result<Vec<PathBuf>> {
        match &self.kind {
            Kind::Path(path) => Ok(vec![path.clone()]),
            Kind::Layers(layers) => Ok(engine.images().lower_directories(layers)?),
        }
    }

    /// Its topmost directory, for who lists it.
    pub(crate) fn open_for_reading(&self) -> Result<OwnedFd> {
        openat(self.root.as_fd(), ".", OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
            .io("open", ".")
    }
}
