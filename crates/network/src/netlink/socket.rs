//! A netlink socket: send a batch, gather every answer, turn a refusal into an error that says what was asked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::encode::{Batch, HEADER};
use super::parse::{Attributes, Message, text};
use crate::{Error, Result, sys};

/// The kernel fills an answer of a dump up to 32 KiB; anything larger is refused as cut short.
const RECEIVE: usize = 64 * 1024;
/// Room for a batch that replaces a large set at once.
const SEND_BUFFER: usize = 8 * 1024 * 1024;
/// Room for a refusal of every message of a batch.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// The extended acknowledgement's text.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// A socket to one netlink family, in the namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// None is rtnetlink, whose number is zero.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self> {
        let open = |source: Errno| Error::Socket { action: "open", source: source.into() };
        let descriptor =
            net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(open)?;
        net::bind(&descriptor, &SocketAddrNetlink::new(0, 0))
            .map_err(|source| Error::Socket { action: "bind", source: source.into() })?;
        sys::set_netlink_options(descriptor.as_fd())
            .map_err(|source| Error::Socket { action: "set options of", source })?;
        // Without the privilege the default size stays, which is enough for small batches.
        let _ = sockopt::set_socket_send_buffer_size_force(&descriptor, SEND_BUFFER);
        let _ = sockopt::set_socket_recv_buffer_size_force(&descriptor, RECEIVE_BUFFER);
        let port = net::getsockname(&descriptor)
            .and_then(SocketAddrNetlink::try_from)
            .map_err(|source| Error::Socket { action: "ask the number of", source: source.into() })?
            .pid();
        Ok(Self { descriptor, port, sequence: 1, buffer: Vec::new() })
    }

    /// The number by which the kernel names this socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends the batch and gathers what is not an acknowledgement. The first refusal is returned, named by
    /// `label`, which is given the index of the message.
    pub(crate) fn request(
        &mut self,
        mut batch: Batch,
        label: impl Fn(usize) -> String,
    ) -> Result<Vec<Message>> {
        if batch.overflow {
            return Err(Error::RequestTooLarge { action: label(0) });
        }
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(batch.len() as u32).max(1);
        batch.number_from(first);
        self.drain()?;
        net::sendto(&self.descriptor, &batch.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(|source| match source {
                Errno::MSGSIZE => Error::RequestTooLarge { action: label(0) },
                source => Error::Socket { action: "send to", source: source.into() },
            })?;
        let mut answers = Vec::new();
        let mut refusal = None;
        let mut dumping = false;
        // A request is worked off within the send, so that its answers are here already; only a dump goes on.
        loop {
            let flags = if dumping { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
            let Some(length) = self.receive(flags)? else { break };
            let mut bytes = &self.buffer[..length];
            while !bytes.is_empty() {
                let Some((kind, flags, sequence, payload)) = Message::take(&mut bytes) else {
                    return Err(Error::MalformedAnswer { reason: "a message is cut short" });
                };
                let index = sequence.wrapping_sub(first) as usize;
                if index >= batch.len() {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        dumping = false;
                        if let Some(error) = refused(kind, flags, payload, || label(index))? {
                            refusal.get_or_insert(error);
                        }
                    }
                    libc::NLMSG_NOOP => {}
                    _ => {
                        dumping = flags & libc::NLM_F_MULTI as u16 != 0;
                        answers.push(Message { payload: payload.to_vec() });
                    }
                }
            }
        }
        match refusal {
            Some(error) => Err(error),
            None => Ok(answers),
        }
    }

    /// Throws away what an earlier request left, as one that failed half-way may.
    fn drain(&mut self) -> Result<()> {
        while self.receive(RecvFlags::DONTWAIT | RecvFlags::TRUNC)?.is_some() {}
        Ok(())
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<Option<usize>> {
        self.buffer.resize(RECEIVE, 0);
        loop {
            return match net::recv(&self.descriptor, self.buffer.as_mut_slice(), flags) {
                Ok((length, full)) if length == full => Ok(Some(length)),
                Ok(_) => Err(Error::MalformedAnswer { reason: "an answer is longer than its limit" }),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(None),
                Err(source) => Err(Error::Socket { action: "receive from", source: source.into() }),
            };
        }
    }
}

fn refused(kind: u16, flags: u16, payload: &[u8], label: impl Fn() -> String) -> Result<Option<Error>> {
    let Some(code) = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) else {
        // The end of a dump may come without a code.
        return match i32::from(kind) {
            libc::NLMSG_DONE => Ok(None),
            _ => Err(Error::MalformedAnswer { reason: "an error without a code" }),
        };
    };
    if code >= 0 {
        return Ok(None);
    }
    let mut detail = String::new();
    if flags & NLM_F_ACK_TLVS != 0 && i32::from(kind) == libc::NLMSG_ERROR {
        // After the code comes the header of the request, and the request itself unless it was left out.
        let request = match flags & NLM_F_CAPPED {
            0 => payload
                .get(4..8)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(HEADER, |bytes| (u32::from_ne_bytes(bytes) as usize).next_multiple_of(4)),
            _ => HEADER,
        };
        let rest = payload.get(4 + request..).unwrap_or(&[]);
        if let Some(message) = Attributes::new(rest).find(NLMSGERR_ATTR_MSG) {
            detail = format!(" ({})", text(message).trim_end_matches('.'));
        }
    }
    let source = io::Error::from_raw_os_error(code.wrapping_neg());
    Ok(Some(Error::Refused { action: label(), detail, source }))
}
