//! Who may do what: users, what they ask for, and the rules that grant it.
//!
//! It is the arithmetic of access alone: policies are made of the JSON of roles and bindings, and asked about
//! [`Attributes`]. It knows no HTTP and no store; who somebody is and where roles are kept is the API server's business.
#![forbid(unsafe_code)]

mod attributes;
mod bootstrap;
mod node;
mod policy;
mod rule;
mod user;

pub use attributes::Attributes;
pub use bootstrap::bootstrap_objects;
pub use node::{NodeGraph, node_of};
pub use policy::{Policy, PolicyKind};
pub use rule::{Rule, missing};
pub use user::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODES, SERVICE_ACCOUNTS, UNAUTHENTICATED, User, service_account,
    service_account_name,
};
