//! What there is: the lists by which clients find groups, versions and resources.

use dray_machinery::{Kind, Status};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::{
    aggregator::{Aggregator, Directory, Group, Registered},
    custom::Table,
    negotiate::{self, Encoding},
    respond::{self, Answer},
};

fn members<'a>(
    rows: &'a [&'static Kind],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static Kind> + 'a {
    rows.iter().copied().filter(move |kind| kind.group == group && kind.version == version)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions[0] })
}

/// Whether a client prefers the lists of all resources at once, and in which version.
fn aggregated(headers: &HeaderMap) -> bool {
    for range in negotiate::ranges(headers) {
        if range.parameter("g") == "apidiscovery.k8s.io" && range.parameter("as") == "APIGroupDiscoveryList" {
            if range.parameter("v") == "v2" {
                return true;
            }
        } else if range.parameter("as").is_empty() {
            return false;
        }
    }
    false
}

/// A version of a group that others serve, as they say.
fn remote_version(aggregator: &Aggregator, registered: &Registered) -> Value {
    let is_available = registered.remote.as_ref().is_some_and(|remote| remote.is_available);
    let discovered = aggregator.discovered(&registered.name).filter(|known| !known.resources.is_empty());
    // What was known before is told when nothing newer is.
    let freshness = if is_available && discovered.is_some() { "Current" } else { "Stale" };
    let mut version = json!({ "version": registered.version, "freshness": freshness });
    if let Some(discovered) = discovered {
        version["resources"] = json!(discovered.resources);
    }
    version
}

fn aggregated_answer(
    rows: &[&'static Kind],
    groups: &[Group<'_>],
    aggregator: &Aggregator,
    directory: &Directory,
) -> Answer {
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    if let Some(registered) = directory.remote(group, version) {
                        return remote_version(aggregator, registered);
                    }
                    let resources: Vec<Value> =
                        members(rows, group, version).map(aggregated_resource).collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    respond::with_type(
        StatusCode::OK,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        crate::body::full(list.to_string()),
    )
}

fn scope(kind: &Kind) -> &'static str {
    if kind.namespaced { "Namespaced" } else { "Cluster" }
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|subresource| {
            let (group, version, name) = subresource.kind().unwrap_or((kind.group, kind.version, kind.kind));
            json!({
                "subresource": subresource.as_str(), "verbs": subresource.verbs(),
                "responseKind": { "group": group, "version": version, "kind": name },
            })
        })
        .collect();
    let mut resource = json!({
        "resource": kind.plural, "scope": scope(kind), "singularResource": kind.singular, "verbs": kind.verbs(),
        "responseKind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !subresources.is_empty() {
        resource["subresources"] = json!(subresources);
    }
    resource
}

fn resource_list(rows: &[&'static Kind], group: &str, version: &str) -> Result<Value, Status> {
    let mut resources = Vec::new();
    for kind in members(rows, group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": kind.verbs(),
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        resources.push(resource);
        for subresource in kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, subresource.as_str()), "singularName": "",
                "namespaced": kind.namespaced, "kind": kind.kind, "verbs": subresource.verbs(),
            });
            if let Some((group, version, name)) = subresource.kind() {
                entry["kind"] = json!(name);
                entry["version"] = json!(version);
                if !group.is_empty() {
                    entry["group"] = json!(group);
                }
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return Err(Status::no_such_resource());
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources }))
}

/// Answers a request for a list of what there is; none when the path is no such list.
pub(crate) fn answer(
    path: &str,
    headers: &HeaderMap,
    address: &str,
    table: &Table,
    aggregator: &Aggregator,
) -> Option<Result<Answer, Status>> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    if !matches!(segments.first(), Some(&("api" | "apis"))) {
        return None;
    }
    let rows = table.rows();
    let directory = aggregator.directory();
    let all = || directory.groups(rows.iter().map(|kind| (kind.group, kind.version)));
    let plain = |value: Value| Ok(respond::value(StatusCode::OK, Encoding::Json, &value));
    match segments.as_slice() {
        ["api"] => Some(if aggregated(headers) {
            Ok(aggregated_answer(&rows, &[("", vec!["v1"])], aggregator, &directory))
        } else {
            plain(json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
            }))
        }),
        ["apis"] => {
            let named: Vec<_> = all().into_iter().filter(|(group, _)| !group.is_empty()).collect();
            Some(if aggregated(headers) {
                Ok(aggregated_answer(&rows, &named, aggregator, &directory))
            } else {
                let groups: Vec<Value> =
                    named.iter().map(|(group, versions)| group_value(group, versions)).collect();
                plain(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
            })
        }
        ["apis", group] => Some(match all().iter().find(|(name, _)| name == group) {
            Some((group, versions)) => {
                let mut value = group_value(group, versions);
                value["kind"] = json!("APIGroup");
                value["apiVersion"] = json!("v1");
                plain(value)
            }
            None => Err(Status::no_such_resource()),
        }),
        ["api", version] => Some(resource_list(&rows, "", version).and_then(plain)),
        ["apis", group, version] => Some(resource_list(&rows, group, version).and_then(plain)),
        _ => None,
    }
}
