//! The errors of the API: `Status` objects with the reasons, causes and words that clients match on
//! (apimachinery's `api/errors` and `util/validation/field`).

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use serde_json::{Map, Value, json};

/// The machine-readable reason of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One cause in a failure's details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The kind of cause, as `FieldValueInvalid`.
    pub reason: String,
    /// Words for people.
    pub message: String,
    /// The path of the field, or empty.
    pub field: String,
}

/// A failure as the API reports it: one pointer, so that results stay small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status(Box<Failure>);

impl Deref for Status {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl DerefMut for Status {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

/// What a failure says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Reason.
    pub reason: Reason,
    /// Words for people.
    pub message: String,
    /// Name of the object concerned.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind or resource, as the reference puts it for this reason.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Causes.
    pub causes: Vec<Cause>,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
    /// A token with which a broken list can be continued; empty otherwise.
    pub list_continue: String,
    /// What the client is told beside it.
    pub warnings: Vec<String>,
    /// What somebody else told, which clients get but for message and code; null otherwise.
    pub told: Value,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// "pods", or "deployments.apps" in a group.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Status {
    /// A failure with nothing but these.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Status {
        Status(Box::new(Failure {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after: None,
            list_continue: String::new(),
            warnings: Vec::new(),
            told: Value::Null,
        }))
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Status::new(404, Reason::NotFound, message).about(group, plural, name)
    }

    /// 404 for a path that is no resource.
    pub fn no_such_resource() -> Status {
        Status::new(404, Reason::NotFound, "the server could not find the requested resource")
    }

