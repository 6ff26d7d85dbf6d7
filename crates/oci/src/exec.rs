//! exec: one more process in a running container.

use std::path::Path;

use dray_runtime::direct::{self, Joining};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use crate::arguments::ExecOptions;
use crate::bundle;
use crate::create::{hand_over, prepare_process};
use crate::error::{Error, Result};
use crate::foreground::Foreground;
use crate::state::{Status, Store, read_bounded};

/// Largest description of a process that is read, in bytes.
const PROCESS_LIMIT: u64 = 4 << 20;

pub(crate) fn exec(store: &Store, options: &ExecOptions) -> Result<u8> {
    prepare_process(options.preserve_fds)?;
    let container = store.open(&options.id)?;
    match container.status() {
        Status::Created | Status::Running => {}
        Status::Paused if options.ignore_paused => {}
        other => {
            return Err(Error::Status { operation: "exec in", status: other.name(), id: options.id.clone() });
        }
    }
    let target = container.process().ok_or_else(|| Error::NotRunning { id: options.id.clone() })?;
    let spec = container.spec()?;
    let process = process(&spec, options)?;
    let terminal = bundle::terminal(&process);
    match (terminal.is_some(), options.detach, options.console_socket.is_some()) {
        (true, true, false) => return Err(Error::NoConsole),
        (false, _, true) | (_, false, true) => return Err(Error::NeedlessConsole),
        _ => {}
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let cgroup = container.record.cgroup.clone().map(|group| match options.cgroup.last() {
        Some(below) => group.join(Path::new(below).strip_prefix("/").unwrap_or(Path::new(below))),
        None => group,
    });
    let joining = Joining {
        target: &target,
        process: &process,
        seccomp,
        terminal,
        cgroup: cgroup.as_deref(),
        keep_keyring: false,
        preserved: options.preserve_fds,
    };
    let foreground = if options.detach { None } else { Some(Foreground::begin()?) };
    let mut told = Ok(());
    let made = direct::exec(&joining, |made| {
        told = hand_over(made, options.console_socket.as_deref(), options.pid_file.as_deref());
        match &told {
            Ok(()) => Ok(()),
            // The error itself is kept above.
            Err(_) => Err(dray_runtime::Error::NoSuchProcess { pid: made.process.pid }),
        }
    });
    told?;
    let made = made.map_err(|source| Error::Exec { source })?;
    match foreground {
        None => Ok(0),
        Some(foreground) => {
            let terminal = made.terminal.filter(|_| options.console_socket.is_none());
            foreground.stay(made.process.pid, terminal)
        }
    }
}

/// The process: from a file, or the container's own with what the options change.
fn process(spec: &Spec, options: &ExecOptions) -> Result<Process> {
    if let Some(path) = &options.process {
        let bytes = read_bounded(path, PROCESS_LIMIT)?;
        let mut process: Process = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            what: "process",
            path: path.clone(),
            source,
        })?;
        if options.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    let invalid = |field, reason: &str| Error::Invalid { field, reason: reason.into() };
    let mut process =
        spec.process().clone().ok_or_else(|| invalid("process", "the container has none to take after"))?;
    if options.command.is_empty() {
        return Err(invalid("process args", "cannot be empty"));
    }
    process.set_args(Some(options.command.clone())).set_terminal(Some(options.tty)).set_console_size(None);
    if let Some(directory) = &options.cwd {
        process.set_cwd(directory.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(options.env.iter().cloned());
    process.set_env(Some(environment));
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(user) = &options.user {
        let number = |text: &str| {
            text.parse::<u32>().ok().filter(|&id| id <= i32::MAX as u32).ok_or_else(|| Error::Invalid {
                field: "--user",
                reason: format!("{text:?} is not a number of a user or group"),
            })
        };
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
            None => (number(user)?, None),
        };
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&options.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    for name in &options.cap {
        let capability: Capability =
            serde_json::from_value(serde_json::Value::String(name.to_uppercase())).map_err(|_| {
                Error::Invalid { field: "--cap", reason: format!("{name:?} is no capability") }
            })?;
        let mut sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

fn no_capabilities() -> LinuxCapabilities {
    dray_runtime::defaults::capabilities(&[])
}
