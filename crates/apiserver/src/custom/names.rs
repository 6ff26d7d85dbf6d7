//! The names that definitions claim, and the conditions that say what became of the claim.

use std::collections::BTreeSet;

use dray_machinery::{kinds, object, time};
use serde_json::{Value, json};

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Sets a condition; the time of a transition is that of a change of its status.
pub(crate) fn set_condition(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let conditions = object::child(definition, "status").entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let mut wanted = json!({ "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": time::now() });
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(known) => {
            if known["status"] == status && known["lastTransitionTime"].is_string() {
                wanted["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = wanted;
        }
        None => conditions.push(wanted),
    }
}

/// The names that others of a group have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

fn texts<'a>(names: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    names[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}

impl Taken {
    /// What the built-in kinds of a group are called.
    pub(super) fn built_in(group: &str) -> Taken {
        let mut taken = Taken::default();
        for kind in kinds::all().iter().filter(|kind| kind.group == group) {
            let names = [kind.plural, kind.singular].into_iter().chain(kind.short_names.iter().copied());
            taken.resources.extend(names.map(str::to_owned));
            taken.kinds.extend([kind.kind.to_owned(), kind.list_kind()]);
        }
        taken
    }

    /// Adds names that were accepted.
    pub(super) fn add(&mut self, accepted: &Value) {
        let text = |field: &str| object::text(accepted, &[field]).to_owned();
        self.resources.extend([text("plural"), text("singular")]);
        self.resources.extend(texts(accepted, "shortNames").map(str::to_owned));
        self.kinds.extend([text("kind"), text("listKind")]);
    }
}

/// Writes into a definition's status which of its names are accepted, and what follows from that: as far as others have
/// them, they are not.
pub(super) fn accept(definition: &mut Value, taken: &Taken) {
    let wanted = definition["spec"]["names"].clone();
    let known = definition["status"]["acceptedNames"].clone();
    let mut accepted = if known.is_object() { known.clone() } else { json!({}) };
    let mut refused: Option<(&str, String)> = None;
    for (field, reason, others) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let used: Vec<String> = match &wanted[field] {
            Value::String(name) if known[field] != *name && others.contains(name) => vec![in_use(name)],
            Value::Array(_) => texts(&wanted, field)
                .filter(|name| others.contains(*name) && texts(&known, field).all(|known| known != *name))
                .map(in_use)
                .collect(),
            _ => Vec::new(),
        };
        match used.as_slice() {
            [] => object::copy_field(&wanted, &mut accepted, field),
            [one] => refused = Some((reason, one.clone())),
            many => refused = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    object::copy_field(&wanted, &mut accepted, "categories");
    object::child(definition, "status").insert("acceptedNames".into(), accepted);
    match refused {
        Some((reason, message)) => set_condition(definition, "NamesAccepted", "False", reason, &message),
        None => set_condition(definition, "NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    }
}

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

/// Writes whether a definition in a group of Kubernetes' own is approved.
pub(super) fn approve(definition: &mut Value) {
    let group = format!(".{}", object::text(definition, &["spec", "group"]));
    if ![".k8s.io", ".kubernetes.io"].iter().any(|domain| group.ends_with(domain)) {
        return;
    }
    let given = object::at(definition, &["metadata", "annotations", APPROVAL]).as_str().map(str::to_owned);
    let (status, reason, message) = match given {
        None => (
            "False",
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?}, see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        Some(given) if given.starts_with("unapproved") => {
            ("False", "UnapprovedAnnotation", format!("not approved: {given:?}"))
        }
        Some(given) if given.starts_with("https://") => {
            ("True", "ApprovedAnnotation", format!("approved in {given}"))
        }
        Some(given) => (
            "False",
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111, but it is {given:?}"
            ),
        ),
    };
    set_condition(definition, "KubernetesAPIApprovalPolicyConformant", status, reason, &message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(names: Value) -> Value {
        json!({ "spec": { "group": "example.com", "names": names } })
    }

    fn condition(definition: &Value) -> String {
        let condition = &definition["status"]["conditions"][0];
        let text = |field: &str| object::text(condition, &[field]);
        format!("{} {} {}", text("status"), text("reason"), text("message"))
    }

    #[test]
    fn names_that_others_have_are_not_accepted() {
        let first = json!({ "plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList",
            "shortNames": ["th", "tg"], "categories": ["all"] });
        let mut one = definition(first.clone());
        accept(&mut one, &Taken::default());
        assert_eq!(condition(&one), "True NoConflicts no conflicts found");
        assert_eq!(one["status"]["acceptedNames"], first);
        let mut taken = Taken::built_in("example.com");
        taken.add(&first);
        for (names, expected) in [
            (
                json!({ "plural": "things", "singular": "x", "kind": "X", "listKind": "XList" }),
                "False PluralConflict \"things\" is already in use",
            ),
            (
                json!({ "plural": "xs", "singular": "thing", "kind": "X", "listKind": "XList" }),
                "False SingularConflict \"thing\" is already in use",
            ),
            (
                json!({ "plural": "xs", "singular": "x", "kind": "Thing", "listKind": "XList" }),
                "False KindConflict \"Thing\" is already in use",
            ),
            (
                json!({ "plural": "xs", "singular": "x", "kind": "X", "listKind": "ThingList" }),
                "False ListKindConflict \"ThingList\" is already in use",
            ),
            (
                json!({ "plural": "xs", "singular": "x", "kind": "X", "listKind": "XList", "shortNames": ["th", "y", "tg"] }),
                "False ShortNamesConflict [\"th\" is already in use, \"tg\" is already in use]",
            ),
            (
                json!({ "plural": "xs", "singular": "x", "kind": "X", "listKind": "XList" }),
                "True NoConflicts no conflicts found",
            ),
        ] {
            let mut two = definition(names);
            accept(&mut two, &taken);
            assert_eq!(condition(&two), expected);
        }
        // What was accepted once stays.
        accept(&mut one, &taken);
        assert_eq!(condition(&one), "True NoConflicts no conflicts found");
        let pods =
            definition(json!({ "plural": "deployments", "singular": "x", "kind": "X", "listKind": "XList" }));
        let mut pods = pods;
        accept(&mut pods, &Taken::built_in("apps"));
        assert_eq!(condition(&pods), "False PluralConflict \"deployments\" is already in use");
    }

    #[test]
    fn groups_of_kubernetes_are_approved() {
        let told = |group: &str, annotation: Option<&str>| {
            let mut definition = json!({ "spec": { "group": group } });
            if let Some(text) = annotation {
                definition["metadata"]["annotations"][APPROVAL] = json!(text);
            }
            approve(&mut definition);
            object::text(&definition["status"]["conditions"][0], &["reason"]).to_owned()
        };
        assert_eq!(told("example.com", None), "");
        assert_eq!(told("x.k8s.io", None), "MissingAnnotation");
        assert_eq!(told("x.k8s.io", Some("unapproved, a test")), "UnapprovedAnnotation");
        assert_eq!(told("x.kubernetes.io", Some("https://github.com/x/y/pull/1")), "ApprovedAnnotation");
    }
}
