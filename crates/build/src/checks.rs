//! The build checks: what a Dockerfile should not do although it can.
//!
//! They look at the Dockerfile alone, and at the environment of images that are here already; nothing is fetched.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Error;
use crate::check_rules::{self, Rule};
use crate::check_variables;
use crate::progress::{SourceRange, Warning};
use crate::session::Session;
use dray_dockerfile::lines::Line;
use dray_dockerfile::{Command, Dockerfile, Instruction, Kind, Stage};

/// Words that are no names of stages.
const RESERVED: &[&str] = &["context", "scratch"];

/// Collects what is found.
pub(crate) struct Findings<'s> {
    pub(crate) session: &'s Session,
    source: Arc<[u8]>,
    skipped: BTreeSet<String>,
    found: Vec<Warning>,
}

impl Findings<'_> {
    /// Notes what a rule says of a line.
    pub(crate) fn add(&mut self, rule: &'static Rule, line: usize, end: usize, message: String) {
        let is_asked = |name: &str| {
            let experimental = &self.session.file.directives.experimental_checks;
            experimental.iter().any(|asked| asked == name || asked == "all")
        };
        let skipped = self.skipped.contains(rule.name) || self.skipped.contains("all");
        if skipped || (rule.experimental && !is_asked(rule.name)) {
            return;
        }
        let warning = Warning {
            vertex: None,
            rule: rule.name,
            short: format!("{}: {message} (line {line})", rule.name),
            detail: rule.detail.to_owned(),
            url: rule.url(),
            file: self.session.definition.path.clone(),
            source: Arc::clone(&self.source),
            range: SourceRange { start_line: line, start_column: 0, end_line: end.max(line), end_column: 0 },
        };
        if !self.found.contains(&warning) {
            self.found.push(warning);
        }
    }
}

/// Whether what is found is to count as an error.
pub(crate) fn are_errors(session: &Session) -> bool {
    session.request.checks_are_errors || session.file.directives.checks_are_errors
}

pub(crate) fn as_error(warnings: &[Warning]) -> Error {
    let rules: BTreeSet<&str> = warnings.iter().map(|warning| warning.rule).collect();
    Error::Checks { rules: rules.into_iter().collect::<Vec<_>>().join(", ") }
}

/// All that the checks say, in the order of the lines.
pub(crate) fn check(session: &Session) -> Vec<Warning> {
    let directives = &session.file.directives;
    let skipped = directives.skip_checks.iter().chain(&session.request.skip_checks).cloned().collect();
    let source = Arc::clone(&session.definition.dockerfile);
    let mut findings = Findings { session, source, skipped, found: Vec::new() };
    // The words as they were written, which the instructions no longer have.
    let lines = dray_dockerfile::lines::read(&session.definition.dockerfile)
        .map(|lines| lines.lines)
        .unwrap_or_default();
    of_lines(&mut findings, &lines);
    of_stages(&mut findings, &session.file);
    check_variables::check(&mut findings, &session.file);
    let mut found = findings.found;
    found.sort_by_key(|warning| warning.range.start_line);
    found
}

