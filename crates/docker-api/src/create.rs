//! `POST /containers/create`: Docker's words become a specification of the engine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dray_engine::{
    ContainerSpec, DeviceSpec, DnsOptions, EndpointSpec, Error as EngineError, HealthCheck, LogPolicy, Mount,
    MountSource, NamespaceMode, NetworkMode, PortBinding, Protocol, RestartPolicy, SeccompMode, Security,
    Ulimit, VolumeMount,
};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::endpoints::{self, EndpointRequest};
use crate::error::{ApiError, Result};
use crate::host_config;
use crate::mounts::{MountRequest, parse_bind, parse_mount, parse_tmpfs};
use crate::query::Query;
use crate::resources;
use crate::version::Version;
use crate::volumes;
use crate::wire::request;

/// A string or a list of strings, as Docker takes commands.
#[derive(Clone, Debug)]
pub(crate) struct Words(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(word) => vec![word],
            Either::Many(words) => words,
        }))
    }
}

request! {
    /// The body of the request.
    CreateRequest {
        hostname: String = "Hostname",
        domain_name: String = "Domainname",
        user: String = "User",
        tty: bool = "Tty",
        open_stdin: bool = "OpenStdin",
        stdin_once: bool = "StdinOnce",
        env: Vec<String> = "Env",
        cmd: Option<Words> = "Cmd",
        image: String = "Image",
        volumes: BTreeMap<String, Value> = "Volumes",
        working_dir: String = "WorkingDir",
        entrypoint: Option<Words> = "Entrypoint",
        labels: BTreeMap<String, String> = "Labels",
        stop_signal: Option<String> = "StopSignal",
        stop_timeout: Option<i64> = "StopTimeout",
        health: Option<Value> = "Healthcheck",
        host: HostConfig = "HostConfig",
        networking: NetworkingConfig = "NetworkingConfig",
        exposed: BTreeMap<String, Value> = "ExposedPorts",
        mac: String = "MacAddress",
    }
}

request! {
    HostConfig {
        binds: Vec<String> = "Binds",
        network_mode: String = "NetworkMode",
        links: Vec<String> = "Links",
        port_bindings: BTreeMap<String, Option<Vec<HostPort>>> = "PortBindings",
        restart: RestartRequest = "RestartPolicy",
        auto_remove: bool = "AutoRemove",
        volume_driver: String = "VolumeDriver",
        volumes_from: Vec<String> = "VolumesFrom",
        mounts: Vec<MountRequest> = "Mounts",
        cap_add: Vec<String> = "CapAdd",
        cap_drop: Vec<String> = "CapDrop",
        dns: Vec<String> = "Dns",
        dns_options: Vec<String> = "DnsOptions",
        dns_search: Vec<String> = "DnsSearch",
        extra_hosts: Vec<String> = "ExtraHosts",
        group_add: Vec<String> = "GroupAdd",
        ipc_mode: String = "IpcMode",
        pid_mode: String = "PidMode",
        uts_mode: String = "UTSMode",
        privileged: bool = "Privileged",
        publish_all: bool = "PublishAllPorts",
        read_only: bool = "ReadonlyRootfs",
        security_opt: Vec<String> = "SecurityOpt",
        tmpfs: BTreeMap<String, String> = "Tmpfs",
        shm_size: Option<i64> = "ShmSize",
        sysctls: BTreeMap<String, String> = "Sysctls",
        devices: Vec<DeviceRequest> = "Devices",
        ulimits: Vec<UlimitRequest> = "Ulimits",
        oom_score_adj: Option<i32> = "OomScoreAdj",
        masked_paths: Option<Vec<String>> = "MaskedPaths",
        read_only_paths: Option<Vec<String>> = "ReadonlyPaths",
    }
}

request! { HostPort { address: String = "HostIp", port: String = "HostPort" } }
request! { RestartRequest { name: String = "Name", maximum: u32 = "MaximumRetryCount" } }
request! { DeviceRequest { host: String = "PathOnHost", container: String = "PathInContainer", permissions: String = "CgroupPermissions" } }
/// A limit, as create and build take it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct UlimitRequest {
    name: String,
    soft: i64,
    hard: i64,
}

impl From<UlimitRequest> for Ulimit {
    fn from(request: UlimitRequest) -> Self {
        Self { name: request.name, soft: request.soft, hard: request.hard }
    }
}

