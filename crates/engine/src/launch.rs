//! Starting a container's process: network, mounts, shim, clients, and then the program.

use std::ffi::CString;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dray_network::names::Prepared;
use dray_runtime::launch::{Kind, LaunchSpec, Rootfs, Stdio, TerminalSize};
use dray_runtime::rootfs::{OverlayMount, Root, lookup_group, lookup_user};
use dray_runtime::{Process, shim};
use jiff::Timestamp;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::container::ContainerHandle;
use crate::engine::private_directory;
use crate::error::{IoContext, Trying};
use crate::failpoint::failpoint;
use crate::health::Health;
use crate::late_root::LateRoot;
use crate::name_service::Listener;
use crate::networks::{self, NetworkRecord, Place, Published};
use crate::oci::{self, Resolved, ResolvedUser};
use crate::record::{ContainerRecord, EndpointRecord, Status};
use crate::spec::{EndpointSpec, MountSource, NamespaceMode, NetworkMode, PortBinding};
use crate::{Engine, Error, Result, log_file, shim_client};

/// What a start made, to be taken back when a later step fails.
#[derive(Default)]
struct Made {
    namespace: Option<PathBuf>,
    endpoints: Vec<EndpointRecord>,
    ports: Vec<PortBinding>,
    published: Published,
}

impl Engine {
    /// Starts the process of a container that does not run.
    ///
    /// # Errors
    /// [`Error::Start`] when the program is missing or cannot be run; then the container is `exited` with Docker's
    /// exit code for it, and nothing of the start is left.
    pub async fn start(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        Self::to_the_end(async move { engine.start_or_remove(&container).await }).await
    }

    async fn start_or_remove(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        let started = self.start_once(container).await;
        let failed = !matches!(started, Ok(()) | Err(Error::NotModified { .. }));
        if failed && container.record().spec.auto_remove {
            // Its client waits for the removal, which no end of a process will bring.
            self.remove(container, true, true).await?;
        }
        started
    }

    async fn start_once(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = container.record();
        match record.state.status {
            Status::Running => return Err(Error::NotModified { what: record.name.clone() }),
            Status::Removing | Status::Dead => {
                return Err(Error::conflict("container is marked for removal and cannot be started"));
            }
            Status::Created | Status::Exited | Status::Restarting => {}
        }
        container.update(|record| {
            record.stopped_by_hand = false;
            record.restart_count = 0;
        });
        self.launch(container).await
    }

