//! From a launch specification to a process that waits for its start.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};

use super::log::Log;
use super::stdio::{Input, Output, ProcessStdio};
use super::supervisor::Supervisor;
use crate::cgroup::Cgroup;
use crate::error::Context as _;
use crate::init::channel::{Channel, FromChild};
use crate::init::{self, Container, Joined, Joiner, Streams};
use crate::launch::{Kind, LaunchSpec, Stdio};
use crate::protocol::{Failure, FailureKind};
use crate::sys::{self, Fork};
use crate::{Error, Process, Result, namespaces};

/// The failure that a client hears for an error.
pub(super) fn failure(error: &Error) -> Failure {
    match error {
        Error::Start(failure) => failure.clone(),
        error => Failure { kind: FailureKind::Setup, message: error.chain() },
    }
}

/// The shim's ends of the standard streams.
struct Ends {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

/// Makes the process and everything around it. On failure nothing is left.
pub(super) fn launch(launch: LaunchSpec) -> Result<Supervisor> {
    let cgroup = launch.cgroup.as_deref().map(Cgroup::new).transpose()?;
    let owns_cgroup = matches!(launch.kind, Kind::Init { .. });
    let made = make(&launch, cgroup.as_ref());
    if made.is_err()
        && owns_cgroup
        && let Some(cgroup) = &cgroup
    {
        let _ = cgroup.kill_all();
        let _ = cgroup.delete();
    }
    made
}

fn make(launch: &LaunchSpec, cgroup: Option<&Cgroup>) -> Result<Supervisor> {
    let log = launch.stdio.log.clone().map(Log::open).transpose()?;
    let listener = listen(&launch.socket)?;
    let undo = Undo { paths: vec![&launch.socket, &launch.pid_file] };
    let signals = sys::signal_descriptor(&[libc::SIGCHLD]).to("watch for ended children")?;
    let (streams, ends) = streams(&launch.stdio)?;
    let (channel, child_channel) = Channel::pair()?;
    let pid = match &launch.kind {
        Kind::Init { spec, .. } => init(launch, spec, streams, &channel, child_channel, cgroup)?,
        Kind::Exec { .. } => exec(launch, streams, &channel, child_channel, cgroup)?,
    };
    let child = Child { pid };
    let master = match channel.receive()? {
        FromChild::Ready(master) => master,
        FromChild::Failed(failure) => return Err(Error::Start(failure)),
        FromChild::Closed => {
            return Err(Error::Start(Failure {
                kind: FailureKind::Setup,
                message: "the first process was killed while it prepared the container".into(),
            }));
        }
    };
    // The kernel prefers to end what it can: losing a shim means losing a container's exit code.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let process = Process::of_pid(pid)?;
    write_json(&launch.pid_file, &process)?;
    let stdio = match master {
        Some(master) => ProcessStdio::terminal(master, launch.stdio.stdin)?,
        None => ProcessStdio::pipes(
            ends.input.map(Input::new).transpose()?,
            ends.output.map(Output::new).transpose()?,
            ends.error.map(Output::new).transpose()?,
        ),
    };
    child.keep();
    undo.keep();
    Ok(Supervisor::new(super::supervisor::Parts {
        process,
        channel,
        listener,
        signals,
        stdio,
        stdin_once: launch.stdio.stdin_once,
        log,
        cgroup: cgroup.cloned(),
        own_pid_namespace: match &launch.kind {
            Kind::Init { spec, .. } => Some(init::is_new_namespace(spec, LinuxNamespaceType::Pid)),
            Kind::Exec { .. } => None,
        },
        socket: launch.socket.clone(),
        exit_file: launch.exit_file.clone(),
    }))
}

/// Files that a failed launch takes away again.
struct Undo<'a> {
    paths: Vec<&'a Path>,
}

impl Undo<'_> {
    fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The new process until everything is settled; dropped, it is killed and reaped.
struct Child {
    pid: i32,
}

impl Child {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = sys::kill(self.pid, libc::SIGKILL);
        let pid = rustix::process::Pid::from_raw(self.pid);
        let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
    }
}

