//! `GET /containers/{id}/json`: everything that the CLI, Compose and the SDKs read of a container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dray_engine::{
    ContainerRecord, EndpointRecord, Engine, MountSource, NetworkMode, RestartPolicy, Status, VolumeMount,
};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::duration::rfc3339;
use crate::endpoints;
use crate::error::Result;
use crate::query::Query;
use crate::version::Version;

pub(crate) fn container(api: &Api, id: &str, query: &Query, version: Version) -> Result<Response<Body>> {
    let record = api.engine.container(id)?.record();
    let mut value = document(&api.engine, &record, version);
    if query.flag("size") {
        let written = api.engine.written_size(&record);
        value["SizeRw"] = json!(written);
        value["SizeRootFs"] = json!(written + record.layers.iter().map(|layer| layer.size).sum::<u64>());
    }
    body::json(StatusCode::OK, &value)
}

fn document(engine: &Engine, record: &ContainerRecord, version: Version) -> Value {
    let directory = engine.config().data_dir.join("containers").join(record.id.as_str());
    let file = |name: &str| directory.join(name).display().to_string();
    let (path, args) = record.args.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let log = if record.spec.log.keep { file(&format!("{}-json.log", record.id)) } else { String::new() };
    let execs: Vec<String> = engine.running_execs(&record.id).iter().map(ToString::to_string).collect();
    json!({
        "Id": record.id.as_str(),
        "Created": rfc3339(Some(record.created)),
        "Path": path,
        "Args": args,
        "State": state(record),
        "Image": record.image.as_str(),
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": log,
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": record.spec.security.apparmor_profile().unwrap_or_default(),
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host_config(record),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": { "UpperDir": file("upper"), "WorkDir": file("work") },
        },
        "Mounts": mounts(engine, record),
        "Config": config(record, version),
        "NetworkSettings": network_settings(record, version),
    })
}

fn state(record: &ContainerRecord) -> Value {
    let state = &record.state;
    let mut value = json!({
        "Status": state.as_str(),
        "Running": matches!(state.status, Status::Running | Status::Restarting),
        "Paused": state.paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.process.map_or(0, |process| process.pid),
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started),
        "FinishedAt": rfc3339(state.finished),
    });
    if let Some(health) = &state.health {
        value["Health"] = json!({
            "Status": health.status.as_str(),
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(|result| json!({
                "Start": rfc3339(Some(result.start)),
                "End": rfc3339(Some(result.end)),
                "ExitCode": result.exit_code,
                "Output": result.output,
            })).collect::<Vec<_>>(),
        });
    }
    value
}

/// Lays `over` on `base`, nulls left out.
fn overlay(base: &mut Value, over: &Value) {
    let (Some(base), Some(over)) = (base.as_object_mut(), over.as_object()) else { return };
    for (name, value) in over {
        if !value.is_null() || !base.contains_key(name) {
            base.insert(name.clone(), value.clone());
        }
    }
}

fn config(record: &ContainerRecord, version: Version) -> Value {
    let spec = &record.spec;
    let mut config = json!({
        "Hostname": "", "Domainname": "", "User": "",
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": [], "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null,
        "OnBuild": null, "Labels": {},
    });
    overlay(&mut config, &spec.api["Config"]);
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty());
    config["Hostname"] = json!(hostname.unwrap_or_else(|| record.id.short().to_owned()));
    config["User"] = json!(record.user);
    config["Env"] = json!(record.env);
    config["Image"] = json!(spec.image);
    config["Labels"] = json!(spec.labels);
    config["WorkingDir"] = json!(record.working_dir);
    config["Tty"] = json!(spec.tty);
    config["OpenStdin"] = json!(spec.open_stdin);
    if let Some(entrypoint) = &spec.entrypoint {
        config["Entrypoint"] = json!(entrypoint);
    }
    if config["Cmd"].is_null() && config["Entrypoint"].is_null() {
        config["Cmd"] = json!(record.args);
    }
    if version >= Version::new(1, 52)
        && config["OnBuild"].is_null()
        && let Some(fields) = config.as_object_mut()
    {
        fields.remove("OnBuild");
    }
    config
}

