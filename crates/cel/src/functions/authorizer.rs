//! Questions to the authorizer from inside an expression. Who answers is the caller's business.

use std::{fmt, sync::Arc};

use dray_machinery::names;

use super::{Caller, Row, text};
use crate::value::{Fault, Hidden, Opaque, Outcome, Value, fault, no_such_overload};

pub(super) const AUTHORIZER: &[Row] = &[
    (
        "authorizer_path",
        "kubernetes.authorization.Authorizer.path(string) -> kubernetes.authorization.PathCheck",
        path,
    ),
    (
        "authorizer_group",
        "kubernetes.authorization.Authorizer.group(string) -> kubernetes.authorization.GroupCheck",
        group,
    ),
    (
        "authorizer_serviceaccount",
        "kubernetes.authorization.Authorizer.serviceAccount(string, string) -> kubernetes.authorization.Authorizer",
        service_account,
    ),
    (
        "groupcheck_resource",
        "kubernetes.authorization.GroupCheck.resource(string) -> kubernetes.authorization.ResourceCheck",
        resource,
    ),
    (
        "resourcecheck_subresource",
        "kubernetes.authorization.ResourceCheck.subresource(string) -> kubernetes.authorization.ResourceCheck",
        |_, arguments| narrowed(arguments, |check, text| check.subresource = text),
    ),
    (
        "resourcecheck_namespace",
        "kubernetes.authorization.ResourceCheck.namespace(string) -> kubernetes.authorization.ResourceCheck",
        |_, arguments| narrowed(arguments, |check, text| check.namespace = text),
    ),
    (
        "resourcecheck_name",
        "kubernetes.authorization.ResourceCheck.name(string) -> kubernetes.authorization.ResourceCheck",
        |_, arguments| narrowed(arguments, |check, text| check.name = text),
    ),
    (
        "pathcheck_check",
        "kubernetes.authorization.PathCheck.check(string) -> kubernetes.authorization.Decision",
        check_path,
    ),
    (
        "resourcecheck_check",
        "kubernetes.authorization.ResourceCheck.check(string) -> kubernetes.authorization.Decision",
        check_resource,
    ),
    ("decision_errored", "kubernetes.authorization.Decision.errored() -> bool", |_, arguments| {
        decision(arguments).map(|decision| Value::Bool(decision.error.is_some()))
    }),
    ("decision_error", "kubernetes.authorization.Decision.error() -> string", |_, arguments| {
        decision(arguments).map(|decision| Value::text(decision.error.as_deref().unwrap_or_default()))
    }),
    ("decision_allowed", "kubernetes.authorization.Decision.allowed() -> bool", |_, arguments| {
        decision(arguments).map(|decision| Value::Bool(decision.allowed))
    }),
    ("decision_reason", "kubernetes.authorization.Decision.reason() -> string", |_, arguments| {
        decision(arguments).map(|decision| Value::text(&*decision.reason))
    }),
];

pub(super) const SELECTORS: &[Row] = &[
    (
        "authorizer_fieldselector",
        "kubernetes.authorization.ResourceCheck.fieldSelector(string) -> kubernetes.authorization.ResourceCheck",
        |_, arguments| narrowed(arguments, |check, text| check.field_selector = text),
    ),
    (
        "authorizer_labelselector",
        "kubernetes.authorization.ResourceCheck.labelSelector(string) -> kubernetes.authorization.ResourceCheck",
        |_, arguments| narrowed(arguments, |check, text| check.label_selector = text),
    ),
];

/// A service account, instead of the user whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access<'a> {
    /// A path that is no resource.
    Path(&'a str),
    /// A resource.
    Resource(&'a ResourceAccess),
}

/// Which resource is asked for. What is empty was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceAccess {
    /// The API group.
    pub group: String,
    /// The resource, in the plural.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The field selector, as it was written.
    pub field_selector: String,
    /// The label selector, as it was written.
    pub label_selector: String,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong on the way to the answer.
    pub error: Option<String>,
}

