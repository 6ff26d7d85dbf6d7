//! What a build tells while it runs: the classic builder's words, and the same as a graph of vertices.
//!
//! Both are told of every build; who listens takes what it needs.

use std::sync::atomic::{AtomicU64, Ordering};

use dray_image::Digest;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{Error, Result};

/// One thing that a build tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Text of the classic builder, with its line ends. Stages that run at once are told one after another.
    Text(String),
    /// The image that a stage has become (classic).
    Image(Digest),
    /// A vertex of the graph has begun, has ended, or is known now. The last event of a vertex counts.
    Vertex(Vertex),
    /// How far a part of a vertex is.
    Status(VertexStatus),
    /// Output of a vertex's process.
    Log(VertexLog),
    /// Something a Dockerfile should not do.
    Warning(Warning),
}

/// A step of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    /// What it is called by: unique in a build and the same in the next one that has this step.
    pub digest: Digest,
    /// For the user: `[stage 2/5] RUN make`, `[internal] load build context`.
    pub name: String,
    /// The vertices it stands on.
    pub inputs: Vec<Digest>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
    /// Whether it was taken from the cache.
    pub cached: bool,
    /// Why it failed; empty when it did not.
    pub error: String,
}

/// How far a part of a vertex is, as a download.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexStatus {
    /// The vertex.
    pub vertex: Digest,
    /// The part, `transferring context:`.
    pub id: String,
    /// What is done, in bytes.
    pub current: u64,
    /// All there is; 0 when that is not known.
    pub total: u64,
    /// When this was so.
    pub timestamp: Timestamp,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
}

/// Output of a vertex's process.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexLog {
    /// The vertex.
    pub vertex: Digest,
    /// 1 for the output, 2 for the error output.
    pub stream: u8,
    /// When it came.
    pub timestamp: Timestamp,
    /// The bytes as they came.
    pub bytes: Vec<u8>,
}

/// A place in a Dockerfile: lines and columns from 1; a column of 0 means the whole line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRange {
    /// First line.
    pub start_line: usize,
    /// First column.
    pub start_column: usize,
    /// Last line.
    pub end_line: usize,
    /// Last column.
    pub end_column: usize,
}

impl SourceRange {
    /// A whole line.
    pub(crate) fn line(line: usize) -> Self {
        Self { start_line: line, end_line: line, ..Self::default() }
    }
}

/// What a build check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// The vertex it is told with; none before there is a graph.
    pub vertex: Option<Digest>,
    /// The check's name, `StageNameCasing`.
    pub rule: &'static str,
    /// In one line: `StageNameCasing: Stage name 'Base' should be lowercase (line 1)`.
    pub short: String,
    /// What the check is about.
    pub detail: String,
    /// Where that is explained.
    pub url: String,
    /// The Dockerfile's path.
    pub file: String,
    /// The Dockerfile.
    pub source: std::sync::Arc<[u8]>,
    /// Where.
    pub range: SourceRange,
}

/// Where a build tells what it does. A listener that goes away cancels the build.
#[derive(Clone)]
pub(crate) struct Output(mpsc::Sender<Event>);

impl Output {
    pub(crate) fn new(sender: mpsc::Sender<Event>) -> Self {
        Self(sender)
    }

    pub(crate) async fn send(&self, event: Event) -> Result<()> {
        self.0.send(event).await.map_err(|_| Error::Cancelled)
    }

    pub(crate) async fn text(&self, text: String) -> Result<()> {
        self.send(Event::Text(text)).await
    }
}

/// A vertex under way.
pub(crate) struct Running {
    output: Output,
    vertex: Vertex,
}

impl Running {
    pub(crate) async fn start(output: &Output, key: &str, name: String, inputs: Vec<Digest>) -> Result<Self> {
        let vertex = Vertex {
            digest: Digest::of(format!("{key}\0{name}").as_bytes()),
            name,
            inputs,
            started: Some(Timestamp::now()),
            completed: None,
            cached: false,
            error: String::new(),
        };
        output.send(Event::Vertex(vertex.clone())).await?;
        Ok(Self { output: output.clone(), vertex })
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.vertex.digest
    }

    /// Who tells how far a part of it is, in bytes; what comes too fast is left out.
    pub(crate) fn meter(&self, id: &str) -> Meter {
        Meter {
            output: self.output.clone(),
            vertex: self.vertex.digest.clone(),
            id: id.to_owned(),
            done: AtomicU64::new(0),
        }
    }

    /// Output of its process.
    pub(crate) async fn log(&self, stream: u8, bytes: &[u8]) -> Result<()> {
        let (vertex, timestamp) = (self.vertex.digest.clone(), Timestamp::now());
        self.output.send(Event::Log(VertexLog { vertex, stream, timestamp, bytes: bytes.to_vec() })).await
    }

    /// Tells its end and gives the result on: what was made, and whether that was in the cache.
    pub(crate) async fn end<T>(mut self, result: Result<(T, bool)>) -> Result<T> {
        self.vertex.completed = Some(Timestamp::now());
        match result {
            Ok((made, cached)) => {
                self.vertex.cached = cached;
                self.output.send(Event::Vertex(self.vertex)).await?;
                Ok(made)
            }
            Err(error) => {
                self.vertex.error = error.chain();
                // Whoever no longer listens is told by the error itself.
                let _ = self.output.send(Event::Vertex(self.vertex)).await;
                Err(error)
            }
        }
    }
}

/// Tells how far a part of a vertex is.
pub(crate) struct Meter {
    output: Output,
    vertex: Digest,
    id: String,
    done: AtomicU64,
}

impl Meter {
    fn status(&self, is_done: bool) -> Event {
        let now = Timestamp::now();
        let current = self.done.load(Ordering::Relaxed);
        Event::Status(VertexStatus {
            vertex: self.vertex.clone(),
            id: self.id.clone(),
            current,
            total: 0,
            timestamp: now,
            started: Some(now),
            completed: is_done.then_some(now),
        })
    }

    pub(crate) fn tell(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        let _ = self.output.0.try_send(self.status(false));
    }

    pub(crate) async fn end(&self) -> Result<()> {
        self.output.send(self.status(true)).await
    }
}
