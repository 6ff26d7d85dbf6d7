//! Host ports held while they are published, so that no process of the host takes them and a conflict shows
//! when a port is asked for, not when the first packet goes astray.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: rules only, its ports cannot be reserved.
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A host port that is ours until this is dropped.
#[derive(Debug)]
pub struct PortReservation {
    _socket: Option<OwnedFd>,
    protocol: Protocol,
    address: SocketAddr,
}

impl PortReservation {
    /// Takes `port` at `address` (unspecified: at every address); port 0 takes one the kernel chooses.
    ///
    /// The socket is bound and never listens: packets go to the container by the firewall's rules, and should
    /// the rules be missing a client is refused instead of left waiting.
    pub fn reserve(protocol: Protocol, address: IpAddr, port: u16) -> Result<Self> {
        let wanted = SocketAddr::new(address, port);
        let kind = match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
            Protocol::Sctp => return Ok(Self { _socket: None, protocol, address: wanted }),
        };
        let socket = match bind(kind, wanted, false) {
            // Connections of an earlier listener that still wait for their end do not hold the port.
            Err(Errno::ADDRINUSE) if kind == SocketType::STREAM => bind(kind, wanted, true),
            other => other,
        };
        let socket = socket.map_err(|error| match error {
            Errno::ADDRINUSE => Error::PortTaken { address: wanted },
            error => Error::PortBind { address: wanted, source: error.into() },
        })?;
        let bound = net::getsockname(&socket)
            .and_then(SocketAddr::try_from)
            .map_err(|error| Error::PortBind { address: wanted, source: error.into() })?;
        Ok(Self { _socket: Some(socket), protocol, address: bound })
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address and the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that was taken.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

fn bind(kind: SocketType, address: SocketAddr, reuse: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_reserved_port_is_held_and_refuses() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let held = PortReservation::reserve(protocol, LOCAL, 0).unwrap();
            assert_ne!(held.port(), 0);
            let error = PortReservation::reserve(protocol, LOCAL, held.port()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("failed to bind host port for 127.0.0.1:{}: address already in use", held.port())
            );
            match protocol {
                Protocol::Tcp => {
                    assert!(TcpListener::bind(held.address()).is_err());
                    assert!(TcpStream::connect(held.address()).is_err());
                }
                _ => assert!(UdpSocket::bind(held.address()).is_err()),
            }
            let port = held.port();
            drop(held);
            assert_eq!(PortReservation::reserve(protocol, LOCAL, port).unwrap().port(), port);
        }
    }

    #[test]
    fn a_port_with_dying_connections_can_be_taken() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(PortReservation::reserve(Protocol::Tcp, LOCAL, address.port()).is_err(), "it listens");
        drop(server);
        drop(client);
        drop(listener);
        PortReservation::reserve(Protocol::Tcp, LOCAL, address.port()).unwrap();
    }
}
