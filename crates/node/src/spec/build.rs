//! The engine's container for a pod's container.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use dray_engine::{
    ContainerSpec, Mount, MountSource, NetworkMode, PortBinding, Protocol, Resources, RestartPolicy,
};
use dray_image::Image;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::environment::{self, Addresses};
use super::{names, security};
use crate::context::Context;
use crate::identity::{self, PodIdentity};
use crate::volume::Volumes;
use crate::{Result, quantity};

/// The cgroup period in microseconds that limits of processor time are counted in.
const PERIOD: i64 = 100_000;
/// How long a container has to stop at most when everything is stopped.
const LONGEST_STOP: Duration = Duration::from_secs(10);
/// The least shares the kernel takes.
const LEAST_SHARES: u64 = 2;

/// How well a pod is served, which decides its control group and who is killed first for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Quality {
    /// By the requests and limits of all containers.
    pub(crate) fn of(pod: &Pod) -> Self {
        let containers = pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let (mut any, mut guaranteed) = (false, true);
        for container in containers {
            let resources = container.resources.as_ref();
            for name in ["cpu", "memory"] {
                let side = |list| quantity::milli_of(list, name).filter(|amount| *amount > 0);
                let limit = side(resources.and_then(|resources| resources.limits.as_ref()));
                let request = side(resources.and_then(|resources| resources.requests.as_ref()));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The control group of a pod, below the engine's own.
pub(crate) fn cgroup_parent(quality: Quality, uid: &str) -> String {
    match quality {
        Quality::Guaranteed => format!("kubepods/pod{uid}"),
        Quality::Burstable => format!("kubepods/burstable/pod{uid}"),
        Quality::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// Everything a container is built from.
pub(crate) struct Ingredients<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) identity: &'a PodIdentity,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) attempt: u32,
    pub(crate) addresses: &'a Addresses,
    pub(crate) volumes: &'a Volumes,
    /// The hosts file of the pod.
    pub(crate) hosts: PathBuf,
    /// The file in which the container may say why it ended.
    pub(crate) message_file: PathBuf,
}

/// Makes the specification.
///
/// # Errors
/// When the configuration names something that is not there, in the kubelet's words.
pub(crate) async fn container_spec(from: &Ingredients<'_>) -> Result<ContainerSpec> {
    let Ingredients { context, pod, identity, container, .. } = from;
    let environment = environment::build(context, pod, container, from.addresses).await?;
    let expand = |text: &String| environment::expand(text, |name| environment::lookup(&environment, name));
    let expand_all =
        |list: &Option<Vec<String>>| list.as_ref().map(|list| list.iter().map(expand).collect::<Vec<_>>());
    let quality = Quality::of(pod);
    let mut labels = identity.labels(&container.name, from.attempt);
    labels.insert(
        identity::MESSAGE_POLICY.to_owned(),
        container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
    );
    labels.insert(identity::MESSAGE_FILE.to_owned(), from.message_file.to_string_lossy().into_owned());
    let devices = from.volumes.devices(container)?;
    let mut mounts = from.volumes.mounts(container, |text| expand(text)).await?;
    let message_path =
        container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned());
    for (source, target) in [(&from.hosts, "/etc/hosts"), (&from.message_file, message_path.as_str())] {
        if !mounts.iter().any(|mount| mount.target == target) && target.starts_with('/') {
            mounts.push(Mount {
                source: MountSource::Bind {
                    path: source.to_string_lossy().into_owned(),
                    create: false,
                    non_recursive: false,
                },
                target: target.to_owned(),
                read_only: false,
                only_top_read_only: false,
                propagation: String::new(),
            });
        }
    }
    let mut spec = ContainerSpec {
        name: Some(identity.container_name(&container.name, from.attempt)),
        image: container.image.clone().unwrap_or_default(),
        entrypoint: expand_all(&container.command).filter(|list| !list.is_empty()),
        cmd: expand_all(&container.args).filter(|list| !list.is_empty()),
        working_dir: container.working_dir.clone().filter(|directory| !directory.is_empty()),
        labels,
        tty: container.tty == Some(true),
        open_stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        // For those who stop it without the agent; it asks with the pod's own time.
        stop_timeout: pod
            .spec
            .as_ref()
            .and_then(|spec| u64::try_from(spec.termination_grace_period_seconds?).ok())
            .map(|seconds| Duration::from_secs(seconds).min(LONGEST_STOP)),
        mounts,
        // By this the engine sets HOSTNAME.
        hostname: Some(names::host_name(pod)),
        network: NetworkMode::Sandbox(identity.uid.clone()),
        restart: RestartPolicy::No,
        resources: resources(container.resources.as_ref()),
        dns: names::dns(pod, &context.config),
        oom_score_adj: Some(oom_score(quality, container, context.memory)),
        cgroup_parent: Some(cgroup_parent(quality, &identity.uid)),
        ..ContainerSpec::default()
    };
    let profiles = context.config.state_dir.join("seccomp");
    security::apply(&mut spec, pod, container, &from.image.config.config.user, &profiles)?;
    spec.security.devices.extend(devices);
    spec.env = environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(spec)
}

fn resources(wanted: Option<&ResourceRequirements>) -> Resources {
    let limits = wanted.and_then(|wanted| wanted.limits.as_ref());
    let requests = wanted.and_then(|wanted| wanted.requests.as_ref());
    let cpu_limit = quantity::milli_of(limits, "cpu").filter(|milli| *milli > 0);
    let cpu_request = quantity::milli_of(requests, "cpu").or(cpu_limit).unwrap_or(0);
    let memory = quantity::units_of(limits, "memory").filter(|bytes| *bytes > 0);
    let shares = u64::try_from(cpu_request.saturating_mul(1024) / 1000).unwrap_or(0).max(LEAST_SHARES);
    Resources {
        memory,
        // No swap beside the memory: what is promised is memory.
        memory_swap: memory,
        cpu_shares: Some(shares.min(262_144)),
        cpu_period: cpu_limit.map(|_| PERIOD.unsigned_abs()),
        cpu_quota: cpu_limit.map(|milli| (milli.saturating_mul(PERIOD) / 1000).max(1000)),
        ..Resources::default()
    }
}

/// The kubelet's scores: who asked for much of the node's memory is spared longer than who asked for little.
fn oom_score(quality: Quality, container: &Container, capacity: i64) -> i32 {
    match quality {
        Quality::Guaranteed => -997,
        Quality::BestEffort => 1000,
        Quality::Burstable => {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = quantity::units_of(requests, "memory").unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(capacity.max(1));
            let score = 1000 - i32::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// The ports of the host that lead to the pod.
pub(crate) fn host_ports(pod: &Pod) -> Vec<PortBinding> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| !names::is_host_network(spec)) else {
        return Vec::new();
    };
    let sidecars = spec.init_containers.iter().flatten();
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => return None,
                _ => Protocol::Tcp,
            };
            let host_port = u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?;
            let address = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            Some(PortBinding {
                container_port: u16::try_from(port.container_port).ok()?,
                protocol,
                host_address: address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                host_port,
                host_port_last: 0,
            })
        })
        .collect()
}
