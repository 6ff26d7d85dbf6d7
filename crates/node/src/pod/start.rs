//! Starting the containers of a pod.

use std::sync::Arc;
use std::time::Duration;

use dray_engine::{ContainerHandle, NamespaceMode};
use dray_image::Image;
use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::Worker;
use super::slot::{Background, Instance, Role, Slot, Waiting};
use crate::error::{IoContext, blocking};
use crate::probe::schedule::{Purpose, Schedule};
use crate::probe::{Action, Target};
use crate::recorder::Severity;
use crate::spec::build::{self, Ingredients};
use crate::{Error, Result};

/// How long a hook may take at most, when the pod has no time to end in.
const HOOK_LIMIT: Duration = Duration::from_mins(10);
/// The pause after a configuration that cannot be used.
const CONFIGURATION_PAUSE: Duration = Duration::from_secs(2);

/// A start that did not come about.
pub(super) struct Failure {
    waiting: Waiting,
    /// The container, when there is one whose program did not start.
    container: Option<Arc<ContainerHandle>>,
    /// Whether it is the image that is missing.
    image: Missing,
}

/// What a start lacks of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// Nothing.
    Nothing,
    /// It would go on if the image came into the local store.
    Image,
    /// It would not: a registry would have to be asked.
    Registry,
}

impl Failure {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            waiting: Waiting { reason, message: message.into() },
            container: None,
            image: Missing::Nothing,
        }
    }

    fn image(reason: &'static str, message: impl Into<String>) -> Self {
        Self { image: Missing::Image, ..Self::new(reason, message) }
    }

    /// What is told of it.
    pub(super) fn message(&self) -> &str {
        &self.waiting.message
    }
}

/// An image that a part of a pod needs.
pub(super) struct WantedImage<'a> {
    pub(super) name: &'a str,
    /// When a registry is asked for it.
    pub(super) policy: &'a str,
    /// The container it is for; none means the pod as a whole.
    pub(super) place: Option<(&'static str, &'a str)>,
}

impl<'a> WantedImage<'a> {
    fn of(container: &'a Container, place: Option<(&'static str, &'a str)>) -> Self {
        WantedImage {
            name: container.image.as_deref().unwrap_or_default(),
            policy: container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
            place,
        }
    }
}

impl Worker {
    /// Starts these slots, all at once, and notes what came of it.
    pub(super) async fn start_all(&mut self, due: &[usize]) {
        let starts = due.iter().map(|index| self.start_one(&self.slots[*index]));
        let results = futures_util::future::join_all(starts).await;
        for (index, result) in due.iter().copied().zip(results) {
            self.note_start(index, result);
        }
    }

    fn attempt(slot: &Slot) -> u32 {
        slot.current.as_ref().map_or(slot.restarts, |current| current.attempt.max(slot.restarts) + 1)
    }

    fn note_start(&mut self, index: usize, result: Result<Arc<ContainerHandle>, Failure>) {
        let attempt = Self::attempt(&self.slots[index]);
        let slot = &mut self.slots[index];
        let (handle, failure) = match result {
            Ok(handle) => (Some(handle), None),
            Err(failure) => (failure.container, Some((failure.waiting, failure.image))),
        };
        if let Some(handle) = handle {
            slot.restarts = attempt;
            if let Some(old) = slot.current.take() {
                slot.crashes.advance();
                slot.last = old.ended;
                let older = slot.previous.replace(old.handle);
                self.remove_later(older);
            }
            let slot = &mut self.slots[index];
            slot.current = Some(Instance::new(handle, attempt));
            slot.waiting = None;
            slot.retry_at = None;
            slot.crash_told = false;
            slot.retries = super::slot::Backoff::default();
            if failure.is_none() {
                self.begin_probes(index, Duration::ZERO);
            }
        }
        let slot = &mut self.slots[index];
        if let Some((waiting, image)) = failure {
            slot.waiting = Some(waiting);
            slot.retries.advance();
            let pause = if image == Missing::Nothing { CONFIGURATION_PAUSE } else { slot.retries.pause() };
            slot.awaits_image = image == Missing::Image;
            slot.retry_at = Some(Instant::now() + pause);
        }
    }

