//! RUN: a process in a container of the engine, and what it wrote as a layer.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::{
    AttachOptions, ContainerHandle, ContainerSpec, Engine, LayerOptions, LogPolicy, NetworkMode, Security,
    WaitCondition,
};
use dray_image::{ContainerDefaults, Image, ImageConfig, Layer};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use crate::builder::blocking;
use crate::progress::{Event, Running};
use crate::run_mounts::{Ready, RunMount};
use crate::session::Session;
use crate::stage::{Making, StageRun};
use crate::{Error, Result};

/// The host name that a step sees unless the caller has another.
const HOSTNAME: &str = "buildkitsandbox";
/// Bytes of output that go into one message.
const BUFFER: usize = 16 * 1024;

/// A container that goes when this is dropped, whatever it does, and its mounts with it.
struct Temporary {
    session: Arc<Session>,
    container: Option<Arc<ContainerHandle>>,
    ready: Option<Ready>,
}

impl Temporary {
    /// Makes the container. It is removed also when the caller is cancelled in the middle.
    async fn create(session: &Arc<Session>, image: Image, spec: ContainerSpec, ready: Ready) -> Result<Self> {
        let session = Arc::clone(session);
        let made = tokio::spawn(async move {
            let engine = &session.builder.engine;
            let created = engine.create_on(image, spec).await?;
            let container = engine.container(created.id.as_str())?;
            Ok::<_, Error>(Self { session, container: Some(container), ready: Some(ready) })
        });
        made.await.map_err(|_| Error::Cancelled)?
    }

    fn container(&self) -> Result<&Arc<ContainerHandle>> {
        self.container.as_ref().ok_or(Error::Cancelled)
    }

    async fn remove(mut self) -> Result<()> {
        if let Some(container) = self.container.take() {
            self.session.builder.engine.remove(&container, true, true).await?;
        }
        // The mounts end behind the container that had them.
        drop(self.ready.take());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let (Some(container), Ok(runtime)) = (self.container.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let ready = self.ready.take();
        let engine = self.session.builder.engine.clone();
        let removal: JoinHandle<()> = runtime.spawn(async move {
            if let Err(error) = engine.remove(&container, true, true).await {
                tracing::warn!(error = %error.chain(), "cannot remove the container of a build");
            }
            drop(ready);
        });
        let removals: &Mutex<Vec<JoinHandle<()>>> = &self.session.removals;
        removals.lock().push(removal);
    }
}

/// One RUN.
pub(crate) struct RunJob {
    /// The program and its arguments.
    pub(crate) args: Vec<String>,
    /// Environment over the image's.
    pub(crate) env: Vec<String>,
    pub(crate) network: NetworkMode,
    /// Everything is allowed.
    pub(crate) insecure: bool,
    pub(crate) mounts: Vec<RunMount>,
    /// A path and a program that is there while it runs.
    pub(crate) script: Option<(String, String)>,
}

impl RunJob {
    /// Runs the process and makes a layer of what it wrote.
    pub(crate) async fn run(self, stage: &StageRun<'_>, making: &Making<'_>) -> Result<Option<Layer>> {
        let session = &stage.graph.session;
        let request = &session.request;
        let mut ready = Ready::new(&session.builder, &session.client, &self.mounts).await?;
        if let Some((path, content)) = &self.script {
            ready.script(content, path)?;
        }
        let mount_points = self.missing(stage, &ready).await?;
        let config = &stage.state.config.config;
        let image = Image {
            id: stage.state.id.clone().unwrap_or_else(|| dray_image::Digest::of(b"")),
            config: ImageConfig {
                config: ContainerDefaults {
                    env: config.env.clone(),
                    user: config.user.clone(),
                    working_dir: config.working_dir.clone(),
                    // In the classic builder what is written to a volume is not kept.
                    volumes: if request.classic { config.volumes.clone() } else { Default::default() },
                    ..ContainerDefaults::default()
                },
                ..ImageConfig::scratch()
            },
            layers: stage.state.layers.clone(),
            references: Vec::new(),
            added: String::new(),
        };
        let hostname = request.hostname.clone().or_else(|| (!request.classic).then(|| HOSTNAME.to_owned()));
        let spec = ContainerSpec {
            image: stage.state.short_id().to_owned(),
            entrypoint: Some(Vec::new()),
            cmd: Some(self.args.clone()),
            env: self.env.clone(),
            secret_env: ready.env.clone(),
            hostname: hostname.filter(|_| self.network != NetworkMode::Host),
            network: self.network.clone(),
            mounts: ready.mounts.clone(),
            resources: request.resources.clone(),
            ulimits: request.ulimits.clone(),
            extra_hosts: request.extra_hosts.clone(),
            shm_size: request.shm_size,
            cgroup_parent: request.cgroup_parent.clone(),
            security: Security { privileged: self.insecure, ..Security::default() },
            transient: true,
            log: LogPolicy { keep: false, ..LogPolicy::default() },
            ..ContainerSpec::default()
        };
        let temporary = Temporary::create(session, image, spec, ready).await?;
        let container = Arc::clone(temporary.container()?);
        let running = self.run_in(&container, stage, &making.vertex);
        let ran = match request.time_limit {
            None => running.await,
            Some(limit) => match tokio::time::timeout(limit, running).await {
                Ok(ran) => ran,
                Err(_) => Err(Error::TimedOut { command: self.args.join(" "), limit }),
            },
        };
        let layer = match ran {
            Ok(()) => {
                let options = LayerOptions { mount_points, newest: session.epoch };
                session.builder.engine.take_layer(&container, &making.owner(), options).await
            }
            Err(error) => {
                // Gone before the build fails; dropped instead, it goes in the background.
                temporary.remove().await?;
                return Err(error);
            }
        };
        let id = container.record().id.clone();
        temporary.remove().await?;
        let layer = layer?;
        stage.text(format!(" ---> Removed intermediate container {}\n", id.short())).await?;
        Ok(layer)
    }

