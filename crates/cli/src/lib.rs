//! The client: commands as docker and kubectl have them, spoken over HTTP to a daemon.
#![forbid(unsafe_code)]
