//! Forgetting tracked flows, over ctnetlink: a UDP flow keeps its translation for as long as packets come, so
//! that a changed rule does not reach it. It must not know why a flow has to go.

use std::io;
use std::net::Ipv4Addr;

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
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// struct nfgenmsg for IPv4.
const HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

/// A tracked flow of UDP over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the first packet.
    pub source: Ipv4Addr,
    /// Where it was sent to.
    pub destination: Ipv4Addr,
    /// The port it was sent to.
    pub destination_port: u16,
    /// Who answers: the destination, or what it was translated to.
    pub answering: Ipv4Addr,
    /// The port that answers.
    pub answering_port: u16,
}

/// Forgets the UDP flows of the caller's namespace that are wanted gone; how many they were.
pub fn forget_udp(unwanted: impl Fn(&Flow) -> bool) -> Result<usize> {
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let mut batch = Batch::new();
    batch.message(SUBSYSTEM << 8 | IPCTNL_MSG_CT_GET, libc::NLM_F_DUMP as u16, &HEADER, |_| {});
    let flows = socket.request(batch, |_| "list tracked flows".to_owned())?;
    let mut forgotten = 0;
    for message in &flows {
        let Some(flow) = parse(message) else { continue };
        if !unwanted(&flow) {
            continue;
        }
        let attributes = message.attributes(HEADER.len());
        let mut batch = Batch::new();
        batch.message(SUBSYSTEM << 8 | IPCTNL_MSG_CT_DELETE, libc::NLM_F_ACK as u16, &HEADER, |body| {
            // The tuple is sent back as it came; the number makes sure that it is still the same flow.
            for kind in [CTA_TUPLE_ORIG, CTA_ID] {
                if let Some(value) = attributes.find(kind) {
                    let nested = if kind == CTA_TUPLE_ORIG { 0x8000 } else { 0 };
                    body.bytes(kind | nested, value);
                }
            }
        });
        match socket
            .request(batch, |_| format!("forget the flow to {}:{}", flow.destination, flow.destination_port))
        {
            Ok(_) => forgotten += 1,
            Err(Error::Refused { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn parse(message: &Message) -> Option<Flow> {
    let attributes = message.attributes(HEADER.len());
    let original = attributes.nested(CTA_TUPLE_ORIG);
    let reply = attributes.nested(CTA_TUPLE_REPLY);
    if original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    Some(Flow {
        source: address(&original, CTA_IP_V4_SRC)?,
        destination: address(&original, CTA_IP_V4_DST)?,
        destination_port: be_u16(original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_DST_PORT)?)?,
        answering: address(&reply, CTA_IP_V4_SRC)?,
        answering_port: be_u16(reply.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_SRC_PORT)?)?,
    })
}

fn address(tuple: &Attributes<'_>, kind: u16) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = tuple.nested(CTA_TUPLE_IP).find(kind)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}
