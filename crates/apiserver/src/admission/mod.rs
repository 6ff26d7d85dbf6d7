//! What the cluster adds to objects and what it refuses: the admission plugins, in the reference's order
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>). Beside the subresources that are
//! protocols of their own, this is the one place of the crate that knows kinds by name.
//!
//! A plugin looks at the newest snapshot and does no I/O; all of them change what they change before any of them judges
//! the whole. Last come those that may have to wait, in `Inner::admit` and `Inner::judge`.

mod certificates;
mod classes;
mod expressions;
mod limits;
mod matching;
mod namespaces;
mod node_restriction;
mod nodes;
mod owners;
mod pods;
mod policies;
mod quota;
mod rounds;
mod security;
mod security_checks;
mod service_account;
mod storage;
mod webhooks;

use std::sync::Arc;

use dray_access::{Attributes, User};
use dray_machinery::{Status, Subresource};
use dray_store::Snapshot;
use serde_json::Value;

use rounds::Rounds;

use crate::{request::ResourceRequest, respond, server::Inner, write::Change};

pub(crate) use expressions::Programs;
pub(crate) use namespaces::IMMORTAL;
pub(crate) use policies::Policies;
pub(crate) use quota::Waiting;

/// What happens to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// Nothing is made: somebody talks to it.
    Connect,
}

/// What is to be admitted.
pub(crate) struct Admission<'a> {
    inner: &'a Inner,
    change: &'a Change<'a>,
    snapshot: Arc<Snapshot>,
    pub(crate) operation: Operation,
    /// The name of the object.
    pub(crate) name: &'a str,
    /// The object before; null where there is none.
    pub(crate) old: &'a Value,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(
        inner: &'a Inner,
        change: &'a Change<'a>,
        operation: Operation,
        name: &'a str,
        old: &'a Value,
    ) -> Admission<'a> {
        Admission { inner, change, snapshot: inner.store.snapshot(), operation, name, old }
    }

    fn request(&self) -> &'a ResourceRequest {
        self.change.request
    }

    fn user(&self) -> &'a User {
        self.change.user
    }

    /// Whether it is about a resource of a group itself, and not about a part of it.
    fn is(&self, group: &str, plural: &str) -> bool {
        self.is_part(group, plural, None)
    }

    fn is_part(&self, group: &str, plural: &str, subresource: Option<Subresource>) -> bool {
        let request = self.request();
        request.kind.group == group && request.kind.plural == plural && request.subresource == subresource
    }

    fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// A stored object, as "core/pods" and "NAMESPACE/NAME" name it.
    fn stored(&self, resource: &str, name: &str) -> Result<Option<Value>, Status> {
        self.snapshot.get(resource, name).map(|entry| respond::parse(entry.json())).transpose()
    }

    /// The stored objects of a resource, in a namespace where one is given.
    fn all(&self, resource: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        self.snapshot.range(resource, &prefix, None).map(|(_, entry)| respond::parse(entry.json())).collect()
    }

    /// 403 about the object.
    fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        let kind = self.request().kind;
        Status::forbidden(kind.group, kind.plural, self.name, why)
    }

    /// Whether the user may also do something else.
    fn may(&self, asked: &Attributes<'_>) -> Result<bool, Status> {
        Ok(self.inner.access.decide(&self.inner.store, self.user(), asked)?.allowed)
    }

    /// Tells the client something beside the answer.
    fn warn(&self, text: String) {
        let mut warnings = self.change.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Tells the audit log something about the request. What was said first stands.
    fn annotate(&self, key: String, value: String) {
        self.change.annotations.lock().entry(key).or_insert(value);
    }
}

