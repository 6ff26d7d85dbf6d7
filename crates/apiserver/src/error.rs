//! What can go wrong outside of requests: at the start and while listening. Requests fail with a `Status`.

use std::{io, path::PathBuf};

/// Why the API server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened or written.
    #[error("cannot use the cluster's store")]
    Store(#[source] dray_store::Error),
    /// A file of the data directory cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {subject}")]
    Certificate {
        /// For whom.
        subject: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A kept certificate or key is not one.
    #[error("{path} holds no usable certificate or key")]
    BadCertificate {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// An object that must exist from the start cannot be made.
    #[error("cannot make {object}")]
    Bootstrap {
        /// Which.
        object: String,
        /// Why not.
        source: dray_machinery::Status,
    },
    /// An audit policy is none.
    #[error("{path} is no audit policy: {reason}")]
    AuditPolicy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The range of service addresses is no usable IPv4 range.
    #[error("{range} is no range of service addresses; give an IPv4 range such as 10.43.0.0/16")]
    ServiceRange {
        /// As given.
        range: String,
    },
}
