//! What is made of an object of a custom kind on its way to the store, and what is wrong with it: the strategy that built-in
//! kinds have in their rows.

use dray_cel::cost;
use dray_machinery::{FieldErrors, object};
use serde_json::{Value, json};

use super::{
    Custom, check,
    structural::{default, embedded, prune, values},
};
use crate::{server::Inner, write::Change};

impl Inner {
    /// Says what is wrong with an object by the definition of its kind, and with a definition by itself.
    pub(crate) fn validate_custom(
        &self,
        change: &Change<'_>,
        new: &Value,
        old: Option<&Value>,
        errors: &mut FieldErrors,
    ) {
        let request = change.request;
        if request.subresource.is_none() {
            check::validate(request.kind, new, old, errors);
        }
        let Some(custom) = &request.custom else { return };
        let warnings = custom.validate(new, old, errors);
        let mut told = change.warnings.lock();
        for text in warnings {
            if !told.contains(&text) {
                told.push(text);
            }
        }
    }
}

impl Custom {
    /// Reads an object by the schema: what it does not name goes, and is named.
    ///
    /// # Errors
    /// What of the object's type or metadata is of a wrong type.
    pub(crate) fn conform(&self, value: &mut Value) -> Result<Vec<String>, String> {
        let mut unknown = embedded::coerce(value, &self.structural, true)?;
        unknown.extend(prune::prune(value, &self.structural, true));
        Ok(unknown)
    }

    /// Fills in what is missing.
    pub(crate) fn default(&self, value: &mut Value) {
        default::drop_nulls(value, &self.structural);
        default::fill(value, &self.structural);
    }

    /// Says what is wrong with an object, and of a change (`old`: the object before) only with what has changed. Returns
    /// what a client is warned of.
    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>, errors: &mut FieldErrors) -> Vec<String> {
        let mut found = FieldErrors::default();
        values::validate(new, old, &self.structural, "", &mut found);
        if let Some(scale) = &self.scale {
            values::replicas(new, &scale.wanted, &mut found);
            values::replicas(new, &scale.found, &mut found);
            let selector = object::at(new, &names(&scale.selector));
            if !scale.selector.is_empty() && !selector.is_null() && !selector.is_string() {
                let words =
                    format!("{} accessor error: the value is expected to be a string", scale.selector);
                found.invalid(scale.selector.as_str(), "", words);
            }
        }
        embedded::validate(new, &self.structural, true, "", &mut found);
        // What was twice in a list before may stay so.
        let twice = |object: &Value| {
            let mut twice = FieldErrors::default();
            values::unique(object, &self.structural, "", &mut twice);
            twice
        };
        if old.is_none_or(|old| twice(old).is_empty()) {
            found.append(twice(new));
        }
        let mut warnings = unqualified(new, old);
        if let Some(rules) = &self.rules {
            if found.is_blocking() {
                let words = "some validation rules were not checked because the object was invalid; correct the existing \
                             errors to complete validation";
                found.invalid("<nil>", Value::Null, words);
            } else {
                let mut budget = i64::try_from(cost::PER_OBJECT).unwrap_or(i64::MAX);
                let judgement = rules.validate(new, old, &mut budget);
                judgement.violations.into_iter().for_each(|violation| check::tell(violation, &mut found));
                let mut told = FieldErrors::default();
                judgement.warnings.into_iter().for_each(|violation| check::tell(violation, &mut told));
                warnings.extend(told.as_slice().iter().map(ToString::to_string));
            }
        }
        errors.append(found);
        warnings
    }

    /// The Scale of an object.
    ///
    /// # Errors
    /// Where the object says nothing about how many there shall be.
    pub(crate) fn scale(&self, object: &Value, metadata: Value) -> Option<Result<Value, String>> {
        let scale = self.scale.as_ref()?;
        let wanted = object::at(object, &names(&scale.wanted));
        let Some(wanted) = wanted.as_i64() else {
            return Some(Err(format!("the spec replicas field {:?} does not exist", scale.wanted)));
        };
        let found = object::at(object, &names(&scale.found)).as_i64().unwrap_or(0);
        let mut shown = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": { "replicas": wanted }, "status": { "replicas": found },
        });
        let selector = object::at(object, &names(&scale.selector)).as_str().unwrap_or_default();
        if !scale.selector.is_empty() && !selector.is_empty() {
            shown["status"]["selector"] = json!(selector);
        }
        Some(Ok(shown))
    }

    /// Writes how many there shall be.
    pub(crate) fn set_scale(&self, object: &mut Value, replicas: i64) {
        let Some(scale) = &self.scale else { return };
        let names = names(&scale.wanted);
        let Some((last, above)) = names.split_last() else { return };
        let mut place = object;
        for name in above {
            object::child(place, name);
            place = &mut place[*name];
        }
        if !place.is_object() {
            *place = json!({});
        }
        place[*last] = json!(replicas);
    }
}

/// What is said about new finalizers whose names could be anybody's.
fn unqualified(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map_or(&[][..], |old| object::meta_list(old, "finalizers"));
    let added = object::meta_list(new, "finalizers").iter().filter(|finalizer| !known.contains(finalizer));
    let plain = added
        .filter_map(Value::as_str)
        .filter(|name| !name.contains('/') && !matches!(*name, "orphan" | "foregroundDeletion"));
    plain
        .map(|name| {
            format!(
                "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name including a path (/) to avoid \
                 accidental conflicts with other finalizer writers"
            )
        })
        .collect()
}

/// The names of a path as ".spec.replicas".
fn names(path: &str) -> Vec<&str> {
    path.trim_start_matches('.').split('.').filter(|name| !name.is_empty()).collect()
}
