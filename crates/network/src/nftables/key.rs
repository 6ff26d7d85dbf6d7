//! The keys and elements of sets and maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::Verdict;

/// The type of a field of a key, or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// A number of four bytes in the machine's order.
    Integer,
    /// An IPv4 address.
    Ipv4Address,
    /// An IPv6 address.
    Ipv6Address,
    /// A transport protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A packet mark.
    Mark,
    /// An interface's name.
    InterfaceName,
    /// What happens to a packet; only as data.
    Verdict,
}

impl DataType {
    /// Length in bytes, without padding.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Integer | Self::Ipv4Address | Self::Mark => 4,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::InterfaceName | Self::Ipv6Address | Self::Verdict => 16,
        }
    }

    /// The number by which the `nft` program shows the type; the kernel only keeps it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Integer => 4,
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::InterfaceName => 41,
            Self::Verdict => 0xffff_ff00,
        }
    }
}

/// A key, built field by field; also the value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// No field yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address, four or sixteen bytes.
    pub fn address(self, address: impl Into<IpAddr>) -> Self {
        match address.into() {
            IpAddr::V4(address) => self.field(&address.octets()),
            IpAddr::V6(address) => self.field(&address.octets()),
        }
    }

    /// Adds a transport protocol's number.
    pub fn protocol(self, number: u8) -> Self {
        self.field(&[number])
    }

    /// Adds a port.
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Adds a number in the machine's order, as marks, indices and generated numbers are.
    pub fn integer(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    /// Adds an interface's name; what does not fit 15 bytes is cut off.
    pub fn interface(self, name: &str) -> Self {
        self.field(&interface(name))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementData {
    /// A value that is loaded into registers.
    Value(Key),
    /// What happens to the packet.
    Verdict(Verdict),
}

/// An element of a set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub(super) key: Key,
    pub(super) data: Option<ElementData>,
    pub(super) interval_end: bool,
}

impl Element {
    /// An element of a set.
    pub fn new(key: Key) -> Self {
        Self { key, data: None, interval_end: false }
    }

    /// An element of a map.
    pub fn value(key: Key, value: Key) -> Self {
        Self { key, data: Some(ElementData::Value(value)), interval_end: false }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Key, verdict: Verdict) -> Self {
        Self { key, data: Some(ElementData::Verdict(verdict)), interval_end: false }
    }
}

/// The elements of an interval set that stand for these networks; overlapping ones are merged, for the kernel
/// refuses them.
pub fn network_elements(networks: &[Ipv4Net]) -> Vec<Element> {
    let networks: Vec<_> = networks.iter().map(Ipv4Net::trunc).collect();
    let mut elements = Vec::new();
    for network in Ipv4Net::aggregate(&networks) {
        elements.push(Element::new(Key::new().address(network.network())));
        if let Some(end) = u32::from(network.broadcast()).checked_add(1) {
            let key = Key::new().address(Ipv4Addr::from(end));
            elements.push(Element { interval_end: true, ..Element::new(key) });
        }
    }
    elements
}

/// As [`network_elements`], for IPv6.
pub fn ipv6_network_elements(networks: &[Ipv6Net]) -> Vec<Element> {
    let networks: Vec<_> = networks.iter().map(Ipv6Net::trunc).collect();
    let mut elements = Vec::new();
    for network in Ipv6Net::aggregate(&networks) {
        elements.push(Element::new(Key::new().address(network.network())));
        if let Some(end) = u128::from(network.broadcast()).checked_add(1) {
            let key = Key::new().address(Ipv6Addr::from(end));
            elements.push(Element { interval_end: true, ..Element::new(key) });
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_each() {
        let key = Key::new().protocol(6).address(Ipv4Addr::new(1, 2, 3, 4)).port(0x1234);
        assert_eq!(key.as_bytes(), [6, 0, 0, 0, 1, 2, 3, 4, 0x12, 0x34, 0, 0]);
        assert_eq!(Key::new().interface("a-name-far-too-long").as_bytes().len(), 16);
    }

    #[test]
    fn overlapping_networks_are_one_interval() {
        let networks = ["10.0.0.0/8", "10.1.0.0/16", "255.255.255.0/24"].map(|text| text.parse().unwrap());
        assert_eq!(network_elements(&networks).len(), 3, "the last one has no end");
    }
}
