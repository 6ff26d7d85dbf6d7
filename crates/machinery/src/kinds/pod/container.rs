//! Containers: their defaults and their rules, shared by pods and by templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    super::fill::{default_text, default_value},
    environment, probes, resources, security,
};
use crate::{FieldErrors, kinds::field::Field, names, object};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// What a container that was added to a running pod may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];

/// The tag of an image's name decides how it is pulled: `latest` and none mean always.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        _ => "IfNotPresent",
    }
}

pub(super) fn defaults(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = pull_policy(object::text(container, &["image"]));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_value(container, "resources", json!({}));
    for port in object::items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in object::items_mut(container, "env") {
        let source = variable.get_mut("valueFrom").and_then(|source| source.get_mut("fieldRef"));
        if let Some(reference) = source {
            default_text(reference, "apiVersion", "v1");
        }
    }
    if let Some(security) = container.get_mut("securityContext")
        && security["procMount"].is_string()
    {
        default_text(security, "procMount", "Default");
    }
    probes::defaults(container);
    resources::requests_from_limits(container);
}

/// What a list of containers is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

/// What containers share with the pod they are in.
pub(super) struct Context<'a> {
    /// The names of the volumes, and whether each can be used as a device.
    pub(super) volumes: Vec<(&'a str, bool)>,
    /// The names of the claims for devices.
    pub(super) claims: Vec<&'a str>,
    /// The names of the containers that came before.
    pub(super) names: BTreeSet<&'a str>,
    /// The ports of the host that are taken.
    pub(super) host_ports: BTreeSet<String>,
    pub(super) host_network: bool,
    /// How many seconds the pod has to end.
    pub(super) grace: Option<i64>,
}

pub(super) fn validate<'a>(
    container: &Field<'a>,
    role: Role,
    context: &mut Context<'a>,
    errors: &mut FieldErrors,
) {
    let name = container.get("name");
    name.needs_name(names::label, errors);
    if !name.is_empty() && !context.names.insert(name.text()) {
        name.duplicate(errors);
    }
    if role == Role::Ephemeral {
        for field in NOT_EPHEMERAL {
            if !container.get(field).is_empty() {
                container.get(field).forbidden("cannot be set for an Ephemeral Container", errors);
            }
        }
    }
    let image = container.get("image");
    if image.is_empty() {
        image.required("", errors);
    } else if image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace", errors);
    }
    let sidecar = container.get("restartPolicy").text() == "Always";
    restarts(container, role, errors);
    if role == Role::Init && !sidecar {
        probes::forbid(container, errors);
    } else if role != Role::Ephemeral {
        probes::validate(container, context.grace, errors);
    }
    ports(container, context, errors);
    let volume_names: Vec<&str> = context.volumes.iter().map(|(name, _)| *name).collect();
    environment::validate(container, &volume_names, errors);
    mounts(container, role, &volume_names, errors);
    devices(container, context, errors);
    container.get("imagePullPolicy").needs_one_of(PULL_POLICIES, errors);
    container.get("terminationMessagePolicy").needs_one_of(&["FallbackToLogsOnError", "File"], errors);
    resources::of_container(&container.get("resources"), &context.claims, errors);
    resize(container, errors);
    security::of_container(&container.get("securityContext"), errors);
}

fn restarts(container: &Field<'_>, role: Role, errors: &mut FieldErrors) {
    let policy = container.get("restartPolicy");
    match role {
        Role::Init | Role::Main => policy.one_of(&["Always", "Never", "OnFailure"], errors),
        Role::Ephemeral => {}
    }
    let rules = container.get("restartPolicyRules");
    if !rules.is_empty() && !policy.is_set() {
        rules.required("must specify restartPolicy when restart rules are used", errors);
    }
    rules.most(20, errors);
    for rule in rules.items() {
        rule.get("action").needs_one_of(&["Restart", "RestartAllContainers"], errors);
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            codes.required("must be specified", errors);
            continue;
        }
        codes.get("operator").needs_one_of(&["In", "NotIn"], errors);
        codes.get("values").needed(errors);
        codes.get("values").most(255, errors);
    }
}

