//! `dray up`: opens the parts, listens, and ends in order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dray_apiserver::{ApiServer, Config};
use dray_engine::{Engine, EngineConfig};
use dray_image::Digest;
use dray_runtime::Process;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::arguments::UpOptions;
use crate::down::{self, PID_FILE};
use crate::error::Error;

/// Addresses of Services.
const SERVICE_NETWORK: &str = "10.43.0.0/16";
/// The data directory whose daemon has the plain names.
const DEFAULT_DATA_DIR: &str = "/var/lib/dray";

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

pub(crate) fn run(options: &UpOptions) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DRAY_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
    for path in [&options.data_dir, &options.run_dir] {
        fs::create_dir_all(path).map_err(io("create", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("change mode of", path))?;
    }
    if let Some(process) = down::find(&options.run_dir) {
        return Err(Error::Running { pid: process.pid, run_dir: options.run_dir.clone() });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?;
    runtime.block_on(serve(options))
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

async fn serve(options: &UpOptions) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|source| Error::Runtime { source })?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|source| Error::Runtime { source })?;
    let instance = instance(&options.data_dir)?;
    let tcp = TcpListener::bind(options.api_listen)
        .await
        .map_err(|source| Error::Listen { address: options.api_listen, source })?;
    let address = tcp.local_addr().map_err(|source| Error::Listen { address: options.api_listen, source })?;
    let engine = EngineConfig {
        data_dir: options.data_dir.clone(),
        run_dir: options.run_dir.clone(),
        instance: instance.clone(),
    };
    let engine = Engine::open(engine).await.map_err(|source| Error::Engine { source })?;
    let config = Config {
        data_dir: options.data_dir.join("cluster"),
        service_cidr: SERVICE_NETWORK.to_owned(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: None,
    };
    let api_error = |source| Error::Api { source };
    fs::create_dir_all(&config.data_dir).map_err(io("create", &config.data_dir))?;
    let api = ApiServer::open(config).await.map_err(api_error)?;
    let kubeconfig = options.data_dir.join("kubeconfig");
    api.write_kubeconfig(&kubeconfig, &format!("https://{address}")).map_err(api_error)?;
    let socket = options.docker_socket.clone().unwrap_or_else(|| options.run_dir.join("docker.sock"));
    let docker = bind(&socket)?;
    let pid_file = write_pid_file(&options.run_dir)?;
    let (stop, stopped) = watch::channel(false);
    let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let docker_api = dray_docker_api::Api::new(engine.clone(), env!("CARGO_PKG_VERSION"), instance);
    let docker = tokio::spawn(dray_docker_api::serve(docker_api, docker, until_stopped(stopped.clone())));
    let server = api.clone();
    let cluster = tokio::spawn(async move { server.serve(tcp, until_stopped(stopped)).await });
    announce(&socket, &kubeconfig);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers go on");
    stop.send_replace(true);
    api.shut_down();
    let _ = docker.await;
    let _ = cluster.await;
    let _ = fs::remove_file(&socket);
    let _ = fs::remove_file(&pid_file);
    engine.close().await;
    api.close().await;
    Ok(())
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
