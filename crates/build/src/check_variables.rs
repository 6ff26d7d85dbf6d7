//! Build checks about variables: those that are used and not declared.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::check_rules;
use crate::checks::Findings;
use crate::plan::stage_named;
use crate::platform::Platform;
use crate::state::{Arguments, PROXIES};
use dray_dockerfile::closest;
use dray_dockerfile::expand::Expander;
use dray_dockerfile::{Command, Dockerfile, Instruction, Kind, Stage};

/// What a stage knows at its end, for those that stand on it.
type Known = BTreeSet<String>;

pub(crate) fn check(findings: &mut Findings<'_>, file: &Dockerfile) {
    let arguments = before_stages(file);
    let mut ends: Vec<Known> = Vec::new();
    for (index, stage) in file.stages.iter().enumerate() {
        of_from(findings, file, stage, &arguments);
        let base = stage_named(&file.stages[..index], &stage.base);
        let (mut known, is_certain) = match base {
            Some(base) => (ends[base].clone(), true),
            None => environment(findings, &stage.base),
        };
        for instruction in &stage.instructions {
            of_instruction(findings, file, instruction, &mut known, is_certain);
        }
        ends.push(known);
    }
}

/// The arguments before the first stage, with the values that they have by themselves.
fn before_stages(file: &Dockerfile) -> Arguments {
    let mut arguments = Arguments::new(Default::default(), &Platform::host(), "");
    for instruction in &file.arguments {
        let Kind::Arg(declared) = &instruction.kind else { continue };
        for (name, default) in declared {
            let lookup = |name: &str| arguments.global(name);
            let expander = Expander { escape: file.escape, lookup: &lookup };
            let value = default.as_ref().and_then(|text| expander.word(text).ok());
            arguments.declare_global(name, Some(value.unwrap_or_default()));
        }
    }
    arguments
}

fn of_from(findings: &mut Findings<'_>, file: &Dockerfile, stage: &Stage, arguments: &Arguments) {
    let (used, with_defaults) = {
        let used = RefCell::new(Vec::new());
        let lookup = |name: &str| {
            used.borrow_mut().push(name.to_owned());
            arguments.global(name)
        };
        let expander = Expander { escape: file.escape, lookup: &lookup };
        let value = expander.word(&stage.base);
        if let Some(platform) = &stage.platform {
            let _ = expander.word(platform);
        }
        (used.into_inner(), value)
    };
    let undefined: Vec<&String> = used.iter().filter(|name| arguments.global(name).is_none()).collect();
    for name in &undefined {
        let known: Vec<&str> = arguments.global_names().collect();
        let help = closest(name, &known).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
        let message = format!("FROM argument '{name}' is not declared{help}");
        findings.add(&check_rules::UNDEFINED_ARG_IN_FROM, stage.line, stage.line, message);
    }
    let is_fit = |text: &String| text == "scratch" || dray_image::Reference::parse(text).is_ok();
    if undefined.is_empty() && !used.is_empty() && !with_defaults.as_ref().is_ok_and(is_fit) {
        let message =
            format!("Default value for ARG {} results in empty or invalid base image name", stage.base);
        findings.add(&check_rules::INVALID_DEFAULT_ARG_IN_FROM, stage.line, stage.line, message);
    }
}

/// The variables of a base image, and whether these are all.
fn environment(findings: &Findings<'_>, base: &str) -> (Known, bool) {
    if base == "scratch" {
        return (Known::new(), true);
    }
    let image = findings.session.builder.engine.images().resolve(base);
    match image {
        Ok(image) => {
            let names = image.config.config.env.iter().filter_map(|entry| entry.split_once('='));
            (names.map(|(name, _)| name.to_owned()).collect(), true)
        }
        Err(_) => (Known::from(["PATH".to_owned()]), false),
    }
}

fn of_instruction(
    findings: &mut Findings<'_>,
    file: &Dockerfile,
    instruction: &Instruction,
    known: &mut Known,
    is_certain: bool,
) {
    let texts: Vec<&str> = match &instruction.kind {
        Kind::Copy(transfer) | Kind::Add(transfer) => {
            let mut texts: Vec<&str> = transfer.sources.iter().map(String::as_str).collect();
            texts.push(&transfer.destination);
            texts.extend(
                [&transfer.chown, &transfer.chmod, &transfer.from].into_iter().flatten().map(String::as_str),
            );
            texts
        }
        Kind::Env(pairs) | Kind::Label(pairs) => pairs.iter().map(|(_, value)| value.as_str()).collect(),
        Kind::Arg(declared) => declared.iter().filter_map(|(_, default)| default.as_deref()).collect(),
        Kind::Workdir(text) | Kind::User(text) | Kind::StopSignal(text) => vec![text],
        Kind::Expose(words) | Kind::Volume(words) => words.iter().map(String::as_str).collect(),
        Kind::Run(run) if matches!(run.command, Command::Shell(_) | Command::Exec(_)) => run
            .mounts
            .iter()
            .flat_map(|mount| mount.options.iter().map(|(_, value)| value.as_str()))
            .collect(),
        _ => Vec::new(),
    };
    let mut undefined = Known::new();
    for text in texts {
        let used = RefCell::new(Vec::new());
        let lookup = |name: &str| {
            used.borrow_mut().push(name.to_owned());
            None
        };
        // A form with a default of its own needs no declaration.
        let plain =
            !text.contains(":-") && !text.contains(":+") && !text.contains(":?") && !text.contains("${");
        let braced = text.contains("${") && !text.contains([':', '-', '+', '?']);
        let _ = Expander { escape: file.escape, lookup: &lookup }.word(text);
        if plain || braced {
            undefined.extend(used.into_inner().into_iter().filter(|name| !known.contains(name)));
        }
    }
    for name in undefined {
        let near: Vec<&str> = known.iter().map(String::as_str).collect();
        let near = closest(&name, &near);
        // An image that is not here may have any variable, but hardly one that only looks like one of ours.
        if !is_certain && near.is_none() || PROXIES.contains(&name.as_str()) || !is_name(&name) {
            continue;
        }
        let help = near.map_or(String::new(), |near| format!(" (did you mean ${near}?)"));
        let message = format!("Usage of undefined variable '${name}'{help}");
        findings.add(&check_rules::UNDEFINED_VAR, instruction.line, instruction.end, message);
    }
    match &instruction.kind {
        Kind::Env(pairs) => known.extend(pairs.iter().map(|(name, _)| name.clone())),
        Kind::Arg(declared) => known.extend(declared.iter().map(|(name, _)| name.clone())),
        _ => {}
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}
