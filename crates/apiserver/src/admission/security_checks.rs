//! The checks of the pod security standards, in the reference's order and words
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

use dray_machinery::object;
use serde_json::Value;

use super::security::Level;

/// What is checked.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    /// Init, main and ephemeral containers, in this order.
    containers: Vec<&'a Value>,
}

/// What a check finds, as "REASON (DETAIL)".
type Check = fn(&Pod<'_>) -> Option<String>;

/// From which level on a check holds, and up to which: a stricter one may take its place.
const CHECKS: &[(Level, Level, Check)] = &[
    (Level::Restricted, Level::Restricted, privilege_escalation),
    (Level::Baseline, Level::Restricted, app_armor),
    (Level::Baseline, Level::Baseline, capabilities),
    (Level::Restricted, Level::Restricted, capabilities_restricted),
    (Level::Baseline, Level::Restricted, host_namespaces),
    (Level::Baseline, Level::Baseline, host_paths),
    (Level::Baseline, Level::Restricted, host_ports),
    (Level::Baseline, Level::Restricted, probes),
    (Level::Baseline, Level::Restricted, privileged),
    (Level::Baseline, Level::Restricted, proc_mount),
    (Level::Restricted, Level::Restricted, volumes),
    (Level::Restricted, Level::Restricted, non_root),
    (Level::Restricted, Level::Restricted, user),
    (Level::Baseline, Level::Baseline, seccomp),
    (Level::Restricted, Level::Restricted, seccomp_restricted),
    (Level::Baseline, Level::Restricted, selinux),
    (Level::Baseline, Level::Restricted, sysctls),
    (Level::Baseline, Level::Restricted, host_process),
];

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const SELINUX_TYPES: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What of a pod is beyond a level.
pub(super) fn run(level: Level, metadata: &Value, spec: &Value) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let all = ["initContainers", "containers", "ephemeralContainers"];
    let containers = all.iter().flat_map(|field| items(spec, field)).collect();
    let pod = Pod { metadata, spec, containers };
    let holds = CHECKS.iter().filter(|(from, to, _)| (*from..=*to).contains(&level));
    holds.filter_map(|(.., check)| check(&pod)).collect()
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn context<'a>(container: &'a Value, path: &[&str]) -> &'a Value {
    object::at(&container["securityContext"], path)
}

fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

/// "container "a"", "containers "a", "b"".
fn named(what: &str, names: &[&str]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", quoted(names.iter().copied()))
}

fn name(value: &Value) -> &str {
    object::text(value, &["name"])
}

