//! Hearing of changes that others make to a table of ours.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::{Family, SUBSYSTEM};
use crate::netlink::{Attributes, header_of, text};
use crate::{Error, Result};

/// NFNLGRP_NFTABLES, as the bit of a mask of groups.
const GROUP: u32 = 1 << (7 - 1);
const RECEIVE: usize = 64 * 1024;
const NFT_MSG_NEWGEN: u16 = 15;

/// A socket on which the kernel tells of every change of the packet rules in the namespace it was opened in.
#[derive(Debug)]
pub struct Watch {
    descriptor: OwnedFd,
}

impl Watch {
    /// Begins to listen, in the caller's namespace. The socket never blocks.
    pub fn open() -> Result<Self> {
        let failed = |action| move |source: Errno| Error::Socket { action, source: source.into() };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor =
            net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))
                .map_err(failed("open"))?;
        net::bind(&descriptor, &SocketAddrNetlink::new(0, GROUP)).map_err(failed("bind"))?;
        Ok(Self { descriptor })
    }

    /// Reads all that the kernel has told so far; whether somebody else than the socket `own` changed the table.
    /// When the kernel had to leave something out the answer is yes.
    pub(crate) fn changed(&self, family: Family, table: &str, own: u32) -> Result<bool> {
        let mut changed = false;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = match net::recv(&self.descriptor, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => {
                    changed = true;
                    continue;
                }
                Err(source) => {
                    return Err(Error::Socket { action: "receive from", source: source.into() });
                }
            };
            let mut bytes = &buffer[..length];
            while let Some((kind, port, payload)) = header_of(&mut bytes) {
                let about_rules = kind >> 8 == SUBSYSTEM && kind & 0xff != NFT_MSG_NEWGEN;
                // The name of the table is the first attribute of all these messages.
                let ours = payload.first() == Some(&family.number())
                    && Attributes::new(payload.get(4..).unwrap_or(&[]))
                        .find(1)
                        .is_some_and(|name| text(name) == table);
                changed |= about_rules && ours && port != own;
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<Watch> for OwnedFd {
    fn from(watch: Watch) -> Self {
        watch.descriptor
    }
}
