//! Forgetting tracked flows, over ctnetlink: a UDP flow keeps its translation for as long as packets come, so
//! that a changed rule does not reach it. It must not know why a flow has to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink;

use crate::netlink::{Attributes, Batch, Message, Socket, be_u16};
use crate::{Error, Result};

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const SUBSYSTEM: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// Length of struct nfgenmsg.
const HEADER: usize = 4;

/// A tracked flow of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the first packet.
    pub source: IpAddr,
    /// Where it was sent to.
    pub destination: IpAddr,
    /// The port it was sent to.
    pub destination_port: u16,
    /// Who answers: the destination, or what it was translated to.
    pub answering: IpAddr,
    /// The port that answers.
    pub answering_port: u16,
}

/// Forgets the UDP flows of the caller's namespace that are wanted gone; how many they were.
pub fn forget_udp(unwanted: impl Fn(&Flow) -> bool) -> Result<usize> {
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let mut batch = Batch::new();
    batch.message(SUBSYSTEM << 8 | IPCTNL_MSG_CT_GET, libc::NLM_F_DUMP as u16, &[0; HEADER], |_| {});
    let flows = socket.request(batch, |_| "list tracked flows".to_owned())?;
    let mut forgotten = 0;
    for message in &flows {
        let Some(flow) = parse(message) else { continue };
        if !unwanted(&flow) {
            continue;
        }
        let attributes = message.attributes(HEADER);
        let family = if flow.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let header = [family as u8, 0, 0, 0];
        let mut batch = Batch::new();
        batch.message(SUBSYSTEM << 8 | IPCTNL_MSG_CT_DELETE, libc::NLM_F_ACK as u16, &header, |body| {
            // The tuple is sent back as it came; the number makes sure that it is still the same flow.
            for kind in [CTA_TUPLE_ORIG, CTA_ID] {
                if let Some(value) = attributes.find(kind) {
                    let nested = if kind == CTA_TUPLE_ORIG { 0x8000 } else { 0 };
                    body.bytes(kind | nested, value);
                }
            }
        });
        match socket.request(batch, |_| {
            format!("forget the flow to {} port {}", flow.destination, flow.destination_port)
        }) {
            Ok(_) => forgotten += 1,
            Err(Error::Refused { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn parse(message: &Message) -> Option<Flow> {
    let attributes = message.attributes(HEADER);
    let original = attributes.nested(CTA_TUPLE_ORIG);
    let reply = attributes.nested(CTA_TUPLE_REPLY);
    if original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    Some(Flow {
        source: address(&original, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(&original, CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        destination_port: be_u16(original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_DST_PORT)?)?,
        answering: address(&reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        answering_port: be_u16(reply.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_SRC_PORT)?)?,
    })
}

fn address(tuple: &Attributes<'_>, ipv4: u16, ipv6: u16) -> Option<IpAddr> {
    let addresses = tuple.nested(CTA_TUPLE_IP);
    if let Some(bytes) = addresses.find(ipv4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(addresses.find(ipv6)?).ok()?).into())
}
