//! What a build has told so far: whoever asks for its status is told all of it from the beginning, and then what comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use dray_build::Event;
use dray_image::Digest;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::failure;
use crate::proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::proto::ops::{Position, Range, SourceInfo};

/// Bytes of output that are kept of one step (BuildKit's own limit), and of a whole build.
const MOST_OF_STEP: usize = 2 << 20;
const MOST_OF_BUILD: usize = 16 << 20;

/// The telling of one build.
pub(crate) struct Record {
    told: Mutex<Told>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Told {
    updates: Vec<Arc<StatusResponse>>,
    is_complete: bool,
    /// Bytes of output, by step and of all.
    output: BTreeMap<String, usize>,
    all_output: usize,
    /// The last that was told of each step.
    steps: BTreeMap<String, Step>,
    warnings: usize,
}

/// How a step stands.
#[derive(Clone, Copy, Default)]
struct Step {
    is_complete: bool,
    is_cached: bool,
}

/// Steps of a build, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: usize,
    pub(crate) completed: usize,
    pub(crate) cached: usize,
    pub(crate) warnings: usize,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { told: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// The record of a build that was before.
    pub(crate) fn of(updates: Vec<StatusResponse>) -> Self {
        let told = Told {
            updates: updates.into_iter().map(Arc::new).collect(),
            is_complete: true,
            ..Told::default()
        };
        Self { told: Mutex::new(told), changed: watch::Sender::new(()) }
    }

    /// Tells.
    pub(crate) fn tell(&self, mut update: StatusResponse) {
        let mut told = self.told.lock();
        if told.is_complete {
            return;
        }
        for vertex in &update.vertexes {
            let step = told.steps.entry(vertex.digest.clone()).or_default();
            step.is_complete = vertex.completed.is_some();
            step.is_cached = vertex.cached;
        }
        told.warnings += update.warnings.len();
        update.logs.retain_mut(|log| told.clip(log));
        told.updates.push(Arc::new(update));
        drop(told);
        self.changed.send_replace(());
    }

    /// Tells what the builder has said.
    pub(crate) fn tell_events(&self, events: impl IntoIterator<Item = Event>) {
        let mut update = StatusResponse::default();
        for event in events {
            match event {
                // The classic builder's words.
                Event::Text(_) | Event::Image(_) => {}
                Event::Vertex(step) => update.vertexes.push(vertex(step)),
                Event::Status(status) => update.statuses.push(VertexStatus {
                    id: status.id,
                    vertex: status.vertex.as_str().to_owned(),
                    current: i64::try_from(status.current).unwrap_or(i64::MAX),
                    total: i64::try_from(status.total).unwrap_or(i64::MAX),
                    timestamp: Some(status.timestamp.into()),
                    started: status.started.map(Into::into),
                    completed: status.completed.map(Into::into),
                    ..VertexStatus::default()
                }),
                Event::Log(log) => update.logs.push(VertexLog {
                    vertex: log.vertex.as_str().to_owned(),
                    timestamp: Some(log.timestamp.into()),
                    stream: log.stream.into(),
                    message: log.bytes,
                }),
                Event::Warning(found) => update.warnings.push(warning(found)),
            }
        }
        if update != StatusResponse::default() {
            self.tell(update);
        }
    }

    /// Tells how far a part of a step is: what is done, and all there is, or 0 when that is not known.
    fn part(&self, vertex: &str, part: &str, (current, total): (u64, u64), begun: Timestamp, is_done: bool) {
        let now = Timestamp::now();
        let status = VertexStatus {
            id: part.to_owned(),
            vertex: vertex.to_owned(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            timestamp: Some(now.into()),
            started: Some(begun.into()),
            completed: is_done.then(|| now.into()),
            ..VertexStatus::default()
        };
        self.tell(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    /// Ends the telling.
    pub(crate) fn complete(&self) {
        self.told.lock().is_complete = true;
        self.changed.send_replace(());
    }

    pub(crate) fn counts(&self) -> Counts {
        let told = self.told.lock();
        Counts {
            total: told.steps.len(),
            completed: told.steps.values().filter(|step| step.is_complete).count(),
            cached: told.steps.values().filter(|step| step.is_cached).count(),
            warnings: told.warnings,
        }
    }

    /// All that was told.
    pub(crate) fn updates(&self) -> Vec<Arc<StatusResponse>> {
        self.told.lock().updates.clone()
    }

    /// Who reads from the beginning.
    pub(crate) fn follow(self: &Arc<Self>) -> Follower {
        Follower { record: Arc::clone(self), changed: self.changed.subscribe(), at: 0 }
    }
}

impl Told {
    /// Cuts output where there is too much; whether anything of it is left.
    fn clip(&mut self, log: &mut VertexLog) -> bool {
        let of_step = self.output.entry(log.vertex.clone()).or_default();
        let room = MOST_OF_STEP.saturating_sub(*of_step).min(MOST_OF_BUILD.saturating_sub(self.all_output));
        *of_step += log.message.len();
        self.all_output += log.message.len().min(room);
        if room == 0 {
            return false;
        }
        if log.message.len() > room {
            log.message.truncate(room);
            log.message.extend_from_slice(b"\n[output clipped: a step may say 2 MiB]\n");
        }
        true
    }
}

/// A reader of a record.
pub(crate) struct Follower {
    record: Arc<Record>,
    changed: watch::Receiver<()>,
    at: usize,
}

impl Follower {
    /// The next update; none when there are no more.
    pub(crate) async fn next(&mut self) -> Option<Arc<StatusResponse>> {
        loop {
            {
                let told = self.record.told.lock();
                if let Some(update) = told.updates.get(self.at) {
                    self.at += 1;
                    return Some(Arc::clone(update));
                }
                if told.is_complete {
                    return None;
                }
                self.changed.mark_unchanged();
            }
            self.changed.changed().await.ok()?;
        }
    }
}

fn vertex(step: dray_build::Vertex) -> Vertex {
    Vertex {
        digest: step.digest.as_str().to_owned(),
        inputs: step.inputs.iter().map(|input| input.as_str().to_owned()).collect(),
        name: step.name,
        cached: step.cached,
        started: step.started.map(Into::into),
        completed: step.completed.map(Into::into),
        error: failure::words(step.error),
    }
}

fn warning(found: dray_build::Warning) -> VertexWarning {
    VertexWarning {
        vertex: found.vertex.as_ref().map(|vertex| vertex.as_str().to_owned()).unwrap_or_default(),
        level: 1,
        short: found.short.into_bytes(),
        detail: if found.detail.is_empty() { Vec::new() } else { vec![found.detail.into_bytes()] },
        url: found.url,
        info: Some(SourceInfo {
            filename: found.file,
            data: found.source.to_vec(),
            language: "Dockerfile".to_owned(),
        }),
        ranges: vec![range(found.range)],
    }
}

/// A place in the words of the wire: lines from 1, characters from 0.
pub(crate) fn range(range: dray_build::SourceRange) -> Range {
    let position = |line: usize, column: usize| {
        Some(Position {
            line: i32::try_from(line).unwrap_or(i32::MAX),
            character: i32::try_from(column.saturating_sub(1)).unwrap_or(i32::MAX),
        })
    };
    Range {
        start: position(range.start_line, range.start_column),
        end: position(range.end_line, range.end_column),
    }
}

/// A step of this crate's own, as an export: it begins at once, and ends with [`Work::done`] or, when it is dropped,
/// without a word of success.
pub(crate) struct Work<'a> {
    record: &'a Record,
    vertex: Vertex,
}

impl<'a> Work<'a> {
    pub(crate) fn begin(record: &'a Record, build: &str, name: &str) -> Self {
        let digest = Digest::of(format!("{build}\n{name}\n{}", record.counts().total).as_bytes());
        let vertex = Vertex {
            digest: digest.as_str().to_owned(),
            name: name.to_owned(),
            started: Some(Timestamp::now().into()),
            ..Vertex::default()
        };
        record.tell(StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
        Self { record, vertex }
    }

    /// Tells of a part that is `current` of `total` done; `total` is 0 when it is not known.
    pub(crate) fn part(&self, id: &str, current: u64, total: u64, started: Timestamp, is_done: bool) {
        self.record.part(&self.vertex.digest, id, (current, total), started, is_done);
    }

    /// Ends the step, well or not.
    pub(crate) fn done<T, E: std::fmt::Display>(mut self, result: Result<T, E>) -> Result<T, E> {
        if let Err(error) = &result {
            self.vertex.error = error.to_string();
        }
        self.vertex.completed = Some(Timestamp::now().into());
        let vertexes = vec![self.vertex];
        self.record.tell(StatusResponse { vertexes, ..StatusResponse::default() });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(size: usize) -> StatusResponse {
        let log = VertexLog { vertex: "v".to_owned(), message: vec![b'x'; size], ..VertexLog::default() };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn whoever_comes_late_is_told_all() {
        let record = Arc::new(Record::new());
        record.tell(log(1));
        let mut early = record.follow();
        assert_eq!(early.next().await.unwrap().logs[0].message.len(), 1);
        let waiting = tokio::spawn(async move { early.next().await.unwrap().logs[0].message.len() });
        record.tell(log(2));
        assert_eq!(waiting.await.unwrap(), 2);
        record.complete();
        record.tell(log(3));
        let mut late = record.follow();
        assert!(late.next().await.is_some() && late.next().await.is_some());
        assert!(late.next().await.is_none());
    }

    #[test]
    fn output_without_end_is_clipped() {
        let record = Record::new();
        for _ in 0..5 {
            record.tell(log(1 << 20));
        }
        let kept: usize =
            record.updates().iter().flat_map(|update| &update.logs).map(|log| log.message.len()).sum();
        assert_eq!(kept, MOST_OF_STEP);
        record.tell(log(1));
        let mut over = Record::new();
        over.tell(log(MOST_OF_STEP + 1));
        let clipped = &over.told.get_mut().updates[0].logs[0].message;
        assert!(clipped.ends_with(b"2 MiB]\n"));
    }
}
