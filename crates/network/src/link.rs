//! Interfaces, addresses and routes over rtnetlink: bridges, and the pairs that tie a namespace to one.
//! It must not know what lives in the namespaces.

mod child;
mod route;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::netlink::{Batch, Body, Message, Socket, native_u32, text};
use crate::{Error, Result, namespace, sysctl};

pub use crate::mac::MacAddress;
pub use child::{Child, ChildKind, IpvlanFlag, IpvlanMode, MacvlanMode};
pub use route::Route;
use route::add_default_route;

const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const UP: u32 = libc::IFF_UP as u32;
const RUNNING: u32 = libc::IFF_RUNNING as u32;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
/// No duplicate address detection: the pool that gave the address knows.
const IFA_F_NODAD: u8 = 0x02;

/// An interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`…; empty for hardware.
    pub kind: String,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether packets pass. The kernel comes to this by itself shortly after both ends of a pair are up; what
    /// is sent before is lost.
    pub running: bool,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
    /// What its maker noted on it; empty when nothing.
    pub alias: String,
}

/// A bridge to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The interface's name, 1 to 15 bytes.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Addresses of the host on it, with the subnets' prefixes.
    pub addresses: Vec<IpNet>,
    /// A note on it by which its maker finds it again.
    pub alias: String,
}

/// A namespace tied to a bridge by a pair of interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The bridge.
    pub bridge: String,
    /// The host's end, unique on the host; 1 to 15 bytes.
    pub host_name: String,
    /// The namespace's file.
    pub namespace: PathBuf,
    /// The namespace's end, as `eth0`.
    pub name: String,
    /// The hardware address of the namespace's end.
    pub mac: MacAddress,
    /// Its addresses with the subnets' prefixes. Without an IPv6 one, IPv6 is off on the interface.
    pub addresses: Vec<IpNet>,
    /// Next hops of default routes; none for an internal network.
    pub gateways: Vec<IpAddr>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Packets may leave by the port they came in at: a published port or a service leads back to the one who
    /// asks. Wanted nearly always.
    pub hairpin: bool,
    /// Ports that are isolated reach only ports that are not, and the host.
    pub isolated: bool,
    /// A note on the host's end by which its maker finds it again.
    pub alias: String,
}

/// A socket to the kernel's routing tables, in the namespace it was opened in. Shared freely: one request at
/// a time.
#[derive(Debug)]
pub struct Netlink {
    socket: Mutex<Socket>,
}