impl<'a> Pod<'a> {
    /// The names of the containers for which something is true.
    fn those(&self, is: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|container| is(container)).map(|container| name(container)).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

/// A finding about containers, when there are any.
fn about(reason: &str, names: &[&str], what: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{reason} ({} {what})", named("container", names)))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.those(|container| *context(container, &["allowPrivilegeEscalation"]) != false);
    about(
        "allowPrivilegeEscalation != false",
        &names,
        "must set securityContext.allowPrivilegeEscalation=false",
    )
}

fn app_armor(pod: &Pod<'_>) -> Option<String> {
    let mut found = Vec::new();
    let bad = |value: &Value| {
        let kind = object::text(value, &["appArmorProfile", "type"]);
        !matches!(kind, "" | "RuntimeDefault" | "Localhost")
    };
    if bad(&pod.spec["securityContext"]) {
        found.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = pod.those(|container| bad(&container["securityContext"]));
    if !names.is_empty() {
        let of = named("container", &names);
        found.push(format!("{of} must not set AppArmor profile type to \"Unconfined\""));
    }
    for (key, value) in object::meta_map(&serde_json::json!({ "metadata": pod.metadata }), "annotations")
        .into_iter()
        .flatten()
    {
        let value = value.as_str().unwrap_or_default();
        if key.starts_with(APP_ARMOR)
            && !value.is_empty()
            && value != "runtime/default"
            && !value.starts_with("localhost/")
        {
            found.push(format!("annotation {key}={value:?} must not be set"));
        }
    }
    let plural = if found.len() == 1 { "" } else { "s" };
    (!found.is_empty()).then(|| format!("forbidden AppArmor profile{plural} ({})", found.join("; ")))
}

/// The capabilities that containers add beyond those allowed, and who does.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<String> {
    let add =
        |container: &'a Value| items(context(container, &["capabilities"]), "add").filter_map(Value::as_str);
    let mut beyond: Vec<&str> =
        pod.containers.iter().copied().flat_map(add).filter(|one| !allowed.contains(one)).collect();
    beyond.sort_unstable();
    beyond.dedup();
    let names: Vec<&str> = pod
        .containers
        .iter()
        .copied()
        .filter(|container| add(container).any(|one| !allowed.contains(&one)))
        .map(name)
        .collect();
    (!names.is_empty()).then(|| {
        let of = named("container", &names);
        format!("{of} must not include {} in securityContext.capabilities.add", quoted(beyond))
    })
}

fn capabilities(pod: &Pod<'_>) -> Option<String> {
    added(pod, CAPABILITIES).map(|found| format!("non-default capabilities ({found})"))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.those(|container| {
        !items(context(container, &["capabilities"]), "drop").any(|dropped| dropped == "ALL")
    });
    let mut found = Vec::new();
    if !names.is_empty() {
        let of = named("container", &names);
        found.push(format!("{of} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    found.extend(added(pod, &["NET_BIND_SERVICE"]));
    (!found.is_empty()).then(|| format!("unrestricted capabilities ({})", found.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    (!shared.is_empty()).then(|| format!("host namespaces ({})", shared.join(", ")))
}

fn host_paths(pod: &Pod<'_>) -> Option<String> {
    let names: Vec<&str> =
        items(pod.spec, "volumes").filter(|volume| volume["hostPath"].is_object()).map(name).collect();
    (!names.is_empty()).then(|| format!("hostPath volumes ({})", named("volume", &names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let of = |container: &Value| -> Vec<i64> {
        items(container, "ports")
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect()
    };
    let names = pod.those(|container| !of(container).is_empty());
    let mut ports: Vec<i64> = pod.containers.iter().flat_map(|container| of(container)).collect();
    ports.sort_unstable();
    ports.dedup();
    let texts: Vec<String> = ports.iter().map(i64::to_string).collect();
    (!names.is_empty()).then(|| {
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let plural = if ports.len() == 1 { "" } else { "s" };
        format!("hostPort ({} {uses} hostPort{plural} {})", named("container", &names), texts.join(", "))
    })
}

fn probes(pod: &Pod<'_>) -> Option<String> {
    let hosts = |container: &Value| -> Vec<String> {
        let probes =
            ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| container[probe].clone());
        let hooks = ["postStart", "preStop"].map(|hook| container["lifecycle"][hook].clone());
        let actions = probes.iter().chain(&hooks);
        let hosts = actions
            .flat_map(|action| [&action["httpGet"]["host"], &action["tcpSocket"]["host"]].map(Value::clone));
        let hosts = hosts.filter_map(|host| host.as_str().map(str::to_owned));
        hosts.filter(|host| !matches!(host.as_str(), "" | "127.0.0.1" | "::1")).collect()
    };
    let names = pod.those(|container| !hosts(container).is_empty());
    let mut all: Vec<String> = pod.containers.iter().flat_map(|container| hosts(container)).collect();
    all.sort();
    all.dedup();
    (!names.is_empty()).then(|| {
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let plural = if all.len() == 1 { "" } else { "s" };
        let hosts = quoted(all.iter().map(String::as_str));
        format!(
            "probe or lifecycle host ({} {uses} probe or lifecycle host{plural} {hosts})",
            named("container", &names)
        )
    })
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let names = pod.those(|container| *context(container, &["privileged"]) == true);
    about("privileged", &names, "must not set securityContext.privileged=true")
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    let kind = |container: &Value| object::text(&container["securityContext"], &["procMount"]).to_owned();
    let names = pod.those(|container| !matches!(kind(container).as_str(), "" | "Default"));
    let mut kinds: Vec<String> = pod.containers.iter().map(|container| kind(container)).collect();
    kinds.retain(|kind| !matches!(kind.as_str(), "" | "Default"));
    kinds.sort();
    kinds.dedup();
    let what =
        format!("must not set securityContext.procMount to {}", quoted(kinds.iter().map(String::as_str)));
    about("procMount", &names, &what)
}

fn volumes(pod: &Pod<'_>) -> Option<String> {
    let kind = |volume: &Value| -> Option<String> {
        let sources =
            volume.as_object()?.iter().filter(|(field, value)| *field != "name" && !value.is_null());
        sources.map(|(field, _)| field.clone()).find(|field| !VOLUMES.contains(&field.as_str()))
    };
    let beyond: Vec<(&str, String)> =
        items(pod.spec, "volumes").filter_map(|volume| Some((name(volume), kind(volume)?))).collect();
    let names: Vec<&str> = beyond.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = beyond.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    (!names.is_empty()).then(|| {
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let plural = if kinds.len() == 1 { "" } else { "s" };
        format!(
            "restricted volume types ({} {uses} restricted volume type{plural} {})",
            named("volume", &names),
            quoted(kinds)
        )
    })
}

fn non_root(pod: &Pod<'_>) -> Option<String> {
    let of_pod = &pod.spec["securityContext"]["runAsNonRoot"];
    let mut found = Vec::new();
    if *of_pod == false {
        found.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    let explicit = pod.those(|container| *context(container, &["runAsNonRoot"]) == false);
    if !explicit.is_empty() {
        let of = named("container", &explicit);
        found.push(format!("{of} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.those(|container| context(container, &["runAsNonRoot"]).is_null());
    if found.is_empty() && of_pod.is_null() && !silent.is_empty() {
        let of = named("container", &silent);
        found.push(format!("pod or {of} must set securityContext.runAsNonRoot=true"));
    }
    (!found.is_empty()).then(|| format!("runAsNonRoot != true ({})", found.join("; ")))
}

fn user(pod: &Pod<'_>) -> Option<String> {
    let mut found = Vec::new();
    if pod.spec["securityContext"]["runAsUser"] == 0 {
        found.push("pod must not set runAsUser=0".to_owned());
    }
    let names = pod.those(|container| *context(container, &["runAsUser"]) == 0);
    if !names.is_empty() {
        found.push(format!("{} must not set runAsUser=0", named("container", &names)));
    }
    (!found.is_empty()).then(|| format!("runAsUser=0 ({})", found.join("; ")))
}

fn seccomp_of(value: &Value) -> &str {
    object::text(value, &["securityContext", "seccompProfile", "type"])
}

fn seccomp(pod: &Pod<'_>) -> Option<String> {
    let mut found = Vec::new();
    let what = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    if seccomp_of(pod.spec) == "Unconfined" {
        found.push(format!("pod {what}"));
    }
    let names = pod.those(|container| seccomp_of(container) == "Unconfined");
    if !names.is_empty() {
        found.push(format!("{} {what}", named("container", &names)));
    }
    (!found.is_empty()).then(|| format!("seccompProfile ({})", found.join("; ")))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    if let Some(found) = seccomp(pod) {
        return Some(found);
    }
    let names = pod.those(|container| seccomp_of(container).is_empty());
    if !seccomp_of(pod.spec).is_empty() || names.is_empty() {
        return None;
    }
    let of = named("container", &names);
    Some(format!(
        "seccompProfile (pod or {of} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    ))
}

fn selinux(pod: &Pod<'_>) -> Option<String> {
    let of = |value: &Value| object::at(value, &["securityContext", "seLinuxOptions"]).clone();
    let is_bad = |value: &Value| {
        let options = of(value);
        let text = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
        !SELINUX_TYPES.contains(&text("type").as_str())
            || !text("user").is_empty()
            || !text("role").is_empty()
    };
    let names = pod.those(is_bad);
    let mut setters = Vec::new();
    if is_bad(pod.spec) {
        setters.push("pod".to_owned());
    }
    if !names.is_empty() {
        setters.push(named("container", &names));
    }
    if setters.is_empty() {
        return None;
    }
    let all: Vec<Value> =
        std::iter::once(of(pod.spec)).chain(pod.containers.iter().map(|one| of(one))).collect();
    let mut types: Vec<&str> = all.iter().filter_map(|options| options["type"].as_str()).collect();
    types.retain(|kind| !SELINUX_TYPES.contains(kind));
    types.sort_unstable();
    types.dedup();
    let mut bad = Vec::new();
    if !types.is_empty() {
        let plural = if types.len() == 1 { "" } else { "s" };
        bad.push(format!("type{plural} {}", quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|options| options[field].as_str().is_some_and(|text| !text.is_empty())) {
            bad.push(format!("{field} may not be set"));
        }
    }
    Some(format!(
        "seLinuxOptions ({} set forbidden securityContext.seLinuxOptions: {})",
        setters.join(" and "),
        bad.join("; ")
    ))
}

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let names: Vec<&str> = items(&pod.spec["securityContext"], "sysctls")
        .map(name)
        .filter(|name| !SYSCTLS.contains(name))
        .collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("forbidden sysctl{plural} ({})", names.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let is =
        |value: &Value| *object::at(value, &["securityContext", "windowsOptions", "hostProcess"]) == true;
    let mut found = Vec::new();
    let what = "must not set securityContext.windowsOptions.hostProcess=true";
    if is(pod.spec) {
        found.push(format!("pod {what}"));
    }
    let names = pod.those(is);
    if !names.is_empty() {
        found.push(format!("{} {what}", named("container", &names)));
    }
    (!found.is_empty()).then(|| format!("hostProcess ({})", found.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(level: Level, spec: Value, expected: &[&str]) {
        assert_eq!(run(level, &json!({}), &spec), expected, "{spec}");
    }

    #[test]
    fn a_plain_pod_is_baseline_and_told_what_restricted_wants() {
        let plain = json!({ "containers": [{ "name": "c" }] });
        check(Level::Baseline, plain.clone(), &[]);
        check(
            Level::Restricted,
            plain,
            &[
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
        let good = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            } }],
            "volumes": [{ "name": "v", "emptyDir": {} }],
        });
        check(Level::Restricted, good, &[]);
    }

    #[test]
    fn what_goes_beyond_the_baseline_is_told() {
        let cases = [
            (
                json!({ "hostNetwork": true, "hostPID": true }),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (json!({ "volumes": [{ "name": "v", "hostPath": {} }] }), "hostPath volumes (volume \"v\")"),
            (
                json!({ "containers": [{ "name": "a", "ports": [{ "hostPort": 80 }, { "hostPort": 81 }] }] }),
                "hostPort (container \"a\" uses hostPorts 80, 81)",
            ),
            (
                json!({ "initContainers": [{ "name": "i", "securityContext": { "privileged": true } }],
                    "containers": [{ "name": "a", "securityContext": { "privileged": true } }] }),
                "privileged (containers \"i\", \"a\" must not set securityContext.privileged=true)",
            ),
            (
                json!({ "containers": [{ "name": "a", "securityContext": { "capabilities": { "add": ["SYS_ADMIN"] } } }] }),
                "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }] } }),
                "forbidden sysctl (kernel.msgmax)",
            ),
            (
                json!({ "securityContext": { "seLinuxOptions": { "type": "x", "user": "u" } } }),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
            ),
            (
                json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({ "containers": [{ "name": "a", "livenessProbe": { "httpGet": { "host": "example.com" } } }] }),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"example.com\")",
            ),
        ];
        for (spec, expected) in cases {
            check(Level::Baseline, spec, &[expected]);
        }
        check(Level::Privileged, json!({ "hostNetwork": true }), &[]);
    }
}
