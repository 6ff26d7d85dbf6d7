//! Devices, claims for them, and who offers them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Subresource,
    field::{Field, IMMUTABLE},
    fill::{default_text, default_value},
    pod::scheduling,
};
use crate::{FieldErrors, names, object};

const MOST_REQUESTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_SELECTORS: usize = 32;
const MOST_CONSUMERS: usize = 256;
const MOST_DEVICES: usize = 128;
const MOST_ATTRIBUTES: usize = 32;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LONGEST_PARAMETERS: usize = 10 * 1024;
const LONGEST_POOL: usize = 253;
const LONGEST_ATTRIBUTE: usize = 64;
const LONGEST_IDENTIFIER: usize = 32;
const ONE_REQUEST: &str = "exactly one of `exactly` or `firstAvailable` is required";
const REQUEST_NAME: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

pub(super) fn default_claim(claim: &mut Value) {
    let Some(devices) = claim.get_mut("spec").and_then(|spec| spec.get_mut("devices")) else { return };
    for request in object::items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            default_request(exactly);
        }
        for alternative in object::items_mut(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" && request["count"].as_i64().unwrap_or(0) == 0 {
        object::remove(request, "count");
        default_value(request, "count", json!(1));
    }
    for toleration in object::items_mut(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

pub(super) fn default_template(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec") {
        default_claim(spec);
    }
}

pub(super) fn default_slice(slice: &mut Value) {
    let Some(spec) = slice.get_mut("spec") else { return };
    for device in object::items_mut(spec, "devices") {
        for taint in object::items_mut(device, "taints") {
            default_text(taint, "timeAdded", &crate::time::now());
        }
    }
}

/// The names of the requests of a claim, with those of their alternatives.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn requests<'a>(devices: &Field<'a>) -> Requests<'a> {
    devices
        .get("requests")
        .items()
        .map(|request| {
            let inner = request.get("firstAvailable").items().map(|one| one.get("name").text()).collect();
            (request.get("name").text(), inner)
        })
        .collect()
}

pub(super) fn validate_claim(claim: &Value, errors: &mut FieldErrors) {
    validate_devices(&Field::root(claim).at(&["spec", "devices"]), errors);
}

pub(super) fn validate_template(template: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(template).get("spec");
    let metadata = spec.get("metadata");
    metadata.get("labels").labels(errors);
    for (key, _) in metadata.entries() {
        if !matches!(key, "labels" | "annotations") && !metadata.get(key).is_empty() {
            metadata.get(key).forbidden("cannot be set", errors);
        }
    }
    validate_devices(&spec.at(&["spec", "devices"]), errors);
}

fn validate_devices(devices: &Field<'_>, errors: &mut FieldErrors) {
    let known = requests(devices);
    let list = devices.get("requests");
    list.most(MOST_REQUESTS, errors);
    list.unique("name", errors);
    for request in list.items() {
        request.get("name").needs_name(names::label, errors);
        let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
        match (exactly.is_set(), !first.is_empty()) {
            (false, false) => request.required(ONE_REQUEST, errors),
            (true, true) => {
                let detail = format!("{ONE_REQUEST}, but multiple fields are set");
                errors.invalid(request.path(), Value::Null, detail);
            }
            (true, false) => validate_request(&exactly, errors),
            (false, true) => {
                first.most(MOST_ALTERNATIVES, errors);
                first.unique("name", errors);
                for alternative in first.items() {
                    alternative.get("name").needs_name(names::label, errors);
                    validate_request(&alternative, errors);
                }
            }
        }
    }
    let constraints = devices.get("constraints");
    constraints.most(MOST_REQUESTS, errors);
    for constraint in constraints.items() {
        references(&constraint.get("requests"), &known, errors);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if same.is_set() {
            attribute_name(&same, true, errors);
        } else if distinct.is_set() {
            attribute_name(&distinct, true, errors);
        } else {
            constraint.required(
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                errors,
            );
        }
    }
    let configuration = devices.get("config");
    configuration.most(MOST_REQUESTS, errors);
    for one in configuration.items() {
        references(&one.get("requests"), &known, errors);
        validate_configuration(&one, errors);
    }
}

fn validate_request(request: &Field<'_>, errors: &mut FieldErrors) {
    request.get("deviceClassName").needs_name(names::subdomain, errors);
    validate_selectors(&request.get("selectors"), errors);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.text() {
        "All" => {
            if count.number().unwrap_or(0) != 0 {
                count.invalid("must not be specified when allocationMode is 'All'", errors);
            }
        }
        "ExactCount" => {
            if count.number().unwrap_or(0) <= 0 {
                errors.invalid(count.path(), count.number().unwrap_or(0), "must be greater than zero");
            }
        }
        _ => mode.unsupported(&["All", "ExactCount"], errors),
    }
    for toleration in request.get("tolerations").items() {
        validate_toleration(&toleration, errors);
    }
}

