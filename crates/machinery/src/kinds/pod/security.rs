//! What pods and containers may do on their node.

use std::collections::BTreeSet;

use crate::{FieldErrors, kinds::field::Field, names};

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const LAST_ID: i64 = 2_147_483_647;

/// The profile of a filter: which one, and where it is when it is the node's own.
fn profile(profile: &Field<'_>, what: &str, field: &str, errors: &mut FieldErrors) {
    if !profile.is_set() {
        return;
    }
    let (kind, place) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "Localhost" => {
            if place.is_empty() {
                place.required(format!("must be set when {what} type is Localhost"), errors);
            } else if what == "seccomp" {
                place.relative(errors);
            }
        }
        "" => kind.required(format!("type is required when {field} is set"), errors),
        known if PROFILES.contains(&known) => {
            if place.is_set() {
                place.invalid(format!("can only be set when {what} type is Localhost"), errors);
            }
        }
        _ => kind.unsupported(PROFILES, errors),
    }
}

fn profiles(context: &Field<'_>, errors: &mut FieldErrors) {
    profile(&context.get("seccompProfile"), "seccomp", "seccompProfile", errors);
    profile(&context.get("appArmorProfile"), "AppArmor", "appArmorProfile", errors);
}

fn identity(id: &Field<'_>, errors: &mut FieldErrors) {
    id.between(0, LAST_ID, errors);
}

pub(super) fn of_container(context: &Field<'_>, errors: &mut FieldErrors) {
    if !context.is_set() {
        return;
    }
    identity(&context.get("runAsUser"), errors);
    identity(&context.get("runAsGroup"), errors);
    context.get("procMount").one_of(&["Default", "Unmasked"], errors);
    profiles(context, errors);
    if *context.get("allowPrivilegeEscalation").value() == false {
        if context.get("privileged").is_true() {
            context
                .invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true", errors);
        }
        let added = context.at(&["capabilities", "add"]).texts();
        if added.contains(&"CAP_SYS_ADMIN") {
            context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
                errors,
            );
        }
    }
    windows(&context.get("windowsOptions"), errors);
}

fn windows(options: &Field<'_>, errors: &mut FieldErrors) {
    let spec_name = options.get("gmsaCredentialSpecName");
    if spec_name.is_set() {
        spec_name.ruled(names::subdomain, errors);
    }
    let user = options.get("runAsUserName");
    if !user.is_set() {
        return;
    }
    if user.is_empty() {
        user.invalid("runAsUserName cannot be an empty string", errors);
    } else if user.text().chars().any(char::is_control) {
        user.invalid("runAsUserName cannot contain control characters", errors);
    } else if user.text().matches('\\').count() > 1 {
        user.invalid("runAsUserName cannot contain more than one backslash", errors);
    }
}

/// Checks what holds for all of a pod. `spec` has the host's parts that it uses.
pub(super) fn of_pod(spec: &Field<'_>, errors: &mut FieldErrors) {
    let context = spec.get("securityContext");
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        identity(&context.get(id), errors);
    }
    for group in context.get("supplementalGroups").items() {
        identity(&group, errors);
    }
    if spec.get("shareProcessNamespace").is_true() && spec.get("hostPID").is_true() {
        errors.invalid(
            format!("{}.shareProcessNamespace", context.path()),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let host_network = spec.get("hostNetwork").is_true();
    if *spec.get("hostUsers").value() == false {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).is_true() {
                spec.get(field).forbidden("when `pod.Spec.HostUsers` is false", errors);
            }
        }
    }
    sysctls(&context.get("sysctls"), host_network, spec.get("hostIPC").is_true(), errors);
    context.get("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"], errors);
    context.get("seLinuxChangePolicy").one_of(&["MountOption", "Recursive"], errors);
    context.get("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], errors);
    profiles(&context, errors);
    windows(&context.get("windowsOptions"), errors);
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let fine =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|byte| fine(*byte))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn sysctls(list: &Field<'_>, host_network: bool, host_ipc: bool, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            name.required("", errors);
        } else if !is_sysctl(name.text()) {
            name.invalid(
                "must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                errors,
            );
        } else if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
        let plain = name.text().replace('/', ".");
        if host_network && plain.starts_with("net.") {
            name.invalid("may not be specified when 'hostNetwork' is true", errors);
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if host_ipc && of_ipc.iter().any(|prefix| plain.starts_with(prefix)) {
            name.invalid("may not be specified when 'hostIPC' is true", errors);
        }
    }
}
