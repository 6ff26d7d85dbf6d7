//! The variables and types of admission policies and match conditions.
//!
//! `object` and `oldObject` are of no known type; `request` and `namespaceObject` are. Expressions that change an object
//! can make `Object`, whatever it is, and `JSONPatch`.

use std::{collections::BTreeMap, sync::LazyLock};

use crate::{
    environment::Environment,
    functions::Library,
    schema::Declared,
    types::{ObjectType, Type, signature::opaque},
    value::{List, Map, Value},
};

/// The name of the object that a policy changes; its parts are named by their paths, `Object.spec`.
pub(crate) const OBJECT: &str = "Object";

/// What a policy's expressions may use besides the object and the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admission {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object`, `JSONPatch` and `jsonpatch.escapeKey`.
    pub patches: bool,
}

static REQUEST: LazyLock<Declared> = LazyLock::new(|| {
    let text = Declared::string;
    let kind = |last: &'static str, name: &str| {
        Declared::of_fields(name, [("group", text()), ("version", text()), (last, text())])
    };
    let texts = || Declared::list(text());
    let user = Declared::of_fields(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Declared::map(texts()))],
    );
    Declared::of_fields(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind("kind", "kubernetes.GroupVersionKind")),
            ("resource", kind("resource", "kubernetes.GroupVersionResource")),
            ("subResource", text()),
            ("requestKind", kind("kind", "kubernetes.GroupVersionKind")),
            ("requestResource", kind("resource", "kubernetes.GroupVersionResource")),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Declared::bool()),
            ("options", Declared::unknown()),
        ],
    )
});

static NAMESPACE: LazyLock<Declared> = LazyLock::new(|| {
    let (text, time, number) = (Declared::string, Declared::timestamp, Declared::int);
    let texts = || Declared::list(text());
    let labels = || Declared::map(text());
    let condition = Declared::of_fields(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let metadata = Declared::of_fields(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", number()),
            ("deletionTimestamp", time()),
            ("generation", number()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let status = Declared::of_fields(
        "kubernetes.NamespaceStatus",
        [("conditions", Declared::list(condition)), ("phase", text())],
    );
    let spec = Declared::of_fields("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    Declared::of_fields("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
});

static JSON_PATCH: LazyLock<Declared> = LazyLock::new(|| {
    Declared::of_fields(
        "JSONPatch",
        [
            ("op", Declared::string()),
            ("path", Declared::string()),
            ("from", Declared::string()),
            ("value", Declared::unknown()),
        ],
    )
});

/// How `request` is declared.
pub fn request() -> &'static Declared {
    &REQUEST
}

/// How `namespaceObject` is declared.
pub fn namespace() -> &'static Declared {
    &NAMESPACE
}

impl Environment {
    /// That of the expressions of admission policies and match conditions in Kubernetes 1.`minor`.
    pub fn admission(minor: u32, with: Admission) -> Environment {
        let mut environment = Environment::kubernetes(minor)
            .with_variable("object", Type::Dyn)
            .with_variable("oldObject", Type::Dyn)
            .with_declared("namespaceObject", namespace())
            .with_declared("request", request());
        if with.params {
            environment = environment.with_variable("params", Type::Dyn);
        }
        if with.authorizer {
            let of = |name: &str| opaque(&format!("kubernetes.authorization.{name}")).unwrap_or(Type::Dyn);
            environment = environment
                .with_variable("authorizer", of("Authorizer"))
                .with_variable("authorizer.requestResource", of("ResourceCheck"));
        }
        if with.patches {
            environment = environment.with_object(&JSON_PATCH).with_library(Library::JsonPatch);
        }
        environment
    }
}

/// The type of `Object` or of a part of it, whose fields are not known.
pub(crate) fn object_type(name: &str) -> ObjectType {
    ObjectType { name: name.to_owned(), fields: BTreeMap::new(), open: true }
}

/// Whether a name is that of `Object` or of a part of it.
pub(crate) fn is_object(name: &str) -> bool {
    name.strip_prefix(OBJECT).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What is wrong with the names in an object that an expression made: each has to be named by its path.
pub fn misnamed(value: &Value<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Value::Object(instance) = value {
        check_names(value, &instance.of.name, &mut wrong);
    }
    wrong
}

fn check_names(value: &Value<'_>, path: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Object(instance) => {
            let name = &instance.of.name;
            if name != path {
                wrong.push(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            for (field, value) in &instance.fields {
                check_names(value, &format!("{path}.{field}"), wrong);
            }
        }
        Value::List(List::Owned(elements)) => {
            elements.iter().for_each(|element| check_names(element, path, wrong));
        }
        Value::Map(Map::Owned(entries)) => {
            entries.0.values().for_each(|value| check_names(value, path, wrong));
        }
        _ => {}
    }
}
