//! What the server does to the metadata of every object when it is created and changed.

use serde_json::{Value, json};

use crate::{FieldErrors, Kind, Subresource, kinds::NameRule, names, object, time};

/// All annotations of an object together may not be longer, in bytes.
pub const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Makes the metadata of an object that is about to be created: what only the server may say is set or taken
/// away. The name must be there already.
pub fn prepare_create(object: &mut Value, kind: &Kind) {
    let uid = uuid::Uuid::new_v4().to_string();
    let metadata = object::meta_mut(object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(uid));
    metadata.insert("creationTimestamp".into(), json!(time::now()));
    if kind.generation {
        metadata.insert("generation".into(), json!(1));
    } else {
        metadata.remove("generation");
    }
    if !kind.namespaced {
        metadata.remove("namespace");
    }
    clean(object);
}

/// Carries over what an update may not change, so that leaving it out is no error.
pub fn prepare_update(object: &mut Value, old: &Value) {
    let previous = old["metadata"].clone();
    let metadata = object::meta_mut(object);
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
    {
        // A uid that was given is checked against the old one later.
        if field == "uid" && metadata.get(field).is_some_and(|uid| uid != "") {
            continue;
        }
        match previous.get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    if !metadata.contains_key("generateName")
        && let Some(base) = previous.get("generateName")
    {
        metadata.insert("generateName".into(), base.clone());
    }
    metadata.remove("selfLink");
    clean(object);
}

/// Removes empty maps and lists of the metadata, as leaving out zero values does in the reference.
fn clean(object: &mut Value) {
    let metadata = object::meta_mut(object);
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    });
}

/// Raises the generation when anything but the metadata and the status changed; a status that is not changed on its own is
/// like any other field of a kind that a definition added.
pub fn bump_generation(object: &mut Value, old: &Value, kind: &Kind) {
    if !kind.generation {
        return;
    }
    let apart = !kind.defined || kind.has(Subresource::Status);
    let counts = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !apart,
        _ => true,
    };
    let differs = |left: &Value, right: &Value| {
        left.as_object().is_some_and(|fields| {
            fields.iter().any(|(key, value)| counts(key) && right.get(key) != Some(value))
        })
    };
    if differs(object, old) || differs(old, object) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object::meta_mut(object).insert("generation".into(), json!(generation));
    }
}

/// Checks the metadata of any object.
pub fn validate(object: &Value, kind: &Kind, errors: &mut FieldErrors) {
    let name = object::name(object);
    let base = object::meta(object, "generateName");
    if name.is_empty() {
        if base.is_empty() {
            errors.required("metadata.name", "name or generateName is required");
        }
    } else {
        for wrong in kind.name_rule.check(name) {
            errors.invalid("metadata.name", name, wrong);
        }
    }
    if !base.is_empty() {
        for wrong in kind.name_rule.check(&mask_trailing_dash(base)) {
            errors.invalid("metadata.generateName", base, wrong);
        }
    }
    if kind.namespaced {
        let namespace = object::namespace(object);
        if namespace.is_empty() {
            errors.required("metadata.namespace", "");
        } else {
            for wrong in names::label(namespace) {
                errors.invalid("metadata.namespace", namespace, wrong);
            }
        }
    }
    labels(object::at(object, &["metadata", "labels"]), "metadata.labels", errors);
    annotations(object::at(object, &["metadata", "annotations"]), "metadata.annotations", errors);
    finalizers(object, kind, errors);
    owners(object, errors);
}

fn mask_trailing_dash(base: &str) -> String {
    match base.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => base.to_owned(),
    }
}

/// Checks a map of labels.
pub fn labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for wrong in names::qualified(key) {
            errors.invalid(path, key.as_str(), wrong);
        }
        let value = value.as_str().unwrap_or_default();
        for wrong in names::label_value(value) {
            errors.invalid(path, value, wrong);
        }
    }
}

/// Checks a map of annotations.
pub fn annotations(annotations: &Value, path: &str, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for wrong in names::qualified(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), wrong);
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

/// Finalizers of kinds that definitions add may be called as their authors like.
fn finalizers(object: &Value, kind: &Kind, errors: &mut FieldErrors) {
    for (index, finalizer) in object::meta_list(object, "finalizers").iter().enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        for wrong in names::qualified(text) {
            errors.invalid("metadata.finalizers", text, wrong);
        }
        let standard = matches!(text, "kubernetes" | "orphan" | "foregroundDeletion");
        if !kind.defined && !text.contains('/') && !standard {
            errors.invalid(
                format!("metadata.finalizers[{index}]"),
                text,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name| object::has_finalizer(object, name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            "metadata.finalizers",
            object["metadata"]["finalizers"].clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn owners(object: &Value, errors: &mut FieldErrors) {
    let mut controller = "";
    for (index, owner) in object::meta_list(object, "ownerReferences").iter().enumerate() {
        let path = "metadata.ownerReferences";
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let text =
                    if field == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                errors.invalid(format!("{path}.{field}"), "", text);
            }
        }
        if owner["controller"] == true {
            let name = owner["name"].as_str().unwrap_or_default();
            if index > 0 && !controller.is_empty() {
                errors.invalid(
                    path,
                    object["metadata"]["ownerReferences"].clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {controller} and {name}"
                    ),
                );
            } else {
                controller = name;
            }
        }
    }
}

/// Checks what an update may not change.
pub fn validate_update(object: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, was) = (&object["metadata"][field], &old["metadata"][field]);
        if new != was {
            errors.invalid(format!("metadata.{field}"), new.clone(), "field is immutable");
        }
    }
    if object::is_terminating(old) {
        for finalizer in object::meta_list(object, "finalizers") {
            if !object::meta_list(old, "finalizers").contains(finalizer) {
                errors.forbidden(
                    "metadata.finalizers",
                    format!(
                        "no new finalizers can be added if the object is being deleted, found new finalizers \
                         []string{{{:?}}}",
                        finalizer.as_str().unwrap_or_default()
                    ),
                );
            }
        }
    }
}

impl NameRule {
    /// What is wrong with a name.
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            NameRule::Subdomain => names::subdomain(name),
            NameRule::Label => names::label(name),
            NameRule::Label1035 => names::label_1035(name),
            NameRule::PathSegment => names::path_segment(name),
            NameRule::Address => names::address(name),
        }
    }
}