/// What concerns the writing alone.
fn of_lines(findings: &mut Findings<'_>, lines: &[Line]) {
    let keyword = |line: &Line| line.text.split_whitespace().next().unwrap_or_default().to_owned();
    let is_upper = |word: &str| word == word.to_uppercase();
    let is_lower = |word: &str| word == word.to_lowercase();
    let upper = lines.iter().filter(|line| is_upper(&keyword(line))).count();
    let lower = lines.iter().filter(|line| is_lower(&keyword(line))).count();
    for line in lines {
        let word = keyword(line);
        let consistent = if upper >= lower { is_upper(&word) } else { is_lower(&word) };
        if !consistent {
            let wanted = if upper >= lower { "uppercase" } else { "lowercase" };
            let message =
                format!("Command '{word}' should match the case of the command majority ({wanted})");
            findings.add(&check_rules::CONSISTENT_INSTRUCTION_CASING, line.number, line.end, message);
        }
        if let Some(empty) = line.empty_continuation {
            let message = "Empty continuation line".to_owned();
            findings.add(&check_rules::NO_EMPTY_CONTINUATION, empty, line.end, message);
        }
        let words: Vec<&str> = line.text.split_whitespace().collect();
        match word.to_uppercase().as_str() {
            "FROM" => {
                let keyword = words.iter().rev().nth(1).filter(|word| word.eq_ignore_ascii_case("as"));
                if let Some(keyword) = keyword {
                    let differs =
                        (is_upper(&word) && !is_upper(keyword)) || (is_lower(&word) && !is_lower(keyword));
                    if differs {
                        let message = format!("'{keyword}' and '{word}' keywords' casing do not match");
                        findings.add(&check_rules::FROM_AS_CASING, line.number, line.end, message);
                    }
                    let name = words.last().copied().unwrap_or_default();
                    if !is_lower(name) {
                        let message = format!("Stage name '{name}' should be lowercase");
                        findings.add(&check_rules::STAGE_NAME_CASING, line.number, line.end, message);
                    }
                }
            }
            "MAINTAINER" => {
                let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                findings.add(&check_rules::MAINTAINER_DEPRECATED, line.number, line.end, message);
            }
            name @ ("ENV" | "LABEL") if words.len() > 2 && !words[1].contains('=') => {
                let message = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                findings.add(&check_rules::LEGACY_KEY_VALUE_FORMAT, line.number, line.end, message);
            }
            _ => {}
        }
    }
}

/// What concerns stages and their instructions.
fn of_stages(findings: &mut Findings<'_>, file: &Dockerfile) {
    let mut names: Vec<&str> = Vec::new();
    for stage in &file.stages {
        if let Some(name) = stage.name.as_deref() {
            if names.contains(&name) {
                let message = format!("Duplicate stage name '{name}', stage names should be unique");
                findings.add(&check_rules::DUPLICATE_STAGE_NAME, stage.line, stage.line, message);
            }
            if RESERVED.contains(&name) {
                let message = format!("Stage name should not use the same name as reserved stage '{name}'");
                findings.add(&check_rules::RESERVED_STAGE_NAME, stage.line, stage.line, message);
            }
            names.push(name);
        }
        if let Some(platform) = &stage.platform {
            let plain = platform.trim_start_matches("${").trim_start_matches('$').trim_end_matches('}');
            if plain == "TARGETPLATFORM" && platform.starts_with('$') {
                let message = format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
                );
                findings.add(&check_rules::REDUNDANT_TARGET_PLATFORM, stage.line, stage.line, message);
            } else if !platform.contains('$') {
                let message = format!("FROM --platform flag should not use constant value \"{platform}\"");
                findings.add(&check_rules::FROM_PLATFORM_FLAG_CONST, stage.line, stage.line, message);
            }
        }
        let name = stage.name.clone().unwrap_or_default();
        described(findings, &stage.comment, &name, stage.line, "stage");
        of_stage(findings, stage);
    }
    for instruction in file.arguments.iter().chain(file.stages.iter().flat_map(|stage| &stage.instructions)) {
        if let Kind::Arg(declared) = &instruction.kind
            && let [(name, _)] = declared.as_slice()
        {
            described(findings, &instruction.comment, name, instruction.line, "ARG");
        }
    }
}

/// A comment that looks like a description begins with the name of what it describes.
fn described(findings: &mut Findings<'_>, comment: &[String], name: &str, line: usize, kind: &str) {
    let Some(first) = comment.first() else { return };
    if !name.is_empty() && first.split_whitespace().next() != Some(name) {
        let message = format!(
            "Comment for {kind} should follow the format: `# {name} <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment."
        );
        findings.add(&check_rules::INVALID_DEFINITION_DESCRIPTION, line, line, message);
    }
}

