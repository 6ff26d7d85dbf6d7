//! The scale of an object of any kind that has one: how many it asks for, how many it has, and which pods those are.

use std::sync::Arc;

use kube::Client;
use kube::api::{Patch, PatchParams, Request};
use kube::core::DynamicObject;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::garbage::Objects;
use crate::key::ObjectKey;
use crate::kinds::Kind;

/// What an object's scale says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scale {
    pub(crate) uid: String,
    /// So many are asked for.
    pub(crate) replicas: i32,
    /// So many there are.
    pub(crate) current: i32,
    /// The selector of its pods, as text.
    pub(crate) selector: String,
    version: String,
}

/// What became of the question for a scale.
pub(crate) enum Found {
    Scale(Scale),
    /// There is no such object; in words.
    NoObject(String),
    /// Objects of this kind have no scale; in words.
    NoScale(String),
}

/// Access to scales.
#[derive(Clone)]
pub(crate) struct Scales {
    pub(crate) client: Client,
    pub(crate) objects: Arc<Objects>,
}

/// The group of an `apiVersion`.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl Scales {
    /// The kind of a name, if it is served and has namespaces.
    pub(crate) fn kind(&self, group: &str, name: &str) -> Option<Arc<Kind>> {
        let kinds = self.objects.kinds();
        let is_meant = |kind: &&Arc<Kind>| kind.resource.kind == name && kind.resource.group == group;
        kinds.iter().find(is_meant).cloned()
    }

    /// Asks for the scale of an object.
    pub(crate) async fn get(&self, group: &str, kind: &str, key: &ObjectKey) -> Result<Found> {
        let Some(kind) = self.kind(group, kind).filter(|kind| kind.namespaced) else {
            return Ok(Found::NoScale(format!("no matches for kind {kind:?} in group {group:?}")));
        };
        let resource = &kind.resource;
        let read = |source| Error::request("read the scale of", resource.kind.as_str(), key)(source);
        let request = Request::new(path(&kind, key)).get_subresource("scale", &key.name);
        let request = request.map_err(|error| read(kube::Error::BuildRequest(error)))?;
        match self.client.request::<Value>(request).await {
            Ok(scale) => {
                let number = |part: &str| {
                    let number = scale[part]["replicas"].as_i64().unwrap_or(0);
                    i32::try_from(number.max(0)).unwrap_or(i32::MAX)
                };
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                Ok(Found::Scale(Scale {
                    uid: text(&scale["metadata"]["uid"]),
                    replicas: number("spec"),
                    current: number("status"),
                    selector: text(&scale["status"]["selector"]),
                    version: text(&scale["metadata"]["resourceVersion"]),
                }))
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 405 => {
                // An object that is not there is named.
                if status.details.as_ref().is_some_and(|details| details.name == key.name) {
                    return Ok(Found::NoObject(status.message.clone()));
                }
                let name = qualified(group, &resource.plural);
                Ok(Found::NoScale(format!("{name} does not implement the scale subresource")))
            }
            Err(error) => Err(read(error)),
        }
    }

    /// Asks for another number, unless the object has changed since.
    pub(crate) async fn set(
        &self,
        group: &str,
        kind: &str,
        key: &ObjectKey,
        scale: &Scale,
        replicas: i32,
    ) -> Result<()> {
        let Some(kind) = self.kind(group, kind) else { return Ok(()) };
        let failed = |source| Error::request("scale", kind.resource.kind.as_str(), key)(source);
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": scale.version }, "spec": { "replicas": replicas },
        }));
        let request = Request::new(path(&kind, key));
        let request = request.patch_subresource("scale", &key.name, &PatchParams::default(), &patch);
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        self.client.request::<IgnoredAny>(request).await.map(drop).map_err(failed)
    }
}

fn path(kind: &Kind, key: &ObjectKey) -> String {
    <DynamicObject as kube::Resource>::url_path(&kind.resource, Some(&key.namespace))
}

/// "pods", or "deployments.apps" in a group.
pub(crate) fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
