//! What the server serves: kinds found by every name that people use.

use serde_json::Value;

use super::client::{Client, encode};
use crate::{Error, Result};

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A kind that can be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    /// As in paths: `deployments`.
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As messages name it: `deployment.apps`.
    pub(crate) fn label(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }

    /// The path of its collection; no namespace means all.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let place = match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("/namespaces/{}", encode(namespace)),
            None => String::new(),
        };
        format!("{root}/{}{place}/{}", self.api_version(), self.plural)
    }

    /// The path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), encode(name))
    }

    fn is_called(&self, name: &str) -> bool {
        let (name, group) = name.split_once('.').unwrap_or((name, ""));
        let fits =
            group.is_empty() || self.group == group || group == format!("{}.{}", self.version, self.group);
        let lower = name.to_ascii_lowercase();
        fits && (self.plural == lower
            || self.singular == lower
            || self.short.contains(&lower)
            || self.kind.eq_ignore_ascii_case(name))
    }
}

/// All kinds of a server.
pub(crate) struct Resources {
    all: Vec<Resource>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

impl Resources {
    /// Asks the server.
    pub(crate) async fn discover(client: &Client) -> Result<Self> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let (_, groups) = client.send(http::Method::GET, path, DISCOVERY, "", "").await?;
            for group in groups["items"].as_array().into_iter().flatten() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for version in group["versions"].as_array().into_iter().flatten() {
                    let resources = version["resources"].as_array().into_iter().flatten();
                    all.extend(resources.map(|resource| read(name, version, resource)));
                }
            }
        }
        Ok(Self { all })
    }

    pub(crate) fn all(&self) -> &[Resource] {
        &self.all
    }

    /// The kind of this name: plural, singular, short or kind, perhaps with its group.
    pub(crate) fn find(&self, name: &str) -> Result<&Resource> {
        self.all.iter().find(|resource| resource.is_called(name)).ok_or_else(|| Error::Failed {
            message: format!("error: the server doesn't have a resource type {name:?}"),
        })
    }

    /// The kinds of this name or category.
    pub(crate) fn matching(&self, name: &str) -> Result<Vec<&Resource>> {
        let in_category: Vec<_> =
            self.all.iter().filter(|resource| resource.categories.iter().any(|c| c == name)).collect();
        if in_category.is_empty() { Ok(vec![self.find(name)?]) } else { Ok(in_category) }
    }

    /// The kind of an object.
    pub(crate) fn of(&self, object: &Value) -> Result<&Resource> {
        let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
        let fits = |resource: &&Resource| resource.kind == kind && resource.api_version() == version;
        self.all.iter().find(fits).ok_or_else(|| Error::Failed {
            message: format!(
                "error: resource mapping not found for name: {:?}: no matches for kind {kind:?} in version {version:?}",
                object["metadata"]["name"].as_str().unwrap_or_default()
            ),
        })
    }
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn read(group: &str, version: &Value, resource: &Value) -> Resource {
    let kind = text(&resource["responseKind"], "kind").to_owned();
    let singular = match text(resource, "singularResource") {
        "" => kind.to_ascii_lowercase(),
        singular => singular.to_owned(),
    };
    Resource {
        group: group.to_owned(),
        version: text(version, "version").to_owned(),
        kind,
        plural: text(resource, "resource").to_owned(),
        singular,
        short: texts(&resource["shortNames"]),
        categories: texts(&resource["categories"]),
        namespaced: text(resource, "scope") == "Namespaced",
        verbs: texts(&resource["verbs"]),
    }
}
