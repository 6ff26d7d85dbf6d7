//! Netlink: sockets and the encoding of messages, for rtnetlink, nfnetlink and ctnetlink alike.
//! It must not know what the messages mean.

mod encode;
mod parse;
mod socket;

pub(crate) use encode::{Batch, Body};
pub(crate) use parse::{Attributes, Message, be_u16, header_of, native_u32, text};
pub(crate) use socket::Socket;
