//! GET and LIST: stored bytes from a snapshot, selected and paged.

use std::{collections::VecDeque, sync::Arc};

use base64::Engine as _;
use bytes::Bytes;
use dray_machinery::{
    FieldErrors, Kind, Status, object, pick,
    selector::{FieldSelector, LabelSelector},
};
use dray_store::{Entry, Snapshot};
use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    body,
    negotiate::{Accept, Encoding, Shape},
    request::ResourceRequest,
    respond::{self, Answer},
    server::Inner,
};

/// Which objects of a collection are meant.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

/// The labels of a stored object, read without the rest of it.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Deserialize, Default)]
struct HeadMeta {
    #[serde(default)]
    labels: std::collections::HashMap<String, String>,
}

impl Selection {
    pub(crate) fn of(request: &ResourceRequest) -> Result<Selection, Status> {
        let kind = request.kind;
        let labels = LabelSelector::parse(request.query.get("labelSelector"))
            .map_err(|wrong| Status::bad_request(format!("unable to parse requirement: {wrong}")))?;
        let text = request.query.get("fieldSelector");
        let fields = FieldSelector::parse(text).map_err(Status::bad_request)?;
        if let Some(unknown) = fields.fields().find(|field| !kind.has_field(field)) {
            return Err(Status::bad_request(format!("field label not supported: {unknown}")));
        }
        Ok(Selection { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether it asks about more than names and labels, which all versions of an object have in common.
    pub(crate) fn asks_values(&self) -> bool {
        self.fields.fields().any(|field| !field.starts_with("metadata."))
    }

    /// Whether a stored object is meant. `name` is its stored name.
    pub(crate) fn matches(&self, kind: &Kind, name: &str, json: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        if !self.labels.is_everything() {
            let Ok(head) = serde_json::from_slice::<Head>(json) else { return false };
            let labels = head.metadata.labels;
            if !self.labels.matches(|key| labels.get(key).map(String::as_str)) {
                return false;
            }
        }
        if self.fields.is_everything() {
            return true;
        }
        let (namespace, short) = name.split_once('/').unwrap_or(("", name));
        let parsed = if !self.asks_values() {
            Value::Null
        } else if kind.stored_as.is_none() {
            let paths: Vec<&[&str]> =
                self.fields.fields().flat_map(|field| kind.field_paths(field)).collect();
            pick::pick(json, &paths)
        } else {
            match respond::parse_as(kind, json) {
                Ok(parsed) => parsed,
                Err(_) => return false,
            }
        };
        self.fields.matches(|field| match field {
            "metadata.name" => short.to_owned(),
            "metadata.namespace" => namespace.to_owned(),
            field => kind.field(&parsed, field),
        })
    }
}

/// Pictures that pages of a list still come from.
#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<Arc<Snapshot>>>);

const PAGED_SNAPSHOTS: usize = 8;

impl Pages {
    fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut kept = self.0.lock();
        if kept.iter().all(|other| other.revision() != snapshot.revision()) {
            kept.push_back(snapshot.clone());
        }
        if kept.len() > PAGED_SNAPSHOTS {
            kept.pop_front();
        }
    }

    fn find(&self, revision: u64) -> Option<Arc<Snapshot>> {
        self.0.lock().iter().find(|snapshot| snapshot.revision() == revision).cloned()
    }
}

#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    /// The revision of the picture; -1 for whatever is newest.
    rv: i64,
    start: String,
}

impl Continue {
    fn encode(revision: i64, after: &str) -> String {
        let token = Continue { v: "meta.k8s.io/v1".into(), rv: revision, start: after.into() };
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Continue, Status> {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
        bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Continue>(&bytes).ok())
            .filter(|token| token.v == "meta.k8s.io/v1")
            .ok_or_else(|| Status::bad_request("continue key is not valid: invalid continue token"))
    }
}

/// A revision given as `resourceVersion`; none for an empty text.
pub(crate) fn revision(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let mut errors = FieldErrors::default();
        errors.invalid("resourceVersion", text, "strconv.ParseUint: parsing: invalid syntax");
        Status::invalid("meta.k8s.io", "ListOptions", "", errors.as_slice())
    })
}

