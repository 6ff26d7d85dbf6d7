//! The agent: one watch of the node's pods, one of the engine's events, and a task for each pod.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dray_engine::{Engine, EventFilter, EventKind};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::admission::{Admission, Place, Rejection};
use crate::context::Context;
use crate::error::{IoContext, blocking};
use crate::identity::{Belonging, POD_UID, PodIdentity};
use crate::machine::Machine;
use crate::pod::{Desired, Waker, Worker};
use crate::recorder::{self, Writer};
use crate::registration::Registration;
use crate::services::{RETRY, Services};
use crate::{NodeConfig, pod, server, volume};

/// How long pods wait for the first list of Services, of which they are told.
const SERVICES_PATIENCE: Duration = Duration::from_secs(5);

/// A pod's task, as the agent holds it.
struct Running {
    desired: watch::Sender<Desired>,
    waker: Arc<Waker>,
    task: AbortHandle,
}

/// Takes a pod's task off the list when it ends, also by a panic: then the next change of the pod brings a new one.
struct Membership {
    agent: Weak<Agent>,
    uid: String,
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.upgrade() {
            agent.pods.lock().remove(&self.uid);
        }
    }
}

/// The directory of pods' files below the agent's own.
pub(crate) const PODS: &str = "pods";

/// Unmounts the volumes of all pods of an agent that no longer runs, once their containers have ended. What is on disk stays; an
/// agent that starts later mounts anew.
///
/// # Errors
/// When something stays mounted.
pub fn unmount_volumes(state_dir: &Path) -> crate::Result<()> {
    let pods = state_dir.join(PODS);
    if pods.exists() { volume::unmount_below(&pods) } else { Ok(()) }
}

/// The node agent.
pub struct Agent {
    context: Arc<Context>,
    machine: Machine,
    writer: Mutex<Option<Writer>>,
    pods: Mutex<HashMap<String, Running>>,
}

impl Agent {
    /// Makes an agent. Nothing happens before [`Agent::run`].
    ///
    /// # Errors
    /// When its directory cannot be made, or the machine cannot be looked at.
    pub fn new(
        engine: Engine,
        registries: dray_registry::Client,
        client: Client,
        config: NodeConfig,
    ) -> crate::Result<Arc<Self>> {
        use std::os::unix::fs::PermissionsExt as _;
        let pods = config.state_dir.join(PODS);
        std::fs::create_dir_all(&pods).io("create", &pods)?;
        std::fs::set_permissions(&config.state_dir, std::fs::Permissions::from_mode(0o700))
            .io("change mode of", &config.state_dir)?;
        let machine = Machine::read(&config.state_dir, &config.version)?;
        let (recorder, writer) = recorder::recorder(client.clone(), &config.name);
        let context = Context {
            engine,
            registries,
            client,
            recorder,
            services: Services::new(),
            memory: machine.memory,
            admission: Admission::new(&machine.capacity()),
            makers: Context::makers(machine.processors),
            node_uid: RwLock::new(String::new()),
            config,
        };
        Ok(Arc::new(Self {
            context: Arc::new(context),
            machine,
            writer: Mutex::new(Some(writer)),
            pods: Mutex::new(HashMap::new()),
        }))
    }

