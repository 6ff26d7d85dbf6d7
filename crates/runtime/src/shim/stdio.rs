//! The shim's ends of a process' standard streams, without blocking.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

use crate::Result;
use crate::error::Context as _;
use crate::launch::TerminalSize;

/// Which stream bytes came from; the number is that of Docker's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output = 1,
    Error = 2,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Output => "stdout",
            Self::Error => "stderr",
        }
    }
}

/// What comes of one try to read.
pub(super) enum Chunk {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// Nothing ever again.
    End,
}

fn without_blocking(file: &OwnedFd) -> Result<()> {
    let flags = fcntl_getfl(file).to("read a descriptor's flags")?;
    fcntl_setfl(file, flags | OFlags::NONBLOCK).to("set a descriptor's flags")
}

/// Reads from the process.
pub(super) struct Output {
    file: OwnedFd,
}

impl Output {
    pub(super) fn new(file: OwnedFd) -> Result<Self> {
        without_blocking(&file)?;
        Ok(Self { file })
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Chunk {
        loop {
            return match read(&self.file, &mut *buffer) {
                Ok(0) => Chunk::End,
                Ok(count) => Chunk::Bytes(count),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Chunk::Nothing,
                // A terminal says so when nobody has it open any more.
                Err(_) => Chunk::End,
            };
        }
    }
}

/// Writes to the process.
pub(super) struct Input {
    file: OwnedFd,
    pending: Vec<u8>,
    /// Nothing more will come: close when what is pending is written.
    ending: bool,
}

impl Input {
    pub(super) fn new(file: OwnedFd) -> Result<Self> {
        without_blocking(&file)?;
        Ok(Self { file, pending: Vec::new(), ending: false })
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(super) fn wants_bytes(&self) -> bool {
        self.pending.is_empty() && !self.ending
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.ending {
            self.pending.extend_from_slice(bytes);
        }
    }

    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Writes what it can; false when the stream is to be closed.
    pub(super) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match write(&self.file, &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // The process has closed its end.
                Err(_) => return false,
            }
        }
        self.pending.shrink_to(4096);
        !self.ending
    }
}

/// All streams of a process.
pub(super) struct ProcessStdio {
    pub(super) input: Option<Input>,
    pub(super) output: Option<Output>,
    pub(super) error: Option<Output>,
    terminal: Option<Terminal>,
}

struct Terminal {
    master: OwnedFd,
    /// Held open while the process lives, so that the terminal does not end between two programs that use it.
    slave: Option<OwnedFd>,
}

impl ProcessStdio {
    pub(super) fn pipes(input: Option<Input>, output: Option<Output>, error: Option<Output>) -> Self {
        Self { input, output, error, terminal: None }
    }

    pub(super) fn terminal(master: OwnedFd, stdin: bool) -> Result<Self> {
        let slave =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .to("open a terminal")?;
        let again = || master.try_clone().to("duplicate a terminal");
        let input = if stdin { Some(Input::new(again()?)?) } else { None };
        let output = Some(Output::new(again()?)?);
        Ok(Self { input, output, error: None, terminal: Some(Terminal { master, slave: Some(slave) }) })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Sets the terminal's size; false without a terminal.
    pub(super) fn resize(&self, size: TerminalSize) -> bool {
        match &self.terminal {
            Some(terminal) => crate::init::devices::set_size(&terminal.master, size).is_ok(),
            None => false,
        }
    }

    /// The process has ended: nothing goes in, and the terminal may end.
    pub(super) fn process_ended(&mut self) {
        self.input = None;
        if let Some(terminal) = &mut self.terminal {
            terminal.slave = None;
        }
    }
}
