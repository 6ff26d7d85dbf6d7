//! What the daemon says of itself and its host.

use dray_engine::{EngineConfig, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::error::Result;
use crate::{API_VERSION, Api, MINIMUM_API_VERSION};

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The headers are what clients ask for; with HEAD there is nothing else.
pub(crate) fn ping(api: &Api, with_body: bool) -> Response<Body> {
    let mut response = body::text(StatusCode::OK, if with_body { "OK" } else { "" });
    for (name, value) in [
        ("builder-version", "2"),
        ("swarm", if api.swarm.is_active() { "active/manager" } else { "inactive" }),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}

pub(crate) fn version(api: &Api) -> Result<Response<Body>> {
    let details = json!({
        "ApiVersion": API_VERSION, "Arch": architecture(), "KernelVersion": kernel(),
        "MinAPIVersion": MINIMUM_API_VERSION, "Os": "linux",
    });
    body::json(
        StatusCode::OK,
        &json!({
            "Platform": { "Name": "Dray" },
            "Components": [{ "Name": "Engine", "Version": api.about.version, "Details": details }],
            "Version": api.about.version,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MINIMUM_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": architecture(),
            "KernelVersion": kernel(),
        }),
    )
}

pub(crate) async fn info(api: &Api) -> Result<Response<Body>> {
    let containers = api.engine.containers();
    let count = |status| containers.iter().filter(|container| container.state.status == status).count();
    let running = count(Status::Running) + count(Status::Restarting);
    let images = api.engine.images();
    let images = images.list()?.len() - images.inner_images().len();
    let memory = rustix::system::sysinfo();
    let config = api.engine.config();
    let pools: Vec<Value> = config
        .default_pools
        .iter()
        .map(|pool| json!({ "Base": pool.base.to_string(), "Size": pool.size }))
        .collect();
    let cgroups_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    body::json(
        StatusCode::OK,
        &json!({
            "ID": api.about.id,
            "Containers": containers.len(),
            "ContainersRunning": running,
            "ContainersPaused": containers.iter().filter(|container| container.state.paused).count(),
            "ContainersStopped": containers.len() - running,
            "Images": images,
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "overlayfs"]],
            "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"], "Authorization": null, "Log": ["journald", "json-file", "local", "none", "syslog"] },
            "MemoryLimit": true, "SwapLimit": true, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
            "CPUSet": true, "PidsLimit": true, "IPv4Forwarding": true, "OomKillDisable": false,
            "Debug": false, "NFd": 0, "NGoroutines": 0, "NEventsListener": 0,
            "SystemTime": jiff::Timestamp::now().to_string(),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": if cgroups_v2 { "2" } else { "1" },
            "KernelVersion": kernel(),
            "OperatingSystem": operating_system(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": std::env::consts::ARCH,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": registry_config(api),
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "MemTotal": memory.totalram * u64::from(memory.mem_unit),
            "DockerRootDir": api.engine.config().data_dir,
            "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
            "Name": api.about.name,
            "Labels": [],
            "ExperimentalBuild": false,
            "ServerVersion": api.about.version,
            "CDISpecDirs": [],
            "ContainerdCommit": { "ID": "N/A" },
            "RuncCommit": { "ID": api.about.version },
            "InitCommit": { "ID": api.about.version },
            "FirewallBackend": { "Driver": "nftables" },
            "DiscoveredDevices": [],
            "GenericResources": null,
            "Runtimes": { "runc": { "path": "dray" }, "io.containerd.runc.v2": { "path": "dray" } },
            "DefaultRuntime": "runc",
            "Swarm": api.swarm.info(),
            "LiveRestoreEnabled": true,
            "Isolation": "",
            "InitBinary": "",
            "SecurityOptions": security_options(config),
            "DefaultAddressPools": pools,
            "Warnings": [],
        }),
    )
}

/// What is configured about registries.
fn registry_config(api: &Api) -> Value {
    let hosts = api.registries.hosts();
    let mirrors = hosts.mirrors();
    let index = |name: &str, secure, official| {
        let mirrors = if official { mirrors.clone() } else { Vec::new() };
        (name.to_owned(), json!({ "Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official }))
    };
    let (insecure, networks) = hosts.insecure();
    let others = insecure.iter().map(|name| index(name, false, false));
    let indexes: serde_json::Map<String, Value> = others.chain([index("docker.io", true, true)]).collect();
    json!({ "IndexConfigs": indexes, "InsecureRegistryCIDRs": networks, "Mirrors": mirrors })
}

/// What keeps containers apart beyond what is always there, in Docker's words.
fn security_options(config: &EngineConfig) -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin", "name=cgroupns"];
    if config.remap.is_some() {
        options.push("name=userns");
    }
    options
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