/// Who answers expressions that ask whether something is allowed.
pub trait Authorizer: Send + Sync {
    /// Whether the user of the request, or a service account in its stead, may do this.
    fn authorize(&self, account: Option<&ServiceAccount>, verb: &str, access: &Access<'_>) -> Decision;
}

/// An authorizer and for whom it is asked.
#[derive(Clone)]
pub(crate) struct Handle {
    authorizer: Arc<dyn Authorizer>,
    account: Option<Arc<ServiceAccount>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("account", &self.account).finish_non_exhaustive()
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.authorizer, &other.authorizer) && self.account == other.account
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct PathCheck {
    handle: Handle,
    path: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct GroupCheck {
    handle: Handle,
    group: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ResourceCheck {
    handle: Handle,
    access: ResourceAccess,
}

impl Value<'_> {
    /// The variable `authorizer`.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        Value::hidden(Opaque::Authorizer(Handle { authorizer, account: None }))
    }

    /// The variable `authorizer.requestResource`.
    pub fn resource_authorizer(authorizer: Arc<dyn Authorizer>, access: ResourceAccess) -> Self {
        let handle = Handle { authorizer, account: None };
        Value::hidden(Opaque::ResourceCheck(Arc::new(ResourceCheck { handle, access })))
    }
}

fn handle<'v>(arguments: &'v [Value<'_>]) -> Result<&'v Handle, Fault> {
    match arguments.first() {
        Some(Value::Hidden(Hidden(Opaque::Authorizer(handle)))) => Ok(handle),
        _ => no_such_overload(),
    }
}

fn path<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (handle, path) = (handle(arguments)?.clone(), text(arguments, 1)?.to_owned());
    if path.trim().is_empty() {
        return fault("path must not be empty");
    }
    Ok(Value::hidden(Opaque::PathCheck(Arc::new(PathCheck { handle, path }))))
}

fn group<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (handle, group) = (handle(arguments)?.clone(), text(arguments, 1)?.to_owned());
    Ok(Value::hidden(Opaque::GroupCheck(Arc::new(GroupCheck { handle, group }))))
}

fn service_account<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (namespace, name) = (text(arguments, 1)?, text(arguments, 2)?);
    if !names::subdomain(name).is_empty() {
        return fault("Invalid service account name");
    }
    if !names::label(namespace).is_empty() {
        return fault("Invalid service account namespace");
    }
    let account = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
    let authorizer = handle(arguments)?.authorizer.clone();
    Ok(Value::hidden(Opaque::Authorizer(Handle { authorizer, account: Some(Arc::new(account)) })))
}

fn resource<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::Hidden(Hidden(Opaque::GroupCheck(check)))) = arguments.first() else {
        return no_such_overload();
    };
    let resource = text(arguments, 1)?.to_owned();
    if resource.trim().is_empty() {
        return fault("resource must not be empty");
    }
    let access = ResourceAccess { group: check.group.clone(), resource, ..ResourceAccess::default() };
    let handle = check.handle.clone();
    Ok(Value::hidden(Opaque::ResourceCheck(Arc::new(ResourceCheck { handle, access }))))
}

fn narrowed<'a>(arguments: &[Value<'a>], set: fn(&mut ResourceAccess, String)) -> Outcome<'a> {
    let Some(Value::Hidden(Hidden(Opaque::ResourceCheck(check)))) = arguments.first() else {
        return no_such_overload();
    };
    let mut access = check.access.clone();
    set(&mut access, text(arguments, 1)?.to_owned());
    let handle = check.handle.clone();
    Ok(Value::hidden(Opaque::ResourceCheck(Arc::new(ResourceCheck { handle, access }))))
}

fn ask<'a>(handle: &Handle, verb: &str, access: &Access<'_>) -> Outcome<'a> {
    let decision = handle.authorizer.authorize(handle.account.as_deref(), verb, access);
    Ok(Value::hidden(Opaque::Decision(Arc::new(decision))))
}

fn check_path<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments.first() {
        Some(Value::Hidden(Hidden(Opaque::PathCheck(check)))) => {
            ask(&check.handle, text(arguments, 1)?, &Access::Path(&check.path))
        }
        _ => no_such_overload(),
    }
}

fn check_resource<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments.first() {
        Some(Value::Hidden(Hidden(Opaque::ResourceCheck(check)))) => {
            ask(&check.handle, text(arguments, 1)?, &Access::Resource(&check.access))
        }
        _ => no_such_overload(),
    }
}

fn decision<'v>(arguments: &'v [Value<'_>]) -> Result<&'v Decision, Fault> {
    match arguments.first() {
        Some(Value::Hidden(Hidden(Opaque::Decision(decision)))) => Ok(decision),
        _ => no_such_overload(),
    }
}
