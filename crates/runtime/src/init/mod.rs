//! The container's side of a launch: what the new process does between clone3 and execve.
//!
//! Everything here runs in the child of a shim, on a copy of the shim's memory and with one thread. It speaks to
//! the shim over a [`channel`] and ends in the program or in a message why not. Nothing it reads from the image
//! decides about the host: paths of the image are resolved inside its root, kernel files are reached through
//! mounts made here.

mod cgroups;
pub(crate) mod channel;
mod credentials;
pub(crate) mod devices;
mod filesystem;
mod mounts;
mod options;
mod program;
mod root;

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::umask;

use crate::error::Context as _;
use crate::launch::{Rootfs, Stdio};
use crate::rootfs::Root;
use crate::{Error, Result};
use channel::Channel;

/// Standard streams for the new process, made by the shim; None where a terminal takes their place.
pub(crate) struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) error: OwnedFd,
}

/// A namespace to join: its kind as a clone flag, and its file.
pub(crate) struct Joined {
    pub(crate) flag: libc::c_int,
    pub(crate) file: OwnedFd,
}

/// A container's first process.
pub(crate) struct Container<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) stdio: &'a Stdio,
    /// Its control group below the hierarchies' roots.
    pub(crate) cgroup: Option<&'a std::path::Path>,
    pub(crate) joined: Vec<Joined>,
    pub(crate) streams: Option<Streams>,
}

/// A further process of a running container.
pub(crate) struct Joiner<'a> {
    pub(crate) process: &'a Process,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) stdio: &'a Stdio,
    /// The container's first process.
    pub(crate) target: OwnedFd,
    /// Namespaces of the target that differ from the shim's, as clone flags, without the pid namespace.
    pub(crate) namespaces: libc::c_int,
    pub(crate) streams: Option<Streams>,
}

/// Runs in the child: prepares the container and its first process, and becomes the program. Never returns.
pub(crate) fn container(container: Container<'_>, channel: Channel) -> ! {
    finish(channel, |channel| {
        let process = container
            .spec
            .process()
            .as_ref()
            .ok_or(Error::Invalid { field: "process", reason: "it is missing".into() })?;
        begin()?;
        let user_namespace = has_namespace(container.spec, LinuxNamespaceType::User);
        // With a user namespace nothing works before the shim has written its maps.
        if user_namespace {
            channel.wait_until_placed()?;
            credentials::become_root_of_namespace()?;
        }
        for joined in &container.joined {
            crate::sys::setns(joined.file.as_fd(), joined.flag).to("join a namespace")?;
        }
        set_names(container.spec)?;
        if let Some(adjustment) = process.oom_score_adj() {
            program::adjust_oom_score(adjustment)?;
        }
        let terminal = root::assemble(&container, process, channel)?;
        let seccomp = container.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let stage = Stage { process, seccomp, stdio: container.stdio, create_directory: true };
        prepare_program(&stage, container.streams, terminal, channel)
    })
}

/// Runs in the child: joins a container and becomes the program. Never returns.
pub(crate) fn join(joiner: Joiner<'_>, channel: Channel) -> ! {
    finish(channel, |channel| {
        begin()?;
        if let Some(adjustment) = joiner.process.oom_score_adj() {
            program::adjust_oom_score(adjustment)?;
        }
        // The control group first: the cgroup namespace shows it, and what follows counts there.
        channel.wait_until_placed()?;
        crate::sys::setns(joiner.target.as_fd(), joiner.namespaces).to("join the container's namespaces")?;
        if joiner.namespaces & libc::CLONE_NEWUSER != 0 {
            credentials::become_root_of_namespace()?;
        }
        let terminal = match joiner.stdio.terminal {
            None => None,
            Some(size) => Some(devices::open_terminal(&Root::open("/".as_ref())?, size)?),
        };
        let stage = Stage {
            process: joiner.process,
            seccomp: joiner.seccomp,
            stdio: joiner.stdio,
            create_directory: false,
        };
        prepare_program(&stage, joiner.streams, terminal, channel)
    })
}

