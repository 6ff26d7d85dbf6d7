//! A first process that does what an init does: it starts the program as its child, hands signals on to it, and takes
//! in every process that loses its parent.
//!
//! It goes on as a copy of the code that prepared the container, from the same sealed binary, so nothing of the host
//! has to be brought into the container.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setpgid, tcsetpgrp};

use super::channel;
use super::program::Program;
use crate::protocol::Failure;
use crate::sys::{self, Fork};

/// What process lists show.
const NAME: &std::ffi::CStr = c"docker-init";

/// Runs the program as a child. Returns only in the child, and only when the program could not be run.
pub(super) fn run(program: &Program) -> Failure {
    // Blocked before the child is there, so that no signal is lost in between.
    let all = SigSet::all();
    let _ = all.thread_block();
    match sys::fork() {
        Err(error) => channel::setup_failure(format!("start the program beneath the init process: {error}")),
        Ok(Fork::Child) => {
            // The terminal's signals are for the program alone: the init process would only send them again.
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            let _ = tcsetpgrp(std::io::stdin(), getpid());
            let _ = all.thread_unblock();
            program.run()
        }
        Ok(Fork::Parent { pid }) => {
            // The other end learns from the closing that the program runs: only the child may hold it.
            let _ = sys::close_range(3, false);
            let _ = rustix::thread::set_name(NAME);
            watch(Pid::from_raw(pid), &all)
        }
    }
}

/// Reaps and forwards until the program has ended, and ends as it did.
fn watch(program: Pid, all: &SigSet) -> ! {
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    sys::exit_now(code);
                }
            }
            // A stop of the terminal's is for the program, which gets it from the kernel.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU) | Err(_) => {}
            Ok(signal) => {
                let _ = kill(program, signal);
            }
        }
    }
}

/// Takes in all that have ended; gives the exit code of the program when it is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return code,
        }
    }
}
