//! RUN: a process in a container of the engine, and what it wrote as a layer.

use std::sync::Arc;

use dray_engine::{
    AttachOptions, ContainerHandle, ContainerSpec, Engine, Id, LogPolicy, NetworkMode, WaitCondition,
};
use dray_image::{Image, Layer};
use tokio::io::AsyncReadExt;

use crate::progress::Output;
use crate::request::BuildRequest;
use crate::state::State;
use crate::{Error, Result};

/// Bytes of output that go into one message.
const BUFFER: usize = 16 * 1024;

/// A container that goes when this is dropped, whatever it does.
struct Temporary {
    engine: Engine,
    container: Option<Arc<ContainerHandle>>,
}

impl Temporary {
    /// Makes the container. It is removed also when the caller is cancelled in the middle.
    async fn create(engine: &Engine, image: Image, spec: ContainerSpec) -> Result<Self> {
        let engine = engine.clone();
        let made = tokio::spawn(async move {
            let created = engine.create_on(image, spec).await?;
            let container = engine.container(created.id.as_str())?;
            Ok::<_, Error>(Self { engine, container: Some(container) })
        });
        made.await.map_err(|_| Error::Cancelled)?
    }

    fn container(&self) -> Result<&Arc<ContainerHandle>> {
        self.container.as_ref().ok_or(Error::Cancelled)
    }

    async fn remove(mut self) -> Result<()> {
        if let Some(container) = self.container.take() {
            self.engine.remove(&container, true, true).await?;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let (Some(container), Ok(runtime)) = (self.container.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let engine = self.engine.clone();
        runtime.spawn(async move {
            if let Err(error) = engine.remove(&container, true, true).await {
                tracing::warn!(error = %error.chain(), "cannot remove the container of a build");
            }
        });
    }
}

/// One RUN.
pub(crate) struct RunJob<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) request: &'a BuildRequest,
    pub(crate) state: &'a State,
    /// The program and its arguments.
    pub(crate) args: Vec<String>,
    /// Environment over the image's.
    pub(crate) env: Vec<String>,
    /// `--network` of the instruction.
    pub(crate) network: Option<NetworkMode>,
}

impl RunJob<'_> {
    /// Runs the process and makes a layer, leased to `owner`, of what it wrote.
    pub(crate) async fn run(self, output: &Output, owner: &str) -> Result<Option<Layer>> {
        let request = self.request;
        let spec = ContainerSpec {
            image: self.state.short_id().to_owned(),
            entrypoint: Some(Vec::new()),
            cmd: Some(self.args.clone()),
            env: self.env.clone(),
            network: self.network.clone().unwrap_or_else(|| request.network.clone()),
            resources: request.resources.clone(),
            ulimits: request.ulimits.clone(),
            extra_hosts: request.extra_hosts.clone(),
            shm_size: request.shm_size,
            transient: true,
            log: LogPolicy { keep: false, ..LogPolicy::default() },
            ..ContainerSpec::default()
        };
        let image = Image {
            id: self.state.id.clone().unwrap_or_else(|| dray_image::Digest::of(b"")),
            config: self.state.config.clone(),
            layers: self.state.layers.clone(),
            references: Vec::new(),
            added: String::new(),
        };
        let temporary = Temporary::create(self.engine, image, spec).await?;
        let ran = self.run_in(temporary.container()?, output, owner).await;
        // Gone before the build goes on or fails; dropped instead, it goes in the background.
        temporary.remove().await?;
        let (id, layer) = ran?;
        output.text(format!(" ---> Removed intermediate container {}\n", id.short())).await?;
        Ok(layer)
    }

    async fn run_in(
        &self,
        container: &Arc<ContainerHandle>,
        output: &Output,
        owner: &str,
    ) -> Result<(Id, Option<Layer>)> {
        let id = container.record().id.clone();
        output.text(format!(" ---> Running in {}\n", id.short())).await?;
        let streams = AttachOptions { stdin: false, stdout: true, stderr: true };
        let joined = self.engine.attach(container, streams).await?;
        self.engine.start(container).await?;
        if let Ok(Ok(stream)) = joined.await {
            forward(stream, output).await?;
        }
        let code = container.wait(WaitCondition::NotRunning).await.exit_code;
        if code != 0 {
            return Err(Error::Run { command: self.args.join(" "), code });
        }
        let layer = self.engine.take_layer(container, owner).await?;
        Ok((id, layer))
    }
}

/// The number of the error output in Docker's frames.
const STDERR: u8 = 2;

/// Passes on what the process writes, in Docker's frames, until it has ended.
async fn forward(mut stream: tokio::net::UnixStream, output: &Output) -> Result<()> {
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
            held.extend_from_slice(&buffer[..n]);
            let whole = held.len() - incomplete(&held);
            let text: Vec<u8> = held.drain(..whole).collect();
            if !text.is_empty() {
                let text = String::from_utf8_lossy(&text).into_owned();
                // The classic builder shows the error output in red, whoever listens.
                let text = if header[0] == STDERR { format!("\x1b[91m{text}\x1b[0m") } else { text };
                output.text(text).await?;
            }
        }
    }
    if !held.is_empty() {
        output.text(String::from_utf8_lossy(&held).into_owned()).await?;
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
