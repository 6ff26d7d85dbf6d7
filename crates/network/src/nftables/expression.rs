//! The expressions a rule is made of, as the kernel's uapi header `nf_tables.h` names them.

use super::Verdict;
use super::key::interface;
use crate::netlink::Body;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// The register of verdicts.
const VERDICT_REGISTER: u32 = 0;
/// The first of the sixteen registers of four bytes.
const FIRST_REGISTER: u32 = 8;

/// Where a piece of a packet is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// The IP header.
    Network,
    /// The header of TCP, UDP and the like.
    Transport,
}

/// What is known of a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// Its mark.
    Mark,
    /// The name of the interface it came by; four registers.
    InputName,
    /// The name of the interface it leaves by; four registers.
    OutputName,
    /// The number of its transport protocol.
    TransportProtocol,
    /// Which version of IP it is, one byte: [`Meta::IPV4`] or [`Meta::IPV6`].
    Family,
}

impl Meta {
    /// The family of IPv4.
    pub const IPV4: u8 = 2;
    /// The family of IPv6.
    pub const IPV6: u8 = 10;
}

/// What is known of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conntrack {
    /// A bit of [`Conntrack::ESTABLISHED_OR_RELATED`] and others.
    State,
    /// Bits as [`Conntrack::DNAT`].
    Status,
    /// The connection's mark.
    Mark,
}

impl Conntrack {
    /// Bits of the state.
    pub const ESTABLISHED_OR_RELATED: u32 = 0b0110;
    /// The bit of the status that says that the destination was translated.
    pub const DNAT: u32 = 1 << 5;
}

/// How a register is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// What the routing table says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// Of the source address.
    Source,
    /// Of the destination address.
    Destination,
}

impl AddressKind {
    /// The value of an address of the host itself.
    pub const LOCAL: u32 = libc::RTN_LOCAL as u32;
}

/// The answer to a packet that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP port unreachable.
    PortUnreachable,
    /// A TCP reset.
    TcpReset,
}

/// How a rule changes a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetUpdate {
    /// Adds an element that is not there.
    Add,
    /// Adds an element or renews its timeout.
    Update,
}