request! { NetworkingConfig { endpoints: BTreeMap<String, EndpointRequest> = "EndpointsConfig" } }
pub(crate) async fn container(
    api: &Api,
    query: &Query,
    version: Version,
    incoming: Incoming,
) -> Result<Response<Body>> {
    let bytes = body::read_all(incoming).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    let mut raw: Value = body::parse_json(&bytes)?;
    let mut warnings = Vec::new();
    if version >= Version::new(1, 52) {
        // An address of a container as a whole is not listened to any more.
        if let Some(config) = raw.as_object_mut() {
            config.remove("MacAddress");
        }
        warnings.extend(empty_bindings(&raw["HostConfig"]["PortBindings"]));
    }
    let mut spec = from_body(raw)?;
    spec.name = query.non_empty("name").map(str::to_owned);
    for from in std::mem::take(&mut spec.api["VolumesFrom"]).as_array().into_iter().flatten() {
        volumes_from(api, from.as_str().unwrap_or_default(), &mut spec)?;
    }
    let created = match crate::transfer::platform(query)? {
        Some(platform) => {
            let (engine, name) = (api.engine.clone(), spec.image.clone());
            let found =
                tokio::task::spawn_blocking(move || engine.images().resolve_for(&name, Some(&platform)));
            let image =
                found.await.map_err(|_| ApiError::internal("looking an image up ended unexpectedly"))??;
            api.engine.create_on(image, spec).await
        }
        None => api.engine.create(spec).await,
    };
    let created = created.map_err(|error| match error {
        // dockerd tells of it at the start only. "Not found" here means the image to its command line, which pulls it.
        EngineError::NetworkNotFound { .. } | EngineError::NotFound { .. } => {
            ApiError::bad_request(ApiError::from(error).message)
        }
        error => error.into(),
    })?;
    warnings.extend(created.warnings);
    body::json(StatusCode::CREATED, &json!({ "Id": created.id.as_str(), "Warnings": warnings }))
}

/// A warning about ports whose list of bindings is empty, which means one binding to any port.
fn empty_bindings(bindings: &Value) -> Option<String> {
    let is_empty = |hosts: &Value| hosts.is_null() || hosts.as_array().is_some_and(Vec::is_empty);
    let ports: Vec<&str> = bindings
        .as_object()?
        .iter()
        .filter(|(_, hosts)| is_empty(hosts))
        .map(|(port, _)| port.as_str())
        .collect();
    (!ports.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Such bindings will be discarded in a future version.",
            ports.join(", ")
        )
    })
}

/// The specification that a whole request's body stands for.
pub(crate) fn from_body(raw: Value) -> Result<ContainerSpec> {
    let invalid = |error: serde_json::Error| ApiError::bad_request(format!("invalid JSON: {error}"));
    let request = CreateRequest::deserialize(&raw).map_err(invalid)?;
    let mut spec = specification(request, raw)?;
    host_config::apply(&mut spec)?;
    Ok(spec)
}