fn init(
    launch: &LaunchSpec,
    spec: &Spec,
    streams: Option<Streams>,
    channel: &Channel,
    child_channel: Channel,
    cgroup: Option<&Cgroup>,
) -> Result<i32> {
    let Kind::Init { rootfs, .. } = &launch.kind else { unreachable!("the caller has matched the kind") };
    if spec.hooks().is_some() {
        return Err(Error::Invalid { field: "hooks", reason: "they are not supported".into() });
    }
    let (flags, joined) = wanted_namespaces(spec)?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    // Version 2 can start a process inside its group; version 1 moves it while it prepares its root.
    let directory = match cgroup {
        Some(cgroup) if is_unified()? => {
            Cgroup::create(cgroup.path(), resources)?;
            cgroup.descriptor()?
        }
        _ => None,
    };
    let placed = directory.is_some();
    match sys::clone3(flags, directory.as_ref().map(|directory| directory.as_fd())).to("make a process")? {
        Fork::Child => init::container(
            Container {
                spec,
                rootfs,
                stdio: &launch.stdio,
                cgroup: cgroup.map(Cgroup::path),
                joined,
                streams,
            },
            child_channel,
        ),
        Fork::Parent { pid } => {
            drop(child_channel);
            let child = Child { pid };
            if let Some(cgroup) = cgroup.filter(|_| !placed) {
                Cgroup::create(cgroup.path(), resources)?;
                cgroup.add(pid)?;
            }
            if flags & libc::CLONE_NEWUSER as u64 != 0 {
                let linux = spec.linux().as_ref();
                write_mappings(pid, "uid_map", linux.and_then(|linux| linux.uid_mappings().as_deref()))?;
                write_mappings(pid, "gid_map", linux.and_then(|linux| linux.gid_mappings().as_deref()))?;
            }
            channel.send_placed()?;
            child.keep();
            Ok(pid)
        }
    }
}

fn is_unified() -> Result<bool> {
    Ok(crate::cgroup::Hierarchy::detect()?.version() == crate::cgroup::Version::V2)
}

fn exec(
    launch: &LaunchSpec,
    streams: Option<Streams>,
    channel: &Channel,
    child_channel: Channel,
    cgroup: Option<&Cgroup>,
) -> Result<i32> {
    let Kind::Exec { target, process, seccomp } = &launch.kind else {
        unreachable!("the caller has matched the kind")
    };
    let target_pidfd = target.pidfd()?;
    let namespaces = namespaces_to_join(target)?;
    let directory = match cgroup {
        Some(cgroup) if is_unified()? => cgroup.descriptor()?,
        _ => None,
    };
    let placed = directory.is_some();
    // The pid namespace holds for children only: it is the one that the shim itself joins.
    sys::setns(target_pidfd.as_fd(), libc::CLONE_NEWPID).to("join the container's pid namespace")?;
    match sys::clone3(0, directory.as_ref().map(|directory| directory.as_fd())).to("make a process")? {
        Fork::Child => init::join(
            Joiner {
                process,
                seccomp: seccomp.as_ref(),
                stdio: &launch.stdio,
                target: target_pidfd,
                namespaces,
                streams,
            },
            child_channel,
        ),
        Fork::Parent { pid } => {
            drop(child_channel);
            let child = Child { pid };
            if let Some(cgroup) = cgroup.filter(|_| !placed) {
                cgroup.add(pid)?;
            }
            channel.send_placed()?;
            child.keep();
            Ok(pid)
        }
    }
}