fn validate_toleration(toleration: &Field<'_>, errors: &mut FieldErrors) {
    let (key, operator, value) = (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
    key.named(names::qualified, errors);
    match operator.text() {
        "Exists" => {
            if !value.is_empty() {
                value.invalid("must be empty for operator `Exists`", errors);
            }
        }
        "Equal" => {
            if key.is_empty() {
                key.required("must be `Exists` when `key` is empty", errors);
            }
            value.ruled(names::label_value, errors);
        }
        "" => operator.required("", errors),
        _ => operator.unsupported(&["Equal", "Exists"], errors),
    }
    toleration.get("effect").one_of(&["NoExecute", "NoSchedule", "None"], errors);
}

fn validate_selectors(selectors: &Field<'_>, errors: &mut FieldErrors) {
    selectors.most(MOST_SELECTORS, errors);
    for selector in selectors.items() {
        let cel = selector.get("cel");
        cel.needed(errors);
        let expression = cel.get("expression");
        expression.longest(LONGEST_EXPRESSION, errors);
    }
}

fn references(list: &Field<'_>, known: &Requests<'_>, errors: &mut FieldErrors) {
    list.most(MOST_REQUESTS, errors);
    list.unique("", errors);
    for reference in list.items() {
        validate_reference(&reference, known, errors);
    }
}

fn validate_reference(reference: &Field<'_>, known: &Requests<'_>, errors: &mut FieldErrors) {
    let parts: Vec<&str> = reference.text().split('/').collect();
    if parts.len() > 2 {
        return reference.invalid(REQUEST_NAME, errors);
    }
    for part in &parts {
        for wrong in names::label(part) {
            errors.invalid(reference.path(), *part, wrong);
        }
    }
    let found = match (known.get(parts[0]), parts.get(1)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(inner), Some(name)) => inner.contains(name),
    };
    if !found {
        reference.invalid(REQUEST_NAME, errors);
    }
}

fn validate_configuration(configuration: &Field<'_>, errors: &mut FieldErrors) {
    let opaque = configuration.get("opaque");
    if !opaque.is_set() {
        return opaque.required("", errors);
    }
    opaque.get("driver").needs_name(names::driver, errors);
    let parameters = opaque.get("parameters");
    if !parameters.is_set() {
        parameters.required("", errors);
    } else if parameters.value().to_string().len() > LONGEST_PARAMETERS {
        errors.too_long(parameters.path(), LONGEST_PARAMETERS);
    } else if !parameters.value().is_object() {
        errors.invalid(parameters.path(), "<value omitted>", "parameters must be a valid JSON object");
    }
}