fn specification(request: CreateRequest, raw: Value) -> Result<ContainerSpec> {
    let CreateRequest { host, networking, .. } = request;
    if request.image.is_empty() {
        return Err(ApiError::bad_request("no image specified"));
    }
    let resources = resources::created(raw.get("HostConfig").unwrap_or(&Value::Null))?;
    let mut mounts = Vec::new();
    for bind in &host.binds {
        mounts.push(parse_bind(bind)?);
    }
    // It makes the volumes that are named here; those of `Mounts` name their own.
    if !request.volumes.is_empty()
        || mounts.iter().any(|mount| matches!(mount.source, MountSource::Volume(_)))
    {
        volumes::check_driver(&host.volume_driver)?;
    }
    for mount in host.mounts {
        mounts.push(parse_mount(mount)?);
    }
    for (target, options) in &host.tmpfs {
        mounts.push(parse_tmpfs(target, options)?);
    }
    for target in request.volumes.keys() {
        if !mounts.iter().any(|mount| mount.target == *target) {
            mounts.push(Mount {
                source: MountSource::Volume(VolumeMount::default()),
                target: target.clone(),
                read_only: false,
                only_top_read_only: false,
                propagation: String::new(),
            });
        }
    }
    let restart = restart_policy(&host.restart)?;
    let ports = port_bindings(&host.port_bindings)?;
    let (seccomp, no_new_privileges) = security_options(&host.security_opt)?;
    let network = endpoints::network_mode(&host.network_mode);
    let endpoints = networking
        .endpoints
        .into_iter()
        .map(|(name, endpoint)| Ok((endpoints::network_name(&name), endpoints::spec(endpoint)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let endpoints = with_legacy_options(endpoints, &network, host.links, request.mac);
    let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ContainerSpec {
        name: None,
        image: request.image,
        entrypoint: request.entrypoint.map(|words| words.0),
        cmd: request.cmd.map(|words| words.0),
        env: request.env,
        secret_env: Vec::new(),
        working_dir: non_empty(request.working_dir),
        user: non_empty(request.user),
        groups: host.group_add,
        hostname: non_empty(request.hostname),
        domain_name: non_empty(request.domain_name),
        labels: request.labels,
        tty: request.tty,
        open_stdin: request.open_stdin,
        stdin_once: request.stdin_once,
        stop_signal: request.stop_signal.and_then(non_empty),
        stop_timeout: request
            .stop_timeout
            .map(|n| Duration::from_secs(u64::try_from(n).unwrap_or(u64::from(u32::MAX)))),
        mounts,
        network,
        endpoints,
        ports,
        exposed: request.exposed.into_keys().collect(),
        publish_all: host.publish_all,
        restart,
        health: request.health.as_ref().map(HealthCheck::parse).transpose()?,
        resources,
        security: Security {
            privileged: host.privileged,
            capabilities_add: host.cap_add,
            capabilities_drop: host.cap_drop,
            read_only_root: host.read_only,
            no_new_privileges,
            seccomp,
            masked_paths: host.masked_paths,
            read_only_paths: host.read_only_paths,
            devices: host
                .devices
                .into_iter()
                .map(|device| DeviceSpec {
                    host_path: device.host,
                    container_path: device.container,
                    permissions: device.permissions,
                })
                .collect(),
            device_rules: Vec::new(),
            apparmor: None,
        },
        pid: namespace_mode(&host.pid_mode, "PID")?,
        ipc: namespace_mode(&host.ipc_mode, "IPC")?,
        uts: namespace_mode(&host.uts_mode, "UTS")?,
        dns: DnsOptions { servers: host.dns, search: host.dns_search, options: host.dns_options },
        extra_hosts: host.extra_hosts,
        auto_remove: host.auto_remove,
        transient: false,
        log: LogPolicy::default(),
        shm_size: host.shm_size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
        sysctls: host.sysctls,
        ulimits: host.ulimits.into_iter().map(Ulimit::from).collect(),
        oom_score_adj: host.oom_score_adj.filter(|n| *n != 0),
        cgroup_parent: None,
        cgroup_namespace: NamespaceMode::Private,
        user_namespace: NamespaceMode::Private,
        shareable_ipc: false,
        without_shm: false,
        init: false,
        api: kept(raw, &host.volumes_from),
    })
}

request! { UpdateRequest { restart: RestartRequest = "RestartPolicy" } }

/// `docker update`: limits, and the restart policy.
pub(crate) async fn update(api: &Api, id: &str, incoming: Incoming) -> Result<Response<Body>> {
    let body: Value = body::read_json(incoming).await?;
    let resources = resources::updated(&body)?;
    let request = Option::<UpdateRequest>::deserialize(body)
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?
        .unwrap_or_default();
    let restart = match request.restart.name.as_str() {
        "" => None,
        _ => Some(restart_policy(&request.restart)?),
    };
    let container = api.engine.container(id)?;
    api.engine.update(&container, resources, restart).await?;
    body::json(StatusCode::OK, &json!({ "Warnings": [] }))
}

/// The request as it came, for `inspect`.
fn kept(mut raw: Value, volumes_from: &[String]) -> Value {
    let mut take = |name: &str| raw.get_mut(name).map_or(Value::Null, Value::take);
    let host = take("HostConfig");
    let networking = take("NetworkingConfig");
    if let Some(object) = raw.as_object_mut() {
        object.remove("HostConfig");
        object.remove("NetworkingConfig");
    }
    json!({ "Config": raw, "HostConfig": host, "NetworkingConfig": networking, "VolumesFrom": volumes_from })
}

fn volumes_from(api: &Api, from: &str, spec: &mut ContainerSpec) -> Result<()> {
    let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
    let other = api.engine.container(name)?.record();
    for mount in &other.spec.mounts {
        if matches!(mount.source, MountSource::Tmpfs { .. })
            || spec.mounts.iter().any(|m| m.target == mount.target)
        {
            continue;
        }
        spec.mounts.push(Mount { read_only: mount.read_only || mode == "ro", ..mount.clone() });
    }
    Ok(())
}

fn port_bindings(bindings: &BTreeMap<String, Option<Vec<HostPort>>>) -> Result<Vec<PortBinding>> {
    let mut ports = Vec::new();
    for (port, hosts) in bindings {
        let invalid = || ApiError::bad_request(format!("invalid port specification: {port:?}"));
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let container_port: u16 = number.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(invalid()),
        };
        let anywhere = [HostPort::default()];
        let hosts = hosts.as_deref().filter(|hosts| !hosts.is_empty()).unwrap_or(&anywhere);
        for host in hosts {
            let (host_port, host_port_last) = host_ports(&host.port)?;
            let host_address = if host.address.is_empty() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                host.address.parse().map_err(|_| {
                    ApiError::bad_request(format!("invalid IP address in port binding: {:?}", host.address))
                })?
            };
            ports.push(PortBinding { container_port, protocol, host_address, host_port, host_port_last });
        }
    }
    Ok(ports)
}

