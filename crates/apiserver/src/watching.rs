//! WATCH: the changes of a collection as a stream of events.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use dray_machinery::{FieldErrors, Kind, Status};
use dray_store::{Entry, Event, EventKind, Snapshot, Watcher};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    body,
    custom::Custom,
    negotiate::{Accept, Encoding, Shape},
    read::{Selection, revision},
    request::ResourceRequest,
    respond::{self, Answer},
    server::Inner,
};

/// How often a bookmark tells how far a quiet watch has come.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest time after which a watch without a given time ends; the longest is twice that.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

struct Watch {
    inner: Arc<Inner>,
    kind: &'static Kind,
    custom: Option<Custom>,
    /// Comes true when the definition of a custom kind is not as it was any more.
    closed: Option<tokio::sync::watch::Receiver<bool>>,
    prefix: String,
    selection: Selection,
    shape: Shape,
    include: String,
    /// Whether the headings of the table were sent.
    headings: bool,
    bookmarks: bool,
    watcher: Watcher,
    /// What is to be sent as the state at the start, and whether a bookmark marks its end.
    initial: Option<(Arc<Snapshot>, bool)>,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
    shutdown: tokio::sync::watch::Receiver<bool>,
}

impl Inner {
    pub(crate) fn watch(
        self: &Arc<Self>,
        request: &ResourceRequest,
        accept: Accept,
    ) -> Result<Answer, Status> {
        if accept.encoding == Encoding::Yaml {
            return Err(Status::not_acceptable(&["application/json"]));
        }
        let query = &request.query;
        let bookmarks = query.flag("allowWatchBookmarks");
        let stream_list = query.flag("sendInitialEvents");
        check_options(request, bookmarks, stream_list)?;
        let mut selection = Selection::of(request)?;
        let mut prefix = request.prefix();
        let mut only = (!request.name.is_empty()).then(|| request.name.clone());
        if only.is_none()
            && (!request.kind.namespaced || !request.namespace.is_empty())
            && let Some(name) = selection.fields.required("metadata.name")
        {
            only = Some(name.to_owned());
        }
        if let Some(name) = &only {
            prefix.push_str(name);
            // The prefix alone would also mean longer names.
            let given = query.get("fieldSelector");
            let comma = if given.is_empty() { "" } else { "," };
            let exact = format!("{given}{comma}metadata.name={name}");
            selection.fields =
                dray_machinery::selector::FieldSelector::parse(&exact).map_err(Status::bad_request)?;
        }
        let storage = request.kind.storage();
        let version = revision(query.get("resourceVersion"))?;
        let (initial, watcher) = match version {
            Some(after) if after > 0 && !stream_list => {
                let watcher = self.store.watch(&storage, &prefix, after).map_err(expired)?;
                (None, watcher)
            }
            _ => {
                let (snapshot, watcher) =
                    self.store.snapshot_and_watch(&storage, &prefix).map_err(expired)?;
                if let Some(wanted) = version
                    && wanted > snapshot.revision()
                {
                    return Err(Status::too_large_version(wanted, snapshot.revision()));
                }
                let skip = query.get("sendInitialEvents") == "false";
                ((!skip).then_some((snapshot, stream_list && bookmarks)), watcher)
            }
        };
        let now = Instant::now();
        let timeout = match query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(86_400)),
            _ => {
                DEFAULT_TIMEOUT
                    + Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_fields().0) % 1_800_000)
            }
        };
        let state = Watch {
            inner: self.clone(),
            kind: request.kind,
            custom: request.custom.clone(),
            closed: request.custom.as_ref().map(|custom| custom.definition.closed()),
            prefix,
            selection,
            shape: accept.shape,
            include: respond::include_object(query)?.to_owned(),
            headings: false,
            bookmarks,
            watcher,
            initial,
            next_bookmark: now
                + BOOKMARK_INTERVAL
                    .min(timeout.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(1))),
            end: now + timeout,
            over: false,
            shutdown: self.shutdown.subscribe(),
        };
        let frames = futures_util::stream::unfold(state, |mut state| async move {
            let bytes = state.next().await?;
            Some((bytes, state))
        });
        Ok(respond::with_type(StatusCode::OK, "application/json", body::stream(frames)))
    }
}

fn check_options(request: &ResourceRequest, bookmarks: bool, stream_list: bool) -> Result<(), Status> {
    let query = &request.query;
    let mut errors = FieldErrors::default();
    let rule = query.get("resourceVersionMatch");
    let sends = query.get("sendInitialEvents");
    if !sends.is_empty() {
        if rule.is_empty() {
            errors.forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        } else if rule != "NotOlderThan" {
            errors.not_supported("resourceVersionMatch", rule, &["NotOlderThan"]);
        }
        if stream_list && !bookmarks {
            errors.forbidden(
                "allowWatchBookmarks",
                "sendInitialEvents requires setting allowWatchBookmarks to true",
            );
        }
    } else if !rule.is_empty() {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors.as_slice()))
    }
}

fn expired(error: dray_store::Error) -> Status {
    match error {
        dray_store::Error::Expired { .. } => Status::expired(error.to_string()),
        other => Status::internal(other),
    }
}

