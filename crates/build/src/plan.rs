//! What of a Dockerfile is to be done: the target, the stages that it needs, and what each of them stands on.

use std::collections::BTreeMap;

use crate::error::Place;
use crate::platform::Platform;
use crate::progress::SourceRange;
use crate::request::NamedContext;
use crate::state::Arguments;
use crate::{Error, Result};
use dray_dockerfile::closest;
use dray_dockerfile::expand::Expander;
use dray_dockerfile::{Dockerfile, Kind, Stage};

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    Stage(usize),
    /// A context that the caller named.
    Named(String),
    Image(String),
}

/// What `--from` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Stage(usize),
    Named(String),
    Image(String),
    Scratch,
}

/// A stage, as it is to be built for one platform.
#[derive(Clone, Debug)]
pub(crate) struct StagePlan {
    pub(crate) base: Base,
    pub(crate) platform: Platform,
    /// Whether the target needs it.
    pub(crate) needed: bool,
    /// The number of its first step, in the classic builder's count.
    pub(crate) first_step: usize,
}

/// A Dockerfile for one platform.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<StagePlan>,
    pub(crate) target: usize,
    /// What was declared before the first stage.
    pub(crate) arguments: Arguments,
    /// Steps in the classic builder's count.
    pub(crate) steps: usize,
}

/// The stage that was asked for, by name or number.
pub(crate) fn target(file: &Dockerfile, name: &str) -> Result<usize> {
    if name.is_empty() {
        return Ok(file.stages.len() - 1);
    }
    if let Some(index) = stage_or_number(&file.stages, name) {
        return Ok(index);
    }
    let known: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
    let help = closest(&name.to_lowercase(), &known)
        .map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    Err(Error::invalid(format!("failed to reach build target {name} in Dockerfile{help}")))
}

/// The stage that a name means, the last of several.
pub(crate) fn stage_named(stages: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
}

fn stage_or_number(stages: &[Stage], name: &str) -> Option<usize> {
    stage_named(stages, name).or_else(|| name.parse().ok().filter(|index| *index < stages.len()))
}

/// The context that a name means, with the forms that an image's name has.
fn context_named<'c>(named: &'c BTreeMap<String, NamedContext>, name: &str) -> Option<&'c str> {
    let lower = name.to_lowercase();
    if let Some((key, _)) = named.get_key_value(&lower) {
        return Some(key);
    }
    let wanted = dray_image::Reference::parse(&lower).ok()?;
    let same = |key: &&String| dray_image::Reference::parse(key).is_ok_and(|key| key == wanted);
    named.keys().find(same).map(String::as_str)
}

/// What a name in `--from` means: a stage before this one, a named context, or an image.
pub(crate) fn from(
    file: &Dockerfile,
    named: &BTreeMap<String, NamedContext>,
    index: usize,
    name: &str,
) -> From {
    let earlier = &file.stages[..index];
    if let Some(stage) = stage_named(earlier, name) {
        return From::Stage(stage);
    }
    if let Some(context) = context_named(named, name) {
        return From::Named(context.to_owned());
    }
    if name == "scratch" {
        return From::Scratch;
    }
    match name.parse().ok().filter(|stage| *stage < index) {
        Some(stage) => From::Stage(stage),
        None => From::Image(name.to_owned()),
    }
}

impl Plan {
    pub(crate) fn new(
        file: &Dockerfile,
        target: usize,
        platform: &Platform,
        named: &BTreeMap<String, NamedContext>,
        given: &BTreeMap<String, Option<String>>,
        target_name: &str,
    ) -> Result<Self> {
        let mut arguments = Arguments::new(given.clone(), platform, target_name);
        for instruction in &file.arguments {
            let Kind::Arg(declared) = &instruction.kind else { continue };
            for (name, default) in declared {
                let default =
                    default.as_ref().map(|text| expand_global(file, &arguments, text)).transpose()?;
                arguments.declare_global(name, default);
            }
        }
        let mut stages = Vec::new();
        for (index, stage) in file.stages.iter().enumerate().take(target + 1) {
            stages.push(plan_stage(file, index, stage, platform, named, &arguments)?);
        }
        let mut plan = Self { stages, target, arguments, steps: 0 };
        plan.mark(file, named);
        let mut step = file.arguments.len();
        for (stage, plan) in file.stages.iter().zip(&mut plan.stages) {
            plan.first_step = step;
            if plan.needed {
                step += stage.instructions.len() + 1;
            }
        }
        plan.steps = step;
        Ok(plan)
    }

