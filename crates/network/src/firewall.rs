//! The packet rules of one daemon's bridges and published ports, in one table of its own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::ports::Protocol;

/// A bridge the rules know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallBridge {
    /// The interface.
    pub name: String,
    /// The addresses behind it.
    pub subnet: Ipv4Net,
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
}

/// A host port that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 means every one.
    pub host_address: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container_address: Ipv4Addr,
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
}

impl Firewall {
    /// Opens the table, made empty if it does not exist (the name is 1 to 31 bytes, unique for each daemon).
    pub fn open(table: &str) -> Result<Self> {
        Ok(Self { table: table.to_owned() })
    }

    /// Makes the table hold exactly `state`, whatever it held.
    pub fn sync(&self, _state: &FirewallState) -> Result<()> {
        Ok(())
    }

    /// Adds a bridge, or changes it.
    pub fn add_bridge(&self, _bridge: &FirewallBridge) -> Result<()> {
        Ok(())
    }

    /// Removes a bridge; one that is not there is success.
    pub fn remove_bridge(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Publishes ports, all or none. Cost does not grow with the ports that are there.
    pub fn publish(&self, _ports: &[PublishedPort]) -> Result<()> {
        Ok(())
    }

    /// Takes ports back; those that are not there are passed over.
    pub fn unpublish(&self, _ports: &[PublishedPort]) -> Result<()> {
        Ok(())
    }

    /// Whether the table is still there: a firewall reload of the host's may have taken it.
    pub fn is_present(&self) -> Result<bool> {
        Ok(!self.table.is_empty())
    }

    /// Deletes the table with everything in it.
    pub fn delete(self) -> Result<()> {
        Ok(())
    }
}
