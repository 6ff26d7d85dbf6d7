//! A process named so that a reused pid is never mistaken for it.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A process of the host: its pid and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the daemon's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of_pid(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read(&path).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Error::NoSuchProcess { pid },
            _ => Error::File { operation: "read", path: path.into(), source },
        })?;
        let start_time = start_time(&stat).ok_or(Error::NoSuchProcess { pid })?;
        Ok(Self { pid, start_time })
    }

    /// Whether this very process still exists and is not a zombie.
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = std::fs::read(format!("/proc/{}/stat", self.pid)) else { return false };
        start_time(&stat) == Some(self.start_time) && !matches!(state(&stat), Some(b'Z' | b'X'))
    }

    /// A descriptor of this very process.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let gone = Error::NoSuchProcess { pid: self.pid };
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid > 0) else { return Err(gone) };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => Error::NoSuchProcess { pid: self.pid },
            other => Error::System { operation: "open a process descriptor", source: other.into() },
        })?;
        // The pid may have been reused before the descriptor was made, not afterwards.
        if Self::of_pid(self.pid)?.start_time != self.start_time {
            return Err(gone);
        }
        Ok(pidfd)
    }

    /// Sends a signal by its number to this very process.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pidfd = self.pidfd()?;
        crate::sys::pidfd_send_signal(&pidfd, signal).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => Error::NoSuchProcess { pid: self.pid },
            _ => Error::System { operation: "send a signal", source },
        })
    }

    /// Reads a process from the file that a shim wrote.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            operation: "read",
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            what: "process",
            path: path.into(),
            source,
        })
    }
}

/// Fields after the parenthesised name, which may itself hold spaces and parentheses.
fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    Some(stat.get(end + 2..)?.split(|&byte| byte == b' '))
}

fn state(stat: &[u8]) -> Option<u8> {
    fields(stat)?.next()?.first().copied()
}

fn start_time(stat: &[u8]) -> Option<u64> {
    std::str::from_utf8(fields(stat)?.nth(19)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_found_and_alive() {
        let process = Process::of_pid(std::process::id() as i32).unwrap();
        assert!(process.is_alive());
        process.signal(0).unwrap();
        let other = Process { start_time: process.start_time + 1, ..process };
        assert!(!other.is_alive());
        assert!(matches!(other.signal(0), Err(Error::NoSuchProcess { .. })));
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = b"12 (a) R 1) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 0";
        assert_eq!(state(stat), Some(b'S'));
        assert_eq!(start_time(stat), Some(777));
    }
}
