//! What adds kinds to the API: definitions of custom ones, and services that serve their own. Schemas are checked by
//! who serves the kinds.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Subresource, admission, carry_status,
    field::Field,
    fill::{default_object, default_text, default_value},
};
use crate::{FieldErrors, names, object};

const STATUSES: &[&str] = &["True", "False", "Unknown"];
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const APPROVAL: &str = "api-approved.kubernetes.io";

pub(super) fn default_definition(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "scope", "Namespaced");
    if let Some(chosen) = spec.get_mut("names").filter(|chosen| chosen.is_object()) {
        let kind = object::text(chosen, &["kind"]).to_owned();
        if !kind.is_empty() {
            default_text(chosen, "singular", &kind.to_lowercase());
            default_text(chosen, "listKind", &format!("{kind}List"));
        }
    }
    let conversion = default_object(spec, "conversion");
    default_text(conversion, "strategy", "None");
    let service = conversion
        .get_mut("webhook")
        .and_then(|webhook| webhook.get_mut("clientConfig"))
        .and_then(|client| client.get_mut("service"));
    if let Some(service) = service {
        default_value(service, "port", json!(443));
    }
}

/// Notes the version in which objects are stored among those in which some may be.
fn store_versions(definition: &mut Value) {
    let versions = object::at(definition, &["spec", "versions"]).as_array().cloned().unwrap_or_default();
    let storage =
        versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let Some(storage) = storage else { return };
    let status = object::child(definition, "status");
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut()
        && !stored.contains(&storage)
    {
        stored.push(storage);
    }
}

pub(super) fn prepare_definition(definition: &mut Value) {
    definition["status"] = json!({ "conditions": [], "acceptedNames": { "plural": "", "kind": "" } });
    store_versions(definition);
}

pub(super) fn prepare_definition_update(definition: &mut Value, old: &Value) {
    carry_status(definition, old);
    store_versions(definition);
}

pub(super) fn validate_definition(definition: &Value, errors: &mut FieldErrors) {
    let root = Field::root(definition);
    let spec = root.get("spec");
    let (group, chosen) = (spec.get("group"), spec.get("names"));
    if object::name(definition) != format!("{}.{}", chosen.get("plural").text(), group.text()) {
        root.at(&["metadata", "name"]).invalid("must be spec.names.plural+\".\"+spec.group", errors);
    }
    if group.is_empty() {
        group.required("", errors);
    } else {
        let wrong = names::subdomain(group.text());
        if !wrong.is_empty() {
            group.invalid(wrong.join(","), errors);
        } else if !group.text().contains('.') {
            group.invalid("should be a domain with at least one dot", errors);
        }
    }
    spec.get("scope").needs_one_of(&["Cluster", "Namespaced"], errors);
    validate_versions(&spec, errors);
    validate_names(&chosen, errors);
    if spec.get("preserveUnknownFields").is_true() {
        spec.get("preserveUnknownFields").invalid(
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            errors,
        );
    }
    validate_conversion(&spec.get("conversion"), errors);
    let reserved =
        [".k8s.io", ".kubernetes.io"].iter().any(|domain| format!(".{}", group.text()).ends_with(domain));
    let approval = object::at(definition, &["metadata", "annotations", APPROVAL]);
    let fine =
        approval.as_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("unapproved"));
    if reserved && !fine {
        errors.required(
            format!("metadata.annotations[{APPROVAL}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
             https://github.com/kubernetes/enhancements/pull/1111",
        );
    }
}

/// What a version says under a name. Where all versions say the same, the reference keeps it once for all and names it
/// there: then only the first has it.
fn part_of_version<'a>(spec: &Field<'a>, index: usize, name: &str) -> Option<Field<'a>> {
    let parts: Vec<Field<'a>> = spec.get("versions").items().map(|version| version.get(name)).collect();
    let shared = parts.iter().all(|part| part.value() == parts[0].value());
    let part = parts.into_iter().nth(index)?;
    match (shared, index) {
        (false, _) => Some(part),
        (true, 0) => Some(Field::new(part.value(), format!("{}.{name}", spec.path()))),
        (true, _) => None,
    }
}

