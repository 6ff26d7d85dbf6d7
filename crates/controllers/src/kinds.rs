//! The kinds that the API serves, as it tells them itself.

use kube::api::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, core::DynamicObject};

use crate::error::{Error, Result};

/// A kind.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    /// Whether all of a namespace can be deleted in one request.
    pub(crate) deletes_collections: bool,
    /// Whether its objects can be read, followed and deleted.
    pub(crate) collectable: bool,
}

impl Kind {
    /// Access to its objects: those of a namespace, where it has them.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

/// All kinds, each in its group's preferred version.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Kind>> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await;
    let discovery = discovery.map_err(|source| Error::Discovery { source: Box::new(source) })?;
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let can = |verb: &str| capabilities.supports_operation(verb);
            kinds.push(Kind {
                namespaced: capabilities.scope == Scope::Namespaced,
                deletes_collections: can(verbs::DELETE_COLLECTION),
                collectable: can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE),
                resource,
            });
        }
    }
    Ok(kinds)
}
