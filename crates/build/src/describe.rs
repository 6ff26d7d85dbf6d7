//! What a Dockerfile says without building it: `--call=check`, `outline` and `targets`.

use crate::plan::{self, From};
use crate::progress::Warning;
use crate::session::Session;
use dray_dockerfile::expand::Expander;
use dray_dockerfile::mounts::parse_switch;
use dray_dockerfile::{Dockerfile, Instruction, Kind, Stage};

/// What the checks of a Dockerfile found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// In the order of the lines.
    pub warnings: Vec<Warning>,
    /// Why it cannot be built at all, with the place; empty when it can.
    pub error: String,
    /// Whether what was found is to count as an error.
    pub is_failure: bool,
}

/// A stage that may be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetDescription {
    /// Its name; empty when it has none.
    pub name: String,
    /// Whether it is the one that is built when none is asked for.
    pub is_default: bool,
    /// What stands in the comment before it.
    pub description: String,
    /// What it stands on.
    pub base: String,
    /// Its platform, as it was written.
    pub platform: String,
    /// The line of its `FROM`.
    pub line: usize,
}

/// What a target takes from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target.
    pub name: String,
    /// What stands in the comment before it.
    pub description: String,
    /// Arguments: name, value, and what the comment before says.
    pub arguments: Vec<(String, Option<String>, String)>,
    /// Ids of secrets, and whether a build fails without them.
    pub secrets: Vec<(String, bool)>,
    /// Ids of ssh agents, and whether a build fails without them.
    pub ssh: Vec<(String, bool)>,
    /// Ids of cache mounts.
    pub caches: Vec<String>,
}

/// A comment that describes: it begins with the name that it is about.
fn description(comment: &[String], name: &str) -> String {
    let text = comment.join(" ");
    text.strip_prefix(name)
        .filter(|rest| rest.starts_with(' '))
        .map_or(String::new(), |rest| rest.trim().to_owned())
}

pub(crate) fn targets(file: &Dockerfile) -> Vec<TargetDescription> {
    let last = file.stages.len() - 1;
    let describe = |(index, stage): (usize, &Stage)| {
        let name = stage.name.clone().unwrap_or_default();
        TargetDescription {
            description: description(&stage.comment, &name),
            is_default: index == last,
            base: stage.base.clone(),
            platform: stage.platform.clone().unwrap_or_default(),
            line: stage.line,
            name,
        }
    };
    file.stages.iter().enumerate().map(describe).collect()
}

pub(crate) fn outline(session: &Session, target: usize) -> Outline {
    let file = &session.file;
    let mut needed = vec![false; target + 1];
    needed[target] = true;
    let mut outline =
        Outline { name: file.stages[target].name.clone().unwrap_or_default(), ..Outline::default() };
    outline.description = description(&file.stages[target].comment, &outline.name);
    for instruction in &file.arguments {
        arguments(session, instruction, &mut outline);
    }
    let named = &session.request.named_contexts;
    for index in (0..=target).rev() {
        if !needed[index] {
            continue;
        }
        let stage = &file.stages[index];
        if let Some(base) = plan::stage_named(&file.stages[..index], &stage.base) {
            needed[base] = true;
        }
        for instruction in &stage.instructions {
            arguments(session, instruction, &mut outline);
            let mut from = Vec::new();
            match &instruction.kind {
                Kind::Copy(transfer) | Kind::Add(transfer) => from.extend(transfer.from.as_deref()),
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        from.extend(mount.get("from"));
                        let required = mount.get("required").and_then(parse_switch).unwrap_or(false);
                        let id = mount.get("id").or(mount.get("target")).unwrap_or("default").to_owned();
                        match mount.kind.as_str() {
                            "secret" => outline.secrets.push((id, required)),
                            "ssh" => outline.ssh.push((id, required)),
                            "cache" => outline.caches.push(id),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            for name in from {
                if let From::Stage(stage) = plan::from(file, named, index, name) {
                    needed[stage] = true;
                }
            }
        }
    }
    outline
}

fn arguments(session: &Session, instruction: &Instruction, outline: &mut Outline) {
    let Kind::Arg(declared) = &instruction.kind else { return };
    for (name, default) in declared {
        if outline.arguments.iter().any(|(present, _, _)| present == name) {
            continue;
        }
        let given = session.request.build_args.get(name).cloned().flatten();
        let known = |name: &str| {
            outline
                .arguments
                .iter()
                .find(|(present, _, _)| present == name)
                .and_then(|(_, value, _)| value.clone())
        };
        let expander = Expander { escape: session.file.escape, lookup: &known };
        let value = given.or_else(|| default.as_ref().and_then(|text| expander.word(text).ok()));
        let description = description(&instruction.comment, name);
        outline.arguments.push((name.clone(), value, description));
    }
}
