//! Definitions of kinds as controllers need them: what each adds, without the schemas, which are most of it.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::Version as ApiVersion;
use serde::Deserialize;

use crate::kinds::Kind;
use crate::model::lean_metadata;

/// A definition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Definition {
    #[serde(deserialize_with = "lean_metadata")]
    pub(crate) metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<Version>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Names {
    plural: String,
    kind: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Version {
    name: String,
    served: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    accepted_names: Names,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl k8s_openapi::Resource for Definition {
    const API_VERSION: &'static str = "apiextensions.k8s.io/v1";
    const GROUP: &'static str = "apiextensions.k8s.io";
    const KIND: &'static str = "CustomResourceDefinition";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "customresourcedefinitions";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for Definition {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Definition {
    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The group and the name of its kind, served or not.
    pub(crate) fn names(&self) -> (&str, &str) {
        (&self.spec.group, &self.spec.names.kind)
    }

    /// The kind that it adds, in the first of its versions that are served; none while none is.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let is_established =
            |condition: &Condition| condition.kind == "Established" && condition.status == "True";
        if !self.status.conditions.iter().any(is_established) {
            return None;
        }
        let served = self.spec.versions.iter().filter(|version| version.served);
        let version = served.max_by_key(|version| ApiVersion::parse(&version.name).priority())?.name.clone();
        let names = Some(&self.status.accepted_names).filter(|names| !names.kind.is_empty());
        let names = names.unwrap_or(&self.spec.names);
        let group = self.spec.group.clone();
        Some(Kind {
            resource: ApiResource {
                api_version: format!("{group}/{version}"),
                group,
                version,
                kind: names.kind.clone(),
                plural: names.plural.clone(),
            },
            namespaced: self.spec.scope == "Namespaced",
            deletes_collections: true,
            collectable: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn definition(change: impl FnOnce(&mut Value)) -> Definition {
        let mut definition = json!({
            "metadata": { "name": "widgets.example.com", "uid": "u" },
            "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
                "versions": [{ "name": "v1beta1", "served": true, "schema": { "openAPIV3Schema": { "type": "object" } } },
                    { "name": "v1", "served": true }, { "name": "v2", "served": false }] },
            "status": { "acceptedNames": { "plural": "widgets", "kind": "Widget" },
                "conditions": [{ "type": "Established", "status": "True", "reason": "x" }] },
        });
        change(&mut definition);
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn a_definition_adds_what_is_served_of_it() {
        let kind = definition(|_| ()).kind().unwrap();
        assert_eq!(
            (kind.resource.api_version.as_str(), kind.resource.plural.as_str()),
            ("example.com/v1", "widgets")
        );
        assert!(kind.namespaced && kind.collectable);
        let older = definition(|definition| definition["spec"]["versions"][1]["served"] = json!(false));
        assert_eq!(older.kind().unwrap().resource.version, "v1beta1");
        let unserved = definition(|definition| definition["spec"]["versions"] = json!([]));
        assert!(unserved.kind().is_none());
        let new = definition(|definition| definition["status"] = json!({}));
        assert!(new.kind().is_none() && new.uid() == "u");
        assert_eq!(new.names(), ("example.com", "Widget"));
    }
}