    /// Marks the stages that the target needs.
    fn mark(&mut self, file: &Dockerfile, named: &BTreeMap<String, NamedContext>) {
        self.stages[self.target].needed = true;
        for index in (0..=self.target).rev() {
            if !self.stages[index].needed {
                continue;
            }
            if let Base::Stage(base) = self.stages[index].base {
                self.stages[base].needed = true;
            }
            for name in sources(&file.stages[index]) {
                if let From::Stage(stage) = from(file, named, index, name) {
                    self.stages[stage].needed = true;
                }
            }
        }
    }
}

/// The names that a stage takes files from. Those with a variable are found when it is built.
fn sources(stage: &Stage) -> Vec<&str> {
    let mut names = Vec::new();
    for instruction in &stage.instructions {
        match &instruction.kind {
            Kind::Copy(transfer) | Kind::Add(transfer) => names.extend(transfer.from.as_deref()),
            Kind::Run(run) => names.extend(run.mounts.iter().filter_map(|mount| mount.get("from"))),
            _ => {}
        }
    }
    names
}

pub(crate) fn expand_global(file: &Dockerfile, arguments: &Arguments, text: &str) -> Result<String> {
    let lookup = |name: &str| arguments.global(name);
    Expander { escape: file.escape, lookup: &lookup }.word(text).map_err(Error::invalid)
}

fn plan_stage(
    file: &Dockerfile,
    index: usize,
    stage: &Stage,
    platform: &Platform,
    named: &BTreeMap<String, NamedContext>,
    arguments: &Arguments,
) -> Result<StagePlan> {
    let at = |error: Error| error.at(|| Place { range: SourceRange::line(stage.line), ..Place::default() });
    let name = expand_global(file, arguments, &stage.base).map_err(at)?;
    if name.is_empty() {
        let message = format!(
            "base name ({}) should not be blank: give its ARG a default before the first FROM",
            stage.base
        );
        return Err(at(Error::invalid(message)));
    }
    let mut own = platform.clone();
    if let Some(text) = &stage.platform {
        let text = expand_global(file, arguments, text).map_err(at)?;
        if !text.is_empty() {
            own = text.parse().map_err(at)?;
        }
    }
    let replaced = stage.name.as_ref().filter(|name| named.contains_key(*name));
    let base = if let Some(replaced) = replaced {
        Base::Named(replaced.clone())
    } else if let Some(earlier) = stage_named(&file.stages[..index], &name) {
        Base::Stage(earlier)
    } else if let Some(context) = context_named(named, &name) {
        Base::Named(context.to_owned())
    } else if name == "scratch" {
        Base::Scratch
    } else {
        Base::Image(name)
    };
    Ok(StagePlan { base, platform: own, needed: false, first_step: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(source: &str, target_name: &str) -> Plan {
        let file = dray_dockerfile::parse(source.as_bytes()).unwrap();
        let index = target(&file, target_name).unwrap();
        Plan::new(&file, index, &Platform::host(), &BTreeMap::new(), &BTreeMap::new(), target_name).unwrap()
    }

    #[test]
    fn only_what_the_target_needs_is_planned() {
        let source = "ARG B=one\nFROM x AS one\nRUN a\nFROM y AS two\nFROM $B AS three\nRUN --mount=from=two,target=/a b\n\
            FROM scratch AS four\nCOPY --from=0 / /\nFROM three\n";
        let needed =
            |name: &str| plan(source, name).stages.iter().map(|stage| stage.needed).collect::<Vec<_>>();
        assert_eq!(needed(""), [true, true, true, false, true]);
        assert_eq!(needed("four"), [true, false, false, true]);
        assert_eq!(needed("1"), [false, true]);
        let last = plan(source, "");
        assert_eq!((last.steps, last.stages[4].first_step), (7, 6));
        assert_eq!(last.stages[2].base, Base::Stage(0));
    }

    #[test]
    fn mistaken_targets_are_helped() {
        let file = dray_dockerfile::parse(b"FROM x AS build\n").unwrap();
        let error = target(&file, "biuld").unwrap_err().to_string();
        assert_eq!(error, "failed to reach build target biuld in Dockerfile (did you mean build?)");
    }
}