impl Netlink {
    /// Opens a socket in the caller's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Mutex::new(Socket::open(None)?) })
    }

    /// Opens a socket in another namespace; it works from any thread.
    pub fn open_in(namespace: &Path) -> Result<Self> {
        namespace::within(namespace, Self::open)
    }

    /// Lets packets between ports of this bridge, of no other, meet the host's rules, so that an answer that does not
    /// pass the host's routing is translated back. Whether the kernel can: without its module for that, it cannot.
    pub fn filter_bridged(&self, bridge: &str) -> Result<bool> {
        if sysctl::get("bridge/bridge-nf-call-iptables").is_none() {
            return Ok(false);
        }
        let missing = || Error::NoSuchLink { name: bridge.to_owned() };
        let link = self.find_link(bridge)?.ok_or_else(missing)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(link.index, 0, 0), |body| {
            body.nest(libc::IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "bridge");
                info.nest(IFLA_INFO_DATA, |data| data.u8(IFLA_BR_NF_CALL_IPTABLES, 1));
            });
        });
        self.request(batch, |_| format!("filter what passes {bridge}")).map(|_| true)
    }

    /// Makes the bridge or takes the one that is there, sets it up and gives it its addresses; others that it
    /// has stay. IPv6 is off on it unless it gets an IPv6 address.
    pub fn create_bridge(&self, bridge: &Bridge) -> Result<Link> {
        check_name(&bridge.name)?;
        let link = match self.find_link(&bridge.name)? {
            Some(link) if link.kind == "bridge" => link,
            Some(_) => return Err(Error::NotABridge { name: bridge.name.clone() }),
            None => {
                let mut batch = Batch::new();
                batch.message(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0), |body| {
                    body.text(libc::IFLA_IFNAME, &bridge.name);
                    // A fixed address: else it changes with the lowest of the ports'.
                    let mac = bridge.addresses.iter().find_map(|network| match network.addr() {
                        IpAddr::V4(address) => Some(MacAddress::from_ipv4(address)),
                        IpAddr::V6(_) => None,
                    });
                    body.bytes(libc::IFLA_ADDRESS, &mac.unwrap_or_else(MacAddress::random).0);
                    body.nest(libc::IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
                });
                self.request(batch, |_| format!("create bridge {}", bridge.name))?;
                self.find_link(&bridge.name)?
                    .ok_or_else(|| Error::NoSuchLink { name: bridge.name.clone() })?
            }
        };
        let ipv6 = bridge.addresses.iter().any(|network| network.addr().is_ipv6());
        quiet_ipv6(&bridge.name, ipv6)?;
        let mut batch = Batch::new();
        for address in &bridge.addresses {
            add_address(&mut batch, link.index, *address);
        }
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(link.index, UP, UP), |body| {
            body.u32(libc::IFLA_MTU, bridge.mtu);
            if !bridge.alias.is_empty() {
                body.text(libc::IFLA_IFALIAS, &bridge.alias);
            }
        });
        self.request(batch, |index| match bridge.addresses.get(index) {
            Some(address) => format!("add address {address} to {}", bridge.name),
            None => format!("set up bridge {}", bridge.name),
        })?;
        Ok(Link { up: true, mtu: bridge.mtu, ..link })
    }

    /// Ties a namespace to a bridge. On an error nothing is left behind.
    pub fn attach(&self, attachment: &Attachment) -> Result<()> {
        check_name(&attachment.host_name)?;
        check_name(&attachment.name)?;
        let bridge = self
            .find_link(&attachment.bridge)?
            .ok_or_else(|| Error::NoSuchLink { name: attachment.bridge.clone() })?;
        let target = namespace::open(&attachment.namespace)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0), |body| {
            body.text(libc::IFLA_IFNAME, &attachment.host_name);
            body.u32(libc::IFLA_MTU, attachment.mtu);
            body.u32(libc::IFLA_MASTER, bridge.index);
            body.nest(libc::IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.fixed(&link_header(0, 0, 0));
                        peer.text(libc::IFLA_IFNAME, &attachment.name);
                        peer.u32(libc::IFLA_MTU, attachment.mtu);
                        peer.bytes(libc::IFLA_ADDRESS, &attachment.mac.0);
                        peer.u32(libc::IFLA_NET_NS_FD, target.as_fd().as_raw_fd() as u32);
                    });
                });
            });
        });
        // A port needs no addresses of its own; said before it is up, or it makes one.
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(0, 0, 0), |body| {
            body.text(libc::IFLA_IFNAME, &attachment.host_name);
            body.nest(libc::IFLA_AF_SPEC, |families| {
                families.nest(libc::AF_INET6 as u16, |ipv6| {
                    ipv6.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE)
                });
            });
        });
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(0, UP, UP), |body| {
            body.text(libc::IFLA_IFNAME, &attachment.host_name);
            body.text(libc::IFLA_IFALIAS, &attachment.alias);
            if attachment.hairpin || attachment.isolated {
                body.nest(libc::IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_SLAVE_KIND, "bridge");
                    info.nest(IFLA_INFO_SLAVE_DATA, |port| {
                        port.u8(IFLA_BRPORT_MODE, attachment.hairpin.into());
                        port.u8(IFLA_BRPORT_ISOLATED, attachment.isolated.into());
                    });
                });
            }
        });
        let described = |verb| format!("{verb} interface {} on {}", attachment.host_name, attachment.bridge);
        match self.request(batch, |index| described(if index == 0 { "create" } else { "set up" })) {
            // A kernel without IPv6 has no such setting and needs none.
            Err(Error::Refused { action, source, .. })
                if action.starts_with("set up") && source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => {
                if !matches!(&error, Error::Refused { action, .. } if action.starts_with("create")) {
                    self.detach(&attachment.host_name)?;
                }
                return Err(error);
            }
            Ok(_) => {}
        }
        let inside = namespace::within_descriptor(target.as_fd(), &attachment.namespace, || {
            Self::open()?.configure(&attachment.name, &attachment.addresses, &attachment.gateways)
        });
        if inside.is_err() {
            self.detach(&attachment.host_name)?;
        }
        inside
    }

    /// Takes the pair away whose host's end is given; whether there was one.
    pub fn detach(&self, host_name: &str) -> Result<bool> {
        self.delete_link(host_name)
    }

    /// Addresses, routes and loopback, seen from inside the namespace. An unspecified gateway is a route to
    /// everything on the link itself.
    fn configure(&self, name: &str, addresses: &[IpNet], gateways: &[IpAddr]) -> Result<()> {
        let link = self.find_link(name)?.ok_or_else(|| Error::NoSuchLink { name: name.to_owned() })?;
        quiet_ipv6(name, addresses.iter().any(|network| network.addr().is_ipv6()))?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(1, UP, UP), |_| {});
        for address in addresses {
            add_address(&mut batch, link.index, *address);
        }
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(link.index, UP, UP), |_| {});
        for gateway in gateways {
            add_default_route(&mut batch, link.index, *gateway);
        }
        self.request(batch, |index| match index {
            0 => "set up loopback".to_owned(),
            index if index <= addresses.len() => format!("add address {} to {name}", addresses[index - 1]),
            index if index == addresses.len() + 1 => format!("set up interface {name}"),
            index => format!("add default route by {}", gateways[index - addresses.len() - 2]),
        })?;
        Ok(())
    }

    /// Sets the loopback interface up.
    pub fn loopback_up(&self) -> Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(1, UP, UP), |_| {});
        self.request(batch, |_| "set up loopback".to_owned()).map(drop)
    }

    /// Gives an interface one more address, such as a /32 that a service of the host answers at.
    pub fn add_address(&self, name: &str, address: IpNet) -> Result<()> {
        let index = self.index_of(name)?;
        let mut batch = Batch::new();
        add_address(&mut batch, index, address);
        self.request(batch, |_| format!("add address {address} to {name}")).map(drop)
    }

    /// Takes an address from an interface; whether it had it.
    pub fn remove_address(&self, name: &str, address: IpNet) -> Result<bool> {
        let index = self.index_of(name)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_DELADDR, ACK, &address_header(index, address), |body| {
            body_address(body, libc::IFA_LOCAL, address.addr());
        });
        let missing = [libc::EADDRNOTAVAIL, libc::ENODEV];
        absent(self.request(batch, |_| format!("remove address {address} from {name}")), &missing)
    }

    /// Deletes an interface; whether there was one.
    pub fn delete_link(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_DELLINK, ACK, &link_header(0, 0, 0), |body| {
            body.text(libc::IFLA_IFNAME, name)
        });
        absent(self.request(batch, |_| format!("delete interface {name}")), &[libc::ENODEV])
    }

    /// The interface of a name.
    pub fn find_link(&self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETLINK, 0, &link_header(0, 0, 0), |body| body.text(libc::IFLA_IFNAME, name));
        match self.request(batch, |_| format!("look up interface {name}")) {
            Ok(answers) => answers.first().map(parse_link).transpose(),
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every interface.
    pub fn list_links(&self) -> Result<Vec<Link>> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETLINK, DUMP, &link_header(0, 0, 0), |_| {});
        self.request(batch, |_| "list interfaces".to_owned())?.iter().map(parse_link).collect()
    }

    /// Every address with the number of its interface.
    pub fn list_addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETADDR, DUMP, &[0; 8], |_| {});
        let answers = self.request(batch, |_| "list addresses".to_owned())?;
        Ok(answers.iter().filter_map(parse_address).collect())
    }

    fn index_of(&self, name: &str) -> Result<u32> {
        self.find_link(name)?
            .map(|link| link.index)
            .ok_or_else(|| Error::NoSuchLink { name: name.to_owned() })
    }

    fn request(&self, batch: Batch, label: impl Fn(usize) -> String) -> Result<Vec<Message>> {
        self.socket.lock().request(batch, label)
    }
}

