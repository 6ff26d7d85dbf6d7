//! Staying with a process: its terminal is ours, our signals are its, and its exit code becomes ours.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::create::block_signals;
use crate::error::{Result, Trying as _};

/// What is ready before there is a process.
pub(crate) struct Foreground {
    signals: SignalFd,
}

/// Our terminal, put back as it was in the end.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Foreground {
    /// From now on signals wait for the process.
    pub(crate) fn begin() -> Result<Self> {
        let signals = block_signals()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).trying("listen for signals")?;
        Ok(Self { signals })
    }

    /// Stays until the process, a child of ours, has ended; the result is its exit code.
    pub(crate) fn stay(self, pid: i32, terminal: Option<OwnedFd>) -> Result<u8> {
        let _raw = terminal.as_ref().and_then(|_| RawTerminal::enter());
        if let Some(terminal) = &terminal {
            copy_size(terminal);
        }
        let (mut input, mut code) = (terminal.is_some(), None);
        let mut open = terminal.is_some();
        loop {
            if let (Some(code), false) = (code, open) {
                return Ok(code);
            }
            let stdin = std::io::stdin();
            let mut set = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if let Some(terminal) = terminal.as_ref().filter(|_| open) {
                set.push(PollFd::new(terminal, PollFlags::IN));
                if input {
                    set.push(PollFd::new(&stdin, PollFlags::IN));
                }
            }
            match poll(&mut set, None) {
                Err(Errno::INTR) => continue,
                result => result.trying("wait for the process")?,
            };
            let ready: Vec<bool> = set.iter().map(|one| !one.revents().is_empty()).collect();
            drop(set);
            if ready[0] {
                self.pass_signals(pid, terminal.as_ref(), &mut code);
            }
            if let Some(terminal) = &terminal {
                if ready.get(1) == Some(&true) {
                    open = copy(terminal.as_fd(), std::io::stdout().as_fd());
                }
                if ready.get(2) == Some(&true) {
                    input = copy(stdin.as_fd(), terminal.as_fd());
                }
            }
        }
    }

    fn pass_signals(&self, pid: i32, terminal: Option<&OwnedFd>, code: &mut Option<u8>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo as i32;
            if number == Signal::SIGCHLD as i32 {
                *code = code.or_else(|| reap(pid));
            } else if number == Signal::SIGWINCH as i32 {
                if let Some(terminal) = terminal {
                    copy_size(terminal);
                }
            } else if let Ok(process) = dray_runtime::Process::of_pid(pid) {
                // It may end at this very moment.
                let _ = process.signal(number);
            }
        }
    }
}

/// The exit code of our child, when it has ended.
fn reap(pid: i32) -> Option<u8> {
    match waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(code as u8),
            (None, signal) => Some((128 + signal.unwrap_or(0)) as u8),
        },
        Ok(None) => None,
        // Somebody else has reaped it: how it ended is not known.
        Err(_) => Some(255),
    }
}

fn copy_size(terminal: &OwnedFd) {
    // Without a terminal of our own there is no size to copy.
    if let Ok(size) = tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout())) {
        let _ = tcsetwinsize(terminal, size);
    }
}

/// Moves what is there; false is the end.
fn copy(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 8192];
    let count = match rustix::io::read(from, &mut buffer) {
        Err(Errno::INTR | Errno::AGAIN) => return true,
        // A terminal whose other side is closed says EIO.
        Ok(0) | Err(_) => return false,
        Ok(count) => count,
    };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(into, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(into, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}
