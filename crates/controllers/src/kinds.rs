//! The kinds that the API serves, as it tells them itself.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::ApiResource;
use kube::core::{DynamicObject, DynamicResourceScope};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Deserializer};

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

/// An object of any kind, of which only what ties it to others is read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Tied {
    #[serde(deserialize_with = "ties")]
    pub(crate) metadata: ObjectMeta,
}

fn ties<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ties {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        owner_references: Option<Vec<OwnerReference>>,
        finalizers: Option<Vec<String>>,
    }
    let ties = Ties::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: ties.name,
        namespace: ties.namespace,
        uid: ties.uid,
        resource_version: ties.resource_version,
        deletion_timestamp: ties.deletion_timestamp,
        owner_references: ties.owner_references,
        finalizers: ties.finalizers,
        ..ObjectMeta::default()
    })
}

impl Resource for Tied {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn metadata_api() -> bool {
        true
    }

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
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
