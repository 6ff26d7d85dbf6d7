//! CREATE, UPDATE and PATCH: from a body to a durable object.

use std::collections::BTreeMap;

use bytes::Bytes;
use dray_access::User;
use dray_machinery::{
    FieldErrors, Kind, Reason, Status, Subresource, apply, metadata, names, object, patch, schema,
};
use dray_store::{Draft, Entry, Error, Key};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    admission::{Admission, Operation},
    allocation::Claims,
    decode, duplicates,
    negotiate::Accept,
    request::{self, ResourceRequest},
    respond::{self, Answer},
    server::Inner,
    strategy::{check_media, patches, prepare_status, same, sign},
};

/// What came with a request that changes something.
pub(crate) struct Change<'a> {
    pub(crate) request: &'a ResourceRequest,
    pub(crate) user: &'a User,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    pub(crate) accept: Accept,
    /// Who is remembered for the change.
    pub(crate) manager: String,
    /// What the client is told beside the answer.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// What the audit log is told beside the request.
    pub(crate) annotations: Mutex<BTreeMap<String, String>>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(
        request: &'a ResourceRequest,
        user: &'a User,
        headers: &'a HeaderMap,
        body: &'a Bytes,
        accept: Accept,
        manager: String,
    ) -> Change<'a> {
        Change {
            request,
            user,
            headers,
            body,
            accept,
            manager,
            warnings: Mutex::default(),
            annotations: Mutex::default(),
        }
    }

    fn is_apply(&self) -> bool {
        decode::media(self.headers) == APPLY
    }
}

const APPLY: &str = "application/apply-patch+yaml";

/// What became of an object.
pub(crate) struct Outcome {
    pub(crate) code: StatusCode,
    pub(crate) json: Bytes,
}

/// What happens to a change when another came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It fails: it named the version that it replaces.
    Never,
    /// It is made again on the newer object.
    Newer,
}

/// How often a change that lost a race is tried again on the newer object.
const ATTEMPTS: usize = 32;
/// How often a generated name that is taken is generated again.
const NAMES: usize = 8;

/// A draft of an object.
pub(crate) fn draft(kind: &Kind, object: &Value) -> Result<Draft, Status> {
    let (text, at) = if let Some(alias) = &kind.stored_as {
        let mut stored = object.clone();
        (alias.to_stored)(&mut stored);
        object::encode(&stored)
    } else {
        object::encode(object)
    };
    Draft::new(text, at).map_err(Status::internal)
}

/// A failure of the store, in the words of the API.
pub(crate) fn store_failure(kind: &Kind, name: &str, error: Error) -> Status {
    match error {
        Error::Exists { .. } => Status::already_exists(kind.group, kind.plural, name),
        Error::NotFound { .. } => Status::not_found(kind.group, kind.plural, name),
        Error::Conflict { .. } => Status::modified(kind.group, kind.plural, name),
        Error::Expired { .. } => Status::expired(error.to_string()),
        // Clients know these words of the reference's store.
        Error::SpaceExceeded { .. } => Status::new(500, Reason::Unknown, error.to_string()),
        Error::Unavailable { .. } => Status::new(503, Reason::ServiceUnavailable, error.to_string()),
        other => Status::internal(other),
    }
}

/// Reads the object of a body and checks that it is of the kind that is asked for.
pub(crate) fn read_object(change: &Change<'_>) -> Result<Value, Status> {
    check_media(change.request.kind, change.headers)?;
    let object = decode::object(change.headers, change.body)?;
    check_kind(change, object)
}