impl Watch {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if let Some((snapshot, marked)) = self.initial.take() {
            match self.begin(&snapshot, marked).await {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some(bytes),
                Err(status) => return Some(self.fail(&status)),
            }
        }
        loop {
            let wake = if self.bookmarks { self.end.min(self.next_bookmark) } else { self.end };
            let events = tokio::select! {
                events = self.watcher.next() => Some(events),
                () = tokio::time::sleep_until(wake) => None,
                _ = self.shutdown.wait_for(|down| *down) => return None,
                () = closed(&mut self.closed) => match self.watcher.pending() {
                    Ok(events) if events.is_empty() => return None,
                    // What happened before is told.
                    events => Some(events),
                },
            };
            let Some(events) = events else {
                if wake == self.end {
                    return None;
                }
                self.next_bookmark += BOOKMARK_INTERVAL;
                match self.bookmark() {
                    Some(bytes) => return Some(bytes),
                    None => continue,
                }
            };
            match events {
                Ok(events) => {
                    let events = match &self.custom {
                        Some(custom) => self.inner.events(custom, events).await,
                        None => Ok(events),
                    };
                    match events.map(|events| self.encode(&events)) {
                        Ok(bytes) if bytes.is_empty() => {}
                        Ok(bytes) => return Some(bytes),
                        Err(status) => return Some(self.fail(&status)),
                    }
                }
                Err(error) => return Some(self.fail(&expired(error))),
            }
        }
    }

    /// The last event of a watch that cannot go on.
    fn fail(&mut self, status: &Status) -> Bytes {
        self.over = true;
        format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status.to_value()).into()
    }

    /// The events of what is there at the start.
    async fn begin(&mut self, snapshot: &Snapshot, marked: bool) -> Result<Bytes, Status> {
        let storage = self.kind.storage();
        let prefix = self.prefix.clone();
        let revision = snapshot.revision();
        let Some(custom) = self.custom.clone() else {
            return Ok(self.initial_events(snapshot.range(&storage, &prefix, None), revision, marked));
        };
        let shown = self.inner.named_entries(&custom, snapshot, &prefix, None).await?;
        Ok(self.initial_events(shown.iter().map(|(name, entry)| (name, entry)), revision, marked))
    }

    fn initial_events<'a>(
        &mut self,
        found: impl Iterator<Item = (&'a Arc<str>, &'a Entry)>,
        revision: u64,
        marked: bool,
    ) -> Bytes {
        let mut out = BytesMut::new();
        for (name, entry) in found {
            if self.selection.matches(self.kind, name, entry.json()) {
                self.push(&mut out, "ADDED", entry.json());
            }
        }
        if marked {
            let mut object = self.marker(revision);
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
            self.push_value(&mut out, "BOOKMARK", &object);
        }
        out.freeze()
    }

    fn encode(&mut self, events: &[Arc<Event>]) -> Bytes {
        let mut out = BytesMut::with_capacity(events.iter().map(|event| event.entry.json().len() + 40).sum());
        for event in events {
            let json = event.entry.json();
            if self.selection.is_everything() {
                let kind = match event.kind {
                    EventKind::Added => "ADDED",
                    EventKind::Modified => "MODIFIED",
                    EventKind::Deleted => "DELETED",
                };
                self.push(&mut out, kind, json);
                continue;
            }
            let matches = |json: &[u8]| self.selection.matches(self.kind, &event.name, json);
            let before = event.previous.as_ref().is_some_and(|entry| matches(entry.json()));
            let after = event.kind != EventKind::Deleted && matches(json);
            match (before, after) {
                (false, false) => {}
                (false, true) => self.push(&mut out, "ADDED", json),
                (true, true) => self.push(&mut out, "MODIFIED", json),
                (true, false) if event.kind == EventKind::Deleted => self.push(&mut out, "DELETED", json),
                (true, false) => {
                    // It no longer belongs: for this watcher it is gone, as it was last seen.
                    if let Some(previous) = &event.previous {
                        let last = previous.restamp(event.entry.revision());
                        self.push(&mut out, "DELETED", last.json());
                    }
                }
            }
        }
        out.freeze()
    }

    /// A bookmark that says nothing else but how far this watch has come.
    fn bookmark(&mut self) -> Option<Bytes> {
        // Whatever is up to this revision has been published; if something of it is still to be sent,
        // this is no quiet watch.
        let revision = self.inner.store.snapshot().revision();
        if self.watcher.has_pending() {
            return None;
        }
        let mut out = BytesMut::new();
        let object = self.marker(revision);
        self.push_value(&mut out, "BOOKMARK", &object);
        Some(out.freeze())
    }

    fn marker(&self, revision: u64) -> Value {
        json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": { "resourceVersion": revision.to_string(), "creationTimestamp": null },
        })
    }

    fn push(&mut self, out: &mut BytesMut, event: &str, json: &[u8]) {
        if self.shape == Shape::Full && self.kind.stored_as.is_none() {
            line(out, event, json);
        } else if self.shape == Shape::Partial {
            let mut text = Vec::with_capacity(json.len());
            if respond::push_partial(&mut text, json).is_ok() {
                line(out, event, &text);
            }
        } else if let Ok(object) = respond::parse_as(self.kind, json) {
            self.push_value(out, event, &object);
        }
    }

    fn push_value(&mut self, out: &mut BytesMut, event: &str, object: &Value) {
        let line = match self.shape {
            Shape::Full => json!({ "type": event, "object": object }),
            Shape::Partial => json!({ "type": event, "object": respond::partial(object) }),
            Shape::Table => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let objects = std::slice::from_ref(object);
                let custom = self.custom.as_ref();
                let table =
                    respond::table(self.kind, custom, objects, metadata, &self.include, !self.headings);
                self.headings = true;
                json!({ "type": event, "object": table })
            }
        };
        out.extend_from_slice(line.to_string().as_bytes());
        out.extend_from_slice(b"\n");
    }
}

/// Waits until the definition of a custom kind is not as it was any more.
async fn closed(closed: &mut Option<tokio::sync::watch::Receiver<bool>>) {
    match closed {
        // It ends, too, with whoever could say so.
        Some(closed) => drop(closed.wait_for(|closed| *closed).await),
        None => std::future::pending().await,
    }
}

/// Writes the line of an event.
fn line(out: &mut BytesMut, event: &str, object: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}
