//! Stored objects as those of the version that a request asks for, and back. Objects of built-in kinds are as they are, and
//! so are those that were written in this version since the definition has not changed: only others are read.

use std::{collections::VecDeque, sync::Arc};

use dray_machinery::{Status, object};
use dray_store::{Draft, Entry, Event, Snapshot};
use serde_json::Value;

use super::{
    Custom,
    structural::{embedded, prune},
};
use crate::{request::ResourceRequest, respond, server::Inner, write};

impl Inner {
    /// Entries as a request's version has them.
    pub(crate) async fn entries(
        &self,
        custom: Option<&Custom>,
        mut entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, Status> {
        let Some(custom) = custom else { return Ok(entries) };
        let old: Vec<usize> = (0..entries.len())
            .filter(|at| !custom.is_current(entries[*at].revision(), entries[*at].json()))
            .collect();
        if old.is_empty() {
            return Ok(entries);
        }
        let read = old.iter().map(|at| self.read_stored(custom, &entries[*at]));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        let made = self.convert(&custom.definition.conversion, custom.kind, read).await?;
        for (at, mut object) in old.into_iter().zip(made) {
            prune::prune(&mut object, &custom.structural, true);
            custom.default(&mut object);
            let (text, place) = object::encode(&object);
            let draft = Draft::new(text, place).map_err(Status::internal)?;
            entries[at] = draft.stamp(entries[at].revision());
        }
        Ok(entries)
    }

    /// One entry as a request's version has it.
    pub(crate) async fn entry(&self, request: &ResourceRequest, entry: Entry) -> Result<Entry, Status> {
        if request.custom.is_none() {
            return Ok(entry);
        }
        let mut entries = VecDeque::from(self.entries(request.custom.as_ref(), vec![entry]).await?);
        entries.pop_front().ok_or_else(|| Status::internal("an object was lost on its way"))
    }

    /// The entries of a collection as a request's version has them, with their stored names.
    pub(crate) async fn named_entries(
        &self,
        custom: &Custom,
        snapshot: &Snapshot,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<(Arc<str>, Entry)>, Status> {
        let found = snapshot.range(&custom.kind.storage(), prefix, after);
        let found: Vec<(Arc<str>, Entry)> =
            found.map(|(name, entry)| (name.clone(), entry.clone())).collect();
        let (names, entries): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok(names.into_iter().zip(self.entries(Some(custom), entries).await?).collect())
    }

    /// Events as a request's version has them.
    pub(crate) async fn events(
        &self,
        custom: &Custom,
        events: Vec<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, Status> {
        let all = events.iter().flat_map(|event| std::iter::once(&event.entry).chain(&event.previous));
        let mut made = self.entries(Some(custom), all.cloned().collect()).await?.into_iter();
        let mut next = || made.next().ok_or_else(|| Status::internal("an object was lost on its way"));
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            let entry = next()?;
            let previous = if event.previous.is_some() { Some(next()?) } else { None };
            shown.push(Arc::new(Event { kind: event.kind, name: event.name.clone(), entry, previous }));
        }
        Ok(shown)
    }

    /// Objects of a request as those of another version of their kind, which somebody wants to see.
    pub(crate) async fn in_version(
        &self,
        custom: &Custom,
        version: &str,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        let to = custom.other(version).ok_or_else(Status::no_such_resource)?;
        let mut made = self.convert(&custom.definition.conversion, to.kind, objects).await?;
        for object in &mut made {
            to.conform(object).map_err(Status::internal)?;
        }
        Ok(made)
    }

    /// Reads an object as it was stored, by the schema of the version it was stored in.
    fn read_stored(&self, custom: &Custom, entry: &Entry) -> Result<Value, Status> {
        let mut object = respond::parse(entry.json())?;
        let version = object::text(&object, &["apiVersion"]);
        if let Some(version) = custom.definition.of_api_version(version) {
            // What was taken once is shown, whatever is wrong with it.
            let _ = embedded::coerce(&mut object, &version.structural, true);
            prune::prune(&mut object, &version.structural, true);
        }
        Ok(object)
    }

    /// A draft of a request's object, in the version that is stored.
    pub(crate) async fn draft(&self, request: &ResourceRequest, object: &Value) -> Result<Draft, Status> {
        let Some(custom) = &request.custom else { return write::draft(request.kind, object) };
        // Whoever was on his way when the kind went leaves nothing behind.
        if self.custom.table().definition(&custom.definition.name).is_none() {
            return Err(Status::no_such_resource());
        }
        let stored = custom.definition.stored();
        if stored.kind.version == custom.kind.version {
            return write::draft(request.kind, object);
        }
        let made = self.convert(&custom.definition.conversion, stored.kind, vec![object.clone()]).await?;
        let mut made =
            made.into_iter().next().ok_or_else(|| Status::internal("an object was lost on its way"))?;
        prune::prune(&mut made, &stored.structural, true);
        write::draft(stored.kind, &made)
    }
}
