//! Hooks of the OCI runtime specification: programs of whoever made the bundle, run at points of a container's life.
//!
//! It knows how one is run and watched; which ones and when is the caller's.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::Context as _;
use crate::{Error, Result};

/// Most of a hook's output that an error tells, in bytes.
const OUTPUT_LIMIT: u64 = 2048;

/// Runs hooks in order with the container's state on their standard input; the first failure ends it.
pub fn run(kind: &'static str, hooks: Option<&[Hook]>, state: &State) -> Result<()> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else { return Ok(()) };
    let json = serde_json::to_vec(state).map_err(|source| Error::Json {
        what: "state",
        path: state.bundle().clone(),
        source,
    })?;
    hooks.iter().try_for_each(|hook| run_one(kind, hook, &json))
}

fn run_one(kind: &'static str, hook: &Hook, state: &[u8]) -> Result<()> {
    let failed = |reason: String| Error::Hook { kind, path: hook.path().clone(), reason };
    if !hook.path().is_absolute() {
        return Err(failed("its path is not absolute".into()));
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => Some(Duration::from_secs(
            u64::try_from(seconds)
                .ok()
                .filter(|&seconds| seconds > 0)
                .ok_or_else(|| failed("its timeout is not positive".into()))?,
        )),
    };
    // A file and no pipe: whatever it writes, nobody has to read while it runs.
    let output = memfd_create("dray-hook", MemfdFlags::CLOEXEC).to("make a file for a hook's output")?;
    let mut output = std::fs::File::from(output);
    let copy = |file: &std::fs::File| file.try_clone().to("share a hook's output");
    let mut command = Command::new(hook.path());
    command.env_clear().stdin(Stdio::piped()).stdout(copy(&output)?).stderr(copy(&output)?);
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        if !key.is_empty() {
            command.env(key, value);
        }
    }
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // It need not read.
        let _ = input.write_all(state);
    }
    if !ends_within(&child, timeout)? {
        let _ = child.kill();
        let _ = child.wait();
        let seconds = timeout.unwrap_or_default().as_secs();
        return Err(failed(format!("it did not end within {seconds} seconds")));
    }
    let status = child.wait().to("wait for a hook")?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = output.rewind();
    let _ = output.take(OUTPUT_LIMIT).read_to_end(&mut text);
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let text = String::from_utf8_lossy(&text);
    Err(failed(if text.trim().is_empty() { how } else { format!("{how}: {}", text.trim()) }))
}

fn ends_within(child: &Child, timeout: Option<Duration>) -> Result<bool> {
    let Some(timeout) = timeout else { return Ok(true) };
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return Ok(true) };
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).to("watch a hook")?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.to("watch a hook")? > 0),
        }
    }
}
