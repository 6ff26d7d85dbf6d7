//! What a server of others says that it has: resources as it lists them, in the form in which clients are told of all at
//! once, and its document of OpenAPI.

use dray_machinery::object;
use serde_json::{Value, json};

/// What is known of a server of others.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Discovered {
    /// Its resources, as the list of all resources has them.
    pub(crate) resources: Vec<Value>,
    /// Where its document of OpenAPI 3.0 is, when it has one.
    pub(crate) document: Option<String>,
}

/// The texts of a list. What else is in it is left out: clients read all of the groups at once, and must not fail over one.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The resources of an `APIResourceList`, as an `APIGroupDiscoveryList` has them; none where it is no such list.
pub(super) fn resources(list: &Value, group: &str, version: &str) -> Option<Vec<Value>> {
    let listed = list["resources"].as_array()?;
    let mut found: Vec<Value> = Vec::new();
    let kind = |entry: &Value| {
        let or = |field: &str, usual: &str| match object::text(entry, &[field]) {
            "" => usual.to_owned(),
            text => text.to_owned(),
        };
        json!({ "group": or("group", group), "version": or("version", version), "kind": object::text(entry, &["kind"]) })
    };
    let scope = |entry: &Value| if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
    for entry in listed {
        let name = object::text(entry, &["name"]);
        if name.is_empty() {
            continue;
        }
        let Some((parent, part)) = name.split_once('/') else {
            let mut resource = json!({
                "resource": name, "scope": scope(entry), "responseKind": kind(entry),
                "verbs": texts(&entry["verbs"]), "singularResource": object::text(entry, &["singularName"]),
            });
            for field in ["shortNames", "categories"] {
                let texts = texts(&entry[field]);
                if !texts.is_empty() {
                    resource[field] = json!(texts);
                }
            }
            match found.iter_mut().find(|known| known["resource"] == name) {
                // A part of it came first.
                Some(known) => {
                    if known["subresources"].is_array() {
                        resource["subresources"] = known["subresources"].take();
                    }
                    *known = resource;
                }
                None => found.push(resource),
            }
            continue;
        };
        let part =
            json!({ "subresource": part, "responseKind": kind(entry), "verbs": texts(&entry["verbs"]) });
        let parent = match found.iter().position(|known| known["resource"] == parent) {
            Some(at) => &mut found[at],
            None => {
                found.push(
                    json!({ "resource": parent, "scope": scope(entry), "singularResource": "", "verbs": [] }),
                );
                let last = found.len() - 1;
                &mut found[last]
            }
        };
        match parent["subresources"].as_array_mut() {
            Some(parts) => parts.push(part),
            None => parent["subresources"] = json!([part]),
        }
    }
    Some(found)
}

/// Where the document of a version is, by the index of documents of its server.
pub(super) fn document(index: &Value, group: &str, version: &str) -> Option<String> {
    let place = index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"].as_str()?;
    // Clients are sent there: it has to be the path that is passed on.
    let path = place.split('?').next().unwrap_or_default();
    (path == format!("/openapi/v3/apis/{group}/{version}")).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_resources_are_told_in_the_newer_form() {
        let list = json!({ "kind": "APIResourceList", "resources": [
            { "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                "verbs": ["get", "list"], "shortNames": ["fl"] },
            { "name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"] },
            { "name": "fischers/scale", "namespaced": false, "kind": "Scale", "group": "autoscaling", "version": "v1",
                "verbs": ["get"] },
            { "name": "fischers", "singularName": "fischer", "namespaced": false, "kind": "Fischer", "verbs": ["list"],
                "categories": ["all"] },
        ] });
        let own = |kind: &str| json!({ "group": "wardle.example.com", "version": "v1", "kind": kind });
        let expected = json!([
            { "resource": "flunders", "scope": "Namespaced", "responseKind": own("Flunder"), "verbs": ["get", "list"],
                "singularResource": "flunder", "shortNames": ["fl"],
                "subresources": [{ "subresource": "status", "responseKind": own("Flunder"), "verbs": ["get"] }] },
            { "resource": "fischers", "scope": "Cluster", "responseKind": own("Fischer"), "verbs": ["list"],
                "singularResource": "fischer", "categories": ["all"],
                "subresources": [{ "subresource": "scale", "verbs": ["get"],
                    "responseKind": { "group": "autoscaling", "version": "v1", "kind": "Scale" } }] },
        ]);
        assert_eq!(resources(&list, "wardle.example.com", "v1").map(Value::from), Some(expected));
        assert_eq!(resources(&json!({ "kind": "Status" }), "g", "v1"), None);
        // Whatever a server says, the list of all resources stays one that clients can read.
        let wrong = json!({ "resources": [
            7, { "name": "" }, { "name": 1 },
            { "name": "a", "kind": 2, "verbs": ["get", 3, null], "shortNames": "x", "categories": { "a": 1 } },
            { "name": "a/b/c", "verbs": "get" },
        ] });
        let empty = json!({ "group": "g", "version": "v1", "kind": "" });
        let expected = json!([
            { "resource": "a", "scope": "Cluster", "responseKind": empty, "verbs": ["get"], "singularResource": "",
                "subresources": [{ "subresource": "b/c", "responseKind": empty, "verbs": [] }] },
        ]);
        assert_eq!(resources(&wrong, "g", "v1").map(Value::from), Some(expected));
    }

    #[test]
    fn documents_are_where_they_are_passed_on() {
        for (place, expected) in [
            ("/openapi/v3/apis/g/v1?hash=A", true),
            ("/openapi/v3/apis/g/v1", true),
            ("/openapi/v3/apis/apps/v1", false),
            ("https://elsewhere/openapi/v3/apis/g/v1", false),
        ] {
            let index = json!({ "paths": { "apis/g/v1": { "serverRelativeURL": place } } });
            assert_eq!(document(&index, "g", "v1"), expected.then(|| place.to_owned()), "{place}");
        }
        assert_eq!(document(&json!({ "paths": {} }), "g", "v1"), None);
    }
}