/// Reads an object by the schema of its kind.
fn conform(change: &Change<'_>, object: &mut Value) -> Result<(), Status> {
    let kind = change.request.kind;
    let refused = |why: &str| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    let unknown = match (&change.request.custom, schema::find(kind.schema)) {
        (Some(custom), _) => custom.conform(object),
        (None, Some(schema)) => schema::conform(object, schema),
        (None, None) => return Ok(()),
    };
    let unknown = unknown.map_err(|wrong| refused(&wrong))?;
    let twice = match decode::media(change.headers) {
        "" | "application/json" => duplicates::find(change.body),
        _ => Vec::new(),
    };
    if unknown.is_empty() && twice.is_empty() {
        return Ok(());
    }
    let texts = twice
        .iter()
        .map(|field| format!("duplicate field {field:?}"))
        .chain(unknown.iter().map(|field| format!("unknown field {field:?}")));
    match change.request.query.get("fieldValidation") {
        "Ignore" => Ok(()),
        "Strict" => {
            let all: Vec<String> = texts.collect();
            let why = format!("strict decoding error: {}", all.join(", "));
            if !decode::media(change.headers).contains("patch") || change.is_apply() {
                return Err(refused(&why));
            }
            let mut errors = FieldErrors::default();
            errors.invalid("patch", String::from_utf8_lossy(change.body).into_owned(), why);
            Err(Status::invalid("", "", "", errors.as_slice()))
        }
        "" | "Warn" => {
            let mut warnings = change.warnings.lock();
            for text in texts {
                if !warnings.contains(&text) {
                    warnings.push(text);
                }
            }
            Ok(())
        }
        other => {
            let mut errors = FieldErrors::default();
            errors.not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
            Err(Status::invalid("meta.k8s.io", "CreateOptions", "", errors.as_slice()))
        }
    }
}

fn check_kind(change: &Change<'_>, mut object: Value) -> Result<Value, Status> {
    if !object.is_object() {
        return Err(Status::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct { \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }",
        ));
    }
    let kind = change.request.kind;
    let version = kind.api_version();
    let given_kind = object::text(&object, &["kind"]);
    let given_version = object::text(&object, &["apiVersion"]);
    if !given_version.is_empty() && given_version != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({version})"
        )));
    }
    if !given_kind.is_empty() && given_kind != kind.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({given_kind}) does not match the expected kind ({})",
            kind.kind
        )));
    }
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(version);
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    // A custom kind may have fields that can be null.
    if change.request.custom.is_none() {
        match schema::find(kind.schema) {
            Some(schema) => schema::prune_nulls(&mut object, schema),
            None => object::prune_nulls(&mut object),
        }
    }
    conform(change, &mut object)?;
    Ok(object)
}

fn check_names(request: &ResourceRequest, object: &mut Value) -> Result<(), Status> {
    if request.kind.namespaced {
        let given = object::namespace(object);
        if given.is_empty() {
            object::set_meta(object, "namespace", &request.namespace);
        } else if given != request.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else {
        object::set_meta(object, "namespace", "");
    }
    let given = object::name(object);
    if !request.name.is_empty() && given != request.name {
        if given.is_empty() {
            object::set_meta(object, "name", &request.name);
        } else {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                request.name
            )));
        }
    }
    Ok(())
}

/// Takes back what a change of a part, or of the whole, may not change.
fn keep_to_part(request: &ResourceRequest, new: &mut Value, old: &Value) {
    if let Some(part @ (Subresource::Status | Subresource::Approval)) = request.subresource {
        prepare_status(request.kind, part, new, old);
    } else if !matches!(request.subresource, Some(Subresource::Finalize | Subresource::Binding)) {
        (request.kind.prepare_update)(new, old);
    }
}

fn invalid_unless_empty(kind: &Kind, name: &str, errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(kind.group, kind.kind, name, errors.as_slice()))
    }
}

fn created(code: StatusCode, entry: &Entry) -> Outcome {
    Outcome { code, json: entry.json().clone() }
}

impl Inner {
    pub(crate) fn key(&self, request: &ResourceRequest, name: &str) -> Key {
        Key::new(request.kind.storage(), request.stored_name(name))
    }

    /// POST to a collection.
    pub(crate) async fn create(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let object = read_object(change)?;
        let outcome = self.create_object(change, object).await?;
        respond::stored(outcome.code, change.request, change.accept, &outcome.json)
    }