fn check_match(request: &ResourceRequest) -> Result<(), Status> {
    let rule = request.query.get("resourceVersionMatch");
    if rule.is_empty() {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    let version = request.query.get("resourceVersion");
    if !matches!(rule, "Exact" | "NotOlderThan") {
        errors.not_supported("resourceVersionMatch", rule, &["Exact", "NotOlderThan"]);
    } else if version.is_empty() {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    } else if !request.query.get("continue").is_empty() {
        errors
            .forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    } else if rule == "Exact" && version == "0" {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors.as_slice()))
    }
}

impl Inner {
    /// GET of one object.
    pub(crate) async fn get(&self, request: &ResourceRequest, accept: Accept) -> Result<Answer, Status> {
        let snapshot = self.store.snapshot();
        if let Some(wanted) = revision(request.query.get("resourceVersion"))?
            && wanted > snapshot.revision()
        {
            return Err(Status::too_large_version(wanted, snapshot.revision()));
        }
        let entry = snapshot
            .get(&request.kind.storage(), &request.stored_name(&request.name))
            .ok_or_else(|| request.not_found())?;
        let entry = self.entry(request, entry.clone()).await?;
        respond::stored(StatusCode::OK, request, accept, entry.json())
    }

    /// GET of a collection.
    pub(crate) async fn list(&self, request: &ResourceRequest, accept: Accept) -> Result<Answer, Status> {
        check_match(request)?;
        let selection = Selection::of(request)?;
        let limit = request.query.number("limit")?.map_or(usize::MAX, |limit| match limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        });
        let mut snapshot = self.store.snapshot();
        let mut after = None;
        let token = request.query.get("continue");
        let version = revision(request.query.get("resourceVersion"))?;
        if token.is_empty() {
            if let Some(wanted) = version.filter(|wanted| *wanted > 0) {
                if wanted > snapshot.revision() {
                    return Err(Status::too_large_version(wanted, snapshot.revision()));
                }
                if request.query.get("resourceVersionMatch") == "Exact" && wanted != snapshot.revision() {
                    snapshot = self.pages.find(wanted).ok_or_else(|| {
                        Status::expired("The resourceVersion for the provided list is too old.")
                    })?;
                }
            }
        } else {
            if version.is_some_and(|version| version != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continue::decode(token)?;
            if let Ok(wanted) = u64::try_from(token.rv)
                && wanted != snapshot.revision()
            {
                snapshot = self.pages.find(wanted).ok_or_else(|| expired_page(&token.start))?;
            }
            after = Some(token.start);
        }
        let storage = request.kind.storage();
        let prefix = request.prefix();
        let name_only = selection
            .fields
            .required("metadata.name")
            .filter(|_| !prefix.is_empty() || !request.kind.namespaced);
        let exact = name_only.map(|name| format!("{prefix}{name}"));
        let mut page = Vec::new();
        let mut last = None;
        let mut more = false;
        let mut keep = |name: &Arc<str>, entry: &Entry| {
            if !selection.matches(request.kind, name, entry.json()) {
                return true;
            }
            if page.len() == limit {
                more = true;
                return false;
            }
            last = Some(name.clone());
            page.push(entry.clone());
            true
        };
        let shown = match &request.custom {
            Some(custom) if selection.asks_values() => {
                Some(self.named_entries(custom, &snapshot, &prefix, after.as_deref()).await?)
            }
            _ => None,
        };
        match (exact, &shown) {
            (_, Some(shown)) => {
                let _ = shown.iter().all(|(name, entry)| keep(name, entry));
            }
            (Some(exact), None) => {
                if let Some(entry) = snapshot.get(&storage, &exact) {
                    keep(&exact.as_str().into(), entry);
                }
            }
            (None, None) => {
                let _ = snapshot
                    .range(&storage, &prefix, after.as_deref())
                    .all(|(name, entry)| keep(name, entry));
            }
        }
        let mut metadata = json!({ "resourceVersion": snapshot.revision().to_string() });
        if more && let Some(last) = last {
            self.pages.keep(&snapshot);
            metadata["continue"] = json!(Continue::encode(snapshot.revision() as i64, &last));
            if selection.is_everything() {
                let left = snapshot.range(&storage, &prefix, Some(&last)).count();
                metadata["remainingItemCount"] = json!(left);
            }
        }
        if shown.is_none() {
            page = self.entries(request.custom.as_ref(), page).await?;
        }
        self.show_list(request, accept, page, metadata)
    }