/// Sets the loopback interface of a namespace up.
pub fn loopback_up(namespace: &Path) -> Result<()> {
    Netlink::open_in(namespace)?.loopback_up()
}

/// An interface that gets no IPv6 address must not make one or learn one from its neighbours
/// (CVE-2020-13401); one that gets one learns no more.
fn quiet_ipv6(name: &str, ipv6: bool) -> Result<()> {
    sysctl::set_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    // Nobody is asked for before the link-local address is sure to be its own, which would take seconds.
    sysctl::set_if_present(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
    sysctl::set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), if ipv6 { "0" } else { "1" })
}

fn absent(result: Result<Vec<Message>>, missing: &[i32]) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::Refused { source, .. })
            if source.raw_os_error().is_some_and(|code| missing.contains(&code)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != "..";
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if fits && plain { Ok(()) } else { Err(Error::InterfaceName { name: name.chars().take(40).collect() }) }
}

/// struct ifinfomsg.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// struct ifaddrmsg.
fn address_header(index: u32, network: IpNet) -> [u8; 8] {
    let mut header = [0; 8];
    header[0] = family(network.addr());
    header[1] = network.prefix_len();
    if network.addr().is_ipv6() {
        header[2] = IFA_F_NODAD;
    }
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn body_address(body: &mut Body<'_>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => body.bytes(kind, &address.octets()),
        IpAddr::V6(address) => body.bytes(kind, &address.octets()),
    }
}

