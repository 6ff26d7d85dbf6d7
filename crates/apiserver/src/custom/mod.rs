//! Kinds that definitions (`CustomResourceDefinition`) add while the server runs.
//!
//! A definition is read once into a [`Definition`]: rows for its versions, their schemas, columns and conversions. The
//! [`Registry`] holds those that are served; a request that asks for a kind without a built-in row takes a [`Custom`] from
//! it and keeps it to its end, so that a change of the definition is seen by the next request and by none halfway. Who
//! decides what is served, and cleans up behind a definition that goes, is the [`lifecycle`].
//!
//! The handlers of all kinds ask a request's `Custom` where theirs differ: what a body may say, what is filled in and judged
//! ([`objects`]), how a stored object is read in another version ([`stored`], [`convert`]), and how it is shown ([`columns`],
//! [`openapi`]). None of this knows a kind by name but that of definitions.

pub(crate) mod check;
mod columns;
mod convert;
mod definition;
mod jsonpath;
mod lifecycle;
mod names;
mod objects;
pub(crate) mod openapi;
mod registry;
mod stored;
mod structural;

use dray_machinery::{Kind, object};
use serde_json::{Value, json};

pub(crate) use columns::Columns;
pub(crate) use definition::{Custom, Definition};
pub(crate) use names::set_condition;
pub(crate) use registry::{Registry, Table, by_priority};

/// Where definitions are stored.
pub(crate) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// What keeps a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether a kind is that of definitions.
pub(crate) fn is_definition(kind: &Kind) -> bool {
    kind.plural == PLURAL && kind.group == GROUP
}

/// Holds a definition that is to go until its objects have gone.
pub(crate) fn hold(kind: &Kind, definition: &mut Value) {
    if !is_definition(kind) || object::has_finalizer(definition, CLEANUP) {
        return;
    }
    let finalizers = object::meta_mut(definition).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut() {
        finalizers.push(json!(CLEANUP));
    }
    let words = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(definition, "Terminating", "True", "InstanceDeletionPending", words);
}
