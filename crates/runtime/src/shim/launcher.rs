//! From a launch specification to a process that waits for its start.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};

use super::log::Log;
use super::stdio::{Input, Output, ProcessStdio};
use super::supervisor::Supervisor;
use crate::cgroup::Cgroup;
use crate::error::Context as _;
use crate::init::channel::{Channel, FromChild};
use crate::init::{self, Options, Streams};
use crate::launch::{Kind, LaunchSpec, Stdio};
use crate::protocol::{Failure, FailureKind};
use crate::spawn::{self, ExecPlan, Plan};
use crate::{Error, Process, Result, sys};

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
    let terminal = launch.stdio.terminal;
    let options = Options::default();
    let child = match &launch.kind {
        Kind::Init { spec, rootfs } => {
            if spec.hooks().is_some() {
                return Err(Error::Invalid { field: "hooks", reason: "they are not supported".into() });
            }
            let plan = Plan { spec, rootfs, terminal, cgroup, streams, options };
            spawn::container(plan, &channel, child_channel)?
        }
        Kind::Exec { target, process, seccomp } => {
            let seccomp = seccomp.as_ref();
            let plan = ExecPlan { target, process, seccomp, terminal, cgroup, streams, options };
            spawn::exec(plan, &channel, child_channel)?
        }
    };
    let master = match channel.receive()? {
        FromChild::Ready { terminal, listener: None } => terminal,
        FromChild::Ready { .. } | FromChild::AtHooks => {
            return Err(Error::Invalid {
                field: "linux.seccomp.listenerPath",
                reason: "it is not supported".into(),
            });
        }
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
    let process = Process::of_pid(child.pid)?;
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