/// One step of a rule. Registers are numbered from 0 to 15.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are registers and what they say")]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload { register: u32, base: PayloadBase, offset: u32, length: u32 },
    /// Loads what is known of the packet.
    Meta { register: u32, key: Meta },
    /// Sets the packet's mark.
    SetMark { register: u32 },
    /// Loads what is known of the connection.
    Conntrack { register: u32, key: Conntrack },
    /// Goes on if the comparison holds.
    Compare { register: u32, comparison: Comparison, value: Vec<u8> },
    /// register = register & mask ^ xor, over their length.
    Bitwise { register: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// Goes on if the key is in the set (or is not).
    Lookup { register: u32, set: String, inverted: bool },
    /// Loads what a map has for the key; goes on if it has something.
    Map { register: u32, map: String, into: u32 },
    /// Does what a verdict map has for the key.
    VerdictMap { register: u32, map: String },
    /// Loads a value.
    Immediate { register: u32, value: Vec<u8> },
    /// Ends the rule.
    Verdict(Verdict),
    /// Translates the IPv4 destination; the port is kept if there is no register for it.
    DestinationNat { address: u32, port: Option<u32> },
    /// As [`Expression::DestinationNat`], for IPv6.
    DestinationNatIpv6 { address: u32, port: Option<u32> },
    /// Translates the source to the address of the interface the packet leaves by.
    Masquerade,
    /// Loads a random number below the modulus, in the machine's order.
    Random { register: u32, modulus: u32 },
    /// Loads a hash of `length` bytes at `from`, below the modulus.
    Hash { from: u32, length: u32, register: u32, modulus: u32, seed: u32 },
    /// Counts packets and bytes.
    Counter,
    /// Refuses the packet.
    Reject(Reject),
    /// Goes on while no more than this many packets a second come.
    Limit { per_second: u64, burst: u32 },
    /// Loads the routing table's kind of an address.
    FibKind { register: u32, of: AddressKind },
    /// Puts a key, and for a map its data, into a set.
    UpdateSet {
        set: String,
        update: SetUpdate,
        key: u32,
        data: Option<u32>,
        timeout_milliseconds: Option<u64>,
    },
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Conntrack { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::DestinationNat { .. } | Self::DestinationNatIpv6 { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Random { .. } => "numgen",
            Self::Hash { .. } => "hash",
            Self::Counter => "counter",
            Self::Reject(_) => "reject",
            Self::Limit { .. } => "limit",
            Self::FibKind { .. } => "fib",
            Self::UpdateSet { .. } => "dynset",
        }
    }

    pub(super) fn encode(&self, list: &mut Body<'_>) {
        list.nest(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, self.name());
            element.nest(NFTA_EXPR_DATA, |data| self.encode_data(data));
        });
    }

    fn encode_data(&self, data: &mut Body<'_>) {
        match self {
            Self::Payload { register, base, offset, length } => {
                data.be_u32(1, at(*register));
                data.be_u32(2, if *base == PayloadBase::Network { 1 } else { 2 });
                data.be_u32(3, *offset);
                data.be_u32(4, *length);
            }
            Self::Meta { register, key } => {
                data.be_u32(1, at(*register));
                data.be_u32(
                    2,
                    match key {
                        Meta::Mark => 3,
                        Meta::InputName => 6,
                        Meta::OutputName => 7,
                        Meta::TransportProtocol => 16,
                        Meta::Family => 15,
                    },
                );
            }
            Self::SetMark { register } => {
                data.be_u32(2, 3);
                data.be_u32(3, at(*register));
            }
            Self::Conntrack { register, key } => {
                data.be_u32(1, at(*register));
                data.be_u32(
                    2,
                    match key {
                        Conntrack::State => 0,
                        Conntrack::Status => 2,
                        Conntrack::Mark => 3,
                    },
                );
            }
            Self::Compare { register, comparison, value } => {
                data.be_u32(1, at(*register));
                data.be_u32(2, if *comparison == Comparison::Equal { 0 } else { 1 });
                encode_value(data, 3, value);
            }
            Self::Bitwise { register, mask, xor } => {
                data.be_u32(1, at(*register));
                data.be_u32(2, at(*register));
                data.be_u32(3, mask.len() as u32);
                encode_value(data, 4, mask);
                encode_value(data, 5, xor);
            }
            Self::Lookup { register, set, inverted } => {
                data.text(1, set);
                data.be_u32(2, at(*register));
                data.be_u32(5, u32::from(*inverted));
            }
            Self::Map { register, map, into } => {
                data.text(1, map);
                data.be_u32(2, at(*register));
                data.be_u32(3, at(*into));
            }
            Self::VerdictMap { register, map } => {
                data.text(1, map);
                data.be_u32(2, at(*register));
                data.be_u32(3, VERDICT_REGISTER);
            }
            Self::Immediate { register, value } => {
                data.be_u32(1, at(*register));
                encode_value(data, 2, value);
            }
            Self::Verdict(verdict) => {
                data.be_u32(1, VERDICT_REGISTER);
                data.nest(2, |inner| encode_verdict(inner, verdict));
            }
            Self::DestinationNat { address, port } | Self::DestinationNatIpv6 { address, port } => {
                let ipv6 = matches!(self, Self::DestinationNatIpv6 { .. });
                data.be_u32(1, 1);
                data.be_u32(2, if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u32);
                data.be_u32(3, at(*address));
                if let Some(port) = port {
                    data.be_u32(5, at(*port));
                }
            }
            Self::Masquerade => {}
            Self::Random { register, modulus } => {
                data.be_u32(1, at(*register));
                data.be_u32(2, *modulus);
                data.be_u32(3, 1);
                data.be_u32(4, 0);
            }
            Self::Hash { from, length, register, modulus, seed } => {
                data.be_u32(1, at(*from));
                data.be_u32(2, at(*register));
                data.be_u32(3, *length);
                data.be_u32(4, *modulus);
                data.be_u32(5, *seed);
                data.be_u32(7, 0);
            }
            Self::Counter => {
                data.be_u64(1, 0);
                data.be_u64(2, 0);
            }
            Self::Reject(reject) => {
                // Port unreachable is code 3 of ICMP's destination unreachable.
                let (kind, code) = match reject {
                    Reject::PortUnreachable => (0, 3),
                    Reject::TcpReset => (1, 0),
                };
                data.be_u32(1, kind);
                data.u8(2, code);
            }
            Self::Limit { per_second, burst } => {
                data.be_u64(1, *per_second);
                data.be_u64(2, 1);
                data.be_u32(3, *burst);
                data.be_u32(4, 0);
            }
            Self::FibKind { register, of } => {
                data.be_u32(1, at(*register));
                data.be_u32(2, 3);
                data.be_u32(3, if *of == AddressKind::Source { 1 } else { 2 });
            }
            Self::UpdateSet { set, update, key, data: value, timeout_milliseconds } => {
                data.text(1, set);
                data.be_u32(3, if *update == SetUpdate::Add { 0 } else { 1 });
                data.be_u32(4, at(*key));
                if let Some(value) = value {
                    data.be_u32(5, at(*value));
                }
                if let Some(timeout) = timeout_milliseconds {
                    data.be_u64(6, *timeout);
                }
            }
        }
    }
}

