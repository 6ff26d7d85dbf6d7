//! The line between a shim and the process that it makes: one packet socket, closed by execve.
//!
//! The child sends `H` (at the point of hooks), `R` (ready, with the terminal's master and the listener of its filter
//! where there are such) or `E` and a failure as JSON; the shim sends `P` (placed in its control group, identities
//! mapped), `H` (hooks have run) and `S` (start). The end of the child's side without a failure after `S` means that
//! the program runs.
//!
//! Without a shim the line ends with `K` (keep), and the start comes over another one: whoever connects to the door,
//! a socket that the child got from its maker, is heard there.

use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

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
    /// Everything is prepared.
    Ready {
        /// The master of its terminal.
        terminal: Option<OwnedFd>,
        /// What hears of calls that the filter leaves to others.
        listener: Option<OwnedFd>,
    },
    /// It waits for hooks to have run.
    AtHooks,
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

    /// Lets the copy of the maker's end go that a new process has: as long as it is open anywhere, the end of the maker
    /// is never heard.
    pub(crate) fn let_go(&self, makers: &Self) -> Result<()> {
        crate::sys::replace(makers.as_fd(), self.as_fd()).to("let the maker's end of the channel go")
    }

    /// Waits until the shim has put the process into its control group and mapped its identities.
    pub(crate) fn wait_until_placed(&mut self) -> Result<()> {
        if !self.placed {
            self.expect(b'P')?;
            self.placed = true;
        }
        Ok(())
    }

    /// Waits for the order to run the program; at the door, where there is one.
    pub(crate) fn wait_for_start(&mut self, door: Option<&UnixListener>) -> Result<()> {
        self.wait_until_placed()?;
        let Some(door) = door else { return self.expect(b'S') };
        // Until now the end of the maker was the end of everything.
        self.expect(b'K')?;
        loop {
            let visitor = match door.accept() {
                Ok((visitor, _)) => visitor,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).to("wait at the door"),
            };
            let mut word = [0u8; 1];
            // Others only look whether somebody waits, or ended before they said a word.
            if matches!((&visitor).read(&mut word), Ok(1)) && word[0] == b'S' {
                self.socket = visitor.into();
                return Ok(());
            }
        }
    }

    /// Tells that hooks may run, and waits until they have.
    pub(crate) fn wait_for_hooks(&mut self) -> Result<()> {
        self.wait_until_placed()?;
        send(&self.socket, b"H", SendFlags::NOSIGNAL).to("report to the maker")?;
        self.expect(b'H')
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

    pub(crate) fn send_ready(&self, terminal: Option<&OwnedFd>, listener: Option<&OwnedFd>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> =
            terminal.into_iter().chain(listener).map(|one| one.as_fd()).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let word = [b'R', u8::from(terminal.is_some()), u8::from(listener.is_some())];
        sendmsg(&self.socket, &[IoSlice::new(&word)], &mut control, SendFlags::NOSIGNAL)
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

    pub(crate) fn send_hooks_done(&self) -> Result<()> {
        self.say(b"H")
    }

    pub(crate) fn send_keep(&self) -> Result<()> {
        self.say(b"K")
    }

    /// The line over which a process at a door is started.
    pub(crate) fn of_visitor(stream: UnixStream) -> Self {
        Self { socket: stream.into(), placed: true }
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // Who ends with an unread word resets the connection; what he said before is still there to be read.
        let mut was_reset = false;
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) if was_reset => return Ok(FromChild::Closed),
                Err(rustix::io::Errno::CONNRESET) => was_reset = true,
                result => break result.to("hear from the new process")?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let mut descriptors = descriptors.into_iter();
        match buffer.get(..received.bytes).unwrap_or_default() {
            [] => Ok(FromChild::Closed),
            [b'R', terminal, listener] => Ok(FromChild::Ready {
                terminal: if *terminal == 1 { descriptors.next() } else { None },
                listener: if *listener == 1 { descriptors.next() } else { None },
            }),
            [b'H'] => Ok(FromChild::AtHooks),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_end_is_heard() {
        let (maker, child) = Channel::pair().unwrap();
        child.send_failure(&setup_failure("because".to_owned()));
        // A word that the child never reads.
        maker.send_placed().unwrap();
        drop(child);
        match maker.receive().unwrap() {
            FromChild::Failed(failure) => assert!(failure.message.contains("because")),
            _ => panic!("the failure was lost"),
        }
        assert!(matches!(maker.receive().unwrap(), FromChild::Closed));
    }
}
