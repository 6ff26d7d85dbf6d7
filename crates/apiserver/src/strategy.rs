//! What the server makes of an object whatever its kind, on the way from what a client wants to what is stored.
//!
//! It must not know the store: it looks at objects only.

use dray_access::User;
use dray_machinery::{Kind, Status, Subresource, object, time};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{decode, review::user_info};

/// The media types of patches that a kind takes, for who sends another: kinds that definitions add know no strategies.
pub(crate) fn patches(kind: &Kind) -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/apply-patch+cbor",
    ];
    const WITHOUT: &[&str] = &[ALL[0], ALL[1], ALL[3], ALL[4]];
    if kind.defined { WITHOUT } else { ALL }
}

/// Refuses bodies in which fields are numbers where nobody has numbered the fields: of kinds that definitions add.
pub(crate) fn check_media(kind: &Kind, headers: &HeaderMap) -> Result<(), Status> {
    if kind.defined && decode::media(headers).ends_with("protobuf") {
        return Err(Status::unsupported_media_type(&["application/json", "application/yaml"]));
    }
    Ok(())
}

/// Writes who made an object where its kind says that, whatever the object says itself.
pub(crate) fn sign(kind: &Kind, user: &User, object: &mut Value) {
    let Some(place) = kind.requester.iter().try_fold(object, |value, name| value.get_mut(*name)) else {
        return;
    };
    if kind.requester.is_empty() {
        return;
    }
    for field in ["username", "uid", "groups", "extra"] {
        object::remove(place, field);
    }
    if let (Some(place), Value::Object(info)) = (place.as_object_mut(), user_info(user)) {
        place.extend(info);
    }
}

/// Only the status changes, of which an approval changes only the conditions, and of the metadata what controllers
/// keep there.
pub(crate) fn prepare_status(kind: &Kind, part: Subresource, new: &mut Value, old: &Value) {
    let mut result = old.clone();
    if part == Subresource::Approval {
        let mut conditions = object::at(new, &["status", "conditions"]).clone();
        for condition in
            conditions.as_array_mut().into_iter().flatten().filter(|condition| condition.is_object())
        {
            for field in ["lastUpdateTime", "lastTransitionTime"] {
                if condition[field].is_null() {
                    condition[field] = json!(time::now());
                }
            }
        }
        object::child(&mut result, "status").insert("conditions".into(), conditions);
    } else {
        object::copy_field(new, &mut result, "status");
    }
    if kind.defined {
        // Of the metadata nothing is taken but who changes what, and which version is meant.
        for field in ["managedFields", "resourceVersion"] {
            let given = new["metadata"].get(field).cloned();
            let metadata = object::meta_mut(&mut result);
            match given {
                Some(value) => metadata.insert(field.into(), value),
                None => metadata.remove(field),
            };
        }
        *new = result;
        return;
    }
    let mut metadata = new["metadata"].clone();
    let keep: &[&str] = if kind.generation && kind.kind != "Pod" {
        &["labels", "ownerReferences"]
    } else {
        &["ownerReferences"]
    };
    for field in keep {
        match old["metadata"].get(*field) {
            Some(value) => metadata[*field] = value.clone(),
            None => object::remove(&mut metadata, field),
        }
    }
    result["metadata"] = metadata;
    *new = result;
}

/// Whether two objects are the same but for their version and the times of their managers.
pub(crate) fn same(old: &Value, new: &Value) -> bool {
    let fields = |object: &Value| object.as_object().map_or(0, serde_json::Map::len);
    let plain = |object: &Value| {
        let mut metadata = object["metadata"].clone();
        object::remove(&mut metadata, "resourceVersion");
        for entry in object::items_mut(&mut metadata, "managedFields") {
            object::remove(entry, "time");
        }
        metadata
    };
    fields(old) == fields(new)
        && new.as_object().is_some_and(|new| {
            new.iter().all(|(key, value)| key == "metadata" || old.get(key) == Some(value))
        })
        && plain(old) == plain(new)
}
