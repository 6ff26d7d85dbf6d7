//! Pod specifications, wherever they are: in pods and in the templates of workloads.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    super::fill::{default_text, default_value},
    container::{self, Context, Role},
    resources, scheduling, security, volumes,
};
use crate::{FieldErrors, kinds::field::Field, names, object};

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const MOST_NAME_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_BYTES: usize = 2048;

pub(super) fn defaults(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in object::items_mut(spec, field) {
            container::defaults(container);
        }
    }
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default_value(spec, "terminationGracePeriodSeconds", json!(30));
    default_value(spec, "securityContext", json!({}));
    resources::requests_from_limits(spec);
    // Two names of one field: the older one follows.
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec["serviceAccount"] = account;
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        spec["serviceAccountName"] = account;
    }
    if spec["hostNetwork"] == true {
        for field in ["containers", "initContainers"] {
            for container in object::items_mut(spec, field) {
                for port in object::items_mut(container, "ports") {
                    if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
    for volume in object::items_mut(spec, "volumes") {
        volumes::default_volume(volume);
    }
}

/// Checks a specification. `name` is the pod's; empty where it is not known yet.
pub(super) fn validate(spec: &Field<'_>, name: &str, errors: &mut FieldErrors) {
    let list = spec.get("volumes");
    for volume in list.items() {
        volume.get("name").needs_name(names::label, errors);
        volumes::validate(&volume, name, errors);
    }
    list.unique("name", errors);
    let block =
        |volume: &Field<'_>| volume.get("persistentVolumeClaim").is_set() || volume.get("ephemeral").is_set();
    let mut context = Context {
        volumes: list.items().map(|volume| (volume.get("name").text(), block(&volume))).collect(),
        claims: spec.get("resourceClaims").items().map(|claim| claim.get("name").text()).collect(),
        names: BTreeSet::new(),
        host_ports: BTreeSet::new(),
        host_network: spec.get("hostNetwork").is_true(),
        grace: spec.get("terminationGracePeriodSeconds").number(),
    };
    if spec.get("containers").is_empty() {
        spec.get("containers").required("", errors);
    }
    for one in spec.get("containers").items() {
        container::validate(&one, Role::Main, &mut context, errors);
    }
    for one in spec.get("initContainers").items() {
        container::validate(&one, Role::Init, &mut context, errors);
    }
    ephemeral(spec, &mut context, errors);
    claims(&spec.get("resourceClaims"), errors);
    spec.get("restartPolicy").needs_one_of(&["Always", "Never", "OnFailure"], errors);
    spec.get("dnsPolicy").needs_one_of(DNS_POLICIES, errors);
    dns(spec, errors);
    resources::of_pod(spec, errors);
    security::of_pod(spec, errors);
    scheduling::validate(spec, errors);
    named(spec, errors);
    times(spec, errors);
    for alias in spec.get("hostAliases").items() {
        alias.get("ip").address(errors);
        for host in alias.get("hostnames").items() {
            host.ruled(names::subdomain, errors);
        }
    }
    for gate in spec.get("readinessGates").items() {
        gate.get("conditionType").ruled(names::qualified, errors);
    }
    let gates = spec.get("schedulingGates");
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = Field::new(gate.get("name").value(), gate.path());
        name.ruled(names::qualified, errors);
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
    }
    spec.get("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], errors);
    for (name, amount) in spec.get("overhead").entries() {
        for wrong in names::qualified(name) {
            errors.invalid(amount.path(), name, wrong);
        }
        amount.quantity_not_negative(errors);
    }
    operating_system(spec, errors);
}

/// Checks the containers that were added to a running pod.
pub(super) fn ephemeral<'a>(spec: &Field<'a>, context: &mut Context<'a>, errors: &mut FieldErrors) {
    let others: BTreeSet<&str> = spec.get("containers").items().map(|one| one.get("name").text()).collect();
    for one in spec.get("ephemeralContainers").items() {
        container::validate(&one, Role::Ephemeral, context, errors);
        let target = one.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.text()) {
            target.not_found(errors);
        }
    }
}

fn claims(list: &Field<'_>, errors: &mut FieldErrors) {
    list.unique("name", errors);
    for claim in list.items() {
        claim.get("name").needs_name(names::label, errors);
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
                errors,
            ),
            (false, false) => {
                claim
                    .invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`", errors);
            }
            _ => {}
        }
        for reference in [direct, template] {
            if reference.is_set() {
                reference.ruled(names::subdomain, errors);
            }
        }
    }
}

fn dns(spec: &Field<'_>, errors: &mut FieldErrors) {
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            return config.required(detail, errors);
        }
        if servers.is_empty() {
            return servers
                .required("must provide at least one DNS nameserver when `dnsPolicy` is None", errors);
        }
    }
    if servers.count() > MOST_NAME_SERVERS {
        servers.invalid(format!("must not have more than {MOST_NAME_SERVERS} nameservers"), errors);
    }
    for server in servers.items() {
        server.address(errors);
    }
    if searches.count() > MOST_SEARCHES {
        searches.invalid(format!("must not have more than {MOST_SEARCHES} search paths"), errors);
    }
    if searches.texts().join(" ").len() > MOST_SEARCH_BYTES {
        let detail = format!(
            "must not have more than {MOST_SEARCH_BYTES} characters (including spaces) in the search list"
        );
        searches.invalid(detail, errors);
    }
    for search in searches.items() {
        let text = search.text();
        let text = if text == "." { "a" } else { text.strip_suffix('.').unwrap_or(text) };
        for wrong in names::subdomain(&text.replace('_', "-")) {
            search.invalid(wrong, errors);
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            errors.required(option.path(), "must not be empty");
        }
    }
}

fn named(spec: &Field<'_>, errors: &mut FieldErrors) {
    for (field, rule) in [
        ("nodeName", names::subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::subdomain),
        ("hostname", names::label),
        ("subdomain", names::label),
        ("priorityClassName", names::subdomain),
        ("runtimeClassName", names::subdomain),
    ] {
        spec.get(field).named(rule, errors);
    }
    for secret in spec.get("imagePullSecrets").items() {
        secret.get("name").named(names::subdomain, errors);
    }
    let host = spec.get("hostnameOverride");
    if host.is_set() {
        host.ruled(names::subdomain, errors);
        if spec.get("hostNetwork").is_true() {
            host.forbidden("may not be specified when `hostNetwork` is true", errors);
        }
        if spec.get("setHostnameAsFQDN").is_true() {
            host.forbidden("may not be specified when `setHostnameAsFQDN` is true", errors);
        }
    }
}

fn times(spec: &Field<'_>, errors: &mut FieldErrors) {
    spec.get("terminationGracePeriodSeconds").not_negative(errors);
    spec.get("activeDeadlineSeconds").between(1, i64::from(i32::MAX), errors);
}

fn operating_system(spec: &Field<'_>, errors: &mut FieldErrors) {
    let system = spec.get("os");
    if !system.is_set() {
        return;
    }
    system.get("name").needs_one_of(&["linux", "windows"], errors);
    let context = spec.get("securityContext");
    match system.get("name").text() {
        "linux" if context.get("windowsOptions").is_set() => {
            context.get("windowsOptions").forbidden("windows options cannot be set for a linux pod", errors);
        }
        "windows" => {
            for field in [
                "appArmorProfile",
                "seLinuxOptions",
                "seccompProfile",
                "fsGroup",
                "fsGroupChangePolicy",
                "sysctls",
                "runAsUser",
                "runAsGroup",
                "supplementalGroups",
            ] {
                if context.get(field).is_set() {
                    context.get(field).forbidden("cannot be set for a windows pod", errors);
                }
            }
            for field in ["hostPID", "hostIPC", "shareProcessNamespace"] {
                if spec.get(field).is_true() {
                    spec.get(field).forbidden("cannot be set for a windows pod", errors);
                }
            }
        }
        _ => {}
    }
}