    /// Registers the node and keeps its pods until `shutdown` is over. Pods go on running after that.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(Registration::new(Arc::clone(&self.context), self.machine.clone()).run());
        if let Some(writer) = self.writer.lock().take() {
            tasks.spawn(writer.run());
        }
        let context = Arc::clone(&self.context);
        tasks.spawn(async move { context.services.follow(context.client.clone()).await });
        tasks.spawn(Arc::clone(&self).follow_engine());
        tasks.spawn(Arc::clone(&self).follow_pods());
        shutdown.await;
        tasks.shutdown().await;
        let running: Vec<Running> = self.pods.lock().drain().map(|(_, running)| running).collect();
        for running in running {
            running.task.abort();
        }
    }

    /// Serves one connection: HTTP/1.1 with upgrades on the kubelet's paths.
    pub async fn serve_connection<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        server::serve(Arc::clone(&self.context), stream).await;
    }

    async fn follow_engine(self: Arc<Self>) {
        let (_, mut events) = self.context.engine.events(EventFilter::default());
        loop {
            match events.recv().await {
                Ok(event) => match event.kind {
                    EventKind::Container if matches!(event.action.as_str(), "die" | "destroy") => {
                        if let Some(uid) = event.attributes.get(POD_UID)
                            && let Some(running) = self.pods.lock().get(uid)
                        {
                            running.waker.wake();
                        }
                    }
                    // One that a pod waits for may have come.
                    EventKind::Image => self.wake_all(),
                    _ => {}
                },
                Err(broadcast::error::RecvError::Lagged(_)) => self.wake_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn wake_all(&self) {
        for running in self.pods.lock().values() {
            running.waker.wake();
        }
    }

    async fn follow_pods(self: Arc<Self>) {
        let complete = self.context.services.wait_complete();
        if tokio::time::timeout(SERVICES_PATIENCE, complete).await.is_err() {
            tracing::warn!("the services are not known yet; containers are not told of them");
        }
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let config =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.config.name));
        let mut events = watcher::watcher(api, config).boxed();
        let mut found = Vec::new();
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => found.clear(),
                Ok(Event::InitApply(pod)) => found.push(pod),
                Ok(Event::InitDone) => {
                    let mut listed: HashSet<String> =
                        found.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                    // Who is here already has its place before anybody new.
                    found.sort_by_key(|pod| {
                        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                        (!self.is_here(uid), pod.metadata.creation_timestamp.clone())
                    });
                    found.drain(..).for_each(|pod| self.apply(pod));
                    self.end_unlisted(&listed);
                    if std::mem::take(&mut first) {
                        let (agent, listed) = (Arc::clone(&self), std::mem::take(&mut listed));
                        // Left-overs must not delay what is wanted.
                        tokio::spawn(async move { agent.remove_orphans(&listed).await });
                    }
                }
                Ok(Event::Apply(pod)) => self.apply(pod),
                Ok(Event::Delete(pod)) => self.delete(&pod),
                Err(error) => {
                    tracing::debug!(%error, "the watch of pods broke");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn apply(self: &Arc<Self>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let desired = Desired { pod: Arc::new(pod), deleted: false };
        let mut pods = self.pods.lock();
        if let Some(running) = pods.get(&uid) {
            running.desired.send_replace(desired);
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        let waker = Arc::new(Waker::default());
        let (place, rejection) = match self.admit(&uid, &receiver.borrow().pod) {
            Ok(place) => (place, None),
            Err(rejection) => (None, Some(rejection)),
        };
        let mut worker = Worker::new(Arc::clone(&self.context), receiver, Arc::clone(&waker), place);
        if let Some(rejection) = rejection {
            worker = worker.reject(rejection);
        }
        let membership = Membership { agent: Arc::downgrade(self), uid: uid.clone() };
        let task = tokio::spawn(async move {
            let _membership = membership;
            worker.run().await;
        });
        // The task cannot have removed itself yet: the map is locked.
        pods.insert(uid, Running { desired: sender, waker, task: task.abort_handle() });
    }

    /// Whether something of a pod was made already.
    fn is_here(&self, uid: &str) -> bool {
        self.context.engine.sandbox(uid).is_ok()
    }

    /// A pod's place on the node; none for one that has ended.
    fn admit(&self, uid: &str, pod: &Pod) -> Result<Option<Place>, Rejection> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(None);
        }
        let admission = &self.context.admission;
        // After the machine's restart nothing is here, and yet its pods are no new ones.
        if self.is_here(uid) || phase == Some("Running") {
            return Ok(Some(admission.keep(uid, pod)));
        }
        admission.admit(uid, pod).map(Some)
    }

    fn delete(&self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.context.admission.release(&uid);
        if let Some(running) = self.pods.lock().get(&uid) {
            running.desired.send_modify(|desired| {
                desired.pod = Arc::new(pod.clone());
                desired.deleted = true;
            });
        }
    }

    /// Ends the pods whose objects went while the watch was broken.
    fn end_unlisted(&self, listed: &HashSet<String>) {
        for (uid, running) in self.pods.lock().iter() {
            if !listed.contains(uid) {
                self.context.admission.release(uid);
                running.desired.send_modify(|desired| desired.deleted = true);
            }
        }
    }

    /// Takes away what is left of pods whose objects went while no agent ran.
    async fn remove_orphans(&self, listed: &HashSet<String>) {
        let context = &self.context;
        let mut orphans: HashSet<String> = HashSet::new();
        for record in context.engine.containers() {
            if let Some(belonging) = Belonging::of(&record) {
                orphans.insert(belonging.uid.to_owned());
            }
        }
        orphans.extend(context.engine.sandboxes().into_iter().map(|sandbox| sandbox.name));
        let pods = context.config.state_dir.join(PODS);
        if let Ok(entries) = std::fs::read_dir(&pods) {
            orphans.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
        }
        orphans.retain(|uid| !listed.contains(uid) && !self.pods.lock().contains_key(uid));
        for uid in orphans {
            tracing::info!(uid, "removing what is left of a pod that is no more");
            pod::remove_left_overs(context, &uid).await;
            let directory = pods.join(&uid);
            if let Err(error) = blocking(move || volume::release(&directory)).await {
                tracing::warn!(uid, error = %error.chain(), "cannot remove a pod's files");
            }
        }
    }

    /// The pods that the agent keeps at this moment.
    #[must_use]
    pub fn pods(&self) -> Vec<(String, String)> {
        self.pods
            .lock()
            .values()
            .map(|running| {
                let identity = PodIdentity::of(&running.desired.borrow().pod);
                (identity.namespace, identity.name)
            })
            .collect()
    }
}
