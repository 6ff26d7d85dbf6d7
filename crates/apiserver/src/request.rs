//! What a request is about: which resource, which verb.

use std::sync::Arc;

use dray_access::Attributes;
use dray_machinery::{
    Kind, Status, Subresource, kinds,
    schema::{self, Schema},
};
use http::{HeaderMap, Method};

use crate::{
    custom::{Custom, Table},
    query::{self, Query},
};

/// A request for a resource.
#[derive(Debug, Clone)]
pub(crate) struct ResourceRequest {
    pub(crate) kind: &'static Kind,
    /// What a definition says of the kind, where one added it.
    pub(crate) custom: Option<Custom>,
    /// Empty for all namespaces, and where there are none.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: Option<Subresource>,
    /// The rest of the path as it was sent, where it is somebody else's: empty, or from its slash on.
    pub(crate) below: String,
    pub(crate) query: Query,
}

impl ResourceRequest {
    /// The name under which an object of this request's collection is stored.
    pub(crate) fn stored_name(&self, name: &str) -> String {
        if self.kind.namespaced { format!("{}/{name}", self.namespace) } else { name.to_owned() }
    }

    /// The prefix of the stored names of this request's collection.
    pub(crate) fn prefix(&self) -> String {
        if self.kind.namespaced && !self.namespace.is_empty() {
            format!("{}/", self.namespace)
        } else {
            String::new()
        }
    }

    /// Fills in what a client may leave out.
    pub(crate) fn default(&self, object: &mut serde_json::Value) {
        (self.kind.defaults)(object);
        if let Some(custom) = &self.custom {
            custom.default(object);
        }
    }

    /// The schema by which objects are merged and applied.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        self.custom.as_ref().map(|custom| &custom.schema).or_else(|| schema::find(self.kind.schema))
    }

    /// What it is about, in words.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            group: self.kind.group,
            version: self.kind.version,
            resource: self.kind.plural,
            part: self.subresource.map_or("", Subresource::as_str),
            namespace: &self.namespace,
            name: &self.name,
        }
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.kind.group, self.kind.plural, &self.name)
    }

    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            if value != "All" {
                let mut errors = dray_machinery::FieldErrors::default();
                errors.not_supported("dryRun", value, &["All"]);
                return Err(Status::invalid("meta.k8s.io", "CreateOptions", "", errors.as_slice()));
            }
            dry = true;
        }
        Ok(dry)
    }
}

/// What a request is about, in words: all that rules of access, of fairness and of audit look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    /// The subresource; empty for none.
    pub(crate) part: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Subject<'a> {
    /// The namespace that it is about: one of that kind lies in itself.
    pub(crate) fn place(&self) -> &'a str {
        if self.resource == "namespaces" && self.group.is_empty() { self.name } else { self.namespace }
    }

    /// What is asked for, in the words of the rules of access.
    pub(crate) fn attributes(self, verb: &'a str, fields: &'a str) -> Attributes<'a> {
        // A list of one object is asked for by its name. What makes or deletes has no business with selectors.
        let named = fields.split(',').find_map(|one| one.strip_prefix("metadata.name="));
        let name = match self.name {
            "" if matches!(verb, "list" | "watch") => named.map_or("", |name| name.trim_start_matches('=')),
            name => name,
        };
        Attributes {
            verb,
            group: self.group,
            resource: self.resource,
            subresource: self.part,
            namespace: self.place(),
            name,
            fields,
            path: "",
        }
    }
}

/// Finds the resource of a path below /api/v1 or /apis/GROUP/VERSION. The table is asked for where no kind is built in.
pub(crate) fn resource(
    path: &str,
    query: Query,
    table: impl FnOnce() -> Arc<Table>,
) -> Result<ResourceRequest, Status> {
    let whole = path.trim_start_matches('/');
    let mut segments: Vec<String> =
        path.trim_matches('/').split('/').map(|segment| query::decode(segment, false).into_owned()).collect();
    let (group, version, at) = match segments.first().map(String::as_str) {
        Some("api") if segments.len() > 2 => (String::new(), segments[1].clone(), 2),
        Some("apis") if segments.len() > 3 => (segments[1].clone(), segments[2].clone(), 3),
        _ => return Err(Status::no_such_resource()),
    };
    let mut rest = segments.split_off(at);
    let mut before = at;
    let mut namespace = String::new();
    // "namespaces/NAME" alone, with "status" or "finalize", means the namespace; anything else lies in it.
    if rest[0] == "namespaces" && rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
        namespace = rest[1].clone();
        rest.drain(..2);
        before += 2;
    } else if rest[0] == "namespaces" && rest.len() > 3 {
        return Err(Status::no_such_resource());
    }
    let built_in = kinds::find(&group, &version, &rest[0]);
    let custom = match built_in {
        Some(_) => None,
        None => table().find(&group, &version, &rest[0]),
    };
    let kind = built_in
        .or_else(|| custom.as_ref().map(|custom| custom.kind))
        .ok_or_else(Status::no_such_resource)?;
    let misplaced =
        if kind.namespaced { namespace.is_empty() && rest.len() > 1 } else { !namespace.is_empty() };
    if misplaced {
        return Err(Status::no_such_resource());
    }
    let mut rest = rest.into_iter().skip(1);
    let name = rest.next().unwrap_or_default();
    let subresource = match rest.next() {
        None => None,
        Some(segment) => Some(kind.subresource(&segment).ok_or_else(Status::no_such_resource)?),
    };
    let mut below = String::new();
    if subresource.is_some_and(Subresource::is_proxy) {
        below.push_str(after(whole, before + 3));
    } else if rest.next().is_some() {
        return Err(Status::no_such_resource());
    }
    Ok(ResourceRequest { kind, custom, namespace, name, subresource, below, query })
}

