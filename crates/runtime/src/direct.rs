//! Containers without a shim: what the command line of the OCI runtime does, step by step.
//!
//! The first process of a container waits for its start at its door, a socket in the container's state directory,
//! and needs nobody meanwhile. It knows no state directories and no command line.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use oci_spec::runtime::{ContainerProcessState, ContainerState, LinuxSeccomp, SECCOMP_FD_NAME, Spec, State};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::cgroup::Cgroup;
use crate::error::Context as _;
use crate::init::channel::{Channel, FromChild};
use crate::init::{Options, Streams};
use crate::launch::{Rootfs, TerminalSize};
use crate::protocol::{Failure, FailureKind};
use crate::spawn::{self, Child, ExecPlan, Plan};
use crate::{Error, Process, Result, hooks};

/// A container to make.
#[derive(Debug)]
pub struct Creation<'a> {
    /// Its specification; `root.path` is not read, and relative sources of mounts are refused.
    pub spec: &'a Spec,
    /// Its root directory; absolute.
    pub root: &'a Path,
    /// Its control group below the hierarchies' roots.
    pub cgroup: Option<&'a Path>,
    /// The size of its terminal; None gives it our own standard streams.
    pub terminal: Option<TerminalSize>,
    /// Where it waits for [`start`]: a socket to be made in a directory of mode 0700.
    pub door: &'a Path,
    /// What hooks are told, without pid and status.
    pub state: State,
    /// Change the root by chroot(2).
    pub no_pivot: bool,
    /// Leave the session keyring as it is.
    pub keep_keyring: bool,
    /// Descriptors from number 3 on that the program gets.
    pub preserved: u32,
}