/// A port of the host, or the first and the last of a range.
fn host_ports(text: &str) -> Result<(u16, u16)> {
    let invalid = || ApiError::bad_request(format!("invalid port specification: {text:?}"));
    if text.is_empty() {
        return Ok((0, 0));
    }
    let Some((first, last)) = text.split_once('-') else {
        return Ok((text.parse().map_err(|_| invalid())?, 0));
    };
    let (first, last) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    if first == 0 || last < first { Err(invalid()) } else { Ok((first, last)) }
}

fn restart_policy(request: &RestartRequest) -> Result<RestartPolicy> {
    if request.maximum != 0 && request.name != "on-failure" {
        return Err(ApiError::bad_request(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    match request.name.as_str() {
        "" | "no" => Ok(RestartPolicy::No),
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "on-failure" => Ok(RestartPolicy::OnFailure { maximum: request.maximum }),
        other => Err(ApiError::bad_request(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn security_options(options: &[String]) -> Result<(SeccompMode, bool)> {
    let mut seccomp = SeccompMode::Default;
    let mut no_new_privileges = false;
    for option in options {
        match option.split_once(['=', ':']).unwrap_or((option, "true")) {
            ("no-new-privileges", value) => no_new_privileges = value == "true",
            ("seccomp", "unconfined") => seccomp = SeccompMode::Unconfined,
            ("seccomp", "builtin" | "default") => {}
            ("seccomp", profile) => seccomp = SeccompMode::Profile(profile.to_owned()),
            ("writable-cgroups" | "systempaths", _) => {}
            // Labels and profiles of modules that this host's kernel may not have change nothing without them.
            ("label" | "apparmor", _) => {}
            _ => return Err(ApiError::bad_request(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok((seccomp, no_new_privileges))
}

/// Links and a hardware address that were given for the container are for its first network.
fn with_legacy_options(
    mut endpoints: BTreeMap<String, EndpointSpec>,
    network: &NetworkMode,
    links: Vec<String>,
    mac: String,
) -> BTreeMap<String, EndpointSpec> {
    let first = match network {
        NetworkMode::Default => "bridge",
        NetworkMode::Named(name) => name,
        _ => return endpoints,
    };
    if !links.is_empty() || !mac.is_empty() {
        let endpoint = endpoints.entry(first.to_owned()).or_default();
        for link in links {
            if !endpoint.links.contains(&link) {
                endpoint.links.push(link);
            }
        }
        if !mac.is_empty() && endpoint.mac.is_none() {
            endpoint.mac = Some(mac);
        }
    }
    endpoints
}

fn namespace_mode(mode: &str, what: &str) -> Result<NamespaceMode> {
    match mode {
        "" | "none" | "private" | "shareable" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        other => match other.strip_prefix("container:") {
            Some(name) => Ok(NamespaceMode::Container(name.to_owned())),
            None => Err(ApiError::bad_request(format!("invalid {what} mode: {other}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_or_one_word() {
        let request: CreateRequest = serde_json::from_value(json!({
            "Image": "x", "Cmd": "true", "Entrypoint": ["a", "b"], "Env": null, "HostConfig": { "Binds": null }
        }))
        .unwrap();
        assert_eq!(request.cmd.unwrap().0, ["true"]);
        assert_eq!(request.entrypoint.unwrap().0, ["a", "b"]);
    }
}
