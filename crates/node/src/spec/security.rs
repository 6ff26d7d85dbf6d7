//! Who a container's processes are and what they may do.

use std::path::{Component, Path};

use dray_engine::{ContainerSpec, NamespaceMode, SeccompMode};
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile};

use crate::error::IoContext;
use crate::{Error, Result};

/// Fills in user, groups, capabilities, filter and namespaces. `image_user` is the user that the image names; profiles of the node's
/// own are below `profiles`.
///
/// # Errors
/// When the pod forbids root and the container would be root, or asks for a profile that is not there.
pub(crate) fn apply(
    spec: &mut ContainerSpec,
    pod: &Pod,
    container: &Container,
    image_user: &str,
    profiles: &Path,
) -> Result<()> {
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let of_pod = pod_spec.security_context.unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        refuse_root(pod, container, user, image_user)?;
    }
    spec.user = match (user, group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => {
            let name = image_user.split(':').next().filter(|name| !name.is_empty()).unwrap_or("0");
            Some(format!("{name}:{group}"))
        }
    };
    spec.groups = of_pod
        .supplemental_groups
        .iter()
        .flatten()
        .chain(of_pod.fs_group.iter())
        .map(ToString::to_string)
        .collect();
    let privileged = own.privileged == Some(true);
    spec.security.privileged = privileged;
    spec.security.read_only_root = own.read_only_root_filesystem == Some(true);
    spec.security.no_new_privileges = own.allow_privilege_escalation == Some(false) && !privileged;
    if let Some(capabilities) = own.capabilities {
        spec.security.capabilities_add = capabilities.add.unwrap_or_default();
        spec.security.capabilities_drop = capabilities.drop.unwrap_or_default();
    }
    let profile = own.seccomp_profile.or(of_pod.seccomp_profile);
    spec.security.seccomp = seccomp(profile.as_ref(), profiles)?;
    spec.security.apparmor = apparmor(own.app_armor_profile.or(of_pod.app_armor_profile));
    if own.proc_mount.as_deref() == Some("Unmasked") {
        spec.security.masked_paths = Some(Vec::new());
        spec.security.read_only_paths = Some(Vec::new());
    }
    spec.sysctls = of_pod.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect();
    if pod_spec.host_pid == Some(true) {
        spec.pid = NamespaceMode::Host;
    }
    if pod_spec.host_ipc == Some(true) {
        spec.ipc = NamespaceMode::Host;
    }
    Ok(())
}

/// Without a word about it the default profile holds, as with the kubelet's seccompDefault.
fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Result<SeccompMode> {
    let Some(profile) = profile else { return Ok(SeccompMode::Default) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(SeccompMode::Default),
        "Unconfined" => Ok(SeccompMode::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if name.is_empty() || !plain {
                return Err(Error::pod(format!(
                    "localhostProfile {name:?} must be a path below the node's profiles"
                )));
            }
            let path = profiles.join(name);
            std::fs::read_to_string(&path).io("read the seccomp profile", &path).map(SeccompMode::Profile)
        }
        other => Err(Error::pod(format!("seccomp profile type {other} is not supported"))),
    }
}

/// The name of a profile that is loaded on the host; without one the engine's default holds.
fn apparmor(profile: Option<AppArmorProfile>) -> Option<String> {
    let profile = profile?;
    match profile.type_.as_str() {
        "Unconfined" => Some("unconfined".to_owned()),
        "Localhost" => profile.localhost_profile,
        _ => None,
    }
}

fn refuse_root(pod: &Pod, container: &Container, user: Option<i64>, image_user: &str) -> Result<()> {
    let place = || {
        let pod = crate::identity::PodIdentity::of(pod);
        format!("(pod: \"{}\", container: {})", pod.full_name(), container.name)
    };
    match user {
        Some(0) => {
            return Err(Error::pod(format!("container's runAsUser breaks non-root policy {}", place())));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let name = image_user.split(':').next().unwrap_or_default();
    match (name, name.parse::<u32>()) {
        ("" | "root", _) | (_, Ok(0)) => {
            Err(Error::pod(format!("container has runAsNonRoot and image will run as root {}", place())))
        }
        (_, Ok(_)) => Ok(()),
        (_, Err(_)) => Err(Error::pod(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {}",
            place()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(pod_context: serde_json::Value, own: serde_json::Value, image: &str) -> Result<ContainerSpec> {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "p" },
            "spec": { "securityContext": pod_context, "containers": [] } }))
        .unwrap();
        let container: Container =
            serde_json::from_value(json!({ "name": "c", "securityContext": own })).unwrap();
        let mut spec = ContainerSpec::default();
        let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        apply(&mut spec, &pod, &container, image, &profiles).map(|()| spec)
    }

    #[test]
    fn profiles_are_of_the_runtime_or_of_the_node() {
        let profile = |kind: &str, name: Option<&str>| json!({ "type": kind, "localhostProfile": name });
        let seccomp = |profile: serde_json::Value| {
            applied(json!({ "seccompProfile": profile }), json!({}), "").map(|spec| spec.security.seccomp)
        };
        assert_eq!(seccomp(profile("RuntimeDefault", None)).unwrap(), SeccompMode::Default);
        assert_eq!(seccomp(profile("Unconfined", None)).unwrap(), SeccompMode::Unconfined);
        let SeccompMode::Profile(text) = seccomp(profile("Localhost", Some("lib.rs"))).unwrap() else {
            panic!()
        };
        assert_eq!(text, include_str!("../lib.rs"));
        for hostile in ["", "/etc/passwd", "../Cargo.toml", "nowhere.json"] {
            assert!(seccomp(profile("Localhost", Some(hostile))).is_err(), "{hostile}");
        }
        for (given, expected) in [
            (profile("RuntimeDefault", None), None),
            (profile("Unconfined", None), Some("unconfined")),
            (profile("Localhost", Some("mine")), Some("mine")),
        ] {
            let spec = applied(json!({}), json!({ "appArmorProfile": given }), "").unwrap();
            assert_eq!(spec.security.apparmor.as_deref(), expected);
        }
        let spec = applied(json!({}), json!({ "procMount": "Unmasked" }), "").unwrap();
        assert_eq!(spec.security.masked_paths, Some(Vec::new()));
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let spec = applied(
            json!({ "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4] }),
            json!({ "runAsUser": 5, "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true }),
            "",
        )
        .unwrap();
        assert_eq!(spec.user.as_deref(), Some("5:2"));
        assert_eq!(spec.groups, ["4", "3"]);
        assert_eq!(spec.security.capabilities_add, ["NET_ADMIN"]);
        assert_eq!(spec.security.capabilities_drop, ["ALL"]);
        assert!(spec.security.no_new_privileges && spec.security.read_only_root);
    }

    #[test]
    fn root_is_refused_where_it_is_forbidden() {
        let non_root = || json!({ "runAsNonRoot": true });
        for (own, image, allowed) in [
            (json!({ "runAsUser": 0 }), "", false),
            (json!({ "runAsUser": 7 }), "", true),
            (json!({}), "", false),
            (json!({}), "root", false),
            (json!({}), "0:5", false),
            (json!({}), "nobody", false),
            (json!({}), "65534", true),
        ] {
            assert_eq!(applied(non_root(), own.clone(), image).is_ok(), allowed, "{own} {image}");
        }
    }
}
