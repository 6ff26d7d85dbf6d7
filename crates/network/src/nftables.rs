//! Packet rules.
