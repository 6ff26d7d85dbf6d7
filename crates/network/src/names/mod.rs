//! A name server: it asks a [`Zone`] first and the host's resolvers for the rest.
//!
//! A zone is a pure function from a question to an answer, so that the names of containers ([`Names`]) and
//! those of a cluster are served by the same code, whatever the address and the namespace.

mod forward;
mod message;
mod server;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use forward::{Forwarder, Resolvers};
pub use server::{Listening, NameServer, Prepared};
pub use table::{Names, View};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// The name this name stands for.
    Cname,
    /// Hosts and ports of a service.
    Srv,
    /// Text.
    Txt,
    /// Everything there is.
    Any,
    /// A type that no zone here has records of.
    Unknown,
}

/// One question of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case, without the final dot.
    pub name: String,
    /// What is asked for.
    pub kind: RecordKind,
    /// Who asks.
    pub client: SocketAddr,
}

impl Question {
    /// The address whose name is asked for: `4.3.2.1.in-addr.arpa` is 1.2.3.4.
    pub fn reverse_address(&self) -> Option<IpAddr> {
        message::reverse_address(&self.name)
    }
}

/// The data of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordData {
    /// An address; a record of type A or AAAA.
    Address(IpAddr),
    /// The name of an address.
    Pointer(String),
    /// The name that is meant. Its addresses are looked up and added by the server.
    Alias(String),
    /// A host and port of a service.
    Service {
        /// Lower is asked first.
        priority: u16,
        /// Share among those of the same priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host's name.
        target: String,
    },
    /// Text.
    Text(String),
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Whose record it is, without the final dot.
    pub name: String,
    /// How long it may be kept, in whole seconds.
    pub time_to_live: Duration,
    /// What it says.
    pub data: RecordData,
}

/// What a zone says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name exists; without records, it has none of the kind asked for.
    Records {
        /// What answers the question.
        answers: Vec<Record>,
        /// What the client would ask next.
        additional: Vec<Record>,
    },
    /// The zone is the authority and there is no such name.
    NoSuchName,
    /// The zone does not know; others may.
    Forward,
    /// The zone does not know and others must not be asked.
    Failed,
}

impl Answer {
    /// Records without additional ones.
    pub fn records(answers: Vec<Record>) -> Self {
        Self::Records { answers, additional: Vec::new() }
    }
}

/// Something that knows names.
pub trait Zone: Send + Sync + 'static {
    /// Answers at once from memory.
    fn answer(&self, question: &Question) -> Answer;

    /// The name at the zone's top that holds `name`, for the record that says how long a negative answer may
    /// be kept; none sends no such record.
    fn apex(&self, _name: &str) -> Option<String> {
        None
    }
}
