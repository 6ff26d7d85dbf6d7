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
mod labels;
mod mounts;
mod options;
mod program;
pub(crate) mod reaper;
mod root;
mod scheduling;
mod sources;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use oci_spec::runtime::{ContainerState, Hook, LinuxNamespaceType, LinuxSeccomp, Process, Spec, State};
use rustix::fs::{Mode, OFlags};
use rustix::process::umask;

use crate::error::Context as _;
use crate::launch::{Rootfs, TerminalSize};
use crate::rootfs::Root;
use crate::{Error, Result};
use channel::Channel;
pub(crate) use sources::Sources;

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

/// What only the command line of the runtime asks for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options<'a> {
    /// Change the root by chroot(2), for roots in an initial ramdisk.
    pub(crate) no_pivot: bool,
    /// Leave the session keyring as it is.
    pub(crate) keep_keyring: bool,
    /// Descriptors from number 3 on that the program gets.
    pub(crate) preserved: u32,
    /// Where the order to start comes from when there is no shim.
    pub(crate) door: Option<&'a UnixListener>,
    /// What hooks inside the container are told; without it none run.
    pub(crate) state: Option<&'a State>,
}

/// A container's first process.
pub(crate) struct Container<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) terminal: Option<TerminalSize>,
    /// Its control group below the hierarchies' roots.
    pub(crate) cgroup: Option<&'a std::path::Path>,
    pub(crate) joined: Vec<Joined>,
    pub(crate) streams: Option<Streams>,
    /// Opened outside already, or still to be opened.
    pub(crate) sources: Option<Sources<'a>>,
    pub(crate) options: Options<'a>,
}

/// A further process of a running container.
pub(crate) struct Joiner<'a> {
    pub(crate) process: &'a Process,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) terminal: Option<TerminalSize>,
    /// The container's first process.
    pub(crate) target: OwnedFd,
    /// Namespaces of the target that differ from the shim's, as clone flags, without the pid namespace.
    pub(crate) namespaces: libc::c_int,
    pub(crate) streams: Option<Streams>,
    pub(crate) options: Options<'a>,
}

/// Runs in the child: prepares the container and its first process, and becomes the program. Never returns.
pub(crate) fn container(container: Container<'_>, channel: Channel) -> ! {
    finish(channel, |channel| {
        let mut container = container;
        let process = container
            .spec
            .process()
            .as_ref()
            .ok_or(Error::Invalid { field: "process", reason: "it is missing".into() })?;
        begin()?;
        // With a user namespace nothing works before its maps are written.
        if is_new_namespace(container.spec, LinuxNamespaceType::User) {
            channel.wait_until_placed()?;
            credentials::become_root_of_namespace()?;
        }
        join_all(&container.joined)?;
        set_names(container.spec)?;
        if let Some(adjustment) = process.oom_score_adj() {
            program::adjust_oom_score(adjustment)?;
        }
        let sources = match container.sources.take() {
            Some(sources) => sources,
            None => Sources::open_inside(container.spec)?,
        };
        let terminal = root::assemble(&container, sources, process, channel)?;
        let linux = container.spec.linux().as_ref();
        if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
            scheduling::set_personality(personality)?;
        }
        let stage = Stage {
            process,
            seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
            create_directory: true,
            options: &container.options,
            hooks: container.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref()),
        };
        let mut program = prepare_program(&stage, container.streams, terminal, channel)?;
        let annotations = container.spec.annotations().as_ref();
        let init = annotations.and_then(|all| all.get(crate::launch::INIT_ANNOTATION));
        program.is_reaped = init.is_some_and(|value| value == "true");
        Ok(program)
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
        let terminal = match joiner.terminal {
            None => None,
            Some(size) => Some(devices::open_terminal(&Root::open("/".as_ref())?, size)?),
        };
        let stage = Stage {
            process: joiner.process,
            seccomp: joiner.seccomp,
            create_directory: false,
            options: &joiner.options,
            hooks: None,
        };
        prepare_program(&stage, joiner.streams, terminal, channel)
    })
}

/// What comes last is the same for every process.
struct Stage<'a> {
    process: &'a Process,
    seccomp: Option<&'a LinuxSeccomp>,
    /// A first process gets its working directory made where it is missing.
    create_directory: bool,
    options: &'a Options<'a>,
    /// What runs inside the container between the order to start and the program.
    hooks: Option<&'a [Hook]>,
}

/// Joins namespaces in order; whoever joins a user namespace becomes its root.
pub(crate) fn join_all(all: &[Joined]) -> Result<()> {
    for joined in all {
        crate::sys::setns(joined.file.as_fd(), joined.flag).to("join a namespace")?;
        if joined.flag == libc::CLONE_NEWUSER {
            credentials::become_root_of_namespace()?;
        }
    }
    Ok(())
}

fn finish(mut channel: Channel, work: impl FnOnce(&mut Channel) -> Result<program::Program>) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut channel)));
    let failure = match outcome {
        // Only comes back when execve fails.
        Ok(Ok(program)) if program.is_reaped => reaper::run(&program),
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
    // A keyring of its own, or the container would share the daemon's. Kernels without keyrings have none to share.
    if !stage.options.keep_keyring {
        let _ = crate::sys::join_session_keyring(c"_dray");
    }
    scheduling::apply(process)?;
    labels::apply(process)?;
    credentials::set_resource_limits(process)?;
    let filter = stage.seccomp.map(crate::seccomp::compile).transpose()?;
    let environment = program::environment(process, &root);
    program::enter_directory(&root, process.cwd(), stage.create_directory)?;
    umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    credentials::take(process, filter.is_some())?;
    let program = program::find(process, &environment)?;
    // Whatever is open beyond the standard streams must not reach the program (CVE-2024-21626).
    crate::sys::close_range(3 + stage.options.preserved, true).to("mark descriptors as private")?;
    // The filter comes last, so that it need not allow what happens here; but somebody must hear what it leaves to
    // others before the program runs.
    let early = filter.as_ref().is_some_and(|filter| filter.notifies);
    let listener = if early { credentials::seal(process, filter.as_ref())? } else { None };
    channel.send_ready(master.as_ref(), listener.as_ref())?;
    drop((master, listener));
    channel.wait_for_start(stage.options.door)?;
    if let (Some(hooks), Some(state)) = (stage.hooks, stage.options.state) {
        run_hooks("startContainer", hooks, state, ContainerState::Created)?;
    }
    if !early {
        credentials::seal(process, filter.as_ref())?;
    }
    Ok(program)
}

/// Runs hooks inside the container, where this process has another number.
fn run_hooks(kind: &'static str, hooks: &[Hook], state: &State, status: ContainerState) -> Result<()> {
    let mut state = state.clone();
    state.set_status(status).set_pid(Some(std::process::id() as i32));
    crate::hooks::run(kind, Some(hooks), &state)
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
