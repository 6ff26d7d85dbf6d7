//! Packet rules over nfnetlink: tables, chains, rules, sets and maps, changed in atomic transactions.
//! It encodes and knows no policy; the `nft` program is never run.
//!
//! A rule is a list of [`Expression`]s over sixteen registers of four bytes. A value longer than four bytes
//! takes as many registers in a row, and the key of a set with several fields is those fields in a row, each
//! padded to four bytes.

mod expression;
mod key;
mod transaction;
mod watch;

use std::io;

use parking_lot::Mutex;
use rustix::net::netlink;

pub use expression::{
    AddressKind, Comparison, Conntrack, Expression, Meta, PayloadBase, Reject, SetUpdate, accept, compare,
    compare_name, differ, drop_packet, goto, is_family, jump, payload, source_address, verdict,
};
pub use key::{DataType, Element, ElementData, Key, ipv6_network_elements, network_elements};
pub use transaction::{BaseChain, ChainKind, Hook, Set, Transaction};
pub use watch::Watch;

use crate::netlink::{Attributes, Batch, Socket};
use crate::{Error, Result};

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Both versions of IP.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the next hook.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On to a chain, and back after it.
    Jump(String),
    /// On to a chain for good.
    Goto(String),
}

pub(crate) const SUBSYSTEM: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;

/// The type of an nftables message.
fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// struct nfgenmsg.
fn header(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

/// A socket to nftables, in the namespace it was opened in.
#[derive(Debug)]
pub struct Nftables {
    socket: Mutex<Socket>,
}

impl Nftables {
    /// Opens a socket in the caller's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Mutex::new(Socket::open(Some(netlink::NETFILTER))?) })
    }

    /// The number by which the kernel names this socket in what it tells of changes.
    pub(crate) fn port(&self) -> u32 {
        self.socket.lock().port()
    }

    /// Does everything in the transaction or nothing. The error names the first step that was refused.
    pub fn commit(&self, transaction: Transaction) -> Result<()> {
        let (batch, labels) = transaction.finish();
        let label = |index: usize| match index.checked_sub(1).and_then(|index| labels.get(index)) {
            Some(label) => label.clone(),
            None => "commit packet rules".to_owned(),
        };
        self.socket.lock().request(batch, label).map(drop)
    }

    /// Whether there is a table of this name.
    pub fn table_exists(&self, family: Family, table: &str) -> Result<bool> {
        let mut batch = Batch::new();
        batch.message(kind(NFT_MSG_GETTABLE), 0, &header(family), |body| body.text(NFTA_TABLE_NAME, table));
        match self.socket.lock().request(batch, |_| format!("look up table {table}")) {
            Ok(_) => Ok(true),
            Err(Error::Refused { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The keys of a set's or a map's elements, in no order.
    pub fn list_keys(&self, family: Family, table: &str, set: &str) -> Result<Vec<Vec<u8>>> {
        let mut batch = Batch::new();
        let flags = libc::NLM_F_DUMP as u16;
        batch.message(kind(NFT_MSG_GETSETELEM), flags, &header(family), |body| {
            body.text(NFTA_SET_ELEM_LIST_TABLE, table);
            body.text(NFTA_SET_ELEM_LIST_SET, set);
        });
        let answers = self.socket.lock().request(batch, |_| format!("list elements of {table} {set}"))?;
        let elements =
            answers.iter().flat_map(|message| message.attributes(4).nested(NFTA_SET_ELEM_LIST_ELEMENTS));
        Ok(elements
            .filter_map(|(_, element)| {
                Attributes::new(element).nested(NFTA_SET_ELEM_KEY).find(NFTA_DATA_VALUE).map(<[u8]>::to_vec)
            })
            .collect())
    }
}
