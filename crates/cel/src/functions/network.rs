//! Addresses and ranges of IP networks.

use std::{fmt, net::IpAddr};

use super::{Caller, Row, conversions::to_string, text};
use crate::value::{Fault, Hidden, Opaque, Outcome, Value, fault, no_such_overload};

pub(super) const NETWORKS: &[Row] = &[
    ("string_to_ip", "ip(string) -> net.IP", ip),
    ("ip_family", "net.IP.family() -> int", family),
    ("ip_is_canonical", "ip.isCanonical(string) -> bool", is_canonical),
    ("ip_is_unspecified", "net.IP.isUnspecified() -> bool", |_, arguments| {
        is(arguments, |ip| ip.is_unspecified())
    }),
    ("ip_is_loopback", "net.IP.isLoopback() -> bool", |_, arguments| is(arguments, |ip| ip.is_loopback())),
    ("ip_is_link_local_multicast", "net.IP.isLinkLocalMulticast() -> bool", |_, arguments| {
        is(arguments, is_link_local_multicast)
    }),
    ("ip_is_link_local_unicast", "net.IP.isLinkLocalUnicast() -> bool", |_, arguments| {
        is(arguments, is_link_local_unicast)
    }),
    ("ip_is_global_unicast", "net.IP.isGlobalUnicast() -> bool", |_, arguments| {
        is(arguments, is_global_unicast)
    }),
    ("is_ip", "isIP(string) -> bool", is_ip),
    ("ip_to_string", "string(net.IP) -> string", to_string),
    ("string_to_cidr", "cidr(string) -> net.CIDR", cidr),
    ("cidr_contains_ip_string", "net.CIDR.containsIP(string) -> bool", contains_ip),
    ("cidr_contains_ip_ip", "net.CIDR.containsIP(net.IP) -> bool", contains_ip),
    ("cidr_contains_cidr_string", "net.CIDR.containsCIDR(string) -> bool", contains_cidr),
    ("cidr_contains_cidr", "net.CIDR.containsCIDR(net.CIDR) -> bool", contains_cidr),
    ("cidr_ip", "net.CIDR.ip() -> net.IP", ip_of),
    ("cidr_prefix_length", "net.CIDR.prefixLength() -> int", prefix_length),
    ("cidr_masked", "net.CIDR.masked() -> net.CIDR", masked),
    ("is_cidr", "isCIDR(string) -> bool", is_cidr),
    ("cidr_to_string", "string(net.CIDR) -> string", to_string),
];

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Network {
    fn masked(self) -> Network {
        let address = match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((u32::from(ip) & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((u128::from(ip) & mask).into())
            }
        };
        Network { address, ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Network { address, ..self }.masked() == self.masked()
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, Fault> {
    if text.contains('%') {
        return fault(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            fault(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => fault(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(text: &str) -> Result<Network, Fault> {
    let wrong = |why: &str| {
        fault(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let Some((address, length)) = text.rsplit_once('/') else { return wrong("no '/'") };
    let Ok(address) = address.parse::<IpAddr>() else { return wrong("unable to parse IP") };
    let is_number =
        !length.is_empty() && length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || (length.len() > 1 && length.starts_with('0')) {
        return wrong("bad bits after slash");
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(length) if length <= most => match address {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                fault(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
            }
            address => Ok(Network { address, length }),
        },
        _ => wrong("prefix length out of range"),
    }
}

fn address(arguments: &[Value<'_>], index: usize) -> Result<IpAddr, Fault> {
    match arguments.get(index) {
        Some(Value::Hidden(Hidden(Opaque::Address(address)))) => Ok(*address),
        Some(Value::String(text)) => parse_ip(text),
        _ => no_such_overload(),
    }
}

fn network(arguments: &[Value<'_>], index: usize) -> Result<Network, Fault> {
    match arguments.get(index) {
        Some(Value::Hidden(Hidden(Opaque::Network(network)))) => Ok(*network),
        Some(Value::String(text)) => parse_cidr(text),
        _ => no_such_overload(),
    }
}

fn ip<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    parse_ip(text(arguments, 0)?).map(|address| Value::hidden(Opaque::Address(address)))
}

fn is_ip<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse_ip(text(arguments, 0)?).is_ok()))
}

fn is_canonical<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let text = text(arguments, 0)?;
    Ok(Value::Bool(parse_ip(text)?.to_string() == text))
}

fn family<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(if address(arguments, 0)?.is_ipv4() { 4 } else { 6 }))
}

fn is<'a>(arguments: &[Value<'a>], of: fn(IpAddr) -> bool) -> Outcome<'a> {
    Ok(Value::Bool(of(address(arguments, 0)?)))
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// Neither special nor for many: private addresses are global in this sense.
fn is_global_unicast(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || is_link_local_unicast(ip)
        || is_broadcast)
}

fn cidr<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    parse_cidr(text(arguments, 0)?).map(|network| Value::hidden(Opaque::Network(network)))
}

fn is_cidr<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse_cidr(text(arguments, 0)?).is_ok()))
}

fn contains_ip<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(network(arguments, 0)?.contains(address(arguments, 1)?)))
}

fn contains_cidr<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (outer, inner) = (network(arguments, 0)?, network(arguments, 1)?);
    Ok(Value::Bool(outer.length <= inner.length && outer.contains(inner.address)))
}

fn ip_of<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::hidden(Opaque::Address(network(arguments, 0)?.address)))
}

fn prefix_length<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(network(arguments, 0)?.length.into()))
}

fn masked<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::hidden(Opaque::Network(network(arguments, 0)?.masked())))
}