/// A process that was made.
#[derive(Debug)]
pub struct Made {
    /// The process.
    pub process: Process,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Makes a container up to the point where [`start`] lets its program run. `settle` gets the process when everything is
/// prepared; should it fail, or we end before it has returned, the process goes too. The control group stays then.
pub fn create(creation: &Creation<'_>, settle: impl FnOnce(&Made) -> Result<()>) -> Result<Made> {
    let Creation { spec, root, terminal, .. } = creation;
    let cgroup = creation.cgroup.map(Cgroup::new).transpose()?;
    let rootfs = Rootfs::Path((*root).into());
    let door = open_door(creation.door)?;
    let (channel, child_channel) = Channel::pair()?;
    let options = Options {
        no_pivot: creation.no_pivot,
        keep_keyring: creation.keep_keyring,
        preserved: creation.preserved,
        door: Some(&door),
        state: Some(&creation.state),
    };
    let streams = if terminal.is_some() { None } else { Some(own_streams()?) };
    let (terminal, cgroup) = (*terminal, cgroup.as_ref());
    let plan = Plan { spec, rootfs: &rootfs, terminal, cgroup, streams, options };
    let child = spawn::container(plan, &channel, child_channel)?;
    let mut state = creation.state.clone();
    state.set_pid(Some(child.pid)).set_status(ContainerState::Creating);
    let (terminal, listener) = loop {
        match channel.receive()? {
            FromChild::Ready { terminal, listener } => break (terminal, listener),
            FromChild::AtHooks => {
                if let Some(all) = spec.hooks() {
                    #[allow(deprecated, reason = "engines still use them")]
                    // By the first versions of the specification prestart belongs to the start.
                    let mut created = state.clone();
                    created.set_status(ContainerState::Created);
                    hooks::run("prestart", all.prestart().as_deref(), &created)?;
                    hooks::run("createRuntime", all.create_runtime().as_deref(), &state)?;
                }
                channel.send_hooks_done()?;
            }
            other => return Err(unready(other)),
        }
    };
    if let Some(listener) = listener {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        state.set_status(ContainerState::Created);
        hand_listener_over(profile, &listener, &state, child.pid)?;
    }
    let made = Made { process: Process::of_pid(child.pid)?, terminal };
    settle(&made)?;
    channel.send_keep()?;
    child.keep();
    Ok(made)
}

fn unready(word: FromChild) -> Error {
    Error::Start(match word {
        FromChild::Failed(failure) => failure,
        _ => Failure {
            kind: FailureKind::Setup,
            message: "the first process was killed while it prepared the container".into(),
        },
    })
}

/// Lets the program of a created container run, and returns when it does or could not be run.
pub fn start(door: &Path) -> Result<()> {
    let visitor =
        knock(door).map_err(|source| Error::File { operation: "connect to", path: door.into(), source })?;
    let channel = Channel::of_visitor(visitor);
    channel.send_start()?;
    match channel.receive()? {
        FromChild::Closed => Ok(()),
        other => Err(unready(other)),
    }
}

/// Whether a process waits at the door: the container is created and was never started.
pub fn is_waiting(door: &Path) -> bool {
    match knock(door) {
        Ok(_) => true,
        // So many look at once that its queue is full.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn short(path: &Path) -> io::Result<(Option<OwnedFd>, std::path::PathBuf)> {
    if path.as_os_str().len() < 100 {
        return Ok((None, path.into()));
    }
    let parent = crate::rootfs::open_host_path(path.parent().unwrap_or(Path::new("/")), true)?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    Ok((Some(parent), short))
}

fn knock(door: &Path) -> io::Result<UnixStream> {
    let (_directory, path) = short(door)?;
    UnixStream::connect(path)
}

fn open_door(door: &Path) -> Result<UnixListener> {
    let failed = |source| Error::File { operation: "listen on", path: door.into(), source };
    let (_directory, path) = short(door).map_err(failed)?;
    UnixListener::bind(path).map_err(failed)
}

fn own_streams() -> Result<Streams> {
    let copy = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().to("copy a standard stream");
    Ok(Streams {
        input: copy(io::stdin().as_fd())?,
        output: copy(io::stdout().as_fd())?,
        error: copy(io::stderr().as_fd())?,
    })
}

/// Sends the descriptor that hears of system calls to whoever the profile names (runtime specification,
/// `linux.seccomp.listenerPath`).
fn hand_listener_over(
    profile: Option<&LinuxSeccomp>,
    listener: &OwnedFd,
    state: &State,
    pid: i32,
) -> Result<()> {
    let Some(path) = profile.and_then(|profile| profile.listener_path().as_ref()) else { return Ok(()) };
    let mut message = ContainerProcessState::default();
    message
        .set_version(state.version().clone())
        .set_fds(vec![SECCOMP_FD_NAME.into()])
        .set_pid(pid)
        .set_metadata(profile.and_then(|profile| profile.listener_metadata().clone()))
        .set_state(state.clone());
    let failed =
        |source: io::Error| Error::File { operation: "send the listener to", path: path.into(), source };
    let json = serde_json::to_vec(&message).map_err(|error| failed(error.into()))?;
    let socket = UnixStream::connect(path).map_err(failed)?;
    send_descriptor(&socket, listener, &json).map_err(failed)
}

/// Sends one descriptor with some bytes over a stream socket, as consoles and listeners are handed over.
pub fn send_descriptor(socket: &UnixStream, descriptor: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    // The rest follows without the descriptor.
    io::Write::write_all(&mut &*socket, &bytes[sent..])
}

/// One more process for a running container.
#[derive(Debug)]
pub struct Joining<'a> {
    /// The container's first process.
    pub target: &'a Process,
    /// What to run.
    pub process: &'a oci_spec::runtime::Process,
    /// Its system call filter. One with a listener is refused.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The size of its terminal; None gives it our own standard streams.
    pub terminal: Option<TerminalSize>,
    /// The container's control group.
    pub cgroup: Option<&'a Path>,
    /// Leave the session keyring as it is.
    pub keep_keyring: bool,
    /// Descriptors from number 3 on that the program gets.
    pub preserved: u32,
}

/// Makes a process in a running container; `settle` gets it before its program runs, as in [`create`].
pub fn exec(joining: &Joining<'_>, settle: impl FnOnce(&Made) -> Result<()>) -> Result<Made> {
    let (channel, child_channel) = Channel::pair()?;
    let cgroup = joining.cgroup.map(Cgroup::new).transpose()?.filter(Cgroup::exists);
    let streams = if joining.terminal.is_some() { None } else { Some(own_streams()?) };
    let plan = ExecPlan {
        target: joining.target,
        process: joining.process,
        seccomp: joining.seccomp,
        terminal: joining.terminal,
        cgroup: cgroup.as_ref(),
        streams,
        options: Options {
            keep_keyring: joining.keep_keyring,
            preserved: joining.preserved,
            ..Options::default()
        },
    };
    let child: Child = spawn::exec(plan, &channel, child_channel)?;
    let terminal = match channel.receive()? {
        FromChild::Ready { terminal, listener: None } => terminal,
        FromChild::Ready { .. } => {
            return Err(Error::Invalid {
                field: "linux.seccomp.listenerPath",
                reason: "it is not supported for further processes".into(),
            });
        }
        other => return Err(unready(other)),
    };
    let made = Made { process: Process::of_pid(child.pid)?, terminal };
    settle(&made)?;
    channel.send_start()?;
    match channel.receive()? {
        FromChild::Closed => {}
        other => return Err(unready(other)),
    }
    child.keep();
    Ok(made)
}
