//! Asking a container how it is, and telling it what happens to it.

mod grpc;
mod http;
pub(crate) mod schedule;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dray_engine::{ContainerHandle, Engine};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::{Error, Result, output};

/// Whom an action is about.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) engine: Engine,
    pub(crate) container: Arc<ContainerHandle>,
    /// The pod's address.
    pub(crate) address: Option<IpAddr>,
    /// Named ports of the container.
    ports: Vec<(String, i32)>,
}

impl Target {
    pub(crate) fn new(
        engine: Engine,
        container: Arc<ContainerHandle>,
        address: Option<IpAddr>,
        spec: &Container,
    ) -> Self {
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.clone()?, port.container_port)))
            .collect();
        Self { engine, container, address, ports }
    }

    fn port(&self, port: &IntOrString) -> Result<u16> {
        let invalid = || Error::Probe { message: format!("invalid port: {port:?}") };
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => match self.ports.iter().find(|(known, _)| known == name) {
                Some((_, number)) => *number,
                None => name.parse().map_err(|_| invalid())?,
            },
        };
        u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(invalid)
    }

    fn host(&self, host: Option<&str>) -> Result<String> {
        match (host.filter(|host| !host.is_empty()), self.address) {
            (Some(host), _) => Ok(host.to_owned()),
            (None, Some(address)) => Ok(address.to_string()),
            (None, None) => Err(Error::Probe { message: "the pod has no address".to_owned() }),
        }
    }
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Exec(ExecAction),
    Http(HTTPGetAction),
    Tcp(TCPSocketAction),
    Sleep(Duration),
    Grpc(GRPCAction),
    Nothing,
}

impl From<&Probe> for Action {
    fn from(probe: &Probe) -> Self {
        if let Some(exec) = &probe.exec {
            Self::Exec(exec.clone())
        } else if let Some(get) = &probe.http_get {
            Self::Http(get.clone())
        } else if let Some(socket) = &probe.tcp_socket {
            Self::Tcp(socket.clone())
        } else if let Some(grpc) = &probe.grpc {
            Self::Grpc(grpc.clone())
        } else {
            Self::Nothing
        }
    }
}

impl From<&LifecycleHandler> for Action {
    fn from(handler: &LifecycleHandler) -> Self {
        if let Some(exec) = &handler.exec {
            Self::Exec(exec.clone())
        } else if let Some(get) = &handler.http_get {
            Self::Http(get.clone())
        } else if let Some(sleep) = &handler.sleep {
            Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))
        } else if let Some(socket) = &handler.tcp_socket {
            Self::Tcp(socket.clone())
        } else {
            Self::Nothing
        }
    }
}

impl Action {
    /// Whether it costs so little that it may be tried often.
    fn is_cheap(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp(_) | Self::Grpc(_))
    }

    /// Does it once.
    ///
    /// # Errors
    /// When the container does not answer as it should, in the kubelet's words.
    pub(crate) async fn run(&self, target: &Target, timeout: Duration) -> Result<()> {
        let failure = |message: String| Err(Error::Probe { message });
        match self {
            Self::Exec(exec) => {
                let args = exec.command.clone().unwrap_or_default();
                let ended = output::run(&target.engine, &target.container, args, timeout).await?;
                if ended.code == 0 { Ok(()) } else { failure(ended.output) }
            }
            Self::Http(get) => {
                let (host, port) = (target.host(get.host.as_deref())?, target.port(&get.port)?);
                let code = match tokio::time::timeout(timeout, http::get(&host, port, get)).await {
                    Ok(code) => code?,
                    Err(_) => {
                        let path = get.path.as_deref().unwrap_or("/");
                        let scheme = if http::is_tls(get) { "https" } else { "http" };
                        return failure(format!(
                            "Get \"{scheme}://{host}:{port}{path}\": context deadline exceeded (Client.Timeout \
                             exceeded while awaiting headers)"
                        ));
                    }
                };
                if (200..400).contains(&code) {
                    Ok(())
                } else {
                    failure(format!("HTTP probe failed with statuscode: {code}"))
                }
            }
            Self::Tcp(socket) => {
                let (host, port) = (target.host(socket.host.as_deref())?, target.port(&socket.port)?);
                match tokio::time::timeout(timeout, TcpStream::connect((host.as_str(), port))).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => failure(format!("dial tcp {host}:{port}: connect: {error}")),
                    Err(_) => failure(format!("dial tcp {host}:{port}: i/o timeout")),
                }
            }
            Self::Sleep(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
            Self::Grpc(check) => {
                let host = target.host(None)?;
                let port = target.port(&IntOrString::Int(check.port))?;
                let service = check.service.as_deref().unwrap_or_default();
                match tokio::time::timeout(timeout, grpc::check(&host, port, service)).await {
                    Ok(served) => served,
                    Err(_) => {
                        failure(format!("timeout: health rpc did not complete within {}s", timeout.as_secs()))
                    }
                }
            }
            Self::Nothing => failure("missing probe handler".to_owned()),
        }
    }
}
