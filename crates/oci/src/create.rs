//! create and run.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use dray_runtime::direct::{self, Creation, Made};
use dray_runtime::{Executable, Process, hooks};
use oci_spec::runtime::ContainerState;

use crate::arguments::{CreateOptions, Global};
use crate::bundle::{self, Bundle};
use crate::error::{Context as _, Error, OnFile as _, Result, Trying as _};
use crate::foreground::Foreground;
use crate::state::{Container, Record, Store};
use crate::{change, log};

/// Makes a container and leaves it waiting for its start.
pub(crate) fn create(store: &Store, global: &Global, options: &CreateOptions) -> Result<u8> {
    prepare_process(options.preserve_fds)?;
    let bundle = Bundle::open(&options.bundle)?;
    check_console(&bundle, options, true)?;
    make(store, global, options, &bundle).map(|_| 0)
}

/// Makes a container, starts it and, unless detached, stays and deletes it in the end.
pub(crate) fn run(store: &Store, global: &Global, options: &CreateOptions) -> Result<u8> {
    prepare_process(options.preserve_fds)?;
    let bundle = Bundle::open(&options.bundle)?;
    check_console(&bundle, options, options.detach)?;
    // Before there is a process whose end could be missed.
    let foreground = if options.detach { None } else { Some(Foreground::begin()?) };
    let (container, made) = make(store, global, options, &bundle)?;
    let pid = made.process.pid;
    let terminal = made.terminal.filter(|_| options.console_socket.is_none());
    let end = || -> Result<u8> {
        change::start_created(&container, global)?;
        match foreground {
            None => Ok(0),
            Some(foreground) => foreground.stay(pid, terminal),
        }
    };
    let ended = end();
    if ended.is_err() || (!options.detach && !options.keep) {
        let deleted = change::destroy(&container, global);
        ended.and_then(|code| deleted.map(|()| code))
    } else {
        ended
    }
}

/// What every command that makes a process of a container does first.
pub(crate) fn prepare_process(preserved: u32) -> Result<()> {
    for number in 3..preserved.saturating_add(3) {
        // A number that is free now would be one of ours later on.
        let path = format!("/proc/self/fd/{number}");
        let path = Path::new(&path);
        std::fs::symlink_metadata(path).on("preserve", path)?;
    }
    // What a container could get at must not be the binary of the host (CVE-2019-5736).
    Executable::become_read_only().to("run from a read-only view of this binary")
}

fn check_console(bundle: &Bundle, options: &CreateOptions, detached: bool) -> Result<()> {
    let terminal = bundle.process()?.terminal() == Some(true);
    match (terminal, detached, options.console_socket.is_some()) {
        (true, true, false) => Err(Error::NoConsole),
        (false, _, true) | (_, false, true) => Err(Error::NeedlessConsole),
        _ => Ok(()),
    }
}

fn make(
    store: &Store,
    global: &Global,
    options: &CreateOptions,
    bundle: &Bundle,
) -> Result<(Container, Made)> {
    let own = Process::of_pid(std::process::id() as i32).to("look at this process")?;
    let record = Record {
        oci_version: bundle.spec.version().clone(),
        id: options.id.clone(),
        bundle: bundle.directory.clone(),
        rootfs: bundle.rootfs.clone(),
        created: dray_runtime::rfc3339(std::time::SystemTime::now()),
        owner: rustix::process::getuid().as_raw(),
        cgroup: bundle.cgroup(&options.id, global.systemd_cgroup),
        maker: own,
        process: None,
        own_pid_namespace: bundle.has_own_pid_namespace(),
        annotations: bundle.spec.annotations().clone(),
    };
    let mut container = store.create(record, &bundle.bytes)?;
    let made = make_process(&mut container, options, bundle);
    if made.is_err() {
        change::destroy_failed(&container, global);
    }
    made.map(|made| (container, made))
}

fn make_process(container: &mut Container, options: &CreateOptions, bundle: &Bundle) -> Result<Made> {
    let (door, cgroup) = (container.door(), container.record.cgroup.clone());
    let creation = Creation {
        spec: &bundle.spec,
        root: &bundle.rootfs,
        cgroup: cgroup.as_deref(),
        terminal: bundle::terminal(bundle.process()?),
        door: &door,
        state: container.state(ContainerState::Creating),
        no_pivot: options.no_pivot,
        keep_keyring: options.no_new_keyring,
        preserved: options.preserve_fds,
    };
    let mut told = Ok(());
    let made = direct::create(&creation, |made| {
        container.record.process = Some(made.process);
        told = container
            .write()
            .and_then(|()| hand_over(made, options.console_socket.as_deref(), options.pid_file.as_deref()));
        match &told {
            Ok(()) => Ok(()),
            // The error itself is kept above.
            Err(_) => Err(dray_runtime::Error::NoSuchProcess { pid: made.process.pid }),
        }
    });
    told?;
    made.to("create the container")
}

/// Hands over what was asked for: the terminal, and the process' number.
pub(crate) fn hand_over(made: &Made, console_socket: Option<&Path>, pid_file: Option<&Path>) -> Result<()> {
    if let (Some(socket), Some(terminal)) = (console_socket, &made.terminal) {
        send_console(socket, terminal)?;
    }
    pid_file.map_or(Ok(()), |path| write_pid(path, made.process.pid))
}

/// Sends the master of a terminal over a unix socket, with its name as runc does.
fn send_console(socket: &Path, terminal: &OwnedFd) -> Result<()> {
    let stream = UnixStream::connect(socket).on("connect to", socket)?;
    direct::send_descriptor(&stream, terminal, b"/dev/ptmx").on("send the terminal to", socket)
}

/// Writes a pid, so that a reader sees all of it or nothing.
fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    std::fs::write(new, pid.to_string()).on("write", new)?;
    std::fs::rename(new, path).on("write", path)
}

/// Runs the hooks that follow the start; their failures end nothing.
pub(crate) fn run_poststart(container: &Container, global: &Global) {
    let Ok(spec) = container.spec() else { return };
    let all = spec.hooks().as_ref().and_then(|all| all.poststart().as_deref()).unwrap_or_default();
    let state = container.state(ContainerState::Running);
    for hook in all {
        if let Err(error) = hooks::run("poststart", Some(std::slice::from_ref(hook)), &state) {
            log::warning(global, &error.chain());
        }
    }
}

/// Blocks every signal of this process but those that tell of its own faults.
pub(crate) fn block_signals() -> Result<nix::sys::signal::SigSet> {
    let mut signals = nix::sys::signal::SigSet::all();
    use nix::sys::signal::Signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV};
    for fault in [SIGBUS, SIGFPE, SIGILL, SIGSEGV] {
        signals.remove(fault);
    }
    signals.thread_block().trying("block signals")?;
    Ok(signals)
}