fn ports(container: &Field<'_>, context: &mut Context<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for port in container.get("ports").items() {
        let (name, inside, outside) = (port.get("name"), port.get("containerPort"), port.get("hostPort"));
        name.named(names::port_name, errors);
        if !name.is_empty() && !seen.insert(name.text()) {
            name.duplicate(errors);
        }
        if inside.number().unwrap_or(0) == 0 {
            inside.required("", errors);
        } else {
            inside.port(errors);
        }
        let on_host = outside.number().unwrap_or(0);
        if on_host != 0 {
            outside.port(errors);
        }
        port.get("protocol").needs_one_of(PROTOCOLS, errors);
        if !port.get("hostIP").is_empty() {
            port.get("hostIP").address(errors);
        }
        if context.host_network && on_host != inside.number().unwrap_or(0) {
            inside.invalid("must match `hostPort` when `hostNetwork` is true", errors);
        }
        if on_host != 0 {
            let place = format!("{}/{}/{on_host}", port.get("protocol").text(), port.get("hostIP").text());
            if !context.host_ports.insert(place.clone()) {
                errors.duplicate(outside.path(), place);
            }
        }
    }
}

fn mounts(container: &Field<'_>, role: Role, volumes: &[&str], errors: &mut FieldErrors) {
    let privileged = container.at(&["securityContext", "privileged"]).is_true();
    let taken = container.get("volumeDevices");
    let mut places = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, place) = (mount.get("name"), mount.get("mountPath"));
        name.needed(errors);
        if !volumes.contains(&name.text()) {
            name.not_found(errors);
        }
        place.needed(errors);
        if !places.insert(place.text()) {
            place.invalid("must be unique", errors);
        }
        for device in taken.items() {
            if device.get("name").value() == name.value() {
                name.invalid("must not already exist in volumeDevices", errors);
            }
            if device.get("devicePath").value() == place.value() {
                place.invalid("must not already exist as a path in volumeDevices", errors);
            }
        }
        let (part, computed) = (mount.get("subPath"), mount.get("subPathExpr"));
        if role == Role::Ephemeral {
            for field in [&part, &computed] {
                if !field.is_empty() {
                    field.forbidden("cannot be set for an Ephemeral Container", errors);
                }
            }
        }
        part.relative(errors);
        if !part.is_empty() && !computed.is_empty() {
            computed.invalid("subPathExpr and subPath are mutually exclusive", errors);
        }
        computed.relative(errors);
        let spread = mount.get("mountPropagation");
        spread.one_of(&["Bidirectional", "HostToContainer", "None"], errors);
        if spread.text() == "Bidirectional" && !privileged {
            spread.forbidden(
                "Bidirectional mount propagation is available only to privileged containers",
                errors,
            );
        }
        let recursive = mount.get("recursiveReadOnly");
        recursive.one_of(&["Disabled", "Enabled", "IfPossible"], errors);
        if matches!(recursive.text(), "Enabled" | "IfPossible") {
            if !mount.get("readOnly").is_true() {
                recursive.forbidden("may only be specified when readOnly is true", errors);
            }
            if !matches!(spread.text(), "" | "None") {
                recursive.forbidden(
                    "may only be specified when mountPropagation is None or not specified",
                    errors,
                );
            }
        }
    }
}

fn devices(container: &Field<'_>, context: &Context<'_>, errors: &mut FieldErrors) {
    let (mut seen, mut places) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, place) = (device.get("name"), device.get("devicePath"));
        name.needed(errors);
        if !seen.insert(name.text()) {
            name.invalid("must be unique", errors);
        }
        match context.volumes.iter().find(|(volume, _)| *volume == name.text()) {
            None => name.not_found(errors),
            Some((_, true)) => {}
            Some((_, false)) => name.invalid(
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                errors,
            ),
        }
        if place.is_empty() {
            place.required("", errors);
        } else if !places.insert(place.text()) {
            place.invalid("must be unique", errors);
        }
        place.stays_inside(errors);
    }
}

fn resize(container: &Field<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for policy in container.get("resizePolicy").items() {
        let resource = policy.get("resourceName");
        if !seen.insert(resource.text()) {
            errors.duplicate(policy.path(), resource.text());
        }
        resource.needs_one_of(&["cpu", "memory"], errors);
        policy.get("restartPolicy").needs_one_of(&["NotRequired", "RestartContainer"], errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_decide_how_they_are_pulled() {
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1", "IfNotPresent"),
            ("host:5000/web", "Always"),
            ("host:5000/web@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn defaults_leave_no_empty_values() {
        let mut container = json!({ "image": "a:1", "env": [{ "name": "x", "value": "y" },
            { "name": "p", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            "resources": { "limits": { "cpu": "1" } } });
        defaults(&mut container);
        assert_eq!(container["env"][0], json!({ "name": "x", "value": "y" }));
        assert_eq!(container["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
    }
}
