//! Translation at connect: who connects to 127.0.0.1 and a published port of this host is led to the container at once, and
//! no packet of the connection has to be translated or routed twice.
//!
//! Two programs at the root of the kernel's control groups see every connect(2) and getpeername(2) of the host, and leave
//! alone what is not TCP, not of this network namespace, not for 127.0.0.1 or from a socket that has an address already. For
//! those, and where the kernel has no such programs, the packet rules of [`crate::firewall`] translate as before; what the
//! container sees is the same. The programs end with this process: with them goes only speed.

mod program;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Error, Result, sys};

/// Ports that can be led on, all there are.
const PORTS: u32 = 65_536;
/// Connections of which it is remembered where they were meant to go; the oldest are forgotten, and then name the
/// container as their peer.
const REMEMBERED: u32 = 8_192;

/// The programs, and where they lead.
#[derive(Debug)]
pub struct Connects {
    targets: OwnedFd,
    _links: [OwnedFd; 2],
    known: BTreeMap<u16, SocketAddrV4>,
}

fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Programs { action, source }
}

/// Where the unified hierarchy of control groups is mounted.
fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(3);
        let (of, at) = (fields.next()?, fields.next()?);
        (tail.starts_with("cgroup2 ") && of == "/").then(|| PathBuf::from(at))
    })
}

impl Connects {
    /// Leads the processes of the whole host, as far as they are in the caller's network namespace; none where the unified
    /// hierarchy of control groups is not mounted.
    ///
    /// # Errors
    /// [`Error::Programs`] when the kernel takes no such programs.
    pub fn attach() -> Result<Option<Self>> {
        root().map(|root| Self::attach_to(&root)).transpose()
    }

    /// Leads the processes of one control group and those below it.
    ///
    /// # Errors
    /// [`Error::Programs`] when it is none, or the kernel takes no such programs.
    pub fn attach_to(group: &Path) -> Result<Self> {
        let namespace = sys::namespace_cookie().map_err(failed("name the network namespace"))?;
        let targets = sys::create_map(sys::MapKind::Hash, program::TARGETS, PORTS)
            .map_err(failed("make the table of ports"))?;
        let meant = sys::create_map(sys::MapKind::Recent, program::MEANT, REMEMBERED)
            .map_err(failed("make the table of connections"))?;
        let group = File::open(group).map_err(failed("open the control group"))?;
        let attach = |program: &[u64], hook| {
            let program = sys::load_program(program, hook)?;
            sys::link_program(program.as_fd(), group.as_fd(), hook)
        };
        let connect = program::connect(namespace, targets.as_fd(), meant.as_fd());
        let peer_name = program::peer_name(meant.as_fd());
        let links = [
            attach(&connect, sys::Hook::Connect).map_err(failed("translate at connect"))?,
            attach(&peer_name, sys::Hook::PeerName).map_err(failed("translate the peer's name"))?,
        ];
        Ok(Self { targets, _links: links, known: BTreeMap::new() })
    }

    /// Leads exactly these ports, each to its address.
    ///
    /// # Errors
    /// [`Error::Programs`] when the kernel does not take it.
    pub fn set(&mut self, wanted: &BTreeMap<u16, SocketAddrV4>) -> Result<()> {
        let gone: Vec<u16> = self.known.keys().filter(|port| !wanted.contains_key(port)).copied().collect();
        for port in gone {
            sys::map_remove(self.targets.as_fd(), program::key(port)).map_err(failed("forget a port"))?;
            self.known.remove(&port);
        }
        for (port, target) in wanted {
            if self.known.get(port) != Some(target) {
                sys::map_insert(self.targets.as_fd(), program::key(*port), program::target(*target))
                    .map_err(failed("lead a port"))?;
                self.known.insert(*port, *target);
            }
        }
        Ok(())
    }
}