type Mutate = fn(&Admission<'_>, &mut Value) -> Result<(), Status>;
type Validate = fn(&Admission<'_>, &Value) -> Result<(), Status>;

/// The plugins that change objects.
const MUTATING: &[(&str, Mutate)] = &[
    ("NamespaceLifecycle", namespaces::admit),
    ("LimitRanger", limits::set_defaults),
    ("ServiceAccount", service_account::admit),
    ("TaintNodesByCondition", nodes::taint),
    ("Priority", pods::set_priority),
    ("DefaultTolerationSeconds", pods::add_tolerations),
    ("DefaultStorageClass", storage::set_class),
    ("StorageObjectInUseProtection", storage::protect),
    ("RuntimeClass", classes::set_overhead),
    ("DefaultIngressClass", classes::set_ingress_class),
];

/// The plugins that judge them.
const VALIDATING: &[(&str, Validate)] = &[
    ("LimitRanger", limits::check),
    ("ServiceAccount", service_account::check),
    ("NodeRestriction", node_restriction::check),
    ("PodSecurity", security::check),
    ("Priority", classes::check_priority_class),
    ("OwnerReferencesPermissionEnforcement", owners::check),
    ("PersistentVolumeClaimResize", storage::check_resize),
    ("CertificateApproval", certificates::check_approval),
    ("CertificateSigning", certificates::check_signing),
    ("CertificateSubjectRestriction", certificates::check_subject),
    ("AdmissionExpressions", policies::check_expressions),
];

impl Inner {
    /// Lets the plugins change an object; tells whether others than our own did, who know no rules of kinds.
    pub(crate) async fn admit(&self, admission: &Admission<'_>, object: &mut Value) -> Result<bool, Status> {
        let mut rounds = Rounds::default();
        self.round(admission, object, &mut rounds).await?;
        if rounds.needs_second {
            rounds.is_second = true;
            self.round(admission, object, &mut rounds).await?;
        }
        Ok(rounds.needs_second)
    }

    async fn round(
        &self,
        admission: &Admission<'_>,
        object: &mut Value,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        MUTATING.iter().try_for_each(|(name, plugin)| traced(name, plugin(admission, object)))?;
        self.others_change(admission, object, rounds).await
    }

    async fn others_change(
        &self,
        admission: &Admission<'_>,
        object: &mut Value,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        traced("MutatingAdmissionPolicy", policies::mutate(admission, object, rounds).await)?;
        traced("MutatingAdmissionWebhook", webhooks::mutate(admission, object, rounds).await)
    }

    /// Lets the plugins judge an object; of a delete, the one that is there.
    pub(crate) async fn judge(&self, admission: &Admission<'_>, object: &Value) -> Result<(), Status> {
        VALIDATING.iter().try_for_each(|(name, plugin)| traced(name, plugin(admission, object)))?;
        if admission.operation != Operation::Delete {
            let old = Some(admission.old).filter(|old| !old.is_null());
            self.check_grant(admission.user(), admission.request(), old, object)?;
        }
        self.others_judge(admission, object).await?;
        traced("ResourceQuota", quota::charge(admission, object).await)
    }

    async fn others_judge(&self, admission: &Admission<'_>, object: &Value) -> Result<(), Status> {
        traced("ValidatingAdmissionPolicy", policies::validate(admission, object).await)?;
        traced("ValidatingAdmissionWebhook", webhooks::validate(admission, object).await)
    }

    /// Asks policies and webhooks about a request that makes no object of its own; `object` is what was sent.
    pub(crate) async fn admit_request(
        &self,
        change: &Change<'_>,
        operation: Operation,
        mut object: Value,
    ) -> Result<Value, Status> {
        let admission = Admission::new(self, change, operation, &change.request.name, &Value::Null);
        let mut rounds = Rounds::default();
        self.others_change(&admission, &mut object, &mut rounds).await?;
        if rounds.needs_second {
            rounds.is_second = true;
            self.others_change(&admission, &mut object, &mut rounds).await?;
        }
        self.others_judge(&admission, &object).await?;
        Ok(object)
    }
}

fn traced(plugin: &str, result: Result<(), Status>) -> Result<(), Status> {
    result.inspect_err(|status| tracing::debug!(plugin, %status, "admission refuses"))
}
