//! The process that stays with a container: it makes the first process, keeps its stdio, log and exit code, and
//! outlives the daemon.
//!
//! It knows one process and the clients on its socket. It has one thread, no state but this process, and ends when
//! the process has ended.

mod client;
mod connection;
mod forward;
mod launcher;
mod log;
mod stdio;
mod supervisor;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::process::umask;

use crate::error::Context as _;
use crate::protocol::Reply;
use crate::sys::{self, Fork};
use crate::{LaunchSpec, Result};
pub use client::{Client, Created, spawn};

/// Name of shims in process lists and their `argv[0]`.
pub const PROCESS_NAME: &str = "dray-shim";

/// Becomes a shim when the process was started as one, and then never returns.
///
/// Must be the first statement of `main`: a shim has one thread from its first instruction on, and closes every
/// descriptor but the standard ones.
pub fn main_if_requested() {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let directory = if name.is_some_and(|name| name == PROCESS_NAME) {
        arguments.next()
    } else {
        match arguments.next() {
            Some(word) if word == "shim" => arguments.next(),
            _ => return,
        }
    };
    let code = match directory {
        Some(directory) => run(directory),
        None => 64,
    };
    sys::exit_now(code);
}

/// The whole life of a shim; the result is its exit code.
fn run(directory: OsString) -> i32 {
    // Nothing of the daemon's may stay open here or reach a container.
    if sys::close_range(3, false).is_err() {
        return 71;
    }
    sys::keep_heap_small();
    // A child of its own: the daemon reaps this process at once, the shim belongs to init.
    match sys::clone3(0, None) {
        Err(_) => 71,
        Ok(Fork::Parent { .. }) => 0,
        Ok(Fork::Child) => match start(directory.into()) {
            Ok(supervisor) => supervisor.run(),
            Err(_) => 1,
        },
    }
}

fn start(directory: PathBuf) -> Result<supervisor::Supervisor> {
    let report = take_report()?;
    match prepare(&directory) {
        Ok(supervisor) => {
            answer(report, &Reply::Created(supervisor.process()));
            sys::trim_heap();
            Ok(supervisor)
        }
        Err(error) => {
            answer(report, &Reply::Error(launcher::failure(&error)));
            Err(error)
        }
    }
}

fn prepare(directory: &std::path::Path) -> Result<supervisor::Supervisor> {
    detach()?;
    let launch = LaunchSpec::read(directory)?;
    launcher::launch(launch)
}

/// Takes standard output, the pipe to whoever spawned the shim, and puts `/dev/null` in place of all three.
fn take_report() -> Result<io::PipeWriter> {
    let output = sys::inherited(1).to("find the pipe to the daemon")?;
    let report = output.try_clone().to("keep the pipe to the daemon")?;
    std::mem::forget(output);
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).to("open /dev/null")?;
    for number in 0..=2 {
        sys::onto_standard(std::os::fd::AsFd::as_fd(&null), number).to("let the standard streams go")?;
    }
    Ok(report.into())
}

fn answer(mut report: io::PipeWriter, reply: &Reply) {
    // A daemon that died meanwhile finds the process by its files.
    if let Ok(mut line) = serde_json::to_vec(reply) {
        line.push(b'\n');
        let _ = report.write_all(&line);
    }
}

/// Cuts every tie to the daemon's session and directory, so that its end or a terminal's signals mean nothing here.
fn detach() -> Result<()> {
    rustix::process::setsid().to("start a session")?;
    rustix::process::chdir("/").to("leave the daemon's directory")?;
    sys::ignore_signals(&[
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGTTOU,
        libc::SIGTTIN,
    ]);
    umask(Mode::from_raw_mode(0o077));
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).to("become a subreaper")?;
    rustix::thread::set_name(c"dray-shim").to("set the process' name")?;
    // Nobody in a container may trace this process or look at its descriptors (the first process inherits this).
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).to("become undumpable")?;
    Ok(())
}
