//! The built-in rows, group by group, and how they are found.

mod access;
mod cluster;
mod core;
mod extension;
mod network;
mod storage;
mod workloads;

use std::sync::LazyLock;

use super::{Kind, Subresource};

const STATUS: &[Subresource] = &[Subresource::Status];
const SCALED: &[Subresource] = &[Subresource::Scale, Subresource::Status];

/// In the order in which the reference lists its groups: clients look a short name up in it.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    [
        core::ROWS,
        extension::API_REGISTRATION,
        workloads::APPS,
        cluster::EVENTS,
        access::AUTHENTICATION,
        access::AUTHORIZATION,
        workloads::AUTOSCALING,
        workloads::BATCH,
        access::CERTIFICATES,
        network::NETWORKING,
        workloads::POLICY,
        access::RBAC,
        storage::ROWS,
        extension::ADMISSION_REGISTRATION,
        extension::API_EXTENSIONS,
        cluster::SCHEDULING,
        cluster::COORDINATION,
        cluster::NODE,
        network::DISCOVERY,
        cluster::RESOURCE,
        cluster::FLOW_CONTROL,
    ]
    .concat()
});

/// All rows: the core group first.
pub fn all() -> &'static [Kind] {
    &KINDS
}

/// The row of a resource.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The row of a kind, in the version that is preferred.
pub fn find_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|row| row.kind == kind && row.group == group)
}

/// The row of a kind in one version.
pub fn find_version(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|row| row.kind == kind && row.group == group && row.version == version)
}