/// The name of an attribute: an identifier, of a domain where one is needed.
fn attribute_name(field: &Field<'_>, domain_needed: bool, errors: &mut FieldErrors) {
    let text = field.text();
    if text.is_empty() {
        return field.required("name required", errors);
    }
    let identifier = match text.split_once('/') {
        Some((domain, identifier)) => {
            if domain.is_empty() {
                field.required("the domain must not be empty", errors);
            } else {
                for wrong in names::driver(domain) {
                    errors.invalid(field.path(), domain, wrong);
                }
            }
            if identifier.is_empty() {
                field.required("the name must not be empty", errors);
                return;
            }
            identifier
        }
        None if domain_needed => {
            return field.invalid("must include a domain", errors);
        }
        None => text,
    };
    if identifier.len() > LONGEST_IDENTIFIER {
        errors.too_long(field.path(), LONGEST_IDENTIFIER);
    }
    let fine = |(index, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || byte == b'_' || (index > 0 && byte.is_ascii_digit())
    };
    if !identifier.bytes().enumerate().all(fine) {
        errors.invalid(
            field.path(),
            identifier,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
             characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
             '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
}

pub(super) fn validate_spec_unchanged(object: &Value, old: &Value, errors: &mut FieldErrors) {
    if object["spec"] != old["spec"] {
        errors.invalid("spec", object["spec"].clone(), IMMUTABLE);
    }
}

pub(super) fn validate_claim_part(part: Subresource, claim: &Value, old: &Value, errors: &mut FieldErrors) {
    if part != Subresource::Status {
        return;
    }
    let root = Field::root(claim);
    let (status, was) = (root.get("status"), Field::root(old).get("status"));
    let known = requests(&root.at(&["spec", "devices"]));
    let consumers = status.get("reservedFor");
    consumers.most(MOST_CONSUMERS, errors);
    consumers.unique("uid", errors);
    for consumer in consumers.items() {
        for name in ["resource", "name", "uid"] {
            consumer.get(name).needed(errors);
        }
    }
    let (allocation, before) = (status.get("allocation"), was.get("allocation"));
    if !consumers.is_empty() && !allocation.is_set() {
        consumers.forbidden("may not be specified when `allocated` is not set", errors);
    }
    let held = was.get("reservedFor");
    let grows = consumers.items().any(|one| held.items().all(|other| other.value() != one.value()));
    if object::is_terminating(claim) && grows {
        consumers.forbidden(
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            errors,
        );
    }
    if before.is_set() && allocation.is_set() {
        allocation.unchanged(&before, errors);
    } else if allocation.is_set() {
        let devices = allocation.get("devices");
        devices.get("results").most(MOST_REQUESTS, errors);
        for result in devices.get("results").items() {
            validate_reference(&result.get("request"), &known, errors);
            result.get("driver").needs_name(names::driver, errors);
            pool_name(&result.get("pool"), errors);
            result.get("device").needs_name(names::label, errors);
        }
        devices.get("config").most(2 * MOST_REQUESTS, errors);
        for one in devices.get("config").items() {
            one.get("source").needs_one_of(&["FromClaim", "FromClass"], errors);
            references(&one.get("requests"), &known, errors);
            validate_configuration(&one, errors);
        }
        if allocation.get("nodeSelector").is_set() {
            scheduling::node_selector(&allocation.get("nodeSelector"), errors);
        }
    }
}

fn pool_name(name: &Field<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return name.required("", errors);
    }
    name.longest(LONGEST_POOL, errors);
    for part in name.text().split('/') {
        for wrong in names::subdomain(part) {
            errors.invalid(name.path(), part, wrong);
        }
    }
}

pub(super) fn validate_class(class: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(class).get("spec");
    validate_selectors(&spec.get("selectors"), errors);
    spec.get("config").most(MOST_REQUESTS, errors);
    for one in spec.get("config").items() {
        validate_configuration(&one, errors);
    }
    let extended = spec.get("extendedResourceName");
    if extended.is_set() {
        let text = extended.text();
        let fine = text.contains('/')
            && !text.split('/').next().unwrap_or_default().ends_with("kubernetes.io")
            && !text.starts_with("requests.")
            && names::qualified(&format!("requests.{text}")).is_empty();
        if !fine {
            extended.invalid("must be a valid extended resource name", errors);
        }
    }
}

pub(super) fn validate_slice(slice: &Value, errors: &mut FieldErrors) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let spec = Field::root(slice).get("spec");
    spec.get("driver").needs_name(names::driver, errors);
    let pool = spec.get("pool");
    pool_name(&pool.get("name"), errors);
    if pool.get("resourceSliceCount").number().unwrap_or(0) <= 0 {
        let count = pool.get("resourceSliceCount");
        errors.invalid(count.path(), count.number().unwrap_or(0), "must be greater than zero");
    }
    if pool.get("generation").number().is_some_and(|generation| generation < 0) {
        pool.get("generation").invalid("must be greater than or equal to zero", errors);
    }
    let mut set = Vec::new();
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if node.is_set() {
        if node.is_empty() {
            node.invalid("must be either unset or set to a non-empty string", errors);
        } else {
            set.push("`nodeName`");
            node.ruled(names::subdomain, errors);
        }
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        scheduling::node_selector(&selector, errors);
        let terms = selector.get("nodeSelectorTerms");
        if terms.count() != 1 {
            terms.invalid("must have exactly one node selector term", errors);
        }
    }
    for (name, quoted) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        if spec.get(name).is_true() {
            set.push(quoted);
        } else if spec.get(name).is_set() {
            spec.get(name).invalid("must be either unset or set to true", errors);
        }
    }
    match set.len() {
        0 => spec.required(ONE, errors),
        1 => {}
        _ => errors.invalid(
            spec.path(),
            format!("{{{}}}", set.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        ),
    }
    let devices = spec.get("devices");
    devices.most(MOST_DEVICES, errors);
    devices.unique("name", errors);
    for device in devices.items() {
        validate_device(&device, errors);
    }
}

fn validate_device(device: &Field<'_>, errors: &mut FieldErrors) {
    device.get("name").needs_name(names::label, errors);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    if attributes.count() + capacity.count() > MOST_ATTRIBUTES {
        errors.invalid(
            device.path(),
            attributes.count() + capacity.count(),
            format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}"),
        );
    }
    for map in [&attributes, &capacity] {
        for (key, value) in map.entries() {
            attribute_name(&Field::new(&json!(key), value.path()), false, errors);
        }
    }
    for (_, attribute) in attributes.entries() {
        match attribute.count() {
            0 => attribute.required("exactly one value must be specified", errors),
            1 => {}
            _ => attribute.invalid("exactly one value must be specified", errors),
        }
        attribute.get("string").longest(LONGEST_ATTRIBUTE, errors);
        attribute.get("version").longest(LONGEST_ATTRIBUTE, errors);
    }
    for taint in device.get("taints").items() {
        taint.get("key").needs_name(names::qualified, errors);
        taint.get("value").named(names::label_value, errors);
        taint.get("effect").needs_one_of(&["NoExecute", "NoSchedule", "None"], errors);
    }
}

pub(super) fn validate_slice_update(slice: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (Field::root(slice).get("spec"), Field::root(old).get("spec"));
    spec.at(&["pool", "name"]).unchanged(&was.at(&["pool", "name"]), errors);
    spec.all_unchanged(&was, &["driver", "nodeName"], errors);
}
