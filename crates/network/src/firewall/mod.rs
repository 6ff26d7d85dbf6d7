//! The packet rules of one daemon's bridges and published ports, in one table of its own.
//!
//! What a packet costs does not grow with the number of bridges or ports: every decision is a lookup in a set
//! or a map. A change is one transaction that adds or deletes elements. It must not know containers: callers
//! speak of bridges, subnets and ports.
//!
//! A drop by another table of the host (a forward chain whose policy is drop) cannot be overruled from here;
//! nftables asks every table.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::connect::Connects;
use crate::nftables::{Family, Nftables, Transaction, Watch};
use crate::ports::Protocol;
use crate::{Result, conntrack, sysctl};

/// One table sees both versions of IP.
const FAMILY: Family = Family::Inet;

/// A bridge the rules know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallBridge {
    /// The interface.
    pub name: String,
    /// The addresses behind it, of either version of IP.
    pub subnets: Vec<IpNet>,
    /// No way out of it and none in.
    pub internal: bool,
    /// What leaves for other networks takes the host's address.
    pub masquerade: bool,
    /// Its members may talk to each other.
    pub inter_container: bool,
    /// It talks to the other bridges that are routed, too; without this it is alone.
    pub routed: bool,
    /// Hosts outside may open connections to its addresses (pods of other nodes do).
    pub reachable: bool,
    /// Hosts outside may open connections to the published ports by the containers' own addresses; host ports do not
    /// lead there.
    pub direct_ports: bool,
}

/// A host port that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 or :: means every one of that version of IP, which is the container's, too.
    pub host_address: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container_address: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// Everything the table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallState {
    /// The bridges.
    pub bridges: Vec<FirewallBridge>,
    /// The published ports.
    pub published: Vec<PublishedPort>,
    /// Networks that are reached without masquerading, as other nodes' pods.
    pub direct: Vec<Ipv4Net>,
}

/// The table of one daemon. Every change is one transaction.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    nftables: Nftables,
    held: Mutex<Held>,
    /// What leads connections at once. It does what the rules do, only sooner: where it fails it goes.
    connects: Mutex<Option<Connects>>,
}

/// What the table is known to hold.
#[derive(Debug, Default)]
struct Held {
    bridges: BTreeMap<String, FirewallBridge>,
    published: BTreeSet<PublishedPort>,
    direct: Vec<Ipv4Net>,
    /// The table was written by this process; else a change writes all of it.
    written: bool,
    /// The host does not forward what does not concern our bridges.
    closed: bool,
}

impl Firewall {
    /// Opens the table in the caller's namespace. A table left by an earlier daemon stays in force as it is
    /// until [`Firewall::sync`] or the first change, so that traffic goes on while a daemon restarts.
    pub fn open(table: &str) -> Result<Self> {
        let nftables = Nftables::open()?;
        let firewall =
            Self { table: table.to_owned(), nftables, held: Mutex::default(), connects: Mutex::default() };
        if !firewall.is_present()? {
            firewall.sync(&FirewallState::default())?;
        }
        Ok(firewall)
    }

    /// Leads who connects to a port that is published at 127.0.0.1 to the container at once, from now on, where the kernel
    /// can; what the rules do for it stays. Whether it can.
    ///
    /// # Errors
    /// When the kernel takes no such programs.
    pub fn lead_connects(&self) -> Result<bool> {
        let connects = Connects::attach()?;
        let can = connects.is_some();
        self.lead_by(connects);
        Ok(can)
    }

    /// As [`Firewall::lead_connects`], for the processes of one control group.
    ///
    /// # Errors
    /// When the kernel takes no such programs.
    pub fn lead_connects_of(&self, group: &Path) -> Result<()> {
        self.lead_by(Some(Connects::attach_to(group)?));
        Ok(())
    }

    fn lead_by(&self, connects: Option<Connects>) {
        let held = self.held.lock();
        *self.connects.lock() = connects;
        self.lead(&held);
    }

    /// Tells the programs where ports lead.
    fn lead(&self, held: &Held) {
        let mut connects = self.connects.lock();
        let lead = |port: &PublishedPort| {
            let local =
                port.host_address == Ipv4Addr::UNSPECIFIED || port.host_address == Ipv4Addr::LOCALHOST;
            match port.container_address {
                IpAddr::V4(address) if local && port.protocol == Protocol::Tcp => {
                    Some((port.host_port, SocketAddrV4::new(address, port.container_port)))
                }
                _ => None,
            }
        };
        if let Some(programs) = &mut *connects
            && let Err(error) = programs.set(&held.published.iter().filter_map(lead).collect())
        {
            tracing::warn!(%error, "connections are translated packet by packet from now on");
            *connects = None;
        }
    }

