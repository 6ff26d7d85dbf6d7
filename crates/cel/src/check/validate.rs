//! What Kubernetes forbids beyond types: literals that cannot be read, lists and maps of several types, and formats that
//! do not fit their arguments.

use std::sync::Arc;

use super::{Checked, Reference};
use crate::{
    environment::Environment,
    functions::{self, regexes},
    source::{Issue, Source},
    syntax::ast::{Id, Literal, Node},
    types::Type,
    value::time,
};

/// What is forbidden in a tree.
pub(crate) fn validate(checked: &Checked, source: &Source, environment: &Environment) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut report = |at: Id, message: String| issues.push(source.issue(checked.ast.at(at), message));
    let exempt = formatted(checked);
    for id in 0..checked.ast.len() as Id {
        match checked.ast.node(id) {
            Node::Call { function, target, arguments } => {
                if let Some(at) = arguments.first()
                    && !is_valid(function, target.is_some(), checked.ast.node(*at))
                {
                    report(*at, format!("invalid {function} argument"));
                }
                if let Some((at, message)) = wrong_format(checked, id) {
                    report(at, message);
                }
            }
            Node::List(elements) if environment.homogeneous && !exempt[id as usize] => {
                let elements = elements.iter().map(|(element, optional)| (*element, *optional));
                if let Some((at, message)) = mixed(checked, elements) {
                    report(at, message);
                }
            }
            Node::Map(entries) if environment.homogeneous && !exempt[id as usize] => {
                let keys = mixed(checked, entries.iter().map(|entry| (entry.key, false)));
                let values = mixed(checked, entries.iter().map(|entry| (entry.value, entry.optional)));
                for (at, message) in keys.into_iter().chain(values) {
                    report(at, message);
                }
            }
            _ => {}
        }
    }
    issues.sort_by_key(|issue| (issue.line, issue.column));
    issues
}

/// Whether what is known of a function's first argument is something that it can take.
fn is_valid(function: &str, method: bool, argument: &Node) -> bool {
    let Node::Literal(literal) = argument else { return true };
    match (function, literal) {
        ("duration", Literal::String(text)) => time::parse_duration(text).is_some(),
        ("timestamp", Literal::String(text)) => time::parse_timestamp(text).is_some(),
        ("timestamp", Literal::Int(seconds)) => time::Timestamp::new(i128::from(*seconds), 0).is_ok(),
        ("matches", Literal::String(text)) if method => regexes::compile(text).is_ok(),
        _ => true,
    }
}

fn string(checked: &Checked, id: Id) -> Option<Arc<str>> {
    match checked.ast.node(id) {
        Node::Literal(Literal::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Which nodes stand inside of a call of `format`, whose arguments may be of any types.
fn formatted(checked: &Checked) -> Vec<bool> {
    let mut exempt = vec![false; checked.ast.len()];
    // Parents come after their children.
    for id in (0..checked.ast.len() as Id).rev() {
        let node = checked.ast.node(id);
        let is_format = matches!(node, Node::Call { function, .. } if &**function == "format");
        if exempt[id as usize] || is_format {
            for child in node.children() {
                exempt[child as usize] = true;
            }
        }
    }
    exempt
}

/// The first element whose type is another than that of the first.
fn mixed(checked: &Checked, elements: impl Iterator<Item = (Id, bool)>) -> Option<(Id, String)> {
    let mut first: Option<&Type> = None;
    for (id, optional) in elements {
        let of = checked.type_of(id);
        let of = if optional { of.unwrap_optional().0 } else { of };
        match first {
            None => first = Some(of),
            Some(first) if first == of => {}
            Some(first) => return Some((id, format!("expected type '{first}' but found '{of}'"))),
        }
    }
    None
}

fn wrong_format(checked: &Checked, id: Id) -> Option<(Id, String)> {
    let Node::Call { target: Some(target), arguments, .. } = checked.ast.node(id) else { return None };
    let Reference::Function("format", _) = checked.reference(id) else { return None };
    let [list] = arguments.as_slice() else { return None };
    let Node::List(elements) = checked.ast.node(*list) else { return None };
    let format = string(checked, *target)?;
    let types: Vec<Type> = elements.iter().map(|(element, _)| checked.type_of(*element).clone()).collect();
    let wrong = functions::check(&format, &types).err()?;
    let at = wrong.argument.map_or(id, |index| elements[index].0);
    Some((at, wrong.message))
}
