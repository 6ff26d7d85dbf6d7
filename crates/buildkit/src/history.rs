//! Builds that have been: a file for each, of its record and all that it told.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::broadcast;

use crate::grpc::{Code, Status};
use crate::proto::control::{BuildHistoryEvent, BuildHistoryKind, BuildHistoryRecord, StatusResponse};
use crate::record::Record;

/// Builds that are kept; the oldest go first, but for those that are pinned.
const MOST: usize = 50;
/// Events that a slow listener may be behind.
const AHEAD: usize = 64;
const SUFFIX: &str = "build";

/// The builds that have been, and who wants to hear of more.
pub(crate) struct History {
    directory: PathBuf,
    records: Mutex<BTreeMap<String, BuildHistoryRecord>>,
    events: broadcast::Sender<BuildHistoryEvent>,
}

fn event(kind: BuildHistoryKind, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent { kind: kind as i32, record: Some(record) }
}

impl History {
    /// The builds that a directory has. What is damaged in it is left aside.
    pub(crate) fn open(directory: PathBuf) -> Self {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            match BuildHistoryRecord::decode_length_delimited(&bytes[..]) {
                Ok(record) if !record.reference.is_empty() => {
                    records.insert(record.reference.clone(), record);
                }
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        let (events, _) = broadcast::channel(AHEAD);
        Self { directory, records: Mutex::new(records), events }
    }

    fn path(&self, reference: &str) -> PathBuf {
        self.directory.join(format!("{reference}.{SUFFIX}"))
    }

    /// Tells that a build has begun.
    pub(crate) fn started(&self, record: BuildHistoryRecord) {
        // Nobody may listen.
        let _ = self.events.send(event(BuildHistoryKind::Started, record));
    }

    /// Keeps a build that has ended.
    pub(crate) fn completed(&self, record: BuildHistoryRecord, told: &Record) {
        let mut bytes = record.encode_length_delimited_to_vec();
        for update in told.updates() {
            bytes.extend_from_slice(&update.encode_length_delimited_to_vec());
        }
        let path = self.path(&record.reference);
        let staged = path.with_extension("part");
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| fs::write(&staged, bytes))
            .and_then(|()| fs::rename(&staged, &path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "cannot keep the record of a build");
        }
        self.records.lock().insert(record.reference.clone(), record.clone());
        self.shrink();
        let _ = self.events.send(event(BuildHistoryKind::Complete, record));
    }

    fn shrink(&self) {
        let mut records = self.records.lock();
        while records.len() > MOST {
            let age = |record: &BuildHistoryRecord| record.created_at.map(|time| (time.seconds, time.nanos));
            let oldest = records.values().filter(|record| !record.pinned).min_by_key(|record| age(record));
            let Some(reference) = oldest.map(|record| record.reference.clone()) else { return };
            records.remove(&reference);
            let _ = fs::remove_file(self.path(&reference));
        }
    }

    /// All builds that have been, the newest first.
    pub(crate) fn list(&self) -> Vec<BuildHistoryRecord> {
        let mut records: Vec<BuildHistoryRecord> = self.records.lock().values().cloned().collect();
        records.sort_by_key(|record| {
            std::cmp::Reverse(record.created_at.map(|time| (time.seconds, time.nanos)))
        });
        records
    }

    pub(crate) fn get(&self, reference: &str) -> Option<BuildHistoryRecord> {
        self.records.lock().get(reference).cloned()
    }

    /// What a build told that has been.
    pub(crate) fn told(&self, reference: &str) -> Option<Record> {
        self.get(reference)?;
        let bytes = fs::read(self.path(reference)).ok()?;
        let mut rest = &bytes[..];
        BuildHistoryRecord::decode_length_delimited(&mut rest).ok()?;
        let mut updates = Vec::new();
        while !rest.is_empty() {
            updates.push(StatusResponse::decode_length_delimited(&mut rest).ok()?);
        }
        Some(Record::of(updates))
    }

    /// Pins a build, or forgets it.
    ///
    /// # Errors
    /// When there is no such build.
    pub(crate) fn update(&self, reference: &str, pinned: bool, delete: bool) -> Result<(), Status> {
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(reference) else {
            return Err(Status::new(Code::NotFound, format!("no build record {reference}")));
        };
        if delete {
            let record = record.clone();
            records.remove(reference);
            let _ = fs::remove_file(self.path(reference));
            let _ = self.events.send(event(BuildHistoryKind::Deleted, record));
            return Ok(());
        }
        record.pinned = pinned;
        record.generation += 1;
        let record = record.clone();
        drop(records);
        if let Some(told) = self.told(reference) {
            self.completed(record, &told);
        }
        Ok(())
    }

    /// What happens from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<BuildHistoryEvent> {
        self.events.subscribe()
    }
}

/// The time of now on the wire.
pub(crate) fn now() -> Option<crate::proto::google::Timestamp> {
    Some(Timestamp::now().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Vertex;

    fn record(reference: &str, seconds: i64) -> BuildHistoryRecord {
        let created_at = Some(crate::proto::google::Timestamp { seconds, nanos: 0 });
        BuildHistoryRecord { reference: reference.to_owned(), created_at, ..BuildHistoryRecord::default() }
    }

    #[tokio::test]
    async fn builds_are_there_after_a_restart_until_there_are_many() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::open(directory.path().to_owned());
        let told = Record::new();
        let vertex = Vertex { name: "step".to_owned(), ..Vertex::default() };
        told.tell(StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() });
        let mut events = history.listen();
        history.completed(record("first", 1), &told);
        assert_eq!(events.recv().await.unwrap().kind, BuildHistoryKind::Complete as i32);
        history.update("first", true, false).unwrap();

        fs::write(directory.path().join("damaged.build"), [0xff; 20]).unwrap();
        let history = History::open(directory.path().to_owned());
        assert!(history.get("first").unwrap().pinned);
        assert_eq!(history.told("first").unwrap().updates()[0].vertexes[0].name, "step");
        for number in 0..60 {
            history.completed(record(&format!("b{number}"), 10 + number), &told);
        }
        let kept = history.list();
        assert_eq!(kept.len(), MOST);
        assert_eq!((kept[0].reference.as_str(), kept[MOST - 1].reference.as_str()), ("b59", "first"));
        history.update("first", false, true).unwrap();
        assert!(history.told("first").is_none());
        assert_eq!(history.update("first", false, true).unwrap_err().code, Code::NotFound);
    }
}
