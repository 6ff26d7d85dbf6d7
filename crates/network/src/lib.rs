//! The kernel's network as plain Rust values: links, addresses and routes over rtnetlink, packet rules over
//! nfnetlink, pools of addresses, reserved host ports and a name server.
//!
//! It must not know what a container, a pod or a Service is: callers speak of bridges, namespaces, addresses
//! and ports. Everything but [`names`] blocks for microseconds and needs no async runtime.

pub mod connect;
pub mod conntrack;
mod error;
pub mod firewall;
pub mod link;
mod mac;
pub mod names;
pub mod namespace;
mod netlink;
pub mod nftables;
pub mod pool;
pub mod ports;
mod sys;
pub mod sysctl;

pub use error::{Error, Result};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