    /// Starts the process. The caller holds the container's operation lock.
    pub(crate) async fn launch(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        let _passed = self.inner.gate.pass().await?;
        container.generation.fetch_add(1, Ordering::SeqCst);
        let handle = Arc::clone(container);
        let result = self.blocking(move |engine| engine.prepare_process(&handle)).await;
        let result = match result {
            Ok(process) => {
                let ran = self.run_process(container, process).await;
                if ran.is_err() {
                    // It waits for a start that nobody will give; one that has ended needs no signal.
                    let _ = process.signal(9);
                }
                ran
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            self.start_failed(container, error).await;
        }
        result
    }

    async fn run_process(&self, container: &Arc<ContainerHandle>, process: Process) -> Result<()> {
        let directory = self.shim_dir(&container.id);
        let pending = std::mem::take(&mut *container.pending_attaches.lock());
        for attach in pending {
            let _ = attach.answer.send(shim_client::attach(&directory, attach.options).await);
        }
        failpoint("start.attached");
        shim_client::start(&directory).await?;
        failpoint("start.started");
        let record = container.update(|record| {
            record.state.status = Status::Running;
            record.state.process = Some(process);
            record.state.started = Some(Timestamp::now());
            record.state.exit_code = 0;
            record.state.oom_killed = false;
            record.state.error.clear();
            record.state.health = record.health_check.is_some().then(Health::default);
        });
        self.save(container)?;
        failpoint("start.recorded");
        self.publish(&record, "start", &[]);
        self.supervise(container, process);
        Ok(())
    }

    async fn start_failed(&self, container: &Arc<ContainerHandle>, error: &Error) {
        let handle = Arc::clone(container);
        let code = match error {
            Error::Start { kind, .. } => kind.exit_code(),
            _ => 128,
        };
        let message = error.chain();
        let cleaned = self
            .blocking(move |engine| {
                engine.take_down(&handle);
                handle.update(|record| {
                    record.state.status = match record.state.status {
                        Status::Created => Status::Created,
                        _ => Status::Exited,
                    };
                    record.state.process = None;
                    record.state.exit_code = code;
                    record.state.error = message;
                    record.state.finished = Some(Timestamp::now());
                });
                engine.save(&handle)
            })
            .await;
        if let Err(error) = cleaned {
            tracing::warn!(container = %container.id, error = %error.chain(), "cannot clean up after a failed start");
        }
        for attach in std::mem::take(&mut *container.pending_attaches.lock()) {
            drop(attach);
        }
    }

    /// Everything up to the last step before the program runs.
    fn prepare_process(&self, container: &ContainerHandle) -> Result<Process> {
        let record = container.record();
        let mut made = Made::default();
        let result = self.prepare_with(container, &record, &mut made);
        if result.is_err() {
            self.undo(&record, &made);
        }
        result
    }

    fn prepare_with(
        &self,
        container: &ContainerHandle,
        record: &ContainerRecord,
        made: &mut Made,
    ) -> Result<Process> {
        let directory = self.container_dir(&record.id);
        let hostname = oci::hostname(record);
        let mut resolved = Resolved {
            user: ResolvedUser::default(),
            hostname: hostname.clone(),
            joined: Vec::new(),
            host: Vec::new(),
            files: directory.clone(),
            shm: None,
            sources: Vec::new(),
            pinned: Vec::new(),
        };
        self.join_network(record, made, &mut resolved)?;
        failpoint("start.published");
        self.join_namespaces(record, &mut resolved)?;
        resolved.shm = self.shared_memory_of(record)?.or(resolved.shm);
        let record = container.update(|record| {
            record.endpoints.clone_from(&made.endpoints);
            record.ports.clone_from(&made.ports);
        });
        let addresses: Vec<IpAddr> = made.endpoints.iter().flat_map(networks::addresses_of).collect();
        let links = self.legacy_links(&record)?;
        if let NetworkMode::Sandbox(id) = &record.spec.network {
            let sandbox = self.inner.sandboxes.get(id)?;
            let addresses: Vec<IpAddr> = sandbox.address().into_iter().map(IpAddr::V4).collect();
            let host = sandbox.endpoint.is_none();
            crate::files::write_all(&directory, &record, &sandbox.hostname, &addresses, &[], host)?;
            resolved.hostname.clone_from(&sandbox.hostname);
        } else if resolved.files == directory {
            let host = record.spec.network == NetworkMode::Host;
            crate::files::write_all(&directory, &record, &hostname, &addresses, &links, host)?;
        }
        let lower = self.inner.images.lower_directories(&record.layers)?;
        let root = LateRoot::new(self, &record, &lower);
        resolved.user = resolve_user(root.accounts()?.root(), &record.user, &record.spec.groups)?;
        self.resolve_sources(&record, &root, &mut resolved)?;
        failpoint("start.mounts-resolved");
        drop(root);
        let spec = if links.is_empty() {
            oci::container(&record, &resolved)?
        } else {
            oci::container(&crate::links::with_environment(&record, &links), &resolved)?
        };
        let shim_dir = self.shim_dir(&record.id);
        if shim_dir.exists() {
            fs::remove_dir_all(&shim_dir).io("remove", &shim_dir)?;
        }
        private_directory(&shim_dir)?;
        failpoint("start.directory-made");
        let stdin = record.spec.open_stdin;
        let launch = LaunchSpec {
            id: record.id.short().to_owned(),
            kind: Kind::Init {
                spec: Box::new(spec),
                rootfs: Rootfs::Overlay {
                    lower,
                    upper: Some(directory.join("upper")),
                    work: Some(directory.join("work")),
                },
            },
            cgroup: Some(self.cgroup_of(&record)),
            stdio: Stdio {
                terminal: record.spec.tty.then_some(TerminalSize { width: 80, height: 24 }),
                stdin,
                stdin_once: record.spec.stdin_once,
                log: log_file::of(&record, self.log_path(&record.id)),
            },
            socket: shim_dir.join(shim_client::SOCKET),
            exit_file: shim_dir.join("exit.json"),
            pid_file: shim_dir.join("pid.json"),
        };
        launch.write(&shim_dir).trying("write the launch specification")?;
        let process = shim::spawn(&self.inner.executable, &shim_dir).map_err(|error| match error {
            dray_runtime::Error::Start(failure) => Error::start(failure),
            other => Error::Runtime { action: "start a shim".to_owned(), source: Box::new(other) },
        })?;
        failpoint("start.spawned");
        Ok(process)
    }

    /// The root file system as the container will see it, on no path of the host. An image without layers has only
    /// what the container itself wrote.
    pub(crate) fn root_of(&self, record: &ContainerRecord, lower: &[PathBuf]) -> Result<Root> {
        let directory = self.container_dir(&record.id);
        let fd: OwnedFd = if lower.is_empty() {
            let upper = directory.join("upper");
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
            rustix::fs::open(&upper, flags, Mode::empty()).io("open", &upper)?
        } else {
            OverlayMount::detached(lower, Some(&directory.join("upper")), Some(&directory.join("work")))
                .trying("mount the container's layers")?
        };
        Ok(Root::from_descriptor(fd))
    }

    pub(crate) fn cgroup_of(&self, record: &ContainerRecord) -> PathBuf {
        let mut path = PathBuf::from(format!("dray-{}", self.inner.config.instance));
        if let Some(parent) = &record.spec.cgroup_parent {
            path.extend(parent.split('/').filter(|part| !part.is_empty() && *part != "." && *part != ".."));
        }
        path.join(record.id.as_str())
    }

    pub(crate) fn log_path(&self, id: &crate::Id) -> PathBuf {
        self.container_dir(id).join(format!("{id}-json.log"))
    }

    fn join_network(&self, record: &ContainerRecord, made: &mut Made, resolved: &mut Resolved) -> Result<()> {
        match &record.spec.network {
            NetworkMode::Host => resolved.host.push(LinuxNamespaceType::Network),
            NetworkMode::Container(name) => {
                let other = self.container(name)?;
                let pid = running_pid(&other)?;
                resolved.joined.push((LinuxNamespaceType::Network, format!("/proc/{pid}/ns/net").into()));
                let other_record = other.record();
                resolved.hostname = oci::hostname(&other_record);
                resolved.files = self.container_dir(&other.id);
            }
            NetworkMode::Sandbox(id) => {
                let sandbox = self.inner.sandboxes.get(id)?;
                for (kind, path) in sandbox.namespaces() {
                    resolved.joined.push((kind, path));
                }
                if sandbox.endpoint.is_none() {
                    resolved.host.push(LinuxNamespaceType::Network);
                }
            }
            NetworkMode::None => {
                let path = self.namespace_path(&record.id);
                let _ = dray_network::namespace::remove(&path);
                dray_network::namespace::create(&path).trying("make a network namespace")?;
                made.namespace = Some(path.clone());
                dray_network::link::loopback_up(&path).trying("set the loopback interface up")?;
                resolved.joined.push((LinuxNamespaceType::Network, path));
            }
            NetworkMode::Default | NetworkMode::Named(_) => {
                let path = self.namespace_path(&record.id);
                let _ = dray_network::namespace::remove(&path);
                let prepared = self.inner.namespaces.take(&path)?;
                made.namespace = Some(path.clone());
                self.fill_namespaces();
                failpoint("start.namespace-made");
                resolved.joined.push((LinuxNamespaceType::Network, path.clone()));
                self.connect_all(record, &path, prepared, made)?;
            }
        }
        Ok(())
    }

    pub(crate) fn namespace_path(&self, id: &crate::Id) -> PathBuf {
        self.inner.config.run_dir.join("n").join(&id.as_str()[..32])
    }

    fn connect_all(
        &self,
        record: &ContainerRecord,
        namespace: &Path,
        prepared: Option<Prepared>,
        made: &mut Made,
    ) -> Result<()> {
        let places = self.places_of(record)?;
        let priority = |name: &str| record.spec.endpoints.get(name).map_or(0, |spec| spec.gateway_priority);
        let ranked: Vec<_> =
            places.iter().map(|(network, spec)| (network.clone(), spec.gateway_priority)).collect();
        let leads = (networks::leads(&ranked, true), networks::leads(&ranked, false));
        for (index, (network, endpoint)) in places.iter().enumerate() {
            network.check_endpoint(endpoint)?;
            let place = Place {
                owner: &record.id,
                namespace,
                index,
                endpoint,
                names: self.names_of(record, endpoint),
                leads: (leads.0 == Some(index), leads.1 == Some(index)),
            };
            made.endpoints.push(self.inner.networks.connect(&network.name, &place)?);
        }
        failpoint("start.connected");
        made.published = self.inner.networks.published_at(&made.endpoints, priority);
        made.ports =
            self.inner.networks.publish(&record.id, &record.name, &record.spec.ports, made.published)?;
        let aliases = self.link_names(record);
        self.inner.networks.names.serve(
            &record.id,
            namespace,
            &made.endpoints,
            prepared,
            Listener { dns: &record.spec.dns, aliases },
        );
        Ok(())
    }

    /// The networks a container joins, its first one first, and what is asked of its places there.
    pub(crate) fn places_of(&self, record: &ContainerRecord) -> Result<Vec<(NetworkRecord, EndpointSpec)>> {
        let first = match &record.spec.network {
            NetworkMode::Named(name) => name.clone(),
            _ => networks::DEFAULT.to_owned(),
        };
        let mut places: Vec<(NetworkRecord, EndpointSpec)> = Vec::new();
        // One that has left all its networks begins anew.
        if !record.has_left_first || record.spec.endpoints.is_empty() {
            places.push((self.inner.networks.find(&first)?, EndpointSpec::default()));
        }
        for (name, spec) in &record.spec.endpoints {
            let network = self.inner.networks.find(name)?;
            match places.iter_mut().find(|(place, _)| place.id == network.id) {
                Some((_, place)) => *place = spec.clone(),
                None => places.push((network, spec.clone())),
            }
        }
        Ok(places)
    }

    /// Under which names others find a container at one place.
    pub(crate) fn names_of(&self, record: &ContainerRecord, endpoint: &EndpointSpec) -> Vec<String> {
        let mut names = vec![record.name.clone(), record.id.short().to_owned()];
        names.extend(endpoint.aliases.iter().cloned());
        names.dedup();
        names
    }

    /// Where the ports of a container that runs lead.
    pub(crate) fn published(&self, record: &ContainerRecord) -> Published {
        let priority = |name: &str| record.spec.endpoints.get(name).map_or(0, |spec| spec.gateway_priority);
        self.inner.networks.published_at(&record.endpoints, priority)
    }

    fn join_namespaces(&self, record: &ContainerRecord, resolved: &mut Resolved) -> Result<()> {
        let modes = [
            (LinuxNamespaceType::Cgroup, &record.spec.cgroup_namespace, "cgroup"),
            (LinuxNamespaceType::Pid, &record.spec.pid, "pid"),
            (LinuxNamespaceType::Ipc, &record.spec.ipc, "ipc"),
            (LinuxNamespaceType::Uts, &record.spec.uts, "uts"),
        ];
        for (kind, mode, name) in modes {
            match mode {
                NamespaceMode::Private => {}
                NamespaceMode::Host => resolved.host.push(kind),
                NamespaceMode::Container(other) => {
                    let pid = running_pid(&*self.container(other)?)?;
                    resolved.joined.push((kind, format!("/proc/{pid}/ns/{name}").into()));
                }
            }
        }
        if record.spec.ipc == NamespaceMode::Host {
            resolved.shm = Some("/dev/shm".into());
        }
        if resolved.host.contains(&LinuxNamespaceType::Network) && record.spec.hostname.is_none() {
            let host = rustix::system::uname();
            resolved.hostname = host.nodename().to_string_lossy().into_owned();
        }
        Ok(())
    }

    /// The file system that is `/dev/shm` of several containers: that of the container whose ipc namespace this one
    /// joins, or one made now for others to join.
    fn shared_memory_of(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        if let NamespaceMode::Container(other) = &record.spec.ipc {
            let other = self.container(other)?;
            if !other.record().spec.shareable_ipc {
                return Err(Error::invalid(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
            return Ok(Some(self.shared_memory_path(&other.id)));
        }
        if !record.spec.shareable_ipc {
            return Ok(None);
        }
        let path = self.shared_memory_path(&record.id);
        self.end_shared_memory(&record.id);
        fs::create_dir_all(&path).io("create", &path)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let size = record.spec.shm_size.unwrap_or(oci::SHM_SIZE);
        let options = CString::new(format!("mode=1777,size={size}")).unwrap_or_default();
        rustix::mount::mount("shm", &path, "tmpfs", flags, options.as_c_str())
            .map_err(std::io::Error::from)
            .io("mount a file system in memory at", &path)?;
        Ok(Some(path))
    }

    fn shared_memory_path(&self, id: &crate::Id) -> PathBuf {
        self.container_dir(id).join("shm")
    }

    /// Takes away what a container shared; one that shared nothing loses nothing.
    pub(crate) fn end_shared_memory(&self, id: &crate::Id) {
        let path = self.shared_memory_path(id);
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }

    /// Where each bind and volume comes from; an empty volume is filled from the image.
    fn resolve_sources(
        &self,
        record: &ContainerRecord,
        root: &LateRoot<'_>,
        resolved: &mut Resolved,
    ) -> Result<()> {
        for mount in &record.spec.mounts {
            let source = match &mount.source {
                MountSource::Tmpfs { .. } => continue,
                MountSource::Bind { path, create, .. } => {
                    let path = PathBuf::from(path);
                    if !path.exists() {
                        if !create {
                            return Err(Error::invalid(format!(
                                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                                path.display()
                            )));
                        }
                        fs::create_dir_all(&path).io("create", &path)?;
                    }
                    path
                }
                MountSource::Volume(_) | MountSource::Image(_) => {
                    let (source, pinned) = match &mount.source {
                        MountSource::Image(_) => self.image_source(record, mount)?,
                        _ => self.volume_source(mount, root)?,
                    };
                    resolved.pinned.extend(pinned);
                    source
                }
            };
            resolved.sources.push((mount.target.clone(), source));
        }
        Ok(())
    }

    fn undo(&self, record: &ContainerRecord, made: &Made) {
        self.release_network(record, &made.endpoints, &made.ports, made.published, false);
        if let Some(namespace) = &made.namespace {
            let _ = dray_network::namespace::remove(namespace);
        }
    }

    fn release_network(
        &self,
        record: &ContainerRecord,
        endpoints: &[EndpointRecord],
        ports: &[PortBinding],
        published: Published,
        later: bool,
    ) {
        fn warn(owner: &crate::Id, error: &Error) {
            tracing::warn!(container = %owner, error = %error.chain(), "cannot take the network away");
        }
        self.inner.networks.names.forget(&record.id, endpoints);
        if let Err(error) = self.inner.networks.unpublish(&record.id, ports, published) {
            warn(&record.id, &error);
        }
        for endpoint in endpoints {
            // A fixed address must be free again when the next start wants it.
            let fixed = record
                .spec
                .endpoints
                .get(&endpoint.network_name)
                .is_some_and(|spec| spec.address.is_some() || spec.ipv6_address.is_some());
            let (engine, owner, endpoint) = (self.clone(), record.id.clone(), endpoint.clone());
            let namespace = self.namespace_path(&record.id);
            // An interface that is not one end of a pair is found through the namespace, which goes next.
            let later = later && !endpoint.host_link.is_empty();
            let disconnect = move || {
                if let Err(error) = engine.inner.networks.disconnect(&endpoint, &namespace) {
                    warn(&owner, &error);
                }
            };
            // The kernel waits for all packets that are under way, which nobody else has to. A crash in between
            // leaves a cable that the next start of the daemon removes.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) if later && !fixed => drop(runtime.spawn_blocking(disconnect)),
                _ => disconnect(),
            }
        }
    }

    /// Takes away what a process had: its network and its shim's directory.
    pub(crate) fn take_down(&self, container: &ContainerHandle) {
        let record = container.record();
        let published = self.published(&record);
        self.release_network(&record, &record.endpoints, &record.ports, published, true);
        let _ = dray_network::namespace::remove(&self.namespace_path(&record.id));
        if record.spec.shareable_ipc {
            self.end_shared_memory(&record.id);
        }
        self.end_image_mounts(&record);
        let _ = fs::remove_dir_all(self.shim_dir(&record.id));
        container.update(|record| {
            record.endpoints.clear();
            record.ports.clear();
        });
    }
}

fn running_pid(container: &ContainerHandle) -> Result<i32> {
    let record = container.record();
    match record.state.process {
        Some(process) if record.state.status == Status::Running => Ok(process.pid),
        _ => Err(Error::conflict(format!(
            "cannot join the namespaces of a non running container: {}",
            record.id
        ))),
    }
}

/// The user by number, from the image's own files.
pub(crate) fn resolve_user(root: &Root, user: &str, groups: &[String]) -> Result<ResolvedUser> {
    let failed = |error: dray_runtime::Error| Error::Start {
        kind: dray_runtime::protocol::FailureKind::Setup,
        message: error.to_string(),
    };
    let found = lookup_user(root, user).map_err(failed)?;
    let mut all = found.additional_gids;
    for group in groups {
        let gid = match group.parse() {
            Ok(gid) => gid,
            Err(_) => lookup_group(root, group).map_err(failed)?,
        };
        if !all.contains(&gid) {
            all.push(gid);
        }
    }
    let home = found.home.map_or_else(|| "/".to_owned(), |home| home.to_string_lossy().into_owned());
    Ok(ResolvedUser { uid: found.uid, gid: found.gid, groups: all, home })
}
