//! The making of a process: the one sequence of system calls for containers with a shim and without.
//!
//! It runs in whoever stays outside (a shim, or the command line of the OCI runtime) and has one thread. What happens
//! inside is [`crate::init`]'s.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Spec};
use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::cgroup::Cgroup;
use crate::error::Context as _;
use crate::identities::{self, Identities};
use crate::init::channel::Channel;
use crate::init::{self, Container, Joined, Joiner, Options, Streams};
use crate::launch::{Rootfs, TerminalSize};
use crate::sys::{self, Fork};
use crate::{Error, Process, Result, namespaces};

/// The new process until everything is settled; dropped, it is killed and reaped.
pub(crate) struct Child {
    pub(crate) pid: i32,
}

impl Child {
    /// From now on the process lives on its own.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = sys::kill(self.pid, libc::SIGKILL);
        reap(self.pid);
    }
}

fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
}

/// A container to make.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) streams: Option<Streams>,
    pub(crate) options: Options<'a>,
}

/// Makes a container's first process, which prepares the container and then waits for its start. Its control group is
/// made too; on failure that stays for the caller to remove.
pub(crate) fn container(plan: Plan<'_>, channel: &Channel, child_channel: Channel) -> Result<Child> {
    let Plan { spec, rootfs, terminal, cgroup, streams, options } = plan;
    refuse_unsupported(spec)?;
    let (flags, joined) = wanted_namespaces(spec)?;
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let identities = Identities::of(spec);
    if let (Some(identities), Some(streams), Some(process)) = (&identities, &streams, spec.process()) {
        give_streams(streams, identities, process.user().uid(), process.user().gid());
    }
    // Version 2 can start a process inside its group; version 1 moves it while it prepares its root.
    let directory = match cgroup {
        Some(cgroup) if is_unified()? => {
            Cgroup::create(cgroup.path(), resources)?;
            cgroup.descriptor()?
        }
        _ => None,
    };
    let placed = directory.is_some();
    // What the host's paths name is opened out here: inside a user namespace they may be out of reach. Whoever is not
    // root can mount in there only.
    let mut sources = match rustix::process::geteuid().is_root() {
        true => Some(init::Sources::open(spec, rootfs, identities.as_ref())?),
        false => None,
    };
    make_time_namespace(spec)?;
    let joins_user_namespace = joined.first().is_some_and(|one| one.flag == libc::CLONE_NEWUSER);
    // The root of a new user namespace may not join what belongs to the host's: this process does, and comes back.
    let (joined, left) = if flags & libc::CLONE_NEWUSER as u64 != 0 && !joined.is_empty() {
        let left = own_namespaces(&joined)?;
        init::join_all(&joined)?;
        sources.iter_mut().try_for_each(init::Sources::show_joined_network)?;
        (Vec::new(), left)
    } else {
        (joined, Vec::new())
    };
    let inside = move |joined, child_channel| -> i32 {
        let cgroup = cgroup.map(Cgroup::path);
        let container = Container { spec, rootfs, terminal, cgroup, joined, streams, sources, options };
        init::container(container, child_channel)
    };
    let into = directory.as_ref().map(|directory| directory.as_fd());
    let pid = if joins_user_namespace {
        clone_in_joined(flags, joined, into, channel, child_channel, inside)?
    } else {
        match sys::clone3(flags, into).to("make a process")? {
            Fork::Child => {
                let_go(channel, &child_channel);
                inside(joined, child_channel)
            }
            Fork::Parent { pid } => {
                drop(child_channel);
                pid
            }
        }
    };
    let child = Child { pid };
    init::join_all(&left)?;
    if let Some(cgroup) = cgroup.filter(|_| !placed) {
        Cgroup::create(cgroup.path(), resources)?;
        cgroup.add(pid)?;
    }
    if flags & libc::CLONE_NEWUSER as u64 != 0 {
        let identities = identities.ok_or_else(identities::missing)?;
        identities.write(pid)?;
        if let Some(adjustment) = spec.process().as_ref().and_then(|process| process.oom_score_adj()) {
            // Inside the process may only raise it.
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), adjustment.to_string());
        }
    }
    channel.send_placed()?;
    Ok(child)
}

/// In the new process: the maker's end of the channel is the maker's alone.
fn let_go(channel: &Channel, child_channel: &Channel) {
    if let Err(error) = child_channel.let_go(channel) {
        child_channel.send_failure(&init::channel::setup_failure(error.chain()));
        sys::exit_now(1);
    }
}

