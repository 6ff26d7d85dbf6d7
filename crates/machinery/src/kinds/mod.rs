//! The kinds table: one row for each kind; everything else about objects is generic.
//!
//! A row names the kind, says how it is addressed, and holds the functions of its strategy: defaults,
//! validation, what an update may change, and the columns that `kubectl get` prints.

mod access;
mod admission;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod columns;
mod core;
pub mod custom;
mod devices;
mod discovery;
mod events;
mod extension;
mod field;
mod fill;
mod flow;
mod network;
mod node;
mod pod;
mod policy;
mod quota;
mod schedule;
mod service;
mod storage;
mod table;
mod volume;

use jiff::Timestamp;
use serde_json::Value;

use crate::{FieldErrors, status::qualified};

pub use columns::Column;
pub use table::{all, find, find_kind, find_version};

/// How objects of a kind may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain.
    Subdomain,
    /// A DNS label.
    Label,
    /// A DNS label that begins with a letter.
    Label1035,
    /// Anything that fits into one segment of a path.
    PathSegment,
    /// An address in its canonical form.
    Address,
}

/// A part of an object that is addressed, and granted, on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Subresource {
    Status,
    Approval,
    Scale,
    Binding,
    Eviction,
    Log,
    Exec,
    Attach,
    PortForward,
    EphemeralContainers,
    Resize,
    Finalize,
    Token,
    PodProxy,
    ServiceProxy,
    NodeProxy,
}

impl Subresource {
    /// The segment of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Approval => "approval",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Resize => "resize",
            Subresource::Finalize => "finalize",
            Subresource::Token => "token",
            Subresource::PodProxy | Subresource::ServiceProxy | Subresource::NodeProxy => "proxy",
        }
    }

    /// Whether its requests are somebody else's, who is reached through the object.
    pub fn is_proxy(self) -> bool {
        self.as_str() == "proxy"
    }

    /// The verbs it takes.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Status
            | Subresource::Approval
            | Subresource::Scale
            | Subresource::EphemeralContainers
            | Subresource::Resize => &["get", "patch", "update"],
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
            Subresource::Log => &["get"],
            Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
            Subresource::Finalize => &["update"],
            Subresource::PodProxy | Subresource::ServiceProxy | Subresource::NodeProxy => {
                &["create", "delete", "get", "patch", "update"]
            }
        }
    }

    /// Group, version and kind of what it reads and writes, where that is not the object's own.
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Subresource::Scale => Some(("autoscaling", "v1", "Scale")),
            Subresource::Binding => Some(("", "v1", "Binding")),
            Subresource::Eviction => Some(("policy", "v1", "Eviction")),
            Subresource::Exec => Some(("", "v1", "PodExecOptions")),
            Subresource::Attach => Some(("", "v1", "PodAttachOptions")),
            Subresource::PortForward => Some(("", "v1", "PodPortForwardOptions")),
            Subresource::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Subresource::PodProxy => Some(("", "v1", "PodProxyOptions")),
            Subresource::ServiceProxy => Some(("", "v1", "ServiceProxyOptions")),
            Subresource::NodeProxy => Some(("", "v1", "NodeProxyOptions")),
            _ => None,
        }
    }
}

/// A kind that is stored as another: both show the same objects.
#[derive(Debug, Clone, Copy)]
pub struct StoredAs {
    /// "GROUP/PLURAL" of the kind that is stored.
    pub resource: &'static str,
    /// Makes the stored form.
    pub to_stored: fn(&mut Value),
    /// Makes this kind's form.
    pub from_stored: fn(&mut Value),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// The kind's name, in CamelCase.
    pub kind: &'static str,
    /// The name of its lists; empty for the usual one.
    pub list: &'static str,
    /// The resource's name, in lower case and plural.
    pub plural: &'static str,
    /// The same in the singular.
    pub singular: &'static str,
    /// Short names that clients accept.
    pub short_names: &'static [&'static str],
    /// Categories ("all") that it belongs to.
    pub categories: &'static [&'static str],
    /// Whether its objects are questions: they are answered and not kept.
    pub question: bool,
    /// Whether its objects are shown and not changed by clients.
    pub read_only: bool,
    /// Whether a definition added it, while the server runs.
    pub defined: bool,
    /// Whether the kind itself is on its way out: nothing of it is made or changed any more.
    pub terminating: bool,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The name of its schema.
    pub schema: &'static str,
    /// Its subresources.
    pub subresources: &'static [Subresource],
    /// Whether the server counts changes of the specification.
    pub generation: bool,
    /// Whether a delete leaves time to end.
    pub graceful: bool,
    /// Whether an update of an object that is not there makes it.
    pub create_on_update: bool,
    /// Whether an update need not name the version that it replaces.
    pub unconditional_update: bool,
    /// How objects may be named.
    pub name_rule: NameRule,
    /// The fields that selectors may ask about beside name and namespace.
    pub fields: &'static [(&'static str, &'static [&'static str])],
    /// Fills in what a client may leave out.
    pub defaults: fn(&mut Value),
    /// Takes away what a client may not say when it creates an object.
    pub prepare_create: fn(&mut Value),
    /// Takes away what a client may not say when it changes an object (second: the object before).
    pub prepare_update: fn(&mut Value, &Value),
    /// Says what is wrong with an object.
    pub validate: fn(&Value, &mut FieldErrors),
    /// Says what is wrong with a new object beyond that: what is old may be so.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// Says what a change may not be (second: the object before).
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Says what a change through a subresource may not be (third: the object before).
    pub validate_part: fn(Subresource, &Value, &Value, &mut FieldErrors),
    /// The path of the structure that says who made the object; empty where none does.
    pub requester: &'static [&'static str],
    /// What `kubectl get` prints after the name.
    pub columns: &'static [Column],
    /// The cells of these columns, name included.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// Where its objects are stored, when not on their own.
    pub stored_as: Option<StoredAs>,
}

