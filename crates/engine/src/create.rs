//! Making a container: the request and the image become a record.

use std::fs;
use std::path::Path;

use dray_image::Image;
use jiff::Timestamp;

use crate::container::ContainerHandle;
use crate::engine::private_directory;
use crate::error::IoContext;
use crate::failpoint::failpoint;
use crate::health::HealthCheck;
use crate::networks;
use crate::record::{ContainerRecord, State, VolumeUse};
use crate::spec::{
    ContainerSpec, Mount, MountSource, NamespaceMode, NetworkMode, PortBinding, Protocol, SeccompMode,
    VolumeMount,
};
use crate::{Engine, Error, Id, Remap, Result, parse_signal, pending};

/// Mount points of one container; more are refused.
const MOUNT_LIMIT: usize = 1000;

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its id.
    pub id: Id,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// A name that is taken while its container is being made.
pub(crate) struct ReservedName<'a> {
    engine: &'a Engine,
    name: String,
}

impl ReservedName<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for ReservedName<'_> {
    fn drop(&mut self) {
        self.engine.inner.reserved_names.lock().retain(|name| *name != self.name);
    }
}

impl Engine {
    /// Makes a container.
    ///
    /// # Errors
    /// [`Error::Image`] when there is no such image, [`Error::Conflict`] when the name is taken, [`Error::Invalid`]
    /// when the request makes no sense. Then nothing is left behind.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Created> {
        self.blocking(move |engine| {
            let image = engine.inner.images.resolve(&spec.image)?;
            engine.create_blocking(spec, &image)
        })
        .await
    }

    /// Makes a container on layers and defaults that no image of the store has, as a build does between its steps.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn create_on(&self, image: Image, spec: ContainerSpec) -> Result<Created> {
        self.blocking(move |engine| engine.create_blocking(spec, &image)).await
    }

    fn create_blocking(&self, mut spec: ContainerSpec, image: &Image) -> Result<Created> {
        let id = Id::random();
        let reserved = self.reserve_name(spec.name.take(), &id)?;
        validate(&spec)?;
        self.check_network(&spec)?;
        if spec.publish_all {
            publish_exposed(&mut spec, image);
        }
        failpoint("create.reserved");
        let directory = self.container_dir(&id);
        private_directory(&directory)?;
        failpoint("create.directory-made");
        let made = self.make(spec, image, &id, &reserved.name);
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                let _ = self.release_images(&id);
                return Err(error);
            }
        };
        {
            let mut containers = self.inner.containers.write();
            containers.by_name.insert(record.name.clone(), id.clone());
            containers.by_id.insert(id.clone(), ContainerHandle::new(record.clone()));
        }
        self.publish(&record, "create", &[]);
        let mut warnings = Vec::new();
        if record.spec.network == NetworkMode::Host && !record.spec.ports.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        Ok(Created { id, warnings })
    }

    fn make(&self, spec: ContainerSpec, image: &Image, id: &Id, name: &str) -> Result<ContainerRecord> {
        let defaults = &image.config.config;
        let entrypoint = spec.entrypoint.clone().or_else(|| defaults.entrypoint.clone()).unwrap_or_default();
        // An entry point given by the caller does not take the image's command as its arguments.
        let cmd = match (&spec.cmd, &spec.entrypoint) {
            (Some(cmd), _) if !cmd.is_empty() => cmd.clone(),
            (_, Some(entrypoint)) if !entrypoint.is_empty() => Vec::new(),
            _ => defaults.cmd.clone().unwrap_or_default(),
        };
        let entrypoint = if entrypoint.iter().all(String::is_empty) { Vec::new() } else { entrypoint };
        let args: Vec<String> = entrypoint.into_iter().chain(cmd).collect();
        if args.is_empty() {
            return Err(Error::invalid("no command specified"));
        }
        let stop_signal = spec.stop_signal.as_deref().or(defaults.stop_signal.as_deref());
        let stop_signal = stop_signal.map_or(Ok(15), parse_signal)?;
        if let Some(chain) = image.chain_id() {
            self.inner.images.lease(id.as_str(), chain)?;
        }
        let working_dir = match spec.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
            Some(dir) => dir.to_owned(),
            None if defaults.working_dir.is_empty() => "/".to_owned(),
            None => defaults.working_dir.clone(),
        };
        if !working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{working_dir}' is invalid, it needs to be an absolute path"
            )));
        }
        let user = spec.user.clone().filter(|user| !user.is_empty()).unwrap_or_else(|| defaults.user.clone());
        let mut record = ContainerRecord {
            id: id.clone(),
            name: name.to_owned(),
            image: image.id.clone(),
            layers: image.layers.clone(),
            args,
            env: merge_environment(&defaults.env, &spec),
            user,
            working_dir,
            stop_signal,
            remap: self.remap_for(&spec)?,
            health_check: health_check(&spec, image)?,
            shell: defaults.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]),
            created: Timestamp::now(),
            volumes: Vec::new(),
            images: Vec::new(),
            state: State::default(),
            endpoints: Vec::new(),
            ports: Vec::new(),
            restart_count: 0,
            stopped_by_hand: false,
            has_left_first: false,
            spec,
        };
        self.use_images(&mut record)?;
        failpoint("create.leased");
        let directory = self.container_dir(id);
        self.make_volumes(&mut record, defaults.volumes.keys(), &directory)?;
        failpoint("create.volumes-made");
        for name in ["upper", "work"] {
            let path = directory.join(name);
            fs::create_dir(&path).io("create", &path)?;
        }
        set_mode(&directory.join("upper"), 0o755)?;
        self.write_record(&record)?;
        failpoint("create.recorded");
        pending::clear(&directory)?;
        Ok(record)
    }

    /// The user namespace of a container: the engine's, unless it asks for the host's.
    fn remap_for(&self, spec: &ContainerSpec) -> Result<Option<Remap>> {
        let Some(remap) = self.inner.config.remap else { return Ok(None) };
        if spec.user_namespace == NamespaceMode::Host || matches!(spec.network, NetworkMode::Sandbox(_)) {
            return Ok(None);
        }
        let refused = match spec {
            _ if spec.security.privileged => {
                "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"
            }
            _ if spec.network == NetworkMode::Host => {
                "cannot share the host's network namespace when user namespaces are enabled"
            }
            _ if spec.pid == NamespaceMode::Host => {
                "cannot share the host PID namespace when user namespaces are enabled"
            }
            _ => return Ok(Some(remap)),
        };
        Err(Error::invalid(refused))
    }

    /// Makes the volumes that the container names, and anonymous ones for what the image declares.
    fn make_volumes<'a>(
        &self,
        record: &mut ContainerRecord,
        declared: impl Iterator<Item = &'a String>,
        directory: &Path,
    ) -> Result<()> {
        for target in declared {
            let target = clean_target(target)?;
            if !record.spec.mounts.iter().any(|mount| mount.target == target) {
                record.spec.mounts.push(Mount {
                    source: MountSource::Volume(VolumeMount::default()),
                    target,
                    read_only: false,
                    only_top_read_only: false,
                    propagation: String::new(),
                });
            }
        }
        let mut made = Vec::new();
        for mount in &mut record.spec.mounts {
            let MountSource::Volume(volume) = &mut mount.source else { continue };
            let anonymous = volume.name.is_empty();
            if anonymous {
                volume.name = Id::random().to_string();
            }
            let name = &volume.name;
            made.push((volume.labels.clone(), volume.options.clone()));
            record.volumes.push(VolumeUse {
                name: name.clone(),
                target: mount.target.clone(),
                anonymous,
                read_only: mount.read_only,
            });
        }
        pending::write(directory, record)?;
        for (used, (labels, options)) in record.volumes.iter().zip(made) {
            self.inner.volumes.create(&used.name, labels, options, used.anonymous)?;
        }
        Ok(())
    }

    pub(crate) fn reserve_name(&self, wanted: Option<String>, id: &Id) -> Result<ReservedName<'_>> {
        let containers = self.inner.containers.read();
        let mut reserved = self.inner.reserved_names.lock();
        let free = |name: &str, reserved: &[String]| {
            !containers.by_name.contains_key(name) && !reserved.iter().any(|taken| taken == name)
        };
        let name = match wanted {
            Some(wanted) => {
                let name = wanted.strip_prefix('/').unwrap_or(&wanted).to_owned();
                check_name(&name)?;
                if let Some(owner) = containers.by_name.get(&name) {
                    return Err(Error::conflict(format!(
                        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
                    )));
                }
                if !free(&name, &reserved) {
                    return Err(Error::conflict(format!(
                        "Conflict. The container name \"/{name}\" is already in use by a container that is being created."
                    )));
                }
                name
            }
            None => crate::files::generated_names()
                .find(|name| free(name, &reserved))
                .unwrap_or_else(|| id.short().to_owned()),
        };
        reserved.push(name.clone());
        Ok(ReservedName { engine: self, name })
    }

    fn check_network(&self, spec: &ContainerSpec) -> Result<()> {
        match &spec.network {
            NetworkMode::Named(name) => self.inner.networks.find(name).map(|_| ()),
            NetworkMode::Container(name) => self.container(name).map(|_| ()),
            NetworkMode::Sandbox(id) => self.inner.sandboxes.get(id).map(|_| ()),
            NetworkMode::Default | NetworkMode::Host | NetworkMode::None => Ok(()),
        }?;
        for (name, endpoint) in &spec.endpoints {
            // Docker says the rest when the container starts.
            let network = self.inner.networks.find(name)?;
            if network.name == networks::DEFAULT || network.is_predefined() {
                network.check_endpoint(endpoint)?;
            }
        }
        if spec.network == NetworkMode::Default {
            self.check_links(spec.endpoints.get(networks::DEFAULT).into_iter())?;
        }
        let isolated = matches!(spec.network, NetworkMode::Container(_) | NetworkMode::Sandbox(_));
        if isolated && spec.hostname.is_some() && matches!(spec.network, NetworkMode::Container(_)) {
            return Err(Error::invalid("conflicting options: hostname and the network mode"));
        }
        if matches!(spec.network, NetworkMode::Container(_)) && !spec.ports.is_empty() {
            return Err(Error::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        Ok(())
    }
}

pub(crate) fn validate(spec: &ContainerSpec) -> Result<()> {
    const LEAST_MEMORY: i64 = 6 << 20;
    let resources = &spec.resources;
    if let Some(memory) = resources.memory.filter(|memory| *memory != 0) {
        if memory < LEAST_MEMORY {
            return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
        }
        if resources.memory_swap.is_some_and(|swap| swap > 0 && swap < memory) {
            return Err(Error::invalid(
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ));
        }
    } else if resources.memory_swap.is_some_and(|swap| swap > 0) {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if let Some(nano_cpus) = resources.nano_cpus.filter(|n| *n != 0) {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let maximum = i64::try_from(available).unwrap_or(1) * 1_000_000_000;
        if nano_cpus < 0 || nano_cpus > maximum {
            return Err(Error::invalid(format!(
                "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
            )));
        }
    }
    check_limits(spec)?;
    if spec.auto_remove && spec.restart != crate::RestartPolicy::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if spec.mounts.len() > MOUNT_LIMIT {
        return Err(Error::invalid(format!("a container has at most {MOUNT_LIMIT} mounts")));
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if !mount.target.starts_with('/') || mount.target == "/" {
            let target = &mount.target;
            return Err(Error::invalid(format!(
                "invalid mount path: '{target}' mount path must be absolute"
            )));
        }
        if spec.mounts[..index].iter().any(|other| other.target == mount.target) {
            return Err(Error::invalid(format!("Duplicate mount point: {}", mount.target)));
        }
        if let MountSource::Bind { path, .. } = &mount.source
            && !path.starts_with('/')
        {
            return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
        }
    }
    if let Some(entry) = spec.env.iter().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {entry}")));
    }
    let nul = |text: &String| text.contains('\0');
    if spec.env.iter().chain(spec.cmd.iter().flatten()).chain(spec.entrypoint.iter().flatten()).any(nul) {
        return Err(Error::invalid("arguments and environment must not contain a NUL byte"));
    }
    for capability in spec.security.capabilities_add.iter().chain(&spec.security.capabilities_drop) {
        crate::oci::capability(capability)?;
    }
    Ok(())
}

/// The numbers that have ranges, in Docker's words.
fn check_limits(spec: &ContainerSpec) -> Result<()> {
    let resources = &spec.resources;
    if let (Some(memory), Some(reservation)) = (
        resources.memory.filter(|memory| *memory > 0),
        resources.memory_reservation.filter(|reservation| *reservation > 0),
    ) && memory < reservation
    {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if let Some(swappiness) = resources.memory_swappiness.filter(|swappiness| *swappiness > 100) {
        return Err(Error::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if resources.blkio_weight.is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if resources.cpu_period.is_some_and(|period| period != 0 && !(1000..=1_000_000).contains(&period)) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if resources.cpu_quota.is_some_and(|quota| quota > 0 && quota < 1000) {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if resources.nano_cpus.is_some_and(|n| n > 0) {
        if resources.cpu_period.is_some_and(|n| n > 0) {
            return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set."));
        }
        if resources.cpu_quota.is_some_and(|n| n > 0) {
            return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set."));
        }
    }
    for (what, wanted, file) in
        [("CPUs", &resources.cpuset_cpus, "cpu"), ("memory nodes", &resources.cpuset_mems, "node")]
    {
        let Some(wanted) = wanted.as_deref().filter(|text| !text.is_empty()) else { continue };
        let path = format!("/sys/devices/system/{file}/online");
        let online = fs::read_to_string(path).unwrap_or_else(|_| "0".to_owned());
        let parsed = parse_set(wanted)
            .ok_or_else(|| Error::invalid(format!("Invalid value {wanted} for cpuset {file}s")))?;
        let available = parse_set(online.trim()).unwrap_or_default();
        if !parsed.iter().all(|one| available.contains(one)) {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {wanted}, available: {}",
                online.trim()
            )));
        }
    }
    if let SeccompMode::Profile(json) = &spec.security.seccomp {
        crate::oci::profile(json)?;
    }
    for rule in &spec.security.device_rules {
        crate::oci::parse_device_rule(rule)?;
    }
    Ok(())
}

/// `0-2,4` as numbers; none when it is not of that form.
fn parse_set(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last > 8191 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// The health check that counts: the caller's over the image's; none when there is nothing to run.
fn health_check(spec: &ContainerSpec, image: &Image) -> Result<Option<HealthCheck>> {
    let declared = image.config.config.other.get("Healthcheck").filter(|value| !value.is_null());
    let declared = declared.map(HealthCheck::parse).transpose()?.unwrap_or_default();
    let merged = spec.health.clone().unwrap_or_default().over(declared);
    let is_none = merged.test.first().is_none_or(|kind| kind == "NONE") || merged.test.len() < 2;
    Ok(Some(merged).filter(|_| !is_none))
}

fn publish_exposed(spec: &mut ContainerSpec, image: &Image) {
    let exposed = spec.exposed.clone();
    for port in image.config.config.exposed_ports.keys().chain(&exposed) {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(container_port) = number.parse() else { continue };
        let protocol = match protocol {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let published =
            spec.ports.iter().any(|p| p.container_port == container_port && p.protocol == protocol);
        if !published {
            let host_address = std::net::Ipv4Addr::UNSPECIFIED.into();
            spec.ports.push(PortBinding {
                container_port,
                protocol,
                host_address,
                host_port: 0,
                host_port_last: 0,
            });
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let valid = name.len() >= 2
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// The image's environment with the caller's over it; `NAME` alone takes one out.
fn merge_environment(image: &[String], spec: &ContainerSpec) -> Vec<String> {
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    if !image.iter().any(|entry| entry.starts_with("PATH=")) {
        merged.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    merged.extend(image.iter().cloned());
    for entry in &spec.env {
        let name = name_of(entry);
        // A name alone is kept for who looks: the process does not get it.
        match merged.iter().position(|present| name_of(present) == name) {
            Some(index) => merged[index].clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

/// A mount point that the image declares. It is resolved in the container's root later; here only its form counts.
fn clean_target(target: &str) -> Result<String> {
    let mut clean = String::new();
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                return Err(Error::invalid(format!(
                    "the image declares the volume {target:?}, which leads upwards"
                )));
            }
            name => {
                clean.push('/');
                clean.push_str(name);
            }
        }
    }
    if clean.is_empty() {
        return Err(Error::invalid(format!("the image declares the volume {target:?}, which is the root")));
    }
    Ok(clean)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).io("change mode of", path)
}