/// What follows some segments of a path.
fn after(path: &str, segments: usize) -> &str {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    slashes.nth(segments.saturating_sub(1)).map_or("", |at| &path[at..])
}

/// The verb, as rules of access and messages name it; `one` for a single object.
pub(crate) fn verb_of(method: &Method, one: bool, watch: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if one => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

/// The verb of a request.
pub(crate) fn verb(method: &Method, request: &ResourceRequest) -> &'static str {
    // The parameters of what goes on to others are theirs.
    let others = request.subresource.is_some_and(Subresource::is_proxy);
    verb_of(method, !request.name.is_empty(), !others && request.query.flag("watch"))
}

/// What a request asks for, in the words of the rules of access.
pub(crate) fn attributes<'a>(method: &Method, request: &'a ResourceRequest) -> Attributes<'a> {
    request.subject().attributes(verb(method, request), request.query.get("fieldSelector"))
}

/// The name under which a change is remembered: `fieldManager`, or the first word of the user agent.
pub(crate) fn manager(query: &Query, headers: &HeaderMap) -> String {
    let given = query.get("fieldManager");
    if !given.is_empty() {
        return given.to_owned();
    }
    let agent =
        headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let word: String = agent.split('/').next().unwrap_or_default().chars().take(128).collect();
    if word.is_empty() { "unknown".into() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<(&str, &str, &str)>) {
        let found = resource(path, Query::default(), Arc::default).ok();
        let found =
            found.as_ref().map(|found| (found.kind.kind, found.namespace.as_str(), found.name.as_str()));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn only_who_lists_names_an_object_by_a_selector() {
        let query = || Query::parse("fieldSelector=metadata.name%3Dx");
        let request = resource("/api/v1/namespaces/a/pods", query(), Arc::default).unwrap();
        assert_eq!(attributes(&Method::GET, &request).name, "x");
        assert_eq!(attributes(&Method::POST, &request).name, "");
        assert_eq!(attributes(&Method::DELETE, &request).name, "");
    }

    #[test]
    fn paths() {
        check("/api/v1/pods", Some(("Pod", "", "")));
        check("/api/v1/namespaces", Some(("Namespace", "", "")));
        check("/api/v1/namespaces/a", Some(("Namespace", "", "a")));
        check("/api/v1/namespaces/a/finalize", Some(("Namespace", "", "a")));
        check("/api/v1/namespaces/a/pods/b", Some(("Pod", "a", "b")));
        check("/api/v1/namespaces/a/pods/b/status", Some(("Pod", "a", "b")));
        check("/apis/apps/v1/namespaces/a/deployments", Some(("Deployment", "a", "")));
        check("/api/v1/nodes/n", Some(("Node", "", "n")));
        check("/api/v1/pods/b", None);
        check("/api/v1/namespaces/a/nodes/n", None);
        check("/apis/apps/v2/deployments", None);
        check("/api/v1/namespaces/a/pods/b/nothing", None);
        check("/api/v1/namespaces/a/pods/b/status/more", None);
        check("/api/v1/namespaces/a/pods/b/proxy/any/thing", Some(("Pod", "a", "b")));
        check("/api/v1/namespaces/a/configmaps/b/proxy", None);
    }

    #[test]
    fn what_is_below_a_proxy_stays_as_it_was_sent() {
        for (path, verb_of, name, below) in [
            ("/api/v1/namespaces/a/pods/b/proxy", Method::GET, "b", ""),
            ("/api/v1/namespaces/a/pods/b/proxy/", Method::HEAD, "b", "/"),
            (
                "/api/v1/namespaces/a/services/https:b:c/proxy/d%2Fe//f/",
                Method::GET,
                "https:b:c",
                "/d%2Fe//f/",
            ),
            ("/api/v1/nodes/b%3A1/proxy/proxy/x", Method::GET, "b:1", "/proxy/x"),
        ] {
            let request = resource(path, Query::parse("watch=true"), Arc::default).unwrap();
            assert_eq!((request.name.as_str(), request.below.as_str()), (name, below), "{path}");
            assert_eq!(verb(&verb_of, &request), "get", "{path}");
        }
    }
}