fn nothing(_object: &mut Value) {}
fn carry_status(object: &mut Value, old: &Value) {
    crate::object::copy_field(old, object, "status");
}
fn drop_status(object: &mut Value) {
    crate::object::remove(object, "status");
}
fn nothing_with_old(_object: &mut Value, _old: &Value) {}
fn valid(_object: &Value, _errors: &mut FieldErrors) {}
fn valid_update(_object: &Value, _old: &Value, _errors: &mut FieldErrors) {}
fn valid_part(_part: Subresource, _object: &Value, _old: &Value, _errors: &mut FieldErrors) {}

impl Kind {
    /// What a row that says nothing else is like.
    pub const BASE: Kind = Kind {
        group: "",
        version: "v1",
        kind: "",
        list: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        question: false,
        read_only: false,
        defined: false,
        terminating: false,
        namespaced: true,
        schema: "",
        subresources: &[],
        generation: false,
        graceful: false,
        create_on_update: false,
        unconditional_update: true,
        name_rule: NameRule::Subdomain,
        fields: &[],
        defaults: nothing,
        prepare_create: nothing,
        prepare_update: nothing_with_old,
        validate: valid,
        validate_create: valid,
        validate_update: valid_update,
        validate_part: valid_part,
        requester: &[],
        columns: columns::CREATED,
        cells: columns::name_and_created,
        stored_as: None,
    };

    /// "v1" or "apps/v1".
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind's list, as "PodList".
    pub fn list_kind(&self) -> String {
        if self.list.is_empty() { format!("{}List", self.kind) } else { self.list.to_owned() }
    }

    /// "pods", or "deployments.apps".
    pub fn qualified(&self) -> String {
        qualified(self.group, self.plural)
    }

    /// "GROUP/PLURAL" under which its objects are stored.
    pub fn storage(&self) -> String {
        if let Some(alias) = &self.stored_as {
            return alias.resource.to_owned();
        }
        let group = if self.group.is_empty() { "core" } else { self.group };
        format!("{group}/{}", self.plural)
    }

    /// Whether it has a subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The subresource of a path's segment.
    pub fn subresource(&self, segment: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|subresource| subresource.as_str() == segment)
    }

    /// Whether a selector may ask about a field.
    pub fn has_field(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced)
            || self.fields.iter().any(|(name, _)| *name == field)
    }

    /// Where the value of a field is that selectors may ask about: where the first place has none, the next one counts. Nowhere for
    /// an unknown field.
    pub fn field_paths(&self, field: &str) -> impl Iterator<Item = &'static [&'static str]> + use<'_> {
        const OF_ALL: &[(&str, &[&str])] =
            &[("metadata.name", &["metadata", "name"]), ("metadata.namespace", &["metadata", "namespace"])];
        let field = field.to_owned();
        OF_ALL.iter().chain(self.fields).filter(move |(name, _)| *name == field).map(|(_, path)| *path)
    }

    /// The value of a field that selectors may ask about.
    pub fn field(&self, object: &Value, field: &str) -> String {
        let mut paths = self.field_paths(field).peekable();
        if paths.peek().is_none() {
            return String::new();
        }
        let value =
            paths.map(|path| crate::object::at(object, path)).find(|value| !value.is_null() && *value != "");
        match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => match field {
                "spec.unschedulable" | "spec.hostNetwork" => "false".into(),
                "status.replicas" | "status.successful" => "0".into(),
                _ => String::new(),
            },
        }
    }

    /// The verbs of the resource itself.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.question {
            return &["create"];
        }
        if self.read_only {
            return &["get", "list"];
        }
        if self.terminating {
            return &["delete", "deletecollection", "get", "list", "watch"];
        }
        if self.kind == "Namespace" {
            return &["create", "delete", "get", "list", "patch", "update", "watch"];
        }
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }
}