fn validate_versions(spec: &Field<'_>, errors: &mut FieldErrors) {
    let versions = spec.get("versions");
    let (mut seen, mut unique, mut stored) = (BTreeSet::new(), true, 0);
    for (index, version) in versions.items().enumerate() {
        let name = version.get("name");
        unique &= seen.insert(name.text());
        stored += usize::from(version.get("storage").is_true());
        let wrong = names::label_1035(name.text());
        if !wrong.is_empty() {
            name.invalid(wrong.join(","), errors);
        }
        let schema = version.at(&["schema", "openAPIV3Schema"]);
        if !schema.is_set() {
            schema.required("schemas are required", errors);
        }
        let warning = version.get("deprecationWarning");
        if warning.is_set() {
            if !version.get("deprecated").is_true() {
                warning.invalid("can only be set for deprecated versions", errors);
            } else if warning.is_empty() {
                warning.invalid("must not be an empty string", errors);
            } else if warning.text().len() > 256 {
                warning.invalid("must be <= 256 characters long", errors);
            }
        }
        if let Some(columns) = part_of_version(spec, index, "additionalPrinterColumns") {
            columns.items().for_each(|column| validate_column(&column, errors));
        }
        if let Some(subresources) = part_of_version(spec, index, "subresources") {
            validate_scale(&subresources.get("scale"), errors);
        }
    }
    if versions.is_empty() {
        versions.required("must have at least one version", errors);
    }
    if !unique {
        versions.invalid("must contain unique version names", errors);
    }
    if stored != 1 {
        versions.invalid("must have exactly one version marked as storage version", errors);
    }
}

/// Where a scale reads and writes: simple paths of names.
fn validate_scale(scale: &Field<'_>, errors: &mut FieldErrors) {
    if !scale.is_set() {
        return;
    }
    for (field, roots, words) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let path = scale.get(field);
        if path.is_empty() {
            if field != "labelSelectorPath" {
                path.required("", errors);
            }
        } else if !path.text().starts_with('.') {
            path.invalid("must be a simple json path starting with .", errors);
        } else if !roots.iter().any(|root| path.text().starts_with(root)) {
            path.invalid(words, errors);
        }
    }
}

fn validate_column(column: &Field<'_>, errors: &mut FieldErrors) {
    column.get("name").needed(errors);
    let (kind, format, path) = (column.get("type"), column.get("format"), column.get("jsonPath"));
    if kind.is_empty() {
        let quoted = COLUMN_TYPES.join(",");
        kind.required(format!("must be one of {quoted}"), errors);
    } else if !COLUMN_TYPES.contains(&kind.text()) {
        kind.invalid(format!("must be one of {}", COLUMN_TYPES.join(",")), errors);
    }
    if !COLUMN_FORMATS.contains(&format.text()) {
        format.invalid(format!("must be one of {}", COLUMN_FORMATS[1..].join(",")), errors);
    }
    if path.is_empty() {
        path.required("", errors);
    } else if !path.text().starts_with(['.', '[']) {
        path.invalid("must be a simple json path starting with .", errors);
    }
}

fn validate_names(chosen: &Field<'_>, errors: &mut FieldErrors) {
    let check = |field: &Field<'_>, text: &str, mixed: bool, errors: &mut FieldErrors| {
        let wrong = names::label_1035(text);
        if !wrong.is_empty() {
            let lead = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            field.invalid(format!("{lead}{}", wrong.join(",")), errors);
        }
    };
    for name in ["plural", "singular", "kind", "listKind"] {
        let field = chosen.get(name);
        let mixed = name.to_lowercase().ends_with("kind");
        if field.is_empty() {
            field.required("", errors);
        } else {
            check(&field, &field.text().to_lowercase(), mixed, errors);
        }
        if !mixed && field.text().chars().any(char::is_uppercase) {
            check(&field, field.text(), false, errors);
        }
    }
    for list in ["shortNames", "categories"] {
        for field in chosen.get(list).items() {
            check(&field, field.text(), false, errors);
        }
    }
    if !chosen.get("kind").is_empty() && chosen.get("kind").value() == chosen.get("listKind").value() {
        chosen.get("listKind").invalid("kind and listKind may not be the same", errors);
    }
}

fn validate_conversion(conversion: &Field<'_>, errors: &mut FieldErrors) {
    let (strategy, webhook) = (conversion.get("strategy"), conversion.get("webhook"));
    strategy.needs_one_of(&["None", "Webhook"], errors);
    if strategy.text() != "Webhook" {
        if webhook.is_set() {
            conversion
                .get("webhookClientConfig")
                .forbidden("should not be set when strategy is not set to Webhook", errors);
        }
        return;
    }
    let client = webhook.get("clientConfig");
    if client.is_set() {
        admission::validate_client(&client, errors);
    } else {
        conversion.get("webhookClientConfig").required("required when strategy is set to Webhook", errors);
    }
    let versions = webhook.get("conversionReviewVersions");
    if versions.is_empty() {
        versions.required("must specify one of v1, v1beta1", errors);
    } else if !versions.texts().iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        versions.invalid("must include at least one of v1, v1beta1", errors);
    }
}

