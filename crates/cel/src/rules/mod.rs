//! `x-kubernetes-validations`: the rules that a structural schema makes for its objects.
//!
//! [`Validator`] holds the compiled rules of a schema and judges objects; [`check`] judges the rules themselves when a
//! definition is written. Both follow apiextensions-apiserver in what they take, what they say and what it may cost.

mod compile;
mod definition;
mod field_path;
mod tree;
mod validate;

use serde_json::Value as Json;

pub use definition::check;
pub use field_path::field_path;
pub use tree::Validator;
pub use validate::Judgement;

/// The variable that a rule looks at.
pub(crate) const SELF: &str = "self";
/// The variable that holds what was there before.
pub(crate) const OLD_SELF: &str = "oldSelf";

/// The name of the type of what a rule looks at. Rules cannot name it.
pub(crate) const TYPE_NAME: &str = "selfType";
/// The deepest schema whose rules are taken.
pub(crate) const DEEPEST: usize = 150;

/// The kind of what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `FieldValueInvalid`.
    Invalid,
    /// `FieldValueForbidden`.
    Forbidden,
    /// `FieldValueRequired`.
    Required,
    /// `FieldValueDuplicate`.
    Duplicate,
    /// Not one of the values that there are.
    NotSupported,
    /// Nobody's fault but the server's.
    Internal,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// The path of the field, empty at the root.
    pub path: String,
    /// The kind.
    pub reason: Reason,
    /// The value to show; none for objects and lists.
    pub value: Option<Json>,
    /// What is wrong.
    pub message: String,
}

/// One rule, as the schema has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    pub(crate) rule: String,
    pub(crate) message: String,
    pub(crate) message_expression: String,
    pub(crate) reason: Option<String>,
    pub(crate) field_path: String,
    pub(crate) optional_old_self: Option<bool>,
}

impl Rule {
    /// The rules that stand directly in a schema.
    pub(crate) fn of(schema: &Json) -> Vec<Rule> {
        let rules = schema.get("x-kubernetes-validations").and_then(Json::as_array);
        rules.into_iter().flatten().map(Rule::read).collect()
    }

    fn read(rule: &Json) -> Rule {
        let text = |name: &str| rule.get(name).and_then(Json::as_str).map(str::to_owned);
        Rule {
            rule: text("rule").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            message_expression: text("messageExpression").unwrap_or_default(),
            reason: text("reason"),
            field_path: text("fieldPath").unwrap_or_default(),
            optional_old_self: rule.get("optionalOldSelf").and_then(Json::as_bool),
        }
    }

    /// What names the rule in a message: its own message, or itself.
    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    /// What is said when the rule does not hold and no expression says it.
    fn default_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.shown())
        } else {
            self.message.trim().to_owned()
        }
    }

    fn violated(&self) -> Reason {
        match self.reason.as_deref() {
            Some("FieldValueForbidden") => Reason::Forbidden,
            Some("FieldValueRequired") => Reason::Required,
            Some("FieldValueDuplicate") => Reason::Duplicate,
            _ => Reason::Invalid,
        }
    }
}

/// Below a path.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
