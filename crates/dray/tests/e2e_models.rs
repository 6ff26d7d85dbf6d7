//! Every field that the newest models of the Docker API have is in our answers, but for those listed here with the reason,
//! and no other is.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;
mod models;

use std::collections::BTreeSet;

use bollard::models::{
    ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, ContainerTopResponse, EventMessage,
    ExecInspectResponse, FilesystemChange, ImageHistoryResponseItem, ImageInspect, ImageSummary,
    NetworkInspect, NetworkSummary, SystemDataUsageResponse, SystemInfo, SystemVersion, Volume,
    VolumeListResponse,
};
use common::{Daemon, PATIENCE};
use dray_testkit::eventually;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Fields that are absent, by the end of their path, and why.
const ABSENT: [(&str, &[&str]); 7] = [
    (
        "of stores that keep images apart from their unpacked layers, which Docker's overlay2 does not",
        &["ImageManifestDescriptor", "Descriptor", "Manifests", "Identity", "json [].Storage"],
    ),
    (
        "of Windows",
        &[
            "Config.ArgsEscaped",
            "OsVersion",
            "Mounts[].Consistency",
            "memory_stats.commitbytes",
            "memory_stats.commitpeakbytes",
            "memory_stats.privateworkingset",
            "networks.*.endpoint_id",
            "networks.*.instance_id",
            "storage_stats.read_count_normalized",
            "storage_stats.read_size_bytes",
            "storage_stats.write_count_normalized",
            "storage_stats.write_size_bytes",
        ],
    ),
    (
        "the kernel's second version of control groups counts no such thing, and of the first only one scheduler does",
        &[
            "blkio_stats.io_merged_recursive",
            "blkio_stats.io_queue_recursive",
            "blkio_stats.io_service_time_recursive",
            "blkio_stats.io_time_recursive",
            "blkio_stats.io_wait_time_recursive",
            "blkio_stats.sectors_recursive",
        ],
    ),
    (
        "of a swarm, and there is none",
        &[
            "Swarm.Cluster",
            "Swarm.Managers",
            "Swarm.Nodes",
            "ClusterVolume",
            "Peers",
            "Services",
            "Status.ClusterVolume",
        ],
    ),
    (
        "of parts that there are not: containerd, plugins of its runtimes, a licence",
        &["Containerd", "NRI", "ProductLicense"],
    ),
    (
        "left out by Docker too when there is nothing to tell",
        &[
            "Runtimes.*.runtimeArgs",
            "Runtimes.*.status",
            "volumes/vol Status",
            "Volumes[].Status",
            "volumes/vol UsageData",
            "[].Config.OnBuild",
            "[].Config.Shell",
            "made/json Comment",
            "FirewallBackend.Info",
            "BuildCacheUsage.ActiveCount",
            "/volumes Volumes[].UsageData",
            "IPAMConfig.LinkLocalIPs",
            "Config.NetworkDisabled",
            "StorageOpt",
            "Experimental",
            "Variant",
        ],
    ),
    ("builds are the same whenever they are made", &["BuildTime"]),
];

/// Fields that the newest models do not have, and why ours are there.
const MORE: [(&str, &[&str]); 1] = [(
    "Compose's first version speaks the newest version and cannot make a container anew without it",
    &["ContainerConfig"],
)];

fn excused(reasons: &[(&str, &[&str])], path: &str) -> bool {
    reasons.iter().flat_map(|(_, ends)| ends.iter()).any(|end| path.ends_with(end))
}

fn check<T: DeserializeOwned>(what: &str, document: &Value, wrong: &mut BTreeSet<String>) {
    match models::compare::<T>(document) {
        Ok((_, found)) => {
            let full = |path: &String| format!("{what} {path}");
            wrong.extend(
                found
                    .absent
                    .iter()
                    .map(full)
                    .filter(|path| !excused(&ABSENT, path))
                    .map(|path| format!("{path} is absent")),
            );
            wrong.extend(
                found
                    .unknown
                    .iter()
                    .map(full)
                    .filter(|path| !excused(&MORE, path))
                    .map(|path| format!("{path} is unknown")),
            );
        }
        Err(error) => drop(wrong.insert(format!("{what} is no {}: {error}", std::any::type_name::<T>()))),
    }
}

