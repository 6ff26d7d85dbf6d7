//! What can go wrong in this crate, and on what object.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

/// The result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the kernel's network or of a value that was given to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace file could not be opened or joined.
    #[error("cannot enter network namespace {}", path.display())]
    EnterNamespace {
        /// The file of the namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A namespace could not be made or pinned.
    #[error("cannot create network namespace {}", path.display())]
    CreateNamespace {
        /// Where it was to be pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pinned namespace could not be taken away.
    #[error("cannot remove network namespace {}", path.display())]
    RemoveNamespace {
        /// Where it is pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel took no programs that translate at connect, or what they look into.
    #[error("cannot {action} by a program in the kernel")]
    Programs {
        /// What was to be done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread that worked in a namespace ended without an answer.
    #[error("the thread in network namespace {} died", path.display())]
    ThreadDied {
        /// The file of the namespace.
        path: PathBuf,
    },
    /// A socket to the kernel could not be opened or used.
    #[error("cannot {action} a netlink socket")]
    Socket {
        /// `open`, `bind`, `send to` or `receive from`.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("cannot {action}{detail}")]
    Refused {
        /// What was asked, as a verb and its object.
        action: String,
        /// The kernel's own words, in parentheses; empty when it gave none.
        detail: String,
        /// The error number.
        source: io::Error,
    },
    /// An answer of the kernel could not be read.
    #[error("malformed netlink answer: {reason}")]
    MalformedAnswer {
        /// What was wrong.
        reason: &'static str,
    },
    /// A request is larger than the protocol can carry.
    #[error("cannot {action}: the request is too large for a netlink message")]
    RequestTooLarge {
        /// What was to be asked.
        action: String,
    },
    /// A name that the kernel would not take.
    #[error("invalid interface name {name:?}: 1 to 15 bytes without '/', ':' or white space")]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// A MAC address that cannot be read or is not one of a station.
    #[error("invalid MAC address {text:?}")]
    MacAddress {
        /// The text.
        text: String,
    },
    /// There is no such interface.
    #[error("no interface named {name}")]
    NoSuchLink {
        /// The name.
        name: String,
    },
    /// The name is taken by an interface of another kind.
    #[error("interface {name} exists and is not a bridge")]
    NotABridge {
        /// The name.
        name: String,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {}", path.display())]
    Sysctl {
        /// The file below /proc/sys.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Every address of a pool is taken.
    #[error("no available address in {subnet}")]
    PoolExhausted {
        /// The range addresses are taken from.
        subnet: IpNet,
    },
    /// The address asked for is taken.
    #[error("address {address} is already in use")]
    AddressInUse {
        /// The address.
        address: IpAddr,
    },
    /// The address asked for does not lie in the pool's subnet, or is its network or broadcast address.
    #[error("address {address} cannot be used in {subnet}")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNet,
    },
    /// A subnet too small to hold a gateway and a host.
    #[error("subnet {subnet} is too small")]
    SubnetTooSmall {
        /// The subnet.
        subnet: IpNet,
    },
    /// The range addresses are to be taken from is not in the subnet.
    #[error("range {range} is not in subnet {subnet}")]
    RangeOutside {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// Every candidate overlaps a network the host knows.
    #[error("could not find an available subnet: all {candidates} candidates overlap the host's networks")]
    NoFreeSubnet {
        /// How many were tried.
        candidates: usize,
    },
    /// Somebody else holds the host port.
    #[error("failed to bind host port for {address}: address already in use")]
    PortTaken {
        /// The address and port.
        address: SocketAddr,
    },
    /// The host port cannot be bound for another reason.
    #[error("failed to bind host port for {address}")]
    PortBind {
        /// The address and port.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name server could not listen.
    #[error("cannot serve names at {address}")]
    NameServer {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A host name that the protocol cannot carry.
    #[error("invalid host name {name:?}")]
    HostName {
        /// The name.
        name: String,
    },
}