/// Namespaces of a process that are not the shim's own, as clone flags. Joining one's own is refused by the kernel
/// for some kinds.
fn namespaces_to_join(target: &Process) -> Result<libc::c_int> {
    let mut flags = 0;
    for (name, flag) in [
        ("mnt", libc::CLONE_NEWNS),
        ("uts", libc::CLONE_NEWUTS),
        ("ipc", libc::CLONE_NEWIPC),
        ("net", libc::CLONE_NEWNET),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("user", libc::CLONE_NEWUSER),
    ] {
        let read = |path: String| {
            std::fs::read_link(&path).map_err(|source| match source.raw_os_error() {
                Some(libc::ENOENT | libc::ESRCH) => Error::NoSuchProcess { pid: target.pid },
                _ => Error::File { operation: "read", path: path.into(), source },
            })
        };
        if read(format!("/proc/{}/ns/{name}", target.pid))? != read(format!("/proc/self/ns/{name}"))? {
            flags |= flag;
        }
    }
    if flags & libc::CLONE_NEWNS == 0 {
        return Err(Error::Invalid {
            field: "target",
            reason: format!("process {} is not in a container", target.pid),
        });
    }
    Ok(flags)
}

/// Clone flags of new namespaces, and the files of those to join with the user namespace first.
fn wanted_namespaces(spec: &Spec) -> Result<(u64, Vec<Joined>)> {
    let mut flags = 0u64;
    let mut joined = Vec::new();
    for namespace in init::namespaces(spec) {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Time => {
                return Err(Error::Invalid {
                    field: "linux.namespaces",
                    reason: "a time namespace is not supported".into(),
                });
            }
        };
        match (namespace.path(), namespace.typ()) {
            // Made by the process itself once it is in its group.
            (None, LinuxNamespaceType::Cgroup) => {}
            (None, _) => flags |= flag as u64,
            (Some(path), LinuxNamespaceType::Pid) => {
                let file = namespaces::open_namespace(path)?;
                sys::setns(file.as_fd(), flag).to("join a pid namespace")?;
            }
            (Some(_), LinuxNamespaceType::Mount) => {
                return Err(Error::Invalid {
                    field: "linux.namespaces",
                    reason: "a mount namespace cannot be joined".into(),
                });
            }
            (Some(path), _) => joined.push(Joined { flag, file: namespaces::open_namespace(path)? }),
        }
    }
    joined.sort_by_key(|one| one.flag != libc::CLONE_NEWUSER);
    Ok((flags, joined))
}

fn write_mappings(pid: i32, file: &str, mappings: Option<&[LinuxIdMapping]>) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let text: String = mappings
        .unwrap_or_default()
        .iter()
        .map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size()))
        .collect();
    if text.is_empty() {
        return Err(Error::Invalid {
            field: "linux.uidMappings",
            reason: "a user namespace needs mappings of users and groups".into(),
        });
    }
    std::fs::write(&path, text).map_err(|source| Error::File {
        operation: "write",
        path: path.into(),
        source,
    })
}

/// Pipes for a process without a terminal: its ends and the shim's.
fn streams(stdio: &Stdio) -> Result<(Option<Streams>, Ends)> {
    if stdio.terminal.is_some() {
        return Ok((None, Ends { input: None, output: None, error: None }));
    }
    let make = || pipe_with(PipeFlags::CLOEXEC).to("make a pipe");
    let (input, own_input) = if stdio.stdin {
        let (reader, writer) = make()?;
        (reader, Some(writer))
    } else {
        let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).to("open /dev/null")?;
        (null, None)
    };
    let (own_output, output) = make()?;
    let (own_error, error) = make()?;
    let ends = Ends { input: own_input, output: Some(own_output), error: Some(own_error) };
    Ok((Some(Streams { input, output, error }), ends))
}

/// Binds the control socket, by its directory's descriptor where the path is too long for an address.
fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |source| Error::File { operation: "listen on", path: path.into(), source };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    let listener = if path.as_os_str().len() < 100 {
        UnixListener::bind(path)
    } else {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let name = path.file_name().unwrap_or_default();
        UnixListener::bind(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
    };
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Writes a small JSON file so that a reader sees all of it or nothing.
pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let failed = |source| Error::File { operation: "write", path: path.into(), source };
    let mut file = File::create(temporary).map_err(failed)?;
    serde_json::to_writer(&mut file, value).map_err(|error| failed(error.into()))?;
    drop(file);
    std::fs::rename(temporary, path).map_err(failed)
}