    /// Makes the table hold exactly `state`, whatever it held. The bridges must exist as interfaces.
    pub fn sync(&self, state: &FirewallState) -> Result<()> {
        let mut held = self.held.lock();
        let wanted = Held {
            bridges: state.bridges.iter().map(|bridge| (bridge.name.clone(), bridge.clone())).collect(),
            published: state.published.iter().copied().collect(),
            direct: state.direct.clone(),
            written: true,
            closed: held.closed,
        };
        for bridge in wanted.bridges.values() {
            prepare_host(bridge)?;
        }
        self.nftables.commit(rules::whole_table(&self.table, &wanted))?;
        *held = wanted;
        self.lead(&held);
        Ok(())
    }

    /// Adds a bridge, or changes it. The interface must exist; the host begins to forward packets.
    pub fn add_bridge(&self, bridge: &FirewallBridge) -> Result<()> {
        prepare_host(bridge)?;
        self.change(
            |held| held.bridges.insert(bridge.name.clone(), bridge.clone()),
            |_, old, transaction| {
                if let Some(old) = old {
                    rules::remove_bridge(transaction, old);
                }
                rules::add_bridge(transaction, bridge);
            },
            |held, old| match old {
                Some(old) => drop(held.bridges.insert(old.name.clone(), old)),
                None => drop(held.bridges.remove(&bridge.name)),
            },
        )
    }

    /// Removes a bridge; one that is not there is success.
    pub fn remove_bridge(&self, name: &str) -> Result<()> {
        self.change(
            |held| held.bridges.remove(name),
            |_, old, transaction| {
                if let Some(old) = old {
                    rules::remove_bridge(transaction, old);
                }
            },
            |held, old| {
                if let Some(old) = old {
                    held.bridges.insert(old.name.clone(), old);
                }
            },
        )
    }

    /// Publishes ports, all or none. Cost does not grow with the ports that are there. A port that another
    /// container has is taken from it: reserve it first, see [`crate::ports`].
    pub fn publish(&self, ports: &[PublishedPort]) -> Result<()> {
        self.change_ports(ports, &[])?;
        // A flow that began before the port was published would go on to the host for as long as it lives.
        if ports.iter().any(|port| port.protocol == Protocol::Udp) {
            conntrack::forget_udp(|flow| ports.iter().any(|port| concerns(port, flow)))?;
        }
        Ok(())
    }

    /// Takes ports back; those that are not there are passed over.
    pub fn unpublish(&self, ports: &[PublishedPort]) -> Result<()> {
        self.change_ports(&[], ports)?;
        if ports.iter().any(|port| port.protocol == Protocol::Udp) {
            conntrack::forget_udp(|flow| ports.iter().any(|port| concerns(port, flow)))?;
        }
        Ok(())
    }

    /// Sets the networks that are reached without masquerading.
    pub fn set_direct(&self, networks: &[Ipv4Net]) -> Result<()> {
        self.change(
            |held| std::mem::replace(&mut held.direct, networks.to_vec()),
            |held, _, transaction| rules::set_direct(transaction, &held.direct),
            |held, old| held.direct = old,
        )
    }

    /// Whether the table is still there: a firewall reload of the host's may have taken it. Then
    /// [`Firewall::restore`] brings it back.
    pub fn is_present(&self) -> Result<bool> {
        self.nftables.table_exists(FAMILY, &self.table)
    }

    /// Whether the host forwards packets that do not concern our bridges. A daemon that switches forwarding on for its
    /// bridges must not make a router of a host that was none. Takes effect with the next [`Firewall::sync`].
    pub fn set_closed(&self, closed: bool) {
        self.held.lock().closed = closed;
    }

    /// Writes the whole table again if somebody else changed it, as far as `watch` has heard, or if it is gone; whether
    /// that was so.
    pub fn restore_changed(&self, watch: &Watch) -> Result<bool> {
        let mut held = self.held.lock();
        if !held.written {
            return Ok(false);
        }
        if !watch.changed(FAMILY, &self.table, self.nftables.port())? && self.is_present()? {
            return Ok(false);
        }
        self.nftables.commit(rules::whole_table(&self.table, &held))?;
        held.written = true;
        Ok(true)
    }