    /// 409 for a taken name.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Status::new(409, Reason::AlreadyExists, message).about(group, plural, name)
    }

    /// 409 with a reason in words.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Status {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, plural));
        Status::new(409, Reason::Conflict, message).about(group, plural, name)
    }

    /// 409 for a stale resourceVersion.
    pub fn modified(group: &str, plural: &str, name: &str) -> Status {
        Status::conflict(
            group,
            plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403 with a reason in words.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Status {
        let subject = qualified(group, plural);
        let message = if name.is_empty() {
            format!("{subject} is forbidden: {why}")
        } else {
            format!("{subject} \"{name}\" is forbidden: {why}")
        };
        Status::new(403, Reason::Forbidden, message).about(group, plural, name)
    }

    /// 422 with every field that is wrong.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        let subject = qualified(group, kind);
        let all = match errors {
            [one] => one.to_string(),
            many => {
                let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                format!("[{}]", texts.join(", "))
            }
        };
        let mut status = Status::new(422, Reason::Invalid, format!("{subject} \"{name}\" is invalid: {all}"))
            .about(group, kind, name);
        status.causes = errors.iter().map(FieldError::cause).collect();
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Status {
        Status::new(
            405,
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    pub fn not_acceptable(offered: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Status::new(406, Reason::NotAcceptable, message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 410: list again.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, Reason::Expired, message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Status {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 500.
    pub fn internal(why: impl fmt::Display) -> Status {
        Status::new(500, Reason::InternalError, format!("Internal error occurred: {why}"))
    }

    /// A failure that somebody else told, as an object of the kind `Status`, in other words. Its code is at least
    /// `least`.
    pub fn told(status: &Value, least: u16, message: impl Into<String>) -> Status {
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(least);
        // What is no code of HTTP cannot be sent.
        let code = if (400..=599).contains(&code) { code } else { least };
        let mut failure = Status::new(code, Reason::Unknown, message);
        failure.told = status.clone();
        failure
    }

    /// 504 for a resourceVersion of the future.
    pub fn too_large_version(requested: u64, current: u64) -> Status {
        let mut status = Status::new(
            504,
            Reason::Timeout,
            format!("Too large resource version: {requested}, current: {current}"),
        );
        status.retry_after = Some(1);
        status.causes.push(Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        });
        status
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        if let Some(told) = self.told.as_object() {
            let mut status = told.clone();
            for (field, value) in [
                ("kind", json!("Status")),
                ("apiVersion", json!("v1")),
                ("metadata", json!({})),
                ("status", json!("Failure")),
                ("message", json!(self.message)),
                ("code", json!(self.code)),
            ] {
                status.insert(field.into(), value);
            }
            return Value::Object(status);
        }
        let mut details = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                details.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut entry = Map::new();
                for (key, text) in
                    [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)]
                {
                    if !text.is_empty() {
                        entry.insert(key.into(), json!(text));
                    }
                }
                Value::Object(entry)
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.list_continue.is_empty() {
            status["metadata"]["continue"] = json!(self.list_continue);
        }
        if self.reason != Reason::Unknown {
            status["reason"] = json!(self.reason.as_str());
        }
        if !details.is_empty() || self.reason == Reason::NotFound {
            status["details"] = Value::Object(details);
        }
        status
    }

    /// The object that reports a success without an object, as for a delete.
    pub fn success(group: &str, plural: &str, name: &str, uid: &str) -> Value {
        let mut details = json!({ "name": name, "kind": plural, "uid": uid });
        if !group.is_empty() {
            details["group"] = json!(group);
        }
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Fault {
    Required,
    Invalid(Value),
    TypeInvalid(Value),
    Contradiction,
    NotSupported(Value),
    Duplicate(Value),
    Forbidden,
    TooLong,
    TooMany(Value),
    NotFound(Value),
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    fault: Fault,
    field: String,
    detail: String,
}

impl FieldError {
    /// The path of the field.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong, without the path.
    pub fn body(&self) -> String {
        let detail = &self.detail;
        let with = |head: String| if detail.is_empty() { head } else { format!("{head}: {detail}") };
        match &self.fault {
            Fault::Required => with("Required value".into()),
            Fault::Forbidden => with("Forbidden".into()),
            Fault::Contradiction => with("Invalid value".into()),
            Fault::TooLong => with("Too long".into()),
            Fault::Invalid(value) | Fault::TypeInvalid(value) => {
                with(format!("Invalid value: {}", shown(value)))
            }
            Fault::NotSupported(value) => with(format!("Unsupported value: {}", shown(value))),
            Fault::Duplicate(value) => with(format!("Duplicate value: {}", shown(value))),
            Fault::TooMany(value) => with(format!("Too many: {}", shown(value))),
            Fault::NotFound(value) => with(format!("Not found: {}", shown(value))),
        }
    }

    /// As a client is told it.
    pub fn cause(&self) -> Cause {
        let reason = match &self.fault {
            Fault::Required => "FieldValueRequired",
            Fault::Invalid(_) | Fault::Contradiction => "FieldValueInvalid",
            Fault::TypeInvalid(_) => "FieldValueTypeInvalid",
            Fault::NotSupported(_) => "FieldValueNotSupported",
            Fault::Duplicate(_) => "FieldValueDuplicate",
            Fault::Forbidden => "FieldValueForbidden",
            Fault::TooLong => "FieldValueTooLong",
            Fault::TooMany(_) => "FieldValueTooMany",
            Fault::NotFound(_) => "FieldValueNotFound",
        };
        Cause { reason: reason.into(), message: self.body(), field: self.field.clone() }
    }
}

/// As the reference prints a bad value: strings quoted, structures as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// What is wrong with an object, collected.
#[derive(Debug, Default)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    fn push(&mut self, fault: Fault, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { fault, field: field.into(), detail: detail.into() });
    }

    /// Missing.
    pub fn required(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(Fault::Required, field, detail);
    }

    /// Wrong.
    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(Fault::Invalid(value.into()), field, detail);
    }

    /// Wrong in a way that no single value shows.
    pub fn invalid_without_value(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(Fault::Contradiction, field, detail);
    }

    /// Not one of the values that there are.
    pub fn not_supported(&mut self, field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        self.push(
            Fault::NotSupported(value.into()),
            field,
            format!("supported values: {}", quoted.join(", ")),
        );
    }

    /// Not one of the values that there are, which the detail says in words.
    pub fn unsupported(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(Fault::NotSupported(value.into()), field, detail);
    }

    /// Of another type than it should be.
    pub fn type_invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(Fault::TypeInvalid(value.into()), field, detail);
    }

    /// Twice in a list.
    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(Fault::Duplicate(value.into()), field, "");
    }

    /// Not allowed here.
    pub fn forbidden(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(Fault::Forbidden, field, detail);
    }

    /// Longer than so many bytes.
    pub fn too_long(&mut self, field: impl Into<String>, limit: usize) {
        self.push(Fault::TooLong, field, format!("may not be more than {limit} bytes"));
    }

    /// More entries than there may be.
    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, limit: usize) {
        self.push(Fault::TooMany(json!(actual)), field, format!("must have at most {limit} items"));
    }

    /// Names something that is not there.
    pub fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(Fault::NotFound(value.into()), field, "");
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something is wrong that leaves no sense in asking further: a value of a wrong type, or missing, too long
    /// or not among those that there are.
    pub fn is_blocking(&self) -> bool {
        let blocks = |fault: &Fault| {
            matches!(
                fault,
                Fault::NotSupported(_)
                    | Fault::Required
                    | Fault::TooLong
                    | Fault::TooMany(_)
                    | Fault::TypeInvalid(_)
            )
        };
        self.0.iter().any(|error| blocks(&error.fault))
    }

    /// The same of a value that is part of another, at a path there.
    #[must_use]
    pub fn within(mut self, path: &str) -> FieldErrors {
        for error in &mut self.0 {
            error.field = match error.field.as_str() {
                "" => path.to_owned(),
                field if field.starts_with('[') => format!("{path}{field}"),
                field => format!("{path}.{field}"),
            };
        }
        self
    }

    /// Adds what is wrong elsewhere.
    pub fn append(&mut self, other: FieldErrors) {
        self.0.extend(other.0);
    }

    /// All that is wrong, in the order it was found.
    pub fn as_slice(&self) -> &[FieldError] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_as_the_reference_does() {
        assert_eq!(
            Status::not_found("apps", "deployments", "web").message,
            "deployments.apps \"web\" not found"
        );
        let mut errors = FieldErrors::default();
        errors.required("spec.containers", "");
        errors.not_supported("spec.restartPolicy", "x", &["Always", "Never"]);
        let status = Status::invalid("", "Pod", "web", errors.as_slice());
        assert_eq!(
            status.message,
            "Pod \"web\" is invalid: [spec.containers: Required value, spec.restartPolicy: Unsupported value: \
             \"x\": supported values: \"Always\", \"Never\"]"
        );
        let value = status.to_value();
        assert_eq!(value["details"]["causes"][0]["reason"], "FieldValueRequired");
        assert_eq!(value["code"], 422);
    }
}
