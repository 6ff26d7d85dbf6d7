//! The tasks of this repository: `cargo xtask test` installs what the tests need and runs every check.
//!
//! It knows cargo, the package managers and the tools, and no crate of ours but what tests stand on.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks to its terminal")]

mod bench;
mod check;
mod daemon;
mod demo;
mod fuzz;
mod schemas;
mod suite;
mod tools;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

const USAGE: &str = "\
Usage: cargo xtask <TASK>

Tasks:
  demo  Build for release, start a daemon in namespaces of its own, build an image, run it as a container and as
        a Deployment, and clean up. Needs root on Debian or Ubuntu.
  bench Build for release, and measure what docs/SPECIFICATION.md promises beside runc and dockerd, which are
        installed for it.
  bench builds
        The same for builds, beside dockerd's classic builder and BuildKit.
  bench engine
        The same for each step of a container's life, beside dockerd.
  bench images
        Load, push and pull of an image of 300 MB, beside dockerd, and beside gunzip, sha256sum and tar.
  bench runtime
        The same for the runtime's command line, beside runc and crun.
  test  Install what the tests need, then check the format, the lints and the dependencies, and run every
        test. Stops at the first step that fails. Needs root on Debian or Ubuntu.
        KUBECTL=PATH uses that kubectl (1.33 or later) instead of a downloaded one.
  fuzz [SECONDS [NAME]]
        Search for inputs that break the parsers of outside bytes: each target of fuzz/, or one, for so long
        (a minute). Needs root on Debian or Ubuntu.
  suite NAME
        Run a test suite that is too long or too large for every change, on a release build unless
        DRAY_XTASK_DEBUG is set:
        clients    skopeo, podman and docker against the registry, and the daemon against Debian's docker-registry
        compose    Compose's first version, as Debian has it, on a project of five services
        conformance  Kubernetes' conformance tests; CONFORMANCE=DIR has them built from Debian's source of Kubernetes,
                   FOCUS=REGEX runs some of them, DRAY=PATH names a binary that is built already
        distribution  the OCI distribution specification's conformance tests; DISTRIBUTION_SPEC=DIR and IMAGE_SPEC=DIR
                   use those checkouts, DRAY=PATH a binary that is built already
        docker-py  the integration tests of Docker's library for Python; DOCKER_PY=DIR uses that checkout,
                   DRAY=PATH a binary that is built already
        dockerode  the tests of the Docker client for Node; DOCKERODE=DIR uses that checkout,
                   DRAY=PATH a binary that is built already
        faults     the daemon killed at every failpoint and at random moments
        testcontainers  the core tests of Testcontainers for Python; TESTCONTAINERS=DIR uses that checkout,
                   DRAY=PATH a binary that is built already
        upgrade    containers that change from another build (DRAY_PREVIOUS, a binary or commit) to this and back
        oci        the OCI runtime specification's validation programs; RUNTIME_TOOLS=DIR uses that checkout,
                   RUNTIME=PATH checks another runtime, CGROUP=v2 shows it the unified hierarchy only; then
                   podman and containerd run containers with it
  schemas OPENAPI MESSAGES OUTPUT
        Generate the schemas of the Kubernetes kinds from the sources of k8s-openapi (one version's folder)
        and of k8s-pb.
";

/// Why a task stopped.
#[derive(Debug)]
enum Error {
    /// The program is not there, or cannot be run.
    Start { program: String, source: io::Error },
    /// The program ran and did not succeed.
    Failed { command: String, status: ExitStatus },
    /// A file or directory could not be made or read.
    File { path: PathBuf, source: io::Error },
    /// The schemas could not be generated.
    Schemas { source: schemas::Failure },
    /// A download or a build does not hold the file it is for.
    Missing { path: PathBuf },
    /// Nobody answers at an address.
    Connection { address: SocketAddr, source: io::Error },
    /// Something that was run does not do what it is for.
    Unexpected { what: String },
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { program, .. } => write!(formatter, "cannot run {program}"),
            Self::Failed { command, status } => write!(formatter, "`{command}` failed: {status}"),
            Self::File { path, .. } => write!(formatter, "cannot use {}", path.display()),
            Self::Schemas { .. } => write!(formatter, "cannot generate the schemas"),
            Self::Missing { path } => write!(formatter, "{} was not brought or built", path.display()),
            Self::Connection { address, .. } => write!(formatter, "cannot fetch from {address}"),
            Self::Unexpected { what } => write!(formatter, "{what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::File { source, .. } | Self::Connection { source, .. } => {
                Some(source)
            }
            Self::Schemas { source } => Some(source.as_ref()),
            Self::Failed { .. } | Self::Missing { .. } | Self::Unexpected { .. } => None,
        }
    }
}

/// Runs `command` with this terminal, and fails unless it succeeds.
fn run(command: &mut Command) -> Result<(), Error> {
    let line = describe(command);
    println!("xtask: {line}");
    let status = command.status().map_err(|source| Error::Start { program: program(command), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: line, status }) }
}

/// The name of the program that `command` runs.
fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// `command` as one would type it, without its environment.
fn describe(command: &Command) -> String {
    let mut line = program(command);
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The root of the repository: the directory above this package's. Cargo names it as it runs this program, which may have
/// been compiled for another checkout that shares the build directory.
fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["bench"] => bench::run(&repository(), ""),
        ["bench", part] => bench::run(&repository(), part),
        ["demo"] => demo::run(&repository()),
        ["fuzz", rest @ ..]
            if rest.len() <= 2 && rest.first().is_none_or(|text| text.parse::<u32>().is_ok()) =>
        {
            let seconds = rest.first().and_then(|text| text.parse().ok()).unwrap_or(fuzz::SECONDS);
            fuzz::everything(&repository(), seconds, rest.get(1).copied())
        }
        ["suite", name] => suite::run(&repository(), name),
        ["test"] => check::everything(&repository()),
        ["schemas", openapi, messages, output] => {
            schemas::generate(Path::new(openapi), Path::new(messages), Path::new(output))
                .map_err(|source| Error::Schemas { source })
        }
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("xtask: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                eprint!(": {source}");
                cause = source.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}