fn host_config(record: &ContainerRecord) -> Value {
    let mut config = json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "json-file", "Config": {} },
        "NetworkMode": "bridge", "PortBindings": {},
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "AutoRemove": false,
        "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
        "CapAdd": null, "CapDrop": null, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [],
        "ExtraHosts": null, "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0,
        "PidMode": "", "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null,
        "UTSMode": "", "UsernsMode": "", "ShmSize": 67_108_864, "Runtime": "runc", "Isolation": "",
        "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
        "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": null,
        "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null,
        "OomKillDisable": null, "PidsLimit": null, "Ulimits": [], "CpuCount": 0, "CpuPercent": 0,
        "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
        "MaskedPaths": [], "ReadonlyPaths": [],
    });
    overlay(&mut config, &record.spec.api["HostConfig"]);
    let (name, maximum) = match record.spec.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { maximum } => ("on-failure", maximum),
    };
    config["RestartPolicy"] = json!({ "Name": name, "MaximumRetryCount": maximum });
    config["NetworkMode"] = json!(network_mode(record));
    // As they are now: an update changes them.
    let limits = &record.spec.resources;
    for (name, value) in [
        ("Memory", limits.memory),
        ("MemorySwap", limits.memory_swap),
        ("MemoryReservation", limits.memory_reservation),
        ("NanoCpus", limits.nano_cpus),
        ("CpuQuota", limits.cpu_quota),
        ("PidsLimit", limits.pids),
        ("CpuShares", limits.cpu_shares.and_then(|n| i64::try_from(n).ok())),
        ("CpuPeriod", limits.cpu_period.and_then(|n| i64::try_from(n).ok())),
    ] {
        if let Some(value) = value {
            config[name] = json!(value);
        }
    }
    if config["Runtime"] == json!("") {
        config["Runtime"] = json!("runc");
    }
    if config["LogConfig"]["Type"] == json!("") {
        config["LogConfig"]["Type"] = json!("json-file");
    }
    let links = record.spec.endpoints.get("bridge").map_or(&[][..], |place| &place.links);
    config["Links"] = Value::Null;
    if !links.is_empty() {
        let full = links.iter().map(|link| {
            let (other, alias) = link.split_once(':').unwrap_or((link, link));
            format!("/{}:/{}/{alias}", other.trim_start_matches('/'), record.name)
        });
        config["Links"] = full.collect();
    }
    if config["ShmSize"] == json!(0) {
        config["ShmSize"] = json!(67_108_864);
    }
    config
}

pub(crate) fn network_mode(record: &ContainerRecord) -> String {
    match &record.spec.network {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::Named(name) => name.clone(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Sandbox(name) => format!("sandbox:{name}"),
    }
}

pub(crate) fn mounts(engine: &Engine, record: &ContainerRecord) -> Vec<Value> {
    let mounts = record.spec.mounts.iter();
    mounts
        .map(|mount| {
            let mut value = json!({
                "Type": "bind", "Source": "", "Destination": mount.target,
                "Mode": if mount.read_only { "ro" } else { "" }, "RW": !mount.read_only,
                "Propagation": if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation },
            });
            match &mount.source {
                MountSource::Bind { path, .. } => value["Source"] = json!(path),
                MountSource::Volume(VolumeMount { name, .. }) => {
                    let path =
                        engine.volume(name).map_or_else(|_| PathBuf::new(), |volume| volume.mountpoint);
                    value["Type"] = json!("volume");
                    value["Name"] = json!(name);
                    value["Source"] = json!(path);
                    value["Driver"] = json!("local");
                    value["Mode"] = json!(if mount.read_only { "ro" } else { "z" });
                    value["Propagation"] = json!("");
                }
                MountSource::Image(mounted) => {
                    value["Type"] = json!("image");
                    value["Source"] = json!(mounted.image);
                    value["Propagation"] = json!("");
                }
                MountSource::Tmpfs { .. } => {
                    value["Type"] = json!("tmpfs");
                    value["Propagation"] = json!("");
                }
            }
            value
        })
        .collect()
}