/// A process of a joined user namespace: whatever else is new must belong to it, so a first process joins and makes
/// the lasting one beside itself.
fn clone_in_joined(
    flags: u64,
    joined: Vec<Joined>,
    into: Option<std::os::fd::BorrowedFd<'_>>,
    channel: &Channel,
    child_channel: Channel,
    inside: impl FnOnce(Vec<Joined>, Channel) -> i32,
) -> Result<i32> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).to("make a pipe")?;
    match sys::clone3(0, into).to("make a process")? {
        Fork::Child => {
            let_go(channel, &child_channel);
            drop(reader);
            let made = init::join_all(&joined)
                .and_then(|()| sys::clone3(flags | libc::CLONE_PARENT as u64, None).to("make a process"));
            match made {
                Ok(Fork::Child) => Ok(inside(Vec::new(), child_channel)),
                Ok(Fork::Parent { pid }) => {
                    let _ = rustix::io::write(&writer, &pid.to_ne_bytes());
                    sys::exit_now(0)
                }
                Err(error) => {
                    child_channel.send_failure(&init::channel::setup_failure(error.chain()));
                    sys::exit_now(1)
                }
            }
        }
        Fork::Parent { pid: between } => {
            drop((writer, child_channel));
            reap(between);
            let mut pid = [0u8; 4];
            match rustix::io::read(&reader, &mut pid) {
                Ok(4) => Ok(i32::from_ne_bytes(pid)),
                _ => Err(Error::Invalid {
                    field: "linux.namespaces",
                    reason: "the user namespace could not be joined".into(),
                }),
            }
        }
    }
}

/// This process' own namespaces of the same kinds.
fn own_namespaces(joined: &[Joined]) -> Result<Vec<Joined>> {
    joined
        .iter()
        .map(|one| {
            let name = match one.flag {
                libc::CLONE_NEWUTS => "uts",
                libc::CLONE_NEWIPC => "ipc",
                libc::CLONE_NEWNET => "net",
                libc::CLONE_NEWCGROUP => "cgroup",
                libc::CLONE_NEWTIME => "time",
                _ => {
                    return Err(Error::Invalid {
                        field: "linux.namespaces",
                        reason: "a mount namespace cannot be joined from a new user namespace".into(),
                    });
                }
            };
            let file = namespaces::open_namespace(format!("/proc/self/ns/{name}").as_ref())?;
            Ok(Joined { flag: one.flag, file })
        })
        .collect()
}

/// What no part of this runtime does is refused before anything is made.
fn refuse_unsupported(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let refused: [(&'static str, bool); 3] = [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
    ];
    match refused.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::Invalid { field, reason: "it is not supported".into() }),
        None => Ok(()),
    }
}

/// The user of the container owns its standard streams, so that `/dev/stdout` can be opened again.
fn give_streams(streams: &Streams, identities: &Identities, uid: u32, gid: u32) {
    let (Some(uid), Some(gid)) = (identities.host_uid(uid), identities.host_gid(gid)) else { return };
    for stream in [&streams.input, &streams.output, &streams.error] {
        let null = rustix::fs::fstat(stream).is_ok_and(|stat| init::devices::is_null(&stat));
        if !null {
            // Streams of the caller may be on anything; then they stay as they are.
            let _ = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
    }
}

/// A process to make in a running container.
pub(crate) struct ExecPlan<'a> {
    pub(crate) target: &'a Process,
    pub(crate) process: &'a oci_spec::runtime::Process,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) streams: Option<Streams>,
    pub(crate) options: Options<'a>,
}

/// Makes a process that joins a container and then waits for its start.
pub(crate) fn exec(plan: ExecPlan<'_>, channel: &Channel, child_channel: Channel) -> Result<Child> {
    let ExecPlan { target, process, seccomp, terminal, cgroup, streams, options } = plan;
    let target_pidfd = target.pidfd()?;
    let namespaces = namespaces_to_join(target)?;
    let directory = match cgroup {
        Some(cgroup) if is_unified()? => cgroup.descriptor()?,
        _ => None,
    };
    let placed = directory.is_some();
    // The pid namespace holds for children only: it is the one that this process itself joins.
    sys::setns(target_pidfd.as_fd(), libc::CLONE_NEWPID).to("join the container's pid namespace")?;
    match sys::clone3(0, directory.as_ref().map(|directory| directory.as_fd())).to("make a process")? {
        Fork::Child => {
            let_go(channel, &child_channel);
            init::join(
                Joiner { process, seccomp, terminal, target: target_pidfd, namespaces, streams, options },
                child_channel,
            )
        }
        Fork::Parent { pid } => {
            drop(child_channel);
            let child = Child { pid };
            if let Some(cgroup) = cgroup.filter(|_| !placed) {
                cgroup.add(pid)?;
            }
            channel.send_placed()?;
            Ok(child)
        }
    }
}