    /// Makes an object of a request's collection.
    pub(crate) async fn create_object(
        &self,
        change: &Change<'_>,
        mut object: Value,
    ) -> Result<Outcome, Status> {
        let request = change.request;
        let kind = request.kind;
        let dry = request.dry_run()?;
        check_names(request, &mut object)?;
        if !object::meta(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.await_account(request, &object).await;
        let base = object::meta(&object, "generateName").to_owned();
        let generated = object::name(&object).is_empty() && !base.is_empty();
        for attempt in 0.. {
            // Only a generated name may be tried again.
            let mut object = if generated { object.clone() } else { std::mem::take(&mut object) };
            if generated {
                object::set_meta(&mut object, "name", &names::generate(&base));
            }
            metadata::prepare_create(&mut object, kind);
            (kind.prepare_create)(&mut object);
            sign(kind, change.user, &mut object);
            request.default(&mut object);
            let name = object::name(&object).to_owned();
            let admission = Admission::new(self, change, Operation::Create, &name, &Value::Null);
            if self.admit(&admission, &mut object).await? {
                (kind.prepare_create)(&mut object);
                sign(kind, change.user, &mut object);
            }
            let mut errors = FieldErrors::default();
            metadata::validate(&object, kind, &mut errors);
            (kind.validate)(&object, &mut errors);
            (kind.validate_create)(&object, &mut errors);
            self.validate_custom(change, &object, None, &mut errors);
            invalid_unless_empty(kind, &name, &errors)?;
            self.judge(&admission, &object).await?;
            let claims = self.claim(kind, None, &mut object)?;
            self.track(change, None, &mut object);
            let draft = self.draft(request, &object).await?;
            if dry {
                if self.store.snapshot().get(&kind.storage(), &request.stored_name(&name)).is_some() {
                    return Err(Status::already_exists(kind.group, kind.plural, &name));
                }
                object::set_meta(&mut object, "resourceVersion", "");
                return Ok(Outcome { code: StatusCode::CREATED, json: stored_text(kind, &object) });
            }
            match self.store.create(self.key(request, &name), draft).await {
                Ok(entry) => {
                    claims.keep();
                    return Ok(created(StatusCode::CREATED, &self.entry(request, entry).await?));
                }
                Err(Error::Exists { .. }) if generated && attempt < NAMES => {}
                Err(error) => return Err(store_failure(kind, &name, error)),
            }
        }
        Err(Status::internal("no free name was found"))
    }

    /// PUT of an object.
    pub(crate) async fn update(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let new = read_object(change)?;
        let request = change.request;
        let exists = self.store.get(&self.key(request, &request.name)).is_some();
        if !exists && request.kind.create_on_update && request.subresource.is_none() {
            let mut new = new;
            if !object::meta(&new, "resourceVersion").is_empty()
                && object::meta(&new, "resourceVersion") != "0"
            {
                return Err(request.not_found());
            }
            object::set_meta(&mut new, "resourceVersion", "");
            object::set_meta(&mut new, "uid", "");
            check_names(request, &mut new)?;
            self.check_create(change)?;
            let outcome = self.create_object(change, new).await?;
            return respond::stored(outcome.code, request, change.accept, &outcome.json);
        }
        let unconditional = object::meta(&new, "resourceVersion").is_empty();
        if unconditional && !request.kind.unconditional_update {
            let mut errors = FieldErrors::default();
            errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(Status::invalid(
                request.kind.group,
                request.kind.kind,
                &request.name,
                errors.as_slice(),
            ));
        }
        let outcome = self
            .modify(change, if unconditional { Retry::Newer } else { Retry::Never }, |_| Ok(new.clone()))
            .await?;
        respond::stored(outcome.code, request, change.accept, &outcome.json)
    }

    /// PATCH of an object.
    pub(crate) async fn patch(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let request = change.request;
        let kind = request.kind;
        let outcome = match decode::media(change.headers) {
            "application/json-patch+json" => {
                let body = decode::json(change.body)?;
                self.modify(change, Retry::Newer, |old| check_kind(change, patch::json(old, &body)?)).await?
            }
            "application/merge-patch+json" => {
                let body = decode::json(change.body)?;
                self.modify(change, Retry::Newer, |old| {
                    let mut new = old.clone();
                    patch::merge(&mut new, &body);
                    check_kind(change, new)
                })
                .await?
            }
            "application/strategic-merge-patch+json" if request.custom.is_none() => {
                let body = decode::json(change.body)?;
                let schema = schema::find(kind.schema);
                self.modify(change, Retry::Newer, |old| {
                    let mut new = old.clone();
                    patch::strategic(&mut new, &body, schema)?;
                    check_kind(change, new)
                })
                .await?
            }
            APPLY => self.apply(change).await?,
            _ => return Err(Status::unsupported_media_type(patches(kind))),
        };
        respond::stored(outcome.code, request, change.accept, &outcome.json)
    }

    /// Changes the object of a request: `mutate` makes the new one from the old, and may be asked again when
    /// another change came first.
    pub(crate) async fn modify(
        &self,
        change: &Change<'_>,
        retry: Retry,
        mutate: impl Fn(&Value) -> Result<Value, Status>,
    ) -> Result<Outcome, Status> {
        let request = change.request;
        let kind = request.kind;
        let dry = request.dry_run()?;
        let key = self.key(request, &request.name);
        for _ in 0..ATTEMPTS {
            let current = self.store.get(&key).ok_or_else(|| request.not_found())?;
            // Whoever changes nothing of an object that is stored in another version has it stored in this.
            let moves = request.custom.as_ref().is_some_and(|custom| !custom.is_stored_so(current.json()));
            let current = self.entry(request, current).await?;
            let old = respond::parse_as(kind, current.json())?;
            let mut new = mutate(&old)?;
            check_names(request, &mut new)?;
            let wanted = object::meta(&new, "resourceVersion").to_owned();
            // A patch starts from the old object: only a version that it changed is a condition.
            if !wanted.is_empty() && wanted != object::meta(&old, "resourceVersion") {
                return Err(Status::modified(kind.group, kind.plural, &request.name));
            }
            let uid = object::meta(&new, "uid");
            if !uid.is_empty() && uid != object::meta(&old, "uid") {
                return Err(Status::conflict(
                    kind.group,
                    kind.plural,
                    &request.name,
                    format!(
                        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                        object::meta(&old, "uid")
                    ),
                ));
            }
            let claims = self.prepare(change, &old, &mut new).await?;
            self.track(change, Some(&old), &mut new);
            if same(&old, &new) && !moves {
                return Ok(created(StatusCode::OK, &current));
            }
            if dry {
                let version = object::meta(&old, "resourceVersion").to_owned();
                object::set_meta(&mut new, "resourceVersion", &version);
                return Ok(Outcome { code: StatusCode::OK, json: stored_text(kind, &new) });
            }
            let draft = self.draft(request, &new).await?;
            let result = if is_finished(kind, &new) {
                self.store.delete(key.clone(), Some(current.revision()), Some(draft)).await
            } else {
                self.store.update(key.clone(), draft, current.revision()).await
            };
            match result {
                Ok(entry) => {
                    claims.keep();
                    if is_finished(kind, &new) {
                        self.release(kind, &new);
                    } else {
                        self.release_difference(kind, &old, &new);
                    }
                    return Ok(created(StatusCode::OK, &self.entry(request, entry).await?));
                }
                // Whoever named the version wants to hear of it; anyone else is served on the newer object.
                Err(Error::Conflict { .. }) if retry == Retry::Newer => {}
                Err(error) => return Err(store_failure(kind, &request.name, error)),
            }
        }
        Err(Status::modified(kind.group, kind.plural, &request.name))
    }

    /// From what a client wants to what is stored: strategy, defaults, validation.
    async fn prepare(&self, change: &Change<'_>, old: &Value, new: &mut Value) -> Result<Claims<'_>, Status> {
        let request = change.request;
        let kind = request.kind;
        keep_to_part(request, new, old);
        metadata::prepare_update(new, old);
        // A binding adds nothing that could be left out.
        if request.subresource != Some(Subresource::Binding) {
            request.default(new);
        }
        let admission = Admission::new(self, change, Operation::Update, &request.name, old);
        if self.admit(&admission, new).await? {
            keep_to_part(request, new, old);
        }
        metadata::bump_generation(new, old, kind);
        let mut errors = FieldErrors::default();
        metadata::validate_update(new, old, &mut errors);
        metadata::validate(new, kind, &mut errors);
        let spec_change = request.subresource.is_none() || request.subresource == Some(Subresource::Scale);
        if spec_change {
            (kind.validate)(new, &mut errors);
            (kind.validate_update)(new, old, &mut errors);
        } else if let Some(part) = request.subresource {
            (kind.validate_part)(part, new, old, &mut errors);
        }
        self.validate_custom(change, new, Some(old), &mut errors);
        invalid_unless_empty(kind, &request.name, &errors)?;
        self.judge(&admission, new).await?;
        if spec_change { self.claim(kind, Some(old), new) } else { Ok(Claims::none(self)) }
    }

    /// PATCH with a configuration to be applied.
    async fn apply(&self, change: &Change<'_>) -> Result<Outcome, Status> {
        let request = change.request;
        let kind = request.kind;
        if request.query.get("fieldManager").is_empty() {
            let mut errors = FieldErrors::default();
            errors.required("fieldManager", "is required for apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", errors.as_slice()));
        }
        let body = decode::yaml(change.body)?;
        for field in ["apiVersion", "kind"] {
            if object::text(&body, &[field]).is_empty() {
                return Err(Status::bad_request(format!(
                    "couldn't get version/kind; json parse error: Object '{field}' is missing"
                )));
            }
        }
        if object::meta(&body, "managedFields").is_empty()
            && !object::meta_list(&body, "managedFields").is_empty()
        {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let wanted = check_kind(change, body)?;
        let force = request.query.get("force") == "true";
        let version = kind.api_version();
        let manager = self.manager(change, &version);
        let schema = request.schema();
        if self.store.get(&self.key(request, &request.name)).is_none() {
            if request.subresource.is_some() {
                return Err(request.not_found());
            }
            let mut wanted = wanted;
            check_names(request, &mut wanted)?;
            self.check_create(change)?;
            let object = apply::apply(None, &wanted, schema, manager, force)?;
            return self.create_object(change, object).await;
        }
        self.modify(change, Retry::Newer, |old| apply::apply(Some(old), &wanted, schema, manager, force))
            .await
    }

    /// Whether the user may make what he would change if it were there.
    fn check_create(&self, change: &Change<'_>) -> Result<(), Status> {
        let asked = request::attributes(&http::Method::POST, change.request);
        self.access.check(&self.store, change.user, &asked)
    }

    fn manager<'a>(&self, change: &'a Change<'_>, version: &'a str) -> apply::Manager<'a> {
        apply::Manager {
            name: &change.manager,
            api_version: version,
            subresource: change.request.subresource.map_or("", Subresource::as_str),
        }
    }

    /// Remembers who set which fields.
    fn track(&self, change: &Change<'_>, old: Option<&Value>, new: &mut Value) {
        if change.is_apply() {
            return;
        }
        let kind = change.request.kind;
        let version = kind.api_version();
        apply::track_update(old, new, change.request.schema(), self.manager(change, &version));
    }
}

/// Whether nothing keeps an object that is on its way out.
pub(crate) fn is_finished(kind: &Kind, object: &Value) -> bool {
    object::is_terminating(object)
        && object::meta_list(object, "finalizers").is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (kind.kind != "Namespace"
            || object::at(object, &["spec", "finalizers"]).as_array().is_none_or(Vec::is_empty))
}

/// The text of an object that is shown but not stored, in its stored form.
pub(crate) fn stored_text(kind: &Kind, object: &Value) -> Bytes {
    let text = match &kind.stored_as {
        Some(alias) => {
            let mut stored = object.clone();
            (alias.to_stored)(&mut stored);
            stored.to_string()
        }
        None => object.to_string(),
    };
    text.into()
}
