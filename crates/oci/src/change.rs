//! start, kill, delete, pause and resume.

use std::time::{Duration, Instant};

use dray_runtime::{direct, hooks};
use oci_spec::runtime::ContainerState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arguments::{DeleteOptions, Global, KillOptions};
use crate::error::{Context as _, Error, Result};
use crate::state::{Container, Status, Store};
use crate::{create, log};

const KILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
/// How long a killed process may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the program of a created container.
pub(crate) fn start(store: &Store, global: &Global, id: &str) -> Result<u8> {
    let container = store.open(id)?;
    match container.status() {
        Status::Created => start_created(&container, global).map(|()| 0),
        other => Err(Error::Status { operation: "start", status: other.name(), id: id.into() }),
    }
}

pub(crate) fn start_created(container: &Container, global: &Global) -> Result<()> {
    direct::start(&container.door()).to("start the container")?;
    create::run_poststart(container, global);
    Ok(())
}

/// Sends a signal.
pub(crate) fn kill(store: &Store, options: &KillOptions) -> Result<u8> {
    let unknown = || Error::UnknownSignal { name: options.signal.clone() };
    let signal = dray_runtime::parse_signal(&options.signal).ok_or_else(unknown)?;
    let container = store.open(&options.id)?;
    let everybody = options.all || (signal == KILL && !container.record.own_pid_namespace);
    if everybody && let Some(cgroup) = container.cgroup()? {
        // What left its parent may live on when the first process has ended.
        for pid in cgroup.pids().to("list the processes")? {
            if let Ok(process) = dray_runtime::Process::of_pid(pid) {
                let _ = process.signal(signal);
            }
        }
    } else {
        let process = container.process().ok_or_else(|| Error::NotRunning { id: options.id.clone() })?;
        match process.signal(signal) {
            Err(dray_runtime::Error::NoSuchProcess { .. }) => {
                return Err(Error::NotRunning { id: options.id.clone() });
            }
            result => result.to("send the signal")?,
        }
    }
    // A paused process dies only when it goes on.
    if signal == KILL
        && let Some(cgroup) = container.cgroup()?.filter(|cgroup| cgroup.is_frozen())
    {
        cgroup.thaw().to("let the processes go on")?;
    }
    Ok(0)
}

/// Takes away what a container held.
pub(crate) fn delete(store: &Store, global: &Global, options: &DeleteOptions) -> Result<u8> {
    let container = match store.open(&options.id) {
        Err(Error::Missing { .. }) if options.force => {
            store.remove_remains(&options.id)?;
            return Ok(0);
        }
        result => result?,
    };
    match container.status() {
        Status::Stopped | Status::Created => {}
        _ if options.force => {}
        other => {
            return Err(Error::Status { operation: "delete", status: other.name(), id: options.id.clone() });
        }
    }
    destroy(&container, global).map(|()| 0)
}

/// Ends every process, removes the control group and the state, and runs the hooks that follow.
pub(crate) fn destroy(container: &Container, global: &Global) -> Result<()> {
    end(container)?;
    let spec = container.spec();
    let state = container.state(ContainerState::Stopped);
    container.remove()?;
    let spec = spec.ok();
    let all = spec.as_ref().and_then(|spec| spec.hooks().as_ref()).and_then(|all| all.poststop().as_deref());
    for hook in all.unwrap_or_default() {
        if let Err(error) = hooks::run("poststop", Some(std::slice::from_ref(hook)), &state) {
            log::warning(global, &error.chain());
        }
    }
    Ok(())
}

/// As [`destroy`] for a container that could not be made; that it cannot be undone either is only told.
pub(crate) fn destroy_failed(container: &Container, global: &Global) {
    if let Err(error) = destroy(container, global) {
        log::warning(global, &error.chain());
    }
}

fn end(container: &Container) -> Result<()> {
    let cgroup = container.cgroup()?;
    if let Some(process) = container.process() {
        let _ = process.signal(KILL);
        if let Some(cgroup) = cgroup.as_ref().filter(|cgroup| cgroup.is_frozen()) {
            let _ = cgroup.thaw();
        }
        wait_for_end(&process);
    }
    if let Some(cgroup) = cgroup {
        cgroup.kill_all().to("end the processes")?;
        cgroup.delete().to("remove the control group")?;
    }
    Ok(())
}

fn wait_for_end(process: &dray_runtime::Process) {
    let deadline = Instant::now() + KILL_DEADLINE;
    let Ok(descriptor) = process.pidfd() else { return };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    // A child of ours would stay behind as a zombie.
    if let Some(pid) = rustix::process::Pid::from_raw(process.pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

fn in_status(store: &Store, id: &str, operation: &'static str, wanted: &[Status]) -> Result<Container> {
    let container = store.open(id)?;
    let status = container.status();
    if wanted.contains(&status) {
        Ok(container)
    } else {
        Err(Error::Status { operation, status: status.name(), id: id.into() })
    }
}

/// Stops all processes where they are.
pub(crate) fn pause(store: &Store, id: &str) -> Result<u8> {
    let container = in_status(store, id, "pause", &[Status::Created, Status::Running])?;
    if let Some(cgroup) = container.cgroup()? {
        cgroup.freeze().to("pause the container")?;
    }
    Ok(0)
}

/// Lets paused processes go on.
pub(crate) fn resume(store: &Store, id: &str) -> Result<u8> {
    let container = in_status(store, id, "resume", &[Status::Paused])?;
    if let Some(cgroup) = container.cgroup()? {
        cgroup.thaw().to("resume the container")?;
    }
    Ok(0)
}