fn add_address(batch: &mut Batch, index: u32, network: IpNet) {
    batch.message(libc::RTM_NEWADDR, REPLACE, &address_header(index, network), |body| {
        body_address(body, libc::IFA_LOCAL, network.addr());
        body_address(body, libc::IFA_ADDRESS, network.addr());
        if let IpNet::V4(network) = network
            && network.prefix_len() < 31
        {
            body.bytes(libc::IFA_BROADCAST, &network.broadcast().octets());
        }
    });
}

fn parse_link(message: &Message) -> Result<Link> {
    let number = |range: std::ops::Range<usize>| {
        message
            .payload
            .get(range)
            .and_then(native_u32)
            .ok_or(Error::MalformedAnswer { reason: "an interface without its header" })
    };
    let attributes = message.attributes(16);
    Ok(Link {
        index: number(4..8)?,
        up: number(8..12)? & UP != 0,
        running: number(8..12)? & RUNNING != 0,
        name: attributes.find(libc::IFLA_IFNAME).map(text).unwrap_or_default(),
        kind: attributes.nested(libc::IFLA_LINKINFO).find(IFLA_INFO_KIND).map(text).unwrap_or_default(),
        mac: attributes.find(libc::IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(MacAddress),
        mtu: attributes.find(libc::IFLA_MTU).and_then(native_u32).unwrap_or_default(),
        bridge: attributes.find(libc::IFLA_MASTER).and_then(native_u32),
        alias: attributes.find(libc::IFLA_IFALIAS).map(text).unwrap_or_default(),
    })
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    }
}

fn parse_address(message: &Message) -> Option<(u32, IpNet)> {
    let prefix = *message.payload.get(1)?;
    let index = native_u32(message.payload.get(4..8)?)?;
    let attributes = message.attributes(8);
    let address = attributes.find(libc::IFA_LOCAL).or_else(|| attributes.find(libc::IFA_ADDRESS))?;
    Some((index, IpNet::new(parse_ip(address)?, prefix).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_not_take_are_refused() {
        for good in ["eth0", "br-0123456789ab", "veth1a2b3c4"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "0123456789abcdef", "é"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