fn of_stage(findings: &mut Findings<'_>, stage: &Stage) {
    let mut working_dir_is_known = false;
    let mut has_shell = false;
    let count = |wanted: fn(&Kind) -> bool| {
        stage.instructions.iter().filter(|instruction| wanted(&instruction.kind)).collect::<Vec<_>>()
    };
    for (name, all) in [
        ("CMD", count(|kind| matches!(kind, Kind::Cmd(_)))),
        ("ENTRYPOINT", count(|kind| matches!(kind, Kind::Entrypoint(_)))),
        ("HEALTHCHECK", count(|kind| matches!(kind, Kind::Healthcheck(_)))),
    ] {
        for instruction in all.iter().rev().skip(1) {
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            findings.add(&check_rules::MULTIPLE_INSTRUCTIONS, instruction.line, instruction.end, message);
        }
    }
    for instruction in &stage.instructions {
        let mut add = |rule, message| findings.add(rule, instruction.line, instruction.end, message);
        match &instruction.kind {
            Kind::Shell(_) => has_shell = true,
            Kind::Cmd(Command::Shell(line)) | Kind::Entrypoint(Command::Shell(line))
                if !line.is_empty() && !has_shell =>
            {
                let name = if matches!(instruction.kind, Kind::Cmd(_)) { "CMD" } else { "ENTRYPOINT" };
                let message = format!(
                    "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                );
                add(&check_rules::JSON_ARGS_RECOMMENDED, message);
            }
            Kind::Workdir(path) => {
                let absolute = path.starts_with('/') || path.starts_with('$') || path.starts_with("\"/");
                if absolute {
                    working_dir_is_known = true;
                } else if !working_dir_is_known {
                    let message = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    add(&check_rules::WORKDIR_RELATIVE_PATH, message);
                }
            }
            Kind::Expose(ports) => ports.iter().for_each(|port| of_port(port, &mut add)),
            Kind::Arg(declared) => {
                for (name, _) in declared.iter().filter(|(name, _)| is_secret(name)) {
                    add(
                        &check_rules::SECRETS_USED,
                        format!("Do not use ARG or ENV instructions for sensitive data (ARG {name:?})"),
                    );
                }
            }
            Kind::Env(pairs) => {
                for (name, _) in pairs.iter().filter(|(name, _)| is_secret(name)) {
                    add(
                        &check_rules::SECRETS_USED,
                        format!("Do not use ARG or ENV instructions for sensitive data (ENV {name:?})"),
                    );
                }
            }
            Kind::Copy(transfer) | Kind::Add(transfer) if transfer.from.is_none() => {
                ignored_sources(findings, instruction, &transfer.sources);
            }
            _ => {}
        }
    }
}

fn of_port(port: &str, add: &mut dyn FnMut(&'static Rule, String)) {
    if port.contains('$') {
        return;
    }
    let (numbers, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    if protocol != protocol.to_lowercase() {
        let lower = protocol.to_lowercase();
        let message = format!(
            "Defined protocol '{port}' in EXPOSE instruction should be lowercase: '{numbers}/{lower}'"
        );
        add(&check_rules::EXPOSE_PROTO_CASING, message);
    }
    if numbers.contains(':') {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        add(&check_rules::EXPOSE_INVALID_FORMAT, message);
    }
}

/// Sources that `.dockerignore` leaves out.
fn ignored_sources(findings: &mut Findings<'_>, instruction: &Instruction, sources: &[String]) {
    let ignore = Arc::clone(&findings.session.definition.ignore);
    if ignore.is_empty() {
        return;
    }
    for source in sources {
        let path = source.trim_start_matches("./").trim_matches('/');
        let literal = !path.is_empty() && path != "." && !path.contains(['$', '*', '?', '[']);
        if literal && !source.contains("://") && ignore.excludes(path) {
            let message = format!("Attempting to Copy file {source:?} that is excluded by .dockerignore");
            findings.add(&check_rules::COPY_IGNORED_FILE, instruction.line, instruction.end, message);
        }
    }
}

/// Whether a name is one that secrets have.
fn is_secret(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: &[&str] = &["public"];
    let lower = name.to_lowercase();
    let mut parts = lower.split('_');
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    parts.any(|part| WORDS.contains(&part)) && !has(HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_explained_somewhere() {
        let url = |rule: &Rule| rule.url();
        assert!(url(&check_rules::JSON_ARGS_RECOMMENDED).ends_with("/rule/json-args-recommended/"));
        assert!(url(&check_rules::FROM_AS_CASING).ends_with("/rule/from-as-casing/"));
        let names: BTreeSet<&str> = check_rules::ALL.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), 21);
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in ["API_KEY", "apikey", "DB_PASSWORD", "github_token", "AUTH"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PUBLIC_KEY", "KEYBOARD", "MONKEY", "AUTHOR", "PATH"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
