//! `dray up`: opens the parts, listens, and ends in order.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dray_build::pressure;
use dray_engine::{Engine, EngineConfig};
use dray_image::Digest;
use dray_registry::server::Registry;
use dray_registry::{Client, Hosts};
use dray_runtime::{Process, heap};
use rustix::fs::FlockOperation;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::arguments::UpOptions;
use crate::cluster::{Choices, Cluster};
use crate::down::{self, PID_FILE};
use crate::error::{Error, io};
use crate::{doctor, notify, registry, remap};

/// The data directory whose daemon has the plain names.
const DEFAULT_DATA_DIR: &str = "/var/lib/dray";
/// The longest name of a node: it is a label of a pod's node and the name of a host.
const LONGEST_NODE_NAME: usize = 63;

/// How often freed memory goes back to the kernel.
const TIDYING: Duration = Duration::from_secs(10);

pub(crate) fn run(options: &UpOptions) -> Result<(), Error> {
    heap::share_arenas();
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if let Some(missing) = doctor::missing() {
        return Err(Error::Host { missing });
    }
    check_node_name(&options.node_name())?;
    begin_log();
    for path in [&options.data_dir, &options.run_dir] {
        fs::create_dir_all(path).map_err(io("create", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("change mode of", path))?;
    }
    if let Some(process) = down::find(&options.run_dir) {
        return Err(Error::Running { pid: process.pid, run_dir: options.run_dir.clone() });
    }
    let _lock = lock(&options.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?;
    runtime.block_on(serve(options))
}

/// Log lines go to the error output; `DRAY_LOG` says which.
pub(crate) fn begin_log() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DRAY_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
}

fn check_node_name(name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= LONGEST_NODE_NAME && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::NodeName { name: name.to_owned() })
}

/// Holds the data directory for as long as the file is open.
pub(crate) fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("lock");
    let file = File::create(&path).map_err(io("write", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { data_dir: data_dir.to_owned() }),
        Err(error) => Err(io("lock", &path)(error.into())),
    }
}

/// A short word for this data directory that no other daemon of the host has.
fn instance(data_dir: &Path) -> Result<String, Error> {
    let path = fs::canonicalize(data_dir).map_err(io("resolve", data_dir))?;
    if path == Path::new(DEFAULT_DATA_DIR) {
        return Ok("0".to_owned());
    }
    Ok(Digest::of(path.as_os_str().as_encoded_bytes()).hex()[..6].to_owned())
}

/// A unix socket that replaces what a daemon before left behind.
fn bind(path: &Path) -> Result<UnixListener, Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("replace", path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(io("listen on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(io("change mode of", path))?;
    Ok(listener)
}

/// What ends the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    all: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|source| Error::Runtime { source });
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            all: listen(SignalKind::user_defined1())?,
        })
    }

    /// Waits for one; whether the containers are to end too.
    async fn receive(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.all.recv() => true,
        }
    }
}

async fn serve(options: &UpOptions) -> Result<(), Error> {
    let mut signals = Signals::listen()?;
    let instance = instance(&options.data_dir)?;
    let tcp = TcpListener::bind(options.api_listen).await.map_err(|source| Error::Listen {
        address: options.api_listen,
        option: "api-listen",
        source,
    })?;
    let address = tcp.local_addr().map_err(|source| Error::Listen {
        address: options.api_listen,
        option: "api-listen",
        source,
    })?;
    let choices = Choices::open(&options.data_dir)?;
    let engine = EngineConfig {
        data_dir: options.data_dir.clone(),
        run_dir: options.run_dir.clone(),
        instance: instance.clone(),
        remap: options.userns_remap.as_deref().map(remap::parse).transpose()?,
        default_pools: options.default_address_pools.clone(),
        led: options.led(),
    };
    let hosts = Hosts::new(&options.registry_mirrors, &options.insecure_registries)
        .map_err(|source| Error::Registry { source })?;
    let registry = match options.registry {
        Some(address) => Some(registry::listen(address, "registry").await?),
        None => None,
    };
    let socket = options.docker_socket.clone().unwrap_or_else(|| options.run_dir.join("docker.sock"));
    let docker = bind(&socket)?;
    let engine = Engine::open(engine).await.map_err(|source| Error::Engine { source })?;
    let take_away = choices.clone();
    let places = Listeners { tcp, address, docker, socket: socket.clone(), registry };
    let outcome = live(&engine, options, choices, hosts, places, &mut signals).await;
    // A start that failed takes away what it made, unless containers of an earlier life go on in it.
    if *outcome.as_ref().unwrap_or(&engine.is_idle()) {
        engine.stop_everything().await;
        if let Err(error) = dray_node::unmount_volumes(&options.node_dir()) {
            tracing::warn!(%error, "cannot unmount the volumes of pods");
        }
        take_away.take_away(&instance);
    }
    let _ = fs::remove_file(&socket);
    engine.close().await;
    outcome.map(|_| ())
}