pub(super) fn validate_definition_update(definition: &Value, old: &Value, errors: &mut FieldErrors) {
    let established = Field::root(old).at(&["status", "conditions"]).items().any(|condition| {
        condition.get("type").text() == "Established" && condition.get("status").text() == "True"
    });
    let (spec, was) = (Field::root(definition).get("spec"), Field::root(old).get("spec"));
    spec.get("group").unchanged(&was.get("group"), errors);
    spec.at(&["names", "plural"]).unchanged(&was.at(&["names", "plural"]), errors);
    if established {
        spec.get("scope").unchanged(&was.get("scope"), errors);
        spec.at(&["names", "kind"]).unchanged(&was.at(&["names", "kind"]), errors);
    }
    validate_stored_versions(definition, errors);
}

/// The versions in which objects may be stored are there, and the one in which they are stored now is among them.
fn validate_stored_versions(definition: &Value, errors: &mut FieldErrors) {
    let root = Field::root(definition);
    let (stored, versions) = (root.at(&["status", "storedVersions"]), root.at(&["spec", "versions"]));
    if stored.is_empty() {
        errors.invalid(stored.path(), json!([]), "must have at least one stored version");
        return;
    }
    for version in versions.items().filter(|version| version.get("storage").is_true()) {
        let name = version.get("name").text();
        if !stored.texts().contains(&name) {
            stored.invalid(format!("must have the storage version {name}"), errors);
        }
    }
    let known: Vec<&str> = versions.items().map(|version| version.get("name").text()).collect();
    for stored in stored.items() {
        let name = stored.text();
        if !known.contains(&name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until \
                 a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            stored.invalid(detail, errors);
        }
    }
}

/// What a change of the status may not be.
pub(super) fn validate_definition_part(
    part: Subresource,
    definition: &Value,
    _old: &Value,
    errors: &mut FieldErrors,
) {
    if part == Subresource::Status {
        validate_stored_versions(definition, errors);
    }
}

pub(super) fn default_service(service: &mut Value) {
    if let Some(reference) = service.get_mut("spec").and_then(|spec| spec.get_mut("service")) {
        default_value(reference, "port", json!(443));
    }
}

/// What this server serves itself is there.
pub(super) fn prepare_service(service: &mut Value) {
    service["status"] = json!({});
    if service["spec"]["service"].is_null() {
        service["status"]["conditions"] = json!([{
            "type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": crate::time::now(),
        }]);
    }
}

pub(super) fn validate_service(service: &Value, errors: &mut FieldErrors) {
    let root = Field::root(service);
    let spec = root.get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let wanted = format!("{}.{}", version.text(), group.text());
    if object::name(service) != wanted {
        root.at(&["metadata", "name"])
            .invalid(format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"), errors);
    }
    if group.is_empty() && version.text() != "v1" {
        group.required("only v1 may have an empty group and it better be legacy kube", errors);
    }
    group.named(names::subdomain, errors);
    version.ruled(names::label_1035, errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.get(field);
        let number = priority.number().unwrap_or(0);
        if !(1..=most).contains(&number) {
            errors.invalid(priority.path(), number, format!("must be positive and less than {most}"));
        }
    }
    let (reference, bundle, insecure) =
        (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !reference.is_set() {
        if !bundle.is_empty() {
            let bytes = format!("{} bytes", bundle.text().len() / 4 * 3);
            errors.invalid(bundle.path(), bytes, "local APIServices may not have a caBundle");
        }
        if insecure.is_true() {
            insecure.invalid("local APIServices may not have insecureSkipTLSVerify", errors);
        }
        return;
    }
    reference.get("namespace").needed(errors);
    reference.get("name").needed(errors);
    let port = reference.get("port");
    if let Some(wrong) = names::port_number(port.number().unwrap_or(0)) {
        port.invalid(format!("port is not valid: {wrong}"), errors);
    }
    if insecure.is_true() && !bundle.is_empty() {
        insecure.invalid("may not be true if caBundle is present", errors);
    }
}

pub(super) fn validate_service_part(
    part: Subresource,
    service: &Value,
    _old: &Value,
    errors: &mut FieldErrors,
) {
    if part == Subresource::Status {
        for condition in Field::root(service).at(&["status", "conditions"]).items() {
            let status = condition.get("status");
            if !STATUSES.contains(&status.text()) {
                status.unsupported(STATUSES, errors);
            }
        }
    }
}
