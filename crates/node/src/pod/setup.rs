//! What the containers of a pod share: namespaces, an address, volumes, the hosts file. Made before the first one,
//! and taken away after the last.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dray_engine::SandboxSpec;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::slot::Background;
use super::start::WantedImage;
use super::{Next, Waker, Worker};
use crate::api::Kind;
use crate::error::{IoContext, blocking};
use crate::recorder::Severity;
use crate::services;
use crate::spec::{build, names};
use crate::volume::{self, Volumes};
use crate::{Error, Result};

/// What RuntimeClasses call the runtime of this node: by its own name, or by that of the one it stands for.
const HANDLERS: &[&str] = &["dray", "runc"];
/// The longest pause before namespaces or volumes are tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Worker {
    /// Makes what is missing. False when that failed; then it is tried again later.
    pub(super) async fn set_up(&mut self, next: &mut Next) -> bool {
        if self.sandbox.is_some() && self.volumes.is_some() {
            return true;
        }
        if let Some(at) = self.setup_retry.filter(|at| *at > Instant::now()) {
            next.at(at);
            return false;
        }
        match self.make_shared().await {
            Ok(()) => {
                self.setup_retry = None;
                true
            }
            Err((reason, error)) => {
                self.tell(Severity::Warning, reason, error.chain());
                self.setup_backoff.advance();
                let at = Instant::now() + (self.setup_backoff.pause() / 10).min(LONGEST_PAUSE);
                self.setup_retry = Some(at);
                next.at(at);
                false
            }
        }
    }

    async fn make_shared(&mut self) -> Result<(), (&'static str, Error)> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        self.check_runtime(&spec).await?;
        let host_network = names::is_host_network(&spec);
        let directory = self.directory.clone();
        let engine = &self.context.engine;
        let made = async {
            let _turn = self.context.turn().await;
            let made = directory.clone();
            blocking(move || {
                use std::os::unix::fs::PermissionsExt as _;
                std::fs::create_dir_all(&made).io("create", &made)?;
                std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o750))
                    .io("change mode of", &made)
            })
            .await?;
            engine
                .create_sandbox(SandboxSpec {
                    name: self.identity.uid.clone(),
                    hostname: names::host_name(&self.pod),
                    network: (!host_network).then(|| self.context.config.pod_network.clone()),
                    ports: build::host_ports(&self.pod),
                })
                .await
                .map_err(Error::engine("make the namespaces of pod", self.identity.full_name()))
        };
        let sandbox = made.await.map_err(|error| {
            let message = format!("Failed to create pod sandbox: {}", error.chain());
            ("FailedCreatePodSandBox", Error::pod(message))
        })?;
        let address = if host_network {
            Some(self.context.config.node_address)
        } else {
            sandbox.address().map(IpAddr::V4)
        };
        self.sandbox = Some(sandbox);
        self.set_address(address);
        if spec.share_process_namespace == Some(true) {
            let message = "shareProcessNamespace is not supported: each container has processes of its own";
            self.tell(Severity::Warning, "UnsupportedField", message);
        }
        tracing::debug!(pod = self.identity.full_name(), "made namespaces and a place in the network");
        let failed = |error| ("FailedMount", error);
        let hosts = self.directory.join("etc-hosts");
        let (pod, config) = (Arc::clone(&self.pod), self.context.config.clone());
        let text = address.map(|address| address.to_string());
        blocking(move || names::write_hosts(&hosts, &pod, text.as_deref(), &config)).await.map_err(failed)?;
        self.bring_image_volumes().await?;
        let volumes = Volumes::prepare(&self.context, &self.pod, &self.directory, &self.addresses);
        self.volumes = Some(volumes.await.map_err(failed)?);
        Ok(())
    }

    /// Whether the runtime that the pod's class names is this one, under any of the names by which classes know it.
    async fn check_runtime(&self, spec: &PodSpec) -> Result<(), (&'static str, Error)> {
        let Some(name) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        let failed = |error: Error| {
            let message = format!("Failed to create pod sandbox: {}", error.chain());
            ("FailedCreatePodSandBox", Error::pod(message))
        };
        let api: Api<RuntimeClass> = Api::all(self.context.client.clone());
        let class =
            api.get(name).await.map_err(|error| failed(Error::api("get runtimeclass", name)(error)))?;
        if HANDLERS.contains(&class.handler.as_str()) {
            return Ok(());
        }
        Err(failed(Error::pod(format!("no runtime for {:?} is configured", class.handler))))
    }

    /// Has the images of volumes here.
    async fn bring_image_volumes(&self) -> Result<(), (&'static str, Error)> {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        for image in volumes.into_iter().flatten().filter_map(|volume| volume.image.as_ref()) {
            let wanted = WantedImage {
                name: image.reference.as_deref().unwrap_or_default(),
                policy: image.pull_policy.as_deref().unwrap_or("IfNotPresent"),
                place: None,
            };
            let brought = self.image(&wanted).await;
            brought.map_err(|failure| ("Failed", Error::pod(failure.message().to_owned())))?;
        }
        Ok(())
    }

    pub(super) async fn refresh_volumes(&mut self) {
        if self.volumes.is_none() {
            // What was missing may be there now.
            self.setup_retry = None;
            return;
        }
        self.pod = Arc::clone(&self.desired.borrow().pod);
        let Some(volumes) = &self.volumes else { return };
        if let Err(error) = volumes.refresh(&self.context, &self.pod, &self.addresses).await {
            tracing::debug!(pod = self.identity.full_name(), error = %error.chain(), "cannot refresh volumes");
        }
    }

    /// Watches the ConfigMaps and Secrets that the pod's volumes show.
    pub(super) fn watch_configuration(&mut self) {
        let namespace = self.identity.namespace.clone();
        self.watches = volume::referenced(&self.pod)
            .into_iter()
            .map(|(kind, name)| {
                let (client, waker) = (self.context.client.clone(), Arc::clone(&self.waker));
                let namespace = namespace.clone();
                Background(tokio::spawn(async move {
                    match kind {
                        Kind::ConfigMap => {
                            follow(Api::<ConfigMap>::namespaced(client, &namespace), &name, &waker).await;
                        }
                        Kind::Secret => {
                            follow(Api::<Secret>::namespaced(client, &namespace), &name, &waker).await;
                        }
                    }
                }))
            })
            .collect();
    }

    /// Takes namespaces, mounts and the control group away; files of the pod that are only read by people stay until
    /// the pod goes.
    pub(super) async fn take_down(&mut self) {
        let name = self.identity.full_name();
        if let Err(error) = self.context.engine.remove_sandbox(&self.identity.uid).await {
            tracing::warn!(pod = name, error = %error.chain(), "cannot remove a pod's namespaces");
        }
        self.sandbox = None;
        self.volumes = None;
        let directory = self.directory.clone();
        if let Err(error) = blocking(move || volume::release(&directory)).await {
            tracing::warn!(pod = name, error = %error.chain(), "cannot remove a pod's files");
        }
        let group = build::cgroup_parent(build::Quality::of(&self.pod), &self.identity.uid);
        if let Err(error) = self.context.engine.remove_cgroup_parent(&group).await {
            tracing::debug!(pod = name, error = %error.chain(), "cannot remove a pod's control group");
        }
    }
}

/// Wakes the pod whenever the object changes.
async fn follow<K>(api: Api<K>, name: &str, waker: &Waker)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => waker.volumes_changed(),
            Err(error) => {
                tracing::debug!(%error, "the watch of a volume's source broke");
                tokio::time::sleep(services::RETRY).await;
            }
        }
    }
}