/// Where clients are listened to.
struct Listeners {
    tcp: TcpListener,
    address: SocketAddr,
    docker: UnixListener,
    socket: PathBuf,
    registry: Option<TcpListener>,
}

/// Serves until a signal; whether the containers are to end too.
async fn live(
    engine: &Engine,
    options: &UpOptions,
    choices: Choices,
    hosts: Hosts,
    listeners: Listeners,
    signals: &mut Signals,
) -> Result<bool, Error> {
    let Listeners { tcp, address, docker, socket, registry } = listeners;
    let instance = engine.config().instance.clone();
    let registries = Client::new(Arc::clone(engine.images()), hosts.clone());
    let docker_api =
        dray_docker_api::Api::new(engine.clone(), registries.clone(), env!("CARGO_PKG_VERSION"), instance)
            .map_err(|source| Error::Swarm { source })?;
    let registry = match registry {
        None => None,
        Some(listener) => {
            let options = options.registry_access.options();
            let served = Registry::new(Arc::clone(engine.images()), &hosts, &options)
                .map_err(|source| Error::Registry { source })?;
            Some((listener, served))
        }
    };
    let mut cluster = Cluster::start(engine, &registries, options, tcp, choices).await?;
    let kubeconfig = options.data_dir.join("kubeconfig");
    let described = cluster.api.write_kubeconfig(&kubeconfig, &format!("https://{address}"));
    let known =
        described.map_err(|source| Error::Api { source }).and_then(|()| write_pid_file(&options.run_dir));
    let pid_file = match known {
        Ok(pid_file) => pid_file,
        Err(error) => {
            cluster.stop().await;
            cluster.api.close().await;
            return Err(error);
        }
    };
    let (stop, mut stopped) = watch::channel(false);
    let registry = registry.map(|(listener, registry)| {
        let mut stopped = stop.subscribe();
        tokio::spawn(async move {
            registry.serve(listener, async move { drop(stopped.wait_for(|stop| *stop).await) }).await;
        })
    });
    let pressure = tokio::spawn(pressure::watch(docker_api.builder(), options.pressure()));
    let tidying = tokio::spawn(async {
        loop {
            tokio::time::sleep(TIDYING).await;
            let _ = tokio::task::spawn_blocking(heap::give_back).await;
        }
    });
    let docker = tokio::spawn(dray_docker_api::serve(docker_api, docker, async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    announce(&socket, &kubeconfig);
    notify::ready();
    let all = signals.receive().await;
    notify::stopping();
    tracing::info!(containers = if all { "end too" } else { "go on" }, "stopping");
    pressure.abort();
    tidying.abort();
    stop.send_replace(true);
    let _ = docker.await;
    if let Some(registry) = registry {
        let _ = registry.await;
    }
    cluster.stop().await;
    cluster.api.close().await;
    let _ = fs::remove_file(&pid_file);
    Ok(all)
}

fn write_pid_file(run_dir: &Path) -> Result<PathBuf, Error> {
    let path = run_dir.join(PID_FILE);
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let start_time = Process::of_pid(pid).map_or(0, |process| process.start_time);
    let text = format!("{{\"pid\":{pid},\"start_time\":{start_time}}}\n");
    fs::write(&path, text).map_err(io("write", &path))?;
    Ok(path)
}

#[allow(clippy::print_stdout, reason = "these lines are for the shell")]
fn announce(socket: &Path, kubeconfig: &Path) {
    use std::io::Write as _;
    println!("export DOCKER_HOST=unix://{}", socket.display());
    println!("export KUBECONFIG={}", kubeconfig.display());
    let _ = std::io::stdout().flush();
    tracing::info!(docker = %socket.display(), kubeconfig = %kubeconfig.display(), "ready");
}
