//! Interfaces on top of another: macvlan and ipvlan in a namespace, and what they can stand on, a VLAN or a dummy.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use ipnet::IpNet;

use super::{
    ACK, CREATE, IFLA_INFO_DATA, IFLA_INFO_KIND, MacAddress, Netlink, UP, check_name, link_header, quiet_ipv6,
};
use crate::netlink::Batch;
use crate::{Error, Result, namespace};

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;

/// Which of a parent's macvlan interfaces reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// None.
    Private,
    /// All, by a switch outside.
    Vepa,
    /// All.
    Bridge,
    /// There is only one, and it takes the parent over.
    Passthru,
}

/// What ipvlan interfaces share with their parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// The link: neighbours are found by asking.
    L2,
    /// Routes only; nobody is asked for.
    L3,
    /// As L3, and the host's packet rules are met.
    L3s,
}

/// Which of a parent's ipvlan interfaces reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// All.
    Bridge,
    /// None.
    Private,
    /// All, by a switch outside.
    Vepa,
}

/// The kind of an interface on top of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// With a hardware address of its own.
    Macvlan(MacvlanMode),
    /// With the parent's hardware address.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// A namespace tied to an interface of the host by one on top of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The host's interface.
    pub parent: String,
    /// What stands on it.
    pub kind: ChildKind,
    /// The namespace's file.
    pub namespace: PathBuf,
    /// The name in the namespace, as `eth0`.
    pub name: String,
    /// The hardware address; ipvlan has none of its own.
    pub mac: Option<MacAddress>,
    /// Addresses with the subnets' prefixes. Without an IPv6 one, IPv6 is off on the interface (CVE-2024-32473).
    pub addresses: Vec<IpNet>,
    /// Next hops of default routes; an unspecified one leads everything to the link itself.
    pub gateways: Vec<IpAddr>,
    /// Largest packet in bytes; none for the parent's.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Ties a namespace to an interface of the host. On an error nothing is left behind; the interface goes with its
    /// namespace, or by [`Self::detach_child`].
    pub fn attach_child(&self, child: &Child) -> Result<()> {
        check_name(&child.name)?;
        let parent = self.index_of(&child.parent)?;
        let target = namespace::open(&child.namespace)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0), |body| {
            body.text(libc::IFLA_IFNAME, &child.name);
            body.u32(libc::IFLA_LINK, parent);
            body.u32(libc::IFLA_NET_NS_FD, target.as_fd().as_raw_fd() as u32);
            if let Some(mtu) = child.mtu {
                body.u32(libc::IFLA_MTU, mtu);
            }
            if let (Some(mac), ChildKind::Macvlan(_)) = (child.mac, child.kind) {
                body.bytes(libc::IFLA_ADDRESS, &mac.0);
            }
            body.nest(libc::IFLA_LINKINFO, |info| match child.kind {
                ChildKind::Macvlan(mode) => {
                    info.text(IFLA_INFO_KIND, "macvlan");
                    info.nest(IFLA_INFO_DATA, |data| data.u32(IFLA_MACVLAN_MODE, mode.number()));
                }
                ChildKind::Ipvlan(mode, flag) => {
                    info.text(IFLA_INFO_KIND, "ipvlan");
                    info.nest(IFLA_INFO_DATA, |data| {
                        data.bytes(IFLA_IPVLAN_MODE, &mode.number().to_ne_bytes());
                        data.bytes(IFLA_IPVLAN_FLAGS, &flag.number().to_ne_bytes());
                    });
                }
            });
        });
        self.request(batch, |_| format!("create interface {} on {}", child.name, child.parent))?;
        let inside = namespace::within_descriptor(target.as_fd(), &child.namespace, || {
            Self::open()?.configure(&child.name, &child.addresses, &child.gateways)
        });
        if inside.is_err() {
            self.detach_child(&child.namespace, &child.name)?;
        }
        inside
    }

    /// Takes an interface out of a namespace; whether it was there. A namespace that is gone has none.
    pub fn detach_child(&self, namespace: &std::path::Path, name: &str) -> Result<bool> {
        if !namespace.exists() {
            return Ok(false);
        }
        Self::open_in(namespace)?.delete_link(name)
    }

    /// Makes a VLAN on an interface and sets it up; one that is there is taken as it is. Whether it was made.
    pub fn create_vlan(&self, parent: &str, identifier: u16, name: &str, alias: &str) -> Result<bool> {
        let parent = self.index_of(parent)?;
        self.create_simple(name, alias, |body| {
            body.u32(libc::IFLA_LINK, parent);
            body.nest(libc::IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vlan");
                info.nest(IFLA_INFO_DATA, |data| data.bytes(IFLA_VLAN_ID, &identifier.to_ne_bytes()));
            });
        })
    }

    /// Makes an interface that leads nowhere and sets it up; one that is there is taken as it is. Whether it was made.
    /// A kernel without dummies gets a pair whose other end, `name` with its first letter changed to `p`, is idle.
    pub fn create_dummy(&self, name: &str, alias: &str) -> Result<bool> {
        let made = self.create_simple(name, alias, |body| {
            body.nest(libc::IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "dummy"));
        });
        match made {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            made => return made,
        }
        let peer: String = std::iter::once('p').chain(name.chars().skip(1)).collect();
        let made = self.create_simple(name, alias, |body| {
            body.nest(libc::IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.nest(super::VETH_INFO_PEER, |inner| {
                        inner.fixed(&link_header(0, 0, 0));
                        inner.text(libc::IFLA_IFNAME, &peer);
                    });
                });
            });
        })?;
        quiet_ipv6(&peer, false)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(0, UP, UP), |body| {
            body.text(libc::IFLA_IFNAME, &peer);
            body.text(libc::IFLA_IFALIAS, alias);
        });
        self.request(batch, |_| format!("set up interface {peer}"))?;
        Ok(made)
    }

    fn create_simple(
        &self,
        name: &str,
        alias: &str,
        about: impl FnOnce(&mut crate::netlink::Body<'_>),
    ) -> Result<bool> {
        check_name(name)?;
        if self.find_link(name)?.is_some() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0), |body| {
            body.text(libc::IFLA_IFNAME, name);
            about(body);
        });
        self.request(batch, |_| format!("create interface {name}"))?;
        quiet_ipv6(name, false)?;
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, ACK, &link_header(0, UP, UP), |body| {
            body.text(libc::IFLA_IFNAME, name);
            body.text(libc::IFLA_IFALIAS, alias);
        });
        self.request(batch, |_| format!("set up interface {name}"))?;
        Ok(true)
    }
}

impl MacvlanMode {
    fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
        }
    }
}

impl IpvlanMode {
    fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }
}

impl IpvlanFlag {
    fn number(self) -> u16 {
        match self {
            Self::Bridge => 0,
            Self::Private => 1,
            Self::Vepa => 2,
        }
    }
}