    /// Writes the whole table again if it is gone; whether it was.
    pub fn restore(&self) -> Result<bool> {
        let mut held = self.held.lock();
        if self.is_present()? {
            return Ok(false);
        }
        self.nftables.commit(rules::whole_table(&self.table, &held))?;
        held.written = true;
        Ok(true)
    }

    /// Deletes the table with everything in it; the next change writes all of it again.
    pub fn remove(&self) -> Result<()> {
        let mut held = self.held.lock();
        held.written = false;
        delete_table(&self.nftables, &self.table)
    }

    /// Deletes the table with everything in it.
    pub fn delete(self) -> Result<()> {
        delete_table(&self.nftables, &self.table)
    }

    fn change_ports(&self, add: &[PublishedPort], remove: &[PublishedPort]) -> Result<()> {
        self.change(
            |held| {
                let old = held.published.clone();
                // One host port leads to one container.
                held.published.retain(|port| !add.iter().any(|new| rules::same_host_port(port, new)));
                held.published.extend(add);
                for port in remove {
                    held.published.remove(port);
                }
                old
            },
            |held, old, transaction| {
                let gone: Vec<_> = old.difference(&held.published).copied().collect();
                let new: Vec<_> = held.published.difference(old).copied().collect();
                rules::change_ports(transaction, &gone, &new);
                rules::change_targets(transaction, old, &held.published);
            },
            |held, old| held.published = old,
        )
    }

    /// Changes what is held, then the table, in one transaction; what is held goes back if that fails.
    fn change<Old>(
        &self,
        apply: impl FnOnce(&mut Held) -> Old,
        write: impl FnOnce(&Held, &Old, &mut Transaction),
        undo: impl FnOnce(&mut Held, Old),
    ) -> Result<()> {
        let mut held = self.held.lock();
        let old = apply(&mut held);
        let transaction = if held.written {
            let mut transaction = Transaction::new(FAMILY, &self.table);
            write(&held, &old, &mut transaction);
            transaction
        } else {
            rules::whole_table(&self.table, &held)
        };
        if transaction.is_empty() {
            return Ok(());
        }
        match self.nftables.commit(transaction) {
            Ok(()) => {
                held.written = true;
                self.lead(&held);
                Ok(())
            }
            Err(error) => {
                undo(&mut held, old);
                Err(error)
            }
        }
    }
}

/// Deletes the table of a daemon that is not running, in the caller's namespace; a table that is not there is
/// success.
pub fn delete_leftover(table: &str) -> Result<()> {
    delete_table(&Nftables::open()?, table)
}

fn delete_table(nftables: &Nftables, table: &str) -> Result<()> {
    let mut transaction = Transaction::new(FAMILY, table);
    transaction.add_table();
    transaction.delete_table();
    // Earlier versions had their rules here.
    transaction.delete_table_of(Family::Ipv4);
    nftables.commit(transaction)
}

/// Forwarding, and answers to connections that began at 127.0.0.1 and were led to the bridge; the rules drop
/// what else comes for 127.0.0.0/8 by a bridge.
fn prepare_host(bridge: &FirewallBridge) -> Result<()> {
    if bridge.subnets.iter().any(|subnet| subnet.addr().is_ipv6()) {
        forward_ipv6()?;
    }
    sysctl::set("ipv4/ip_forward", "1")?;
    sysctl::set_if_present(&format!("ipv4/conf/{}/route_localnet", bridge.name), "1")
}

/// An interface that learned its way out from its neighbours goes on to do so, which a host that forwards would not.
fn forward_ipv6() -> Result<()> {
    if sysctl::get("ipv6/conf/all/forwarding").as_deref() != Some("0") {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let setting = format!("ipv6/conf/{}/accept_ra", entry.file_name().to_string_lossy());
        if sysctl::get(&setting).as_deref() == Some("1") {
            sysctl::set_if_present(&setting, "2")?;
        }
    }
    sysctl::set("ipv6/conf/all/forwarding", "1")
}

fn concerns(port: &PublishedPort, flow: &conntrack::Flow) -> bool {
    let same_family = port.host_address.is_ipv4() == flow.destination.is_ipv4();
    let host = port.host_address == flow.destination || (port.host_address.is_unspecified() && same_family);
    let led = flow.answering == port.container_address && flow.answering_port == port.container_port;
    port.protocol == Protocol::Udp && ((flow.destination_port == port.host_port && host) || led)
}
