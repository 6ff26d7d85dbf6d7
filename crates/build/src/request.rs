//! What is to be built, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use dray_engine::{NetworkMode, Resources, Ulimit};
use parking_lot::Mutex;

use crate::client::LocalDirectory;
use crate::platform::Platform;

/// Where files of a build come from.
#[derive(Default)]
pub enum ContextSource {
    /// Nowhere: only the Dockerfile counts.
    #[default]
    Empty,
    /// An archive, plain or compressed with gzip or zstd.
    Archive(Mutex<Box<dyn Read + Send>>),
    /// A directory of this machine that does not change while the build runs. `.dockerignore` in it is applied.
    Directory(LocalDirectory),
    /// A directory of the client's, asked for by this name; only what is needed is brought.
    Local(String),
    /// An address: `https://…/x.git#ref:directory`, `git@host:path`, an archive or a single Dockerfile by HTTP.
    Remote(String),
}

impl ContextSource {
    /// The files of an archive.
    pub fn archive(reader: impl Read + Send + 'static) -> Self {
        Self::Archive(Mutex::new(Box::new(reader)))
    }
}

impl fmt::Debug for ContextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Archive(_) => f.write_str("Archive"),
            Self::Directory(directory) => f.debug_tuple("Directory").field(directory).finish(),
            Self::Local(name) => f.debug_tuple("Local").field(name).finish(),
            Self::Remote(address) => f.debug_tuple("Remote").field(address).finish(),
        }
    }
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A path in the main context; empty means `Dockerfile`.
    Context(String),
    /// Its bytes: from a standard input.
    Bytes(Vec<u8>),
    /// A file of a directory of the client's, asked for by `name`; what stands beside it as `FILE.dockerignore` counts.
    Local {
        /// The directory, as the client calls it.
        name: String,
        /// The path in it; empty means `Dockerfile`.
        path: String,
    },
}

impl Default for DockerfileSource {
    fn default() -> Self {
        Self::Context(String::new())
    }
}

/// What a name means in `FROM`, `COPY --from` and mounts besides stages and images.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// A directory of this machine.
    Directory(LocalDirectory),
    /// A directory of the client's, by the name it is asked for.
    Local(String),
    /// An image.
    Image(String),
    /// An OCI layout in a directory, and the tag or digest in it; none takes its only image.
    OciLayout {
        /// The directory.
        directory: LocalDirectory,
        /// `TAG` or `sha256:…`.
        reference: Option<String>,
    },
    /// A git repository or an archive, as [`ContextSource::Remote`].
    Remote(String),
    /// What another target of the same kind of request has become.
    Built(std::sync::Arc<crate::Built>),
}

/// Where results of earlier builds may be taken from besides this machine's own cache.
#[derive(Clone, Debug)]
pub enum CacheImport {
    /// An image, here or in a registry, that was built with its cache inline.
    Image(String),
    /// A directory that [`crate::Built::export_cache`] wrote.
    Directory(LocalDirectory),
}

/// Where the cache of this build is to be written besides this machine's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// The steps of the result only.
    #[default]
    Min,
    /// Every step.
    Max,
}

/// Which steps may not be taken from the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// All may.
    #[default]
    Never,
    /// None may.
    All,
    /// None of these stages, by name.
    Stages(BTreeSet<String>),
}

/// How much a provenance statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// What was built of what.
    Minimal,
    /// The same, with the Dockerfile, all arguments and all steps.
    Maximal,
}

/// Statements about the result that are wanted with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How it was built (SLSA).
    pub provenance: Option<Provenance>,
    /// What is in it (SPDX).
    pub sbom: bool,
}

/// What RUN may be given beyond the usual, when its instruction asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `RUN --security=insecure`.
    pub insecure: bool,
    /// `RUN --network=host`.
    pub host_network: bool,
}

/// What is to be built, and how.
#[derive(Debug, Default)]
pub struct BuildRequest {
    /// The main context.
    pub context: ContextSource,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// What names mean besides stages and images, lower case.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// For what; none means this machine.
    pub platforms: Vec<Platform>,
    /// Arguments; those without a value are as if they were not given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// Labels of the result.
    pub labels: BTreeMap<String, String>,
    /// The stage to stop at; empty means the last.
    pub target: String,
    /// What of earlier builds is left aside.
    pub no_cache: NoCache,
    /// Images whose steps alone may be taken from what earlier builds made (the classic builder's rule); none means
    /// all.
    pub only_cache_of: Vec<String>,
    /// More places to take results from.
    pub cache_from: Vec<CacheImport>,
    /// Whether the result carries what [`CacheImport::Image`] needs.
    pub inline_cache: bool,
    /// Whether images are to be pulled anew.
    pub pull: bool,
    /// The network of RUN.
    pub network: NetworkMode,
    /// Limits of RUN.
    pub resources: Resources,
    /// Limits of RUN's processes.
    pub ulimits: Vec<Ulimit>,
    /// `name:address` lines for RUN's `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Size of RUN's `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The control group above RUN's.
    pub cgroup_parent: Option<String>,
    /// The host name that RUN sees; none means `buildkitsandbox`.
    pub hostname: Option<String>,
    /// The longest that one RUN may take.
    pub time_limit: Option<std::time::Duration>,
    /// What is granted.
    pub entitlements: Entitlements,
    /// The time that the result carries, in seconds since 1970; newer files are given it. The build argument
    /// `SOURCE_DATE_EPOCH` says the same.
    pub source_date_epoch: Option<i64>,
    /// Statements that are wanted.
    pub attestations: Attestations,
    /// Which checks say nothing: `# check=skip=` besides; `all` for all.
    pub skip_checks: BTreeSet<String>,
    /// Whether a check that says something fails the build: `# check=error=true`.
    pub checks_are_errors: bool,
    /// Whether the classic builder's rules hold: no options that only BuildKit has.
    pub classic: bool,
}

impl BuildRequest {
    /// A request that builds what is in a directory of this machine.
    #[must_use]
    pub fn of_directory(path: impl Into<PathBuf>) -> Self {
        Self { context: ContextSource::Directory(LocalDirectory::new(path, ())), ..Self::default() }
    }
}
