//! Reading what a process writes, through the engine's streams, and running a command to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dray_engine::{ContainerHandle, Engine, ExecSpec};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{Error, Result};

/// Bytes of a command's output that are kept.
const KEPT: usize = 10 * 1024;
/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// Standard output's number in frames.
pub(crate) const STDOUT: u8 = 1;

/// Takes the frames of a stream apart. With a terminal there are none, and all bytes are standard output's.
pub(crate) struct Frames<R> {
    reader: R,
    framed: bool,
    stream: u8,
    left: usize,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R, framed: bool) -> Self {
        Self { reader, framed, stream: STDOUT, left: 0, buffer: vec![0; CHUNK] }
    }

    /// The next bytes and the number of the stream they are from; none at the end.
    ///
    /// Not safe against being dropped half-way.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, &[u8])>> {
        while self.framed && self.left == 0 {
            let mut header = [0_u8; 8];
            match self.reader.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            self.stream = header[0];
            self.left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        }
        let wanted = if self.framed { self.left.min(CHUNK) } else { CHUNK };
        let count = self.reader.read(&mut self.buffer[..wanted]).await?;
        if count == 0 {
            return Ok(None);
        }
        self.left = self.left.saturating_sub(count);
        Ok(Some((self.stream, &self.buffer[..count])))
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    /// The beginning of what it wrote, to both streams.
    pub(crate) output: String,
}

/// Runs a command in a container and waits for its end; one that takes longer is killed.
///
/// # Errors
/// When it cannot be started or takes too long.
pub(crate) async fn run(
    engine: &Engine,
    container: &Arc<ContainerHandle>,
    args: Vec<String>,
    timeout: Duration,
) -> Result<Ended> {
    let name = container.record().name.clone();
    let spec = ExecSpec { args, stdout: true, stderr: true, ..ExecSpec::default() };
    let failed = |error| Error::engine("run a command in", name.clone())(error);
    let id = engine.create_exec(container, spec).map_err(failed)?;
    let finished = async {
        let stream = engine.start_exec(id.as_str(), false, None).await.map_err(failed)?;
        let mut output = Vec::new();
        if let Some(stream) = stream {
            let mut frames = Frames::new(stream, true);
            while let Ok(Some((_, bytes))) = frames.next().await {
                let room = KEPT.saturating_sub(output.len()).min(bytes.len());
                output.extend_from_slice(&bytes[..room]);
            }
        }
        let code = engine.wait_exec(id.as_str()).await.map_err(failed)?;
        Ok(Ended { code, output: String::from_utf8_lossy(&output).into_owned() })
    };
    if let Ok(ended) = tokio::time::timeout(timeout, finished).await {
        return ended;
    }
    if let Some(process) = engine.exec(id.as_str()).ok().and_then(|exec| exec.process) {
        let _ = process.signal(9);
    }
    Err(Error::Probe { message: format!("command timed out after {}s", timeout.as_secs_f32()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_apart_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        for (stream, text) in [(1_u8, "out"), (2, ""), (2, "error")] {
            bytes.extend_from_slice(&[stream, 0, 0, 0]);
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let mut frames = Frames::new(bytes.as_slice(), true);
        let mut found = Vec::new();
        while let Some((stream, text)) = frames.next().await.unwrap() {
            found.push((stream, String::from_utf8(text.to_vec()).unwrap()));
        }
        assert_eq!(found, [(1, "out".to_owned()), (2, "error".to_owned())]);
    }
}
