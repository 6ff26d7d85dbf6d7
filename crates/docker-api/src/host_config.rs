//! What a request's `HostConfig` says of isolation and logging, beyond what every container has.

use std::collections::BTreeMap;

use dray_engine::{ContainerSpec, LogForward, LogPolicy, NamespaceMode, SyslogFormat};
use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::mounts::parse_size;

/// Names of runtimes that mean the one that is built in.
const RUNTIMES: &[&str] = &["", "dray", "runc", "io.containerd.runc.v2"];
/// Facilities of RFC 5424 by number.
const FACILITIES: [&str; 24] = [
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "ntp",
    "security",
    "console",
    "solaris-cron",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
];
const DAEMON: u8 = 3;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wire {
    device_cgroup_rules: Option<Vec<String>>,
    device_requests: Option<Vec<DeviceRequest>>,
    cgroup_parent: Option<String>,
    cgroupns_mode: Option<String>,
    ipc_mode: Option<String>,
    userns_mode: Option<String>,
    init: Option<bool>,
    runtime: Option<String>,
    isolation: Option<String>,
    storage_opt: Option<BTreeMap<String, String>>,
    security_opt: Option<Vec<String>>,
    log_config: Option<LogRequest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceRequest {
    driver: Option<String>,
    capabilities: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LogRequest {
    #[serde(rename = "Type")]
    kind: Option<String>,
    config: Option<BTreeMap<String, String>>,
}

/// Puts into `spec` what the request, kept in it, says in `HostConfig`.
pub(crate) fn apply(spec: &mut ContainerSpec) -> Result<()> {
    let wire = Option::<Wire>::deserialize(&spec.api["HostConfig"])
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: HostConfig: {error}")))?
        .unwrap_or_default();
    refuse_what_is_not_here(&wire)?;
    spec.security.device_rules = wire.device_cgroup_rules.unwrap_or_default();
    spec.cgroup_parent = wire.cgroup_parent.filter(|parent| !parent.trim_matches('/').is_empty());
    spec.cgroup_namespace = match wire.cgroupns_mode.as_deref().unwrap_or_default() {
        // A privileged container sees the host's groups only where it asks to.
        "" | "private" => NamespaceMode::Private,
        "host" => NamespaceMode::Host,
        other => {
            return Err(ApiError::bad_request(format!("invalid cgroup namespace mode: {other}")));
        }
    };
    spec.shareable_ipc = wire.ipc_mode.as_deref() == Some("shareable");
    spec.without_shm = wire.ipc_mode.as_deref() == Some("none");
    spec.init = wire.init.unwrap_or(false);
    match wire.userns_mode.as_deref().unwrap_or_default() {
        "" => {}
        "host" => spec.user_namespace = NamespaceMode::Host,
        other => return Err(ApiError::bad_request(format!("invalid user namespace mode: {other}"))),
    }
    spec.security.apparmor = apparmor(wire.security_opt.as_deref().unwrap_or_default());
    spec.log = log_policy(wire.log_config.unwrap_or_default(), spec)?;
    Ok(())
}

fn refuse_what_is_not_here(wire: &Wire) -> Result<()> {
    let runtime = wire.runtime.as_deref().unwrap_or_default();
    if !RUNTIMES.contains(&runtime) {
        return Err(ApiError::bad_request(format!("unknown or invalid runtime name: {runtime}")));
    }
    if let Some(isolation) = wire.isolation.as_deref()
        && !["", "default"].contains(&isolation)
    {
        return Err(ApiError::bad_request(format!(
            "invalid isolation \"{isolation}\" on linux: only \"default\" is supported"
        )));
    }
    if let Some(request) = wire.device_requests.iter().flatten().next() {
        let driver = request.driver.as_deref().unwrap_or_default();
        let capabilities = request.capabilities.clone().unwrap_or_default();
        let capabilities: Vec<String> =
            capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
        return Err(ApiError::internal(format!(
            "could not select device driver \"{driver}\" with capabilities: [{}]",
            capabilities.join(" ")
        )));
    }
    if wire.storage_opt.iter().flatten().next().is_some() {
        return Err(ApiError::bad_request(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    Ok(())
}

/// The AppArmor profile that is asked for.
fn apparmor(options: &[String]) -> Option<String> {
    options.iter().find_map(|option| {
        let (name, value) = option.split_once(['=', ':'])?;
        (name == "apparmor").then(|| value.to_owned())
    })
}

/// Options that every driver of a kind takes, whether or not they change anything here: output is never held back, so
/// there is no buffer to size, and what is rotated is not compressed.
const COMMON: &[&str] = &["mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"];
const FILES: &[&str] = &["max-size", "max-file", "compress"];
const CACHE: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];

fn log_policy(request: LogRequest, spec: &ContainerSpec) -> Result<LogPolicy> {
    let kind = request.kind.unwrap_or_default();
    let options = request.config.unwrap_or_default();
    let mut policy = LogPolicy { keep: spec.log.keep, ..LogPolicy::default() };
    let own: &[&str] = match kind.as_str() {
        "" | "json-file" => FILES,
        "local" => {
            policy.max_size = Some(20 << 20);
            policy.max_files = 5;
            FILES
        }
        "none" => {
            policy.keep = false;
            &["max-size", "max-file", "compress"]
        }
        "syslog" => &["syslog-address", "syslog-facility", "syslog-format"],
        "journald" => &[],
        other => {
            return Err(ApiError::bad_request(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let shown = if kind.is_empty() { "json-file" } else { &kind };
    let is_file = own.contains(&"max-size");
    for (name, value) in &options {
        let name = name.as_str();
        if !(own.contains(&name) || COMMON.contains(&name) || (!is_file && CACHE.contains(&name))) {
            return Err(ApiError::bad_request(format!("unknown log opt '{name}' for {shown} log driver")));
        }
        let invalid = || ApiError::bad_request(format!("invalid value for log opt '{name}': {value}"));
        let list = || value.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        match name {
            "max-size" | "cache-max-size" if value == "-1" => policy.max_size = None,
            "max-size" | "cache-max-size" => policy.max_size = Some(parse_size(value).ok_or_else(invalid)?),
            "max-file" | "cache-max-file" => {
                policy.max_files = value.parse().ok().filter(|n| *n > 0).ok_or_else(invalid)?;
            }
            "mode" if !["blocking", "non-blocking"].contains(&value.as_str()) => {
                return Err(ApiError::bad_request(format!("logger: logging mode not supported: {value}")));
            }
            "labels" => policy.labels = list(),
            "env" => policy.env = list(),
            "tag" => policy.tag = Some(value.clone()),
            _ => {}
        }
    }
    policy.forward = match kind.as_str() {
        "syslog" => Some(syslog(&options)?),
        "journald" => Some(LogForward::Journald { fields: Vec::new() }),
        _ => None,
    };
    Ok(policy)
}

fn syslog(options: &BTreeMap<String, String>) -> Result<LogForward> {
    let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let address = match option("syslog-address") {
        "" => "unix:///dev/log".to_owned(),
        given => {
            let known = ["unix://", "unixgram://", "udp://", "tcp://"];
            if !known.iter().any(|scheme| given.starts_with(scheme)) {
                return Err(ApiError::bad_request(format!(
                    "syslog-address should be in form proto://address, with proto one of unix, unixgram, udp and tcp, got {given}"
                )));
            }
            // The port of RFC 5426 where none is given.
            let is_port_missing = !given.starts_with("unix")
                && given.rsplit_once("://").is_some_and(|(_, host)| {
                    host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
                });
            if is_port_missing { format!("{given}:514") } else { given.to_owned() }
        }
    };
    let facility = match option("syslog-facility") {
        "" => DAEMON,
        given => {
            let by_name = FACILITIES.iter().position(|name| *name == given);
            let number = by_name.or_else(|| given.parse().ok().filter(|n| *n < FACILITIES.len()));
            number
                .and_then(|n| u8::try_from(n).ok())
                .ok_or_else(|| ApiError::bad_request(format!("invalid syslog facility: {given}")))?
        }
    };
    let format = match option("syslog-format") {
        "" => SyslogFormat::Local,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" | "rfc5424micro" => SyslogFormat::Rfc5424,
        other => return Err(ApiError::bad_request(format!("Invalid syslog format: {other}"))),
    };
    Ok(LogForward::Syslog { address, facility, tag: String::new(), format })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(host: serde_json::Value) -> Result<ContainerSpec> {
        let mut spec = ContainerSpec { api: json!({ "HostConfig": host }), ..ContainerSpec::default() };
        apply(&mut spec).map(|()| spec)
    }

    #[test]
    fn drivers_have_their_own_options() {
        let log = |kind: &str, config: serde_json::Value| {
            applied(json!({ "LogConfig": { "Type": kind, "Config": config } })).map(|spec| spec.log)
        };
        let policy =
            log("json-file", json!({ "max-size": "1k", "max-file": "3", "tag": "{{.Name}}" })).unwrap();
        assert_eq!((policy.max_size, policy.max_files), (Some(1024), 3));
        let policy = log("local", json!(null)).unwrap();
        assert_eq!((policy.max_size, policy.max_files), (Some(20 << 20), 5));
        assert!(!log("none", json!({})).unwrap().keep);
        let policy =
            log("syslog", json!({ "syslog-address": "udp://127.0.0.1", "syslog-facility": "local3" }));
        let wanted = LogForward::Syslog {
            address: "udp://127.0.0.1:514".into(),
            facility: 19,
            tag: String::new(),
            format: SyslogFormat::Local,
        };
        assert_eq!(policy.unwrap().forward, Some(wanted));
        for (kind, config, words) in [
            ("gelf", json!({}), "no log driver named 'gelf' is registered"),
            ("json-file", json!({ "syslog-address": "x" }), "unknown log opt 'syslog-address' for json-file"),
            ("json-file", json!({ "max-file": "0" }), "invalid value for log opt 'max-file'"),
            ("syslog", json!({ "syslog-address": "http://x" }), "should be in form proto://address"),
            ("syslog", json!({ "syslog-facility": "99" }), "invalid syslog facility: 99"),
        ] {
            let error = log(kind, config).unwrap_err().message;
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused_by_name() {
        for (host, words) in [
            (json!({ "Runtime": "kata" }), "unknown or invalid runtime name: kata"),
            (json!({ "Isolation": "hyperv" }), "invalid isolation"),
            (json!({ "DeviceRequests": [{ "Capabilities": [["gpu"]] }] }), "with capabilities: [[gpu]]"),
            (json!({ "StorageOpt": { "size": "1G" } }), "--storage-opt is supported only"),
            (json!({ "CgroupnsMode": "x" }), "invalid cgroup namespace mode: x"),
            (json!({ "UsernsMode": "x" }), "invalid user namespace mode: x"),
        ] {
            let error = applied(host).unwrap_err().message;
            assert!(error.contains(words), "{error}");
        }
        assert!(applied(json!(null)).is_ok());
    }
}