    fn show_list(
        &self,
        request: &ResourceRequest,
        accept: Accept,
        page: Vec<Entry>,
        metadata: Value,
    ) -> Result<Answer, Status> {
        let kind = request.kind;
        let plain = accept == (Accept { shape: Shape::Full, encoding: Encoding::Json });
        if plain && kind.stored_as.is_none() {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                kind.list_kind(),
                kind.api_version()
            );
            let mut parts = Vec::with_capacity(page.len() + 2);
            parts.push(head.into());
            parts.extend(page.iter().map(|entry| entry.json_item().clone()));
            if let (Some(last), Some(entry)) = (parts.last_mut(), page.last()) {
                *last = entry.json().clone();
            }
            parts.push(Bytes::from_static(b"]}"));
            let body = body::parts(parts);
            return Ok(respond::with_type(StatusCode::OK, "application/json", body));
        }
        let partial = accept == (Accept { shape: Shape::Partial, encoding: Encoding::Json });
        if partial {
            let head = format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\
                 \"items\":["
            );
            let mut text = head.into_bytes();
            for (index, entry) in page.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                respond::push_partial(&mut text, entry.json())?;
            }
            text.extend_from_slice(b"]}");
            let body = body::full(text);
            return Ok(respond::with_type(StatusCode::OK, "application/json", body));
        }
        let objects: Vec<Value> =
            page.iter().map(|entry| respond::parse_as(kind, entry.json())).collect::<Result<_, _>>()?;
        let shown = match accept.shape {
            Shape::Table => {
                let include = respond::include_object(&request.query)?;
                respond::table(kind, request.custom.as_ref(), &objects, metadata, include, true)
            }
            Shape::Partial => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": objects.iter().map(respond::partial).collect::<Vec<_>>(),
            }),
            Shape::Full => list_value(kind, metadata, objects),
        };
        Ok(respond::value(StatusCode::OK, accept.encoding, &shown))
    }

    /// The objects that a request's selection means, for changes of a whole collection.
    pub(crate) async fn select(&self, request: &ResourceRequest) -> Result<Vec<Value>, Status> {
        let selection = Selection::of(request)?;
        let snapshot = self.store.snapshot();
        if let Some(custom) = request.custom.as_ref().filter(|_| selection.asks_values()) {
            let shown = self.named_entries(custom, &snapshot, &request.prefix(), None).await?;
            let meant =
                shown.iter().filter(|(name, entry)| selection.matches(request.kind, name, entry.json()));
            return meant.map(|(_, entry)| respond::parse(entry.json())).collect();
        }
        snapshot
            .range(&request.kind.storage(), &request.prefix(), None)
            .filter(|(name, entry)| selection.matches(request.kind, name, entry.json()))
            .map(|(_, entry)| respond::parse(entry.json()))
            .collect()
    }
}

/// A list of objects.
pub(crate) fn list_value(kind: &Kind, metadata: Value, objects: Vec<Value>) -> Value {
    json!({
        "kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": metadata, "items": objects,
    })
}

fn expired_page(start: &str) -> Status {
    let token = Continue::encode(-1, start);
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.list_continue = token;
    status
}

/// Whether an object is the one that a uid and a version mean.
pub(crate) fn check_preconditions(
    request: &ResourceRequest,
    object: &Value,
    preconditions: &Value,
) -> Result<(), Status> {
    for (field, label) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let Some(wanted) = preconditions[field].as_str() else { continue };
        let found = object::meta(object, field);
        if wanted != found {
            return Err(Status::conflict(
                request.kind.group,
                request.kind.plural,
                &request.name,
                format!(
                    "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
                ),
            ));
        }
    }
    Ok(())
}