fn is_unified() -> Result<bool> {
    Ok(crate::cgroup::Hierarchy::detect()?.version() == crate::cgroup::Version::V2)
}

/// Namespaces of a process that are not our own, as clone flags. Joining one's own is refused by the kernel for some
/// kinds.
fn namespaces_to_join(target: &Process) -> Result<libc::c_int> {
    let mut flags = 0;
    for (name, flag) in [
        ("mnt", libc::CLONE_NEWNS),
        ("uts", libc::CLONE_NEWUTS),
        ("ipc", libc::CLONE_NEWIPC),
        ("net", libc::CLONE_NEWNET),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("user", libc::CLONE_NEWUSER),
        ("time", libc::CLONE_NEWTIME),
    ] {
        let read = |path: String| match std::fs::read_link(&path) {
            Ok(link) => Ok(Some(link)),
            Err(source) => match source.raw_os_error() {
                // Kernels without time namespaces have no such file.
                Some(libc::ENOENT) if name == "time" => Ok(None),
                Some(libc::ENOENT | libc::ESRCH) => Err(Error::NoSuchProcess { pid: target.pid }),
                _ => Err(Error::File { operation: "read", path: path.into(), source }),
            },
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
    let mut seen = 0;
    for namespace in init::namespaces(spec) {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
        };
        if seen & flag != 0 {
            return Err(Error::Invalid {
                field: "linux.namespaces",
                reason: format!("{} is given twice", namespace.typ()),
            });
        }
        seen |= flag;
        match (namespace.path(), namespace.typ()) {
            // Made by the process itself once it is in its group, or before there is a process.
            (None, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time) => {}
            (None, _) => flags |= flag as u64,
            (Some(path), _) => {
                let file = namespaces::open_namespace(path)?;
                if flag == libc::CLONE_NEWNS {
                    refuse_own_mounts(&file)?;
                }
                joined.push(Joined { flag, file });
            }
        }
    }
    joined.sort_by_key(|one| (one.flag != libc::CLONE_NEWUSER, one.flag == libc::CLONE_NEWNS));
    if joined.first().is_none_or(|one| one.flag != libc::CLONE_NEWUSER)
        && let Some(at) = joined.iter().position(|one| one.flag == libc::CLONE_NEWPID)
    {
        let one = joined.remove(at);
        sys::setns(one.file.as_fd(), one.flag).to("join a pid namespace")?;
    }
    Ok((flags, joined))
}

/// The host's mounts are never a container's: its root would become everybody's.
fn refuse_own_mounts(file: &OwnedFd) -> Result<()> {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let asked = identity(rustix::fs::fstat(file).to("look at a mount namespace")?);
    for own in ["/proc/self/ns/mnt", "/proc/1/ns/mnt"] {
        if rustix::fs::stat(own).is_ok_and(|stat| identity(stat) == asked) {
            return Err(Error::Invalid {
                field: "linux.namespaces",
                reason: "the host's mount namespace cannot be joined".into(),
            });
        }
    }
    Ok(())
}

/// A time namespace holds for children only, and its clocks can be set as long as nobody is in it.
fn make_time_namespace(spec: &Spec) -> Result<()> {
    if !init::is_new_namespace(spec, LinuxNamespaceType::Time) {
        return Ok(());
    }
    let flag = nix::sched::CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    nix::sched::unshare(flag).to("make a time namespace")?;
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut text = String::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::Invalid {
                field: "linux.timeOffsets",
                reason: format!("{clock:?} has no offset"),
            });
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    if text.is_empty() {
        return Ok(());
    }
    let path = Path::new("/proc/self/timens_offsets");
    std::fs::write(path, text).map_err(|source| Error::File { operation: "write", path: path.into(), source })
}