    /// The paths that a start makes only to mount on, links resolved (CVE-2024-23652).
    async fn missing(&self, stage: &StageRun<'_>, ready: &Ready) -> Result<Vec<PathBuf>> {
        let targets: Vec<PathBuf> = ready.mounts.iter().map(|mount| PathBuf::from(&mount.target)).collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        if stage.state.layers.is_empty() {
            return Ok(targets);
        }
        let engine: Engine = stage.graph.session.builder.engine.clone();
        let layers = stage.state.layers.clone();
        blocking(move || {
            let root = engine.open_layers(&layers)?;
            let mut missing = Vec::new();
            for target in targets {
                let Some(there) = target.ancestors().find(|path| root.stat(path).is_ok()) else { continue };
                let Ok(rest) = target.strip_prefix(there) else { continue };
                if rest.as_os_str().is_empty() {
                    continue;
                }
                let Ok(opened) = root.locate(there) else { continue };
                // On a mount without a place this is the path from its root.
                let Ok(resolved) = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())) else {
                    continue;
                };
                missing.push(resolved.join(rest));
            }
            Ok(missing)
        })
        .await
    }

    async fn run_in(
        &self,
        container: &Arc<ContainerHandle>,
        stage: &StageRun<'_>,
        vertex: &Running,
    ) -> Result<()> {
        let engine = &stage.graph.session.builder.engine;
        stage.text(format!(" ---> Running in {}\n", container.record().id.short())).await?;
        let streams = AttachOptions { stdin: false, stdout: true, stderr: true };
        let joined = engine.attach(container, streams).await?;
        engine.start(container).await?;
        if let Ok(Ok(stream)) = joined.await {
            forward(stream, stage, vertex).await?;
        }
        let code = container.wait(WaitCondition::NotRunning).await.exit_code;
        if code != 0 {
            return Err(Error::Run { command: self.args.join(" "), code });
        }
        Ok(())
    }
}

/// The number of the error output in Docker's frames.
const STDERR: u8 = 2;

/// Passes on what the process writes, in Docker's frames, until it has ended.
async fn forward(mut stream: tokio::net::UnixStream, stage: &StageRun<'_>, vertex: &Running) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    // A character may be cut in two by the end of a frame.
    let mut held: Vec<u8> = Vec::new();
    let mut header = [0; 8];
    while stream.read_exact(&mut header).await.is_ok() {
        let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        while left > 0 {
            let wanted = left.min(BUFFER);
            let n = stream.read(&mut buffer[..wanted]).await.unwrap_or(0);
            if n == 0 {
                break;
            }
            left -= n;
            vertex.log(header[0], &buffer[..n]).await?;
            held.extend_from_slice(&buffer[..n]);
            let whole = held.len() - incomplete(&held);
            let text: Vec<u8> = held.drain(..whole).collect();
            if !text.is_empty() {
                let text = String::from_utf8_lossy(&text).into_owned();
                // The classic builder shows the error output in red, whoever listens.
                let text = if header[0] == STDERR { format!("\x1b[91m{text}\x1b[0m") } else { text };
                stage.say(Event::Text(text)).await?;
            }
        }
    }
    if !held.is_empty() {
        stage.text(String::from_utf8_lossy(&held).into_owned()).await?;
    }
    Ok(())
}

/// How many bytes at the end begin a character that is not whole.
fn incomplete(bytes: &[u8]) -> usize {
    let mut start = bytes.len().saturating_sub(3);
    while start < bytes.len() {
        let needed = match bytes[start] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        if needed > 1 && start + needed > bytes.len() {
            return bytes.len() - start;
        }
        start += 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole() {
        let text = "aä€𝄞".as_bytes();
        for (end, expected) in
            [(1, 0), (2, 1), (3, 0), (4, 1), (5, 2), (6, 0), (7, 1), (8, 2), (9, 3), (10, 0)]
        {
            assert_eq!(incomplete(&text[..end]), expected, "{end}");
        }
        assert_eq!(incomplete(&[0xff, 0xff]), 0);
    }
}
