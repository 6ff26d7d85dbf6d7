//! The way through to other servers: webhooks, pods, Services, node agents. Here is how they are found and reached, what of a
//! request goes on to them, and what of their answers comes back. It must not know who may ask them, nor what for.

pub(crate) mod dial;
pub(crate) mod exchange;
mod links;
pub(crate) mod places;
pub(crate) mod proxy;