/// One of everything, with every option that there is a field for.
fn furnish(daemon: &Daemon) {
    daemon.ok(&[
        "network",
        "create",
        "--subnet",
        "10.9.0.0/24",
        "--ip-range",
        "10.9.0.0/25",
        "--gateway",
        "10.9.0.1",
        "--aux-address",
        "x=10.9.0.2",
        "--ipv6",
        "--subnet",
        "fd99::/64",
        "--label",
        "a=b",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "net",
    ]);
    daemon.ok(&["volume", "create", "--label", "a=b", "-o", "type=tmpfs", "-o", "device=tmpfs", "vol"]);
    let dockerfile = "FROM box\nLABEL a=b\nENV A=b\nUSER 5\nWORKDIR /tmp\nEXPOSE 80\nVOLUME /data\nSTOPSIGNAL SIGINT\n\
        SHELL [\"sh\", \"-c\"]\nONBUILD RUN true\nHEALTHCHECK --interval=1s --timeout=1s --start-period=1s --start-interval=1s --retries=2 CMD true\nENTRYPOINT [\"sleep\"]\nCMD [\"1000\"]\n\
        MAINTAINER me\nUSER 0\nRUN echo much > /file\n";
    let context = daemon.path("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    daemon.ok(&["build", "-q", "-t", "made", context.to_str().unwrap()]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "full",
        "--network",
        "net",
        "--ip",
        "10.9.0.9",
        "--ip6",
        "fd99::9",
        "-p",
        "8080:80",
        "-v",
        "vol:/v",
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
        "--health-retries",
        "2",
        "--health-timeout",
        "2s",
        "--health-start-period",
        "1s",
        "--health-start-interval",
        "1s",
        "--init",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--annotation",
        "a=b",
        "--stop-timeout",
        "1",
        "--stop-signal",
        "TERM",
        "--ulimit",
        "nofile=100:200",
        "--restart",
        "on-failure:3",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "--label",
        "a=b",
        "--device",
        "/dev/null:/dev/zero2:r",
        "--tmpfs",
        "/t",
        "--mount",
        "type=tmpfs,target=/u,tmpfs-size=1m,tmpfs-mode=700",
        "--mount",
        "type=volume,source=other,target=/w,readonly,volume-nocopy",
        "--mount",
        "type=bind,source=/etc,target=/x,readonly,bind-propagation=rprivate",
        "--log-opt",
        "max-size=1m",
        "made",
        "1000",
    ]);
    eventually("the first check", PATIENCE, || {
        (daemon.ok(&["inspect", "-f", "{{.State.Health.Status}}", "full"]) == "healthy").then_some(())
    });
    daemon.ok(&["exec", "full", "touch", "/tmp/new"]);
    // It ran and wrote, and what it used is free.
    daemon.ok(&[
        "run",
        "--name",
        "done",
        "-v",
        "free:/v",
        "box",
        "sh",
        "-c",
        "echo much > /v/file; echo much > /file",
    ]);
    daemon.ok(&["run", "--rm", "-v", "spare:/v", "box", "sh", "-c", "echo much > /v/file"]);
    let idle = json!({
        "Image": "box", "HostConfig": { "Mounts": [
            { "Type": "volume", "Source": "named", "Target": "/a", "VolumeOptions": {
                "NoCopy": true, "Subpath": "sub", "Labels": { "a": "b" },
                "DriverConfig": { "Name": "local", "Options": { "type": "tmpfs", "device": "tmpfs" } },
            } },
            { "Type": "bind", "Source": "/etc", "Target": "/b", "ReadOnly": true, "BindOptions": {
                "Propagation": "rprivate", "NonRecursive": true, "CreateMountpoint": true, "ReadOnlyNonRecursive": true,
            } },
            { "Type": "bind", "Source": "/etc", "Target": "/c", "ReadOnly": true, "BindOptions": {
                "Propagation": "rprivate", "ReadOnlyForceRecursive": true,
            } },
            { "Type": "tmpfs", "Target": "/d", "TmpfsOptions": { "SizeBytes": 65536, "Mode": 511, "Options": [["noexec"]] } },
            { "Type": "image", "Source": "box", "Target": "/e", "ImageOptions": { "Subpath": "bin" } },
        ] },
    });
    let made = daemon.post("/containers/create?name=idle", &idle);
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
}

#[test]
fn answers_have_every_field_of_the_models() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    furnish(&daemon);
    let made = daemon.post("/containers/full/exec", &json!({ "Cmd": ["true"], "AttachStdout": true }));
    let made: Value = serde_json::from_str(made.split_once("\r\n\r\n").unwrap().1).unwrap();
    let exec = made["Id"].as_str().unwrap();
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let events = daemon.request("GET", &format!("/events?since=0&until={until}"), "");
    let events =
        events.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap());
    let events = events.collect();
    let wrong = &mut BTreeSet::new();
    check::<SystemInfo>("/info", &daemon.get("/info"), wrong);
    check::<SystemVersion>("/version", &daemon.get("/version"), wrong);
    check::<Vec<EventMessage>>("/events", &Value::Array(events), wrong);
    let get = |path: &str| daemon.get(path);
    let inspected = json!([get("/containers/full/json?size=1"), get("/containers/idle/json")]);
    check::<Vec<ContainerInspectResponse>>("/containers/ID/json", &inspected, wrong);
    check::<Vec<ContainerSummary>>("/containers/json", &get("/containers/json?size=1"), wrong);
    check::<ContainerTopResponse>("/containers/full/top", &get("/containers/full/top"), wrong);
    check::<ContainerStatsResponse>("/containers/full/stats", &get("/containers/full/stats?stream=0"), wrong);
    check::<Vec<FilesystemChange>>("/containers/full/changes", &get("/containers/full/changes"), wrong);
    check::<ExecInspectResponse>("/exec/ID/json", &get(&format!("/exec/{exec}/json")), wrong);
    check::<NetworkInspect>("/networks/net", &get("/networks/net"), wrong);
    check::<Vec<NetworkSummary>>("/networks", &get("/networks"), wrong);
    check::<Volume>("/volumes/vol", &get("/volumes/vol"), wrong);
    check::<VolumeListResponse>("/volumes", &get("/volumes"), wrong);
    check::<ImageInspect>("/images/made/json", &get("/images/made/json"), wrong);
    check::<Vec<ImageSummary>>("/images/json", &get("/images/json?shared-size=1"), wrong);
    check::<Vec<ImageHistoryResponseItem>>("/images/made/history", &get("/images/made/history"), wrong);
    daemon.ok(&["build", "-q", "--no-cache", "-t", "made", daemon.path("context").to_str().unwrap()]);
    check::<SystemDataUsageResponse>("/system/df", &get("/system/df?verbose=1"), wrong);
    daemon.ok(&["rm", "-f", "full", "idle", "done"]);
    assert!(wrong.is_empty(), "{wrong:#?}");
}