fn network_settings(record: &ContainerRecord, version: Version) -> Value {
    // One that runs and has left all its networks is in none.
    let is_outside = record.state.status == Status::Running
        && matches!(record.spec.network, NetworkMode::Default | NetworkMode::Named(_));
    let networks: Map<String, Value> = if record.endpoints.is_empty() && !is_outside {
        stopped_networks(record, version)
    } else {
        record
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.network_name.clone(), endpoints::document(record, endpoint, version)))
            .collect()
    };
    let mut settings = json!({
        "SandboxID": if record.endpoints.is_empty() { "" } else { record.id.as_str() },
        "SandboxKey": "", "Ports": ports(record), "Networks": networks,
    });
    if version >= Version::new(1, 52) {
        return settings;
    }
    let first = record.endpoints.first().filter(|endpoint| endpoint.network_name == "bridge");
    let shown = first.map(|endpoint| endpoints::document(record, endpoint, version));
    let mut old = json!({
        "Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "", "EndpointID": "", "Gateway": "", "IPAddress": "",
        "IPPrefixLen": 0, "MacAddress": "",
    });
    if let (Some(fields), Some(shown)) = (old.as_object_mut(), &shown) {
        for (name, value) in fields {
            if let Some(of_bridge) = shown.get(name) {
                *value = of_bridge.clone();
            }
        }
    }
    overlay(&mut settings, &old);
    settings
}

/// The networks that a container which does not run will be in.
fn stopped_networks(record: &ContainerRecord, version: Version) -> Map<String, Value> {
    let mut names: Vec<String> = match &record.spec.network {
        NetworkMode::Container(_) | NetworkMode::Sandbox(_) => Vec::new(),
        _ if record.has_left_first => Vec::new(),
        _ => vec![network_mode(record)],
    };
    let more = record.spec.endpoints.keys().filter(|name| !names.contains(name)).cloned();
    let more: Vec<_> = more.collect();
    names.extend(more);
    let nowhere = EndpointRecord {
        network: record.id.clone(),
        network_name: String::new(),
        id: record.id.clone(),
        address: None,
        prefix: 0,
        gateway: None,
        mac: None,
        host_link: String::new(),
        names: Vec::new(),
        ipv6_address: None,
        ipv6_prefix: 0,
        ipv6_gateway: None,
        interface: String::new(),
    };
    names
        .into_iter()
        .map(|name| {
            let mut value = endpoints::document(
                record,
                &EndpointRecord { network_name: name.clone(), ..nowhere.clone() },
                version,
            );
            value["NetworkID"] = json!("");
            value["EndpointID"] = json!("");
            (name, value)
        })
        .collect()
}

/// Ports by `80/tcp`: the published ones with their bindings, those that are only exposed with null.
pub(crate) fn ports(record: &ContainerRecord) -> Value {
    let mut ports: BTreeMap<String, Value> = BTreeMap::new();
    for port in record.spec.api["Config"]["ExposedPorts"].as_object().into_iter().flat_map(Map::keys) {
        if record.state.status == Status::Running {
            ports.insert(port.clone(), Value::Null);
        }
    }
    for port in &record.ports {
        let key = format!("{}/{}", port.container_port, port.protocol.name());
        let binding =
            json!({ "HostIp": port.host_address.to_string(), "HostPort": port.host_port.to_string() });
        match ports.entry(key).or_insert(Value::Null) {
            Value::Array(list) => list.push(binding),
            empty => *empty = json!([binding]),
        }
    }
    json!(ports)
}