/// What comes last is the same for every process.
struct Stage<'a> {
    process: &'a Process,
    seccomp: Option<&'a LinuxSeccomp>,
    stdio: &'a Stdio,
    /// A first process gets its working directory made where it is missing.
    create_directory: bool,
}

fn finish(mut channel: Channel, work: impl FnOnce(&mut Channel) -> Result<program::Program>) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut channel)));
    let failure = match outcome {
        // Only comes back when execve fails.
        Ok(Ok(program)) => program.run(),
        Ok(Err(Error::Start(failure))) => failure,
        Ok(Err(error)) => channel::setup_failure(error.chain()),
        Err(_) => channel::setup_failure("the first process crashed while it prepared the container".into()),
    };
    let code = failure.kind.exit_code();
    channel.send_failure(&failure);
    crate::sys::exit_now(i32::from(code))
}

fn begin() -> Result<()> {
    crate::sys::reset_signals();
    umask(Mode::empty());
    rustix::process::setsid().to("start a session")?;
    Ok(())
}

pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespaces(spec).any(|namespace| namespace.typ() == kind)
}

/// Whether a namespace of this kind is made for the container (and not joined).
pub(crate) fn is_new_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespaces(spec).any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

pub(crate) fn namespaces(spec: &Spec) -> impl Iterator<Item = &oci_spec::runtime::LinuxNamespace> {
    spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten())
}

fn set_names(spec: &Spec) -> Result<()> {
    // A joined namespace has its names already; the host's are not ours to change.
    if !is_new_namespace(spec, LinuxNamespaceType::Uts) {
        return Ok(());
    }
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).to("set the host name")?;
    }
    if let Some(name) = spec.domainname() {
        crate::sys::set_domain_name(name.as_bytes()).to("set the domain name")?;
    }
    Ok(())
}

fn prepare_program(
    stage: &Stage<'_>,
    streams: Option<Streams>,
    terminal: Option<devices::Terminal>,
    channel: &mut Channel,
) -> Result<program::Program> {
    let process = stage.process;
    let root = Root::open("/".as_ref())?;
    let master = match (terminal, streams) {
        (Some(terminal), _) => {
            devices::use_terminal(&terminal.slave, process.user().uid())?;
            Some(terminal.master)
        }
        (None, Some(streams)) => {
            devices::use_streams(&streams, process.user().uid())?;
            None
        }
        (None, None) => None,
    };
    debug_assert_eq!(master.is_some(), stage.stdio.terminal.is_some());
    // A keyring of its own, or the container would share the daemon's. Kernels without keyrings have none to share.
    let _ = crate::sys::join_session_keyring(c"_dray");
    credentials::set_resource_limits(process)?;
    let filter = stage.seccomp.map(crate::seccomp::compile).transpose()?;
    let environment = program::environment(process, &root);
    program::enter_directory(&root, process.cwd(), stage.create_directory)?;
    umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    credentials::take(process, filter.is_some())?;
    let program = program::find(process, &environment)?;
    // Whatever is open beyond the standard streams must not reach the program (CVE-2024-21626).
    crate::sys::close_range(3, true).to("mark descriptors as private")?;
    credentials::seal(process, filter.as_ref())?;
    channel.send_ready(master.as_ref())?;
    drop(master);
    channel.wait_for_start()?;
    Ok(program)
}

/// Opens a device of the host and makes sure that it is the one meant.
pub(crate) fn open_null() -> Result<OwnedFd> {
    let failed = |source| Error::File { operation: "open", path: "/dev/null".into(), source };
    let null =
        rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&null).map_err(|errno| failed(errno.into()))?;
    if !devices::is_null(&stat) {
        return Err(failed(std::io::ErrorKind::InvalidData.into()));
    }
    Ok(null)
}