/// NFTA_DATA_VERDICT inside an attribute of data.
pub(super) fn encode_verdict(data: &mut Body<'_>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (libc::NFT_RETURN, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
    };
    data.nest(NFTA_DATA_VERDICT, |inner| {
        inner.be_u32(NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            inner.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// NFTA_DATA_VALUE inside an attribute of data.
pub(super) fn encode_value(data: &mut Body<'_>, kind: u16, value: &[u8]) {
    data.nest(kind, |inner| inner.bytes(NFTA_DATA_VALUE, value));
}

fn at(register: u32) -> u32 {
    FIRST_REGISTER + register
}

/// Ends the rule with a verdict.
pub fn verdict(verdict: Verdict) -> Expression {
    Expression::Verdict(verdict)
}

/// Lets the packet go on to the next hook.
pub fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

/// Drops the packet.
pub fn drop_packet() -> Expression {
    Expression::Verdict(Verdict::Drop)
}

/// Goes to a chain and comes back.
pub fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.to_owned()))
}

/// Goes to a chain for good.
pub fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

/// Loads bytes of the packet.
pub fn payload(register: u32, base: PayloadBase, offset: u32, length: u32) -> Expression {
    Expression::Payload { register, base, offset, length }
}

/// Loads the IPv4 source address.
pub fn source_address(register: u32) -> Expression {
    payload(register, PayloadBase::Network, 12, 4)
}

/// Goes on if a register holds these bytes.
pub fn compare(register: u32, value: &[u8]) -> Expression {
    Expression::Compare { register, comparison: Comparison::Equal, value: value.to_vec() }
}

/// Goes on if a register does not hold these bytes.
pub fn differ(register: u32, value: &[u8]) -> Expression {
    Expression::Compare { register, comparison: Comparison::NotEqual, value: value.to_vec() }
}

/// Goes on if the packet is of this version of IP.
pub fn is_family(family: u8) -> Vec<Expression> {
    vec![Expression::Meta { register: 0, key: Meta::Family }, compare(0, &[family])]
}

/// Goes on if four registers hold an interface's name.
pub fn compare_name(register: u32, name: &str) -> Expression {
    compare(register, &interface(name))
}
