//! The line between a shim and the process that it makes: one packet socket, closed by execve.
//!
//! The child sends `R` (ready, with the terminal's master where there is one) or `E` and a failure as JSON; the shim
//! sends `P` (placed in its control group, identities mapped) and `S` (start). The end of the child's side without
//! a failure after `S` means that the program runs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};

use crate::error::Context as _;
use crate::protocol::{Failure, FailureKind};
use crate::{Error, Result};

/// Longest failure message in bytes: a packet must fit the socket's buffer.
const FAILURE_LIMIT: usize = 8 << 10;

/// One end of the line.
pub(crate) struct Channel {
    socket: OwnedFd,
    placed: bool,
}

/// What the child says.
pub(crate) enum FromChild {
    /// Everything is prepared; the master of its terminal.
    Ready(Option<OwnedFd>),
    /// It could not be prepared or run.
    Failed(Failure),
    /// It closed its end: it runs the program, or is gone.
    Closed,
}

pub(crate) fn setup_failure(message: String) -> Failure {
    Failure { kind: FailureKind::Setup, message }
}

impl Channel {
    /// Both ends: the shim's and the child's.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .to("make a socket pair")?;
        Ok((Self { socket: one, placed: false }, Self { socket: other, placed: false }))
    }

    // The child's half.

    /// Waits until the shim has put the process into its control group and mapped its identities.
    pub(crate) fn wait_until_placed(&mut self) -> Result<()> {
        if !self.placed {
            self.expect(b'P')?;
            self.placed = true;
        }
        Ok(())
    }

    /// Waits for the order to run the program.
    pub(crate) fn wait_for_start(&mut self) -> Result<()> {
        self.wait_until_placed()?;
        self.expect(b'S')
    }

    fn expect(&self, word: u8) -> Result<()> {
        let mut buffer = [0u8; 1];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1) if buffer[0] == word => return Ok(()),
                // The shim is gone: nobody will ever start or reap this process.
                Ok(_) => crate::sys::exit_now(125),
                Err(errno) => return Err(errno).to("read from the shim"),
            }
        }
    }

    pub(crate) fn send_ready(&self, master: Option<&OwnedFd>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = master.iter().map(|master| master.as_fd()).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(&self.socket, &[IoSlice::new(b"R")], &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .to("report to the shim")
    }

    pub(crate) fn send_failure(&self, failure: &Failure) {
        let mut failure = failure.clone();
        if failure.message.len() > FAILURE_LIMIT {
            let mut end = FAILURE_LIMIT;
            while !failure.message.is_char_boundary(end) {
                end -= 1;
            }
            failure.message.truncate(end);
        }
        let mut packet = vec![b'E'];
        if serde_json::to_writer(&mut packet, &failure).is_ok() {
            // A shim that is gone needs no report.
            let _ = send(&self.socket, &packet, SendFlags::NOSIGNAL);
        }
    }

    // The shim's half.

    pub(crate) fn send_placed(&self) -> Result<()> {
        self.say(b"P")
    }

    pub(crate) fn send_start(&self) -> Result<()> {
        self.say(b"S")
    }

    fn say(&self, word: &[u8]) -> Result<()> {
        match send(&self.socket, word, SendFlags::NOSIGNAL) {
            // The child has failed and said why: that is read next.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            result => result.map(drop).to("speak to the new process"),
        }
    }

    /// Waits for the child's next word.
    pub(crate) fn receive(&self) -> Result<FromChild> {
        let mut buffer = vec![0u8; 8 * FAILURE_LIMIT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(FromChild::Closed),
                result => break result.to("hear from the new process")?,
            }
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match buffer.get(..received.bytes).unwrap_or_default() {
            [] => Ok(FromChild::Closed),
            [b'R'] => Ok(FromChild::Ready(descriptor)),
            [b'E', json @ ..] => serde_json::from_slice(json)
                .map(FromChild::Failed)
                .map_err(|source| Error::Json { what: "failure", path: "new process".into(), source }),
            other => Err(Error::UnexpectedAnswer { answer: format!("{:?}", &other[..other.len().min(16)]) }),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