    fn remove_later(&self, container: Option<Arc<ContainerHandle>>) {
        let Some(container) = container else { return };
        let engine = self.context.engine.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.remove(&container, true, true).await {
                tracing::debug!(error = %error.chain(), "cannot remove an old container of a pod");
            }
        });
    }

    async fn start_one(&self, slot: &Slot) -> Result<Arc<ContainerHandle>, Failure> {
        let Some(container) = self.container(slot) else {
            return Err(Failure::new("CreateContainerConfigError", "the container is not in the pod"));
        };
        let place = Some((slot.role.list(), slot.name.as_str()));
        let tell = |severity, reason, message: String| {
            self.context.recorder.pod(&self.identity, place, severity, reason, message);
        };
        let attempt = Self::attempt(slot);
        let wanted = WantedImage::of(container, place);
        let (image, was_here) = self.image(&wanted).await.inspect_err(|failure| {
            tell(Severity::Warning, "Failed", failure.waiting.message.clone());
            if failure.waiting.reason == "ErrImagePull" {
                tell(Severity::Warning, "Failed", "Error: ErrImagePull".to_owned());
            }
        })?;
        let name = container.image.as_deref().unwrap_or_default();
        if was_here {
            tell(
                Severity::Normal,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
        }
        let turn = self.context.turn().await;
        let created = self.create(slot, container, &image, attempt).await;
        let handle = created.inspect_err(|failure| {
            tell(Severity::Warning, "Failed", format!("Error: {}", failure.waiting.message));
        })?;
        tell(Severity::Normal, "Created", format!("Container created: {}", slot.name));
        tracing::debug!(pod = self.identity.full_name(), container = slot.name, "made a container");
        if let Err(error) = self.context.engine.start(&handle).await {
            let message = error.chain();
            tell(Severity::Warning, "Failed", format!("Error: {message}"));
            let mut failure = Failure::new("RunContainerError", message);
            failure.container = Some(handle);
            return Err(failure);
        }
        drop(turn);
        tracing::debug!(pod = self.identity.full_name(), container = slot.name, "started a container");
        tell(Severity::Normal, "Started", format!("Container started: {}", slot.name));
        self.post_start(container, &handle, slot.role.list()).await;
        Ok(handle)
    }

    async fn post_start(&self, container: &Container, handle: &Arc<ContainerHandle>, list: &'static str) {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return };
        let target = self.target(Arc::clone(handle), container);
        let mut desired = self.desired.clone();
        let deleted = async move {
            let _ = desired.wait_for(super::Desired::is_ending).await;
        };
        let hook = Action::from(hook);
        let ran = tokio::select! {
            ran = hook.run(&target, HOOK_LIMIT) => ran,
            () = deleted => return,
        };
        if let Err(error) = ran {
            let place = Some((list, container.name.as_str()));
            let message = format!("PostStartHook failed: {}", error.chain());
            self.context.recorder.pod(
                &self.identity,
                place,
                Severity::Warning,
                "FailedPostStartHook",
                message,
            );
            // Its end brings the restart that its policy wants.
            let _ = self.context.engine.stop(handle, None, Some(self.grace())).await;
        }
    }

    pub(super) fn target(&self, handle: Arc<ContainerHandle>, container: &Container) -> Target {
        let address = self.addresses.pod.parse().ok();
        Target::new(self.context.engine.clone(), handle, address, container)
    }

    /// An image, and whether it was here already.
    pub(super) async fn image(&self, wanted: &WantedImage<'_>) -> Result<(Arc<Image>, bool), Failure> {
        let WantedImage { name, policy, .. } = *wanted;
        let images = Arc::clone(self.context.engine.images());
        let resolved = name.to_owned();
        let found = blocking(move || {
            images
                .resolve(&resolved)
                .map_err(|source| Error::engine("find the image", resolved)(source.into()))
        })
        .await;
        let is_missing = |error: &Error| {
            matches!(error, Error::Engine { source, .. }
                if matches!(**source, dray_engine::Error::Image(dray_image::Error::NotFound { .. })))
        };
        // Without its image a container waits for it; with one that may not be used it waits for the registry.
        let missing = match (found, policy) {
            (Ok(image), "IfNotPresent" | "Never") => return Ok((Arc::new(image), true)),
            (Ok(_), _) => Missing::Registry,
            (Err(error), "Never") if is_missing(&error) => {
                return Err(Failure::image(
                    "ErrImageNeverPull",
                    format!("Container image {name:?} is not present with pull policy of Never"),
                ));
            }
            (Err(error), _) if is_missing(&error) => Missing::Image,
            (Err(error), _) => {
                return Err(Failure::image(
                    "InvalidImageName",
                    format!("Failed to apply default image {name:?}: {}", error.chain()),
                ));
            }
        };
        let mut desired = self.desired.clone();
        let deleted = async move {
            let _ = desired.wait_for(super::Desired::is_ending).await;
        };
        let pulled = tokio::select! {
            pulled = self.pull(wanted) => pulled,
            () = deleted => Err("the pod is being deleted".to_owned()),
        };
        pulled.map(|image| (Arc::new(image), false)).map_err(|said| Failure {
            image: missing,
            ..Failure::new("ErrImagePull", format!("failed to pull image {name:?}: {said}"))
        })
    }

    async fn create(
        &self,
        slot: &Slot,
        container: &Container,
        image: &Image,
        attempt: u32,
    ) -> Result<Arc<ContainerHandle>, Failure> {
        let configuration = |error: Error| Failure::new("CreateContainerConfigError", error.chain());
        let Some(volumes) = &self.volumes else {
            return Err(Failure::new("CreateContainerConfigError", "the pod's volumes are not ready"));
        };
        let message_file = self.message_file(&container.name, attempt).await.map_err(configuration)?;
        let ingredients = Ingredients {
            context: &self.context,
            pod: &self.pod,
            identity: &self.identity,
            container,
            image,
            attempt,
            addresses: &self.addresses,
            volumes,
            hosts: self.directory.join("etc-hosts"),
            message_file,
        };
        let mut spec = build::container_spec(&ingredients).await.map_err(configuration)?;
        if let Some(target) = self.looked_into(slot) {
            spec.pid = NamespaceMode::Container(target);
        }
        let engine = &self.context.engine;
        let failed = |error: dray_engine::Error| Failure::new("CreateContainerError", error.chain());
        if let Some(name) = &spec.name
            && let Ok(left_over) = engine.container(name)
        {
            // A crash came between its creation and its start.
            engine.remove(&left_over, true, true).await.map_err(failed)?;
        }
        let created = engine.create(spec).await.map_err(failed)?;
        engine.container(created.id.as_str()).map_err(failed)
    }

    /// The engine's name for the container whose processes an ephemeral one is to see.
    fn looked_into(&self, slot: &Slot) -> Option<String> {
        if slot.role != Role::Ephemeral {
            return None;
        }
        let added = self.pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
        let target = added.get(slot.index)?.target_container_name.as_deref()?;
        let target = self.slots.iter().find(|slot| slot.name == target && slot.is_running())?;
        target.current.as_ref().map(|current| current.handle.record().name.clone())
    }

    async fn message_file(&self, container: &str, attempt: u32) -> Result<std::path::PathBuf> {
        let directory = self.directory.join("containers").join(container);
        let path = directory.join(format!("{attempt}.message"));
        let made = path.clone();
        blocking(move || {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::create_dir_all(&directory).io("create", &directory)?;
            if let Some(old) = attempt.checked_sub(2) {
                let _ = std::fs::remove_file(directory.join(format!("{old}.message")));
            }
            std::fs::write(&made, "").io("create", &made)?;
            // Whoever the container runs as may write it.
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o666))
                .io("change mode of", &made)
        })
        .await?;
        Ok(path)
    }

    /// Begins to probe a container that runs.
    pub(super) fn begin_probes(&mut self, index: usize, age: Duration) {
        let slot = &self.slots[index];
        let (Some(current), Some(container)) = (&slot.current, self.container(slot)) else { return };
        let startup = container.startup_probe.clone().filter(|_| !slot.started);
        let wanted = match startup {
            Some(probe) => vec![(Purpose::Startup, Some(probe))],
            None => vec![
                (Purpose::Liveness, container.liveness_probe.clone()),
                (Purpose::Readiness, container.readiness_probe.clone()),
            ],
        };
        let is_up = wanted.len() == 2;
        let has_readiness = container.readiness_probe.is_some();
        let tasks = wanted
            .into_iter()
            .filter_map(|(purpose, probe)| {
                let schedule = Schedule {
                    target: self.target(Arc::clone(&current.handle), container),
                    probe: probe?,
                    purpose,
                    pod: self.identity.clone(),
                    container: slot.name.clone(),
                    list: slot.role.list(),
                    recorder: self.context.recorder.clone(),
                    age,
                };
                Some(Background(tokio::spawn(schedule.run(self.report_sender.clone()))))
            })
            .collect();
        let slot = &mut self.slots[index];
        slot.probes = tasks;
        if !matches!(slot.role, Role::Init | Role::Ephemeral) && is_up {
            slot.started = true;
            slot.ready |= !has_readiness;
        }
        if matches!(slot.role, Role::Init | Role::Ephemeral) {
            slot.started = true;
        }
    }
}
