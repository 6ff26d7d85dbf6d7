//! Logical lines become instructions. Messages are those of Docker's parser.

use std::time::Duration;

use dray_image::Digest;

use crate::ParseError;
use crate::instruction::{Command, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage, Transfer};
use crate::lines::{self, Line};
use crate::mounts;
use crate::suggest::closest;
use crate::words::split_words;

type Result<T> = std::result::Result<T, ParseError>;

/// Most instructions of one Dockerfile.
const MOST: usize = 10_000;
/// Flags that may be given without a value.
const SWITCHES: &[&str] = &["link", "parents", "keep-git-dir", "unpack"];
/// Flags that may be given more than once.
const LISTS: &[&str] = &["mount", "exclude"];
/// The words that instructions begin with.
pub(crate) const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Parses a Dockerfile.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile> {
    let whole = |message: &str| ParseError {
        line: 1,
        column: 1,
        length: 1,
        source_line: String::new(),
        message: message.to_owned(),
    };
    if bytes.len() > lines::LONGEST {
        return Err(whole(&format!("the Dockerfile is larger than {} bytes", lines::LONGEST)));
    }
    let lines::Lines { lines, escape, directives } = lines::read(bytes)?;
    if lines.len() > MOST {
        return Err(whole(&format!("the Dockerfile has more than {MOST} instructions")));
    }
    let mut file = Dockerfile { escape, directives, arguments: Vec::new(), stages: Vec::new() };
    for line in &lines {
        let statement = Statement::split(line, escape)?;
        if statement.keyword == "FROM" {
            file.stages.push(statement.stage()?);
            continue;
        }
        let instruction = statement.instruction()?;
        match (file.stages.last_mut(), &instruction.kind) {
            (Some(stage), _) => stage.instructions.push(instruction),
            (None, Kind::Arg(_)) => file.arguments.push(instruction),
            (None, _) => return Err(statement.error("no build stage in current context")),
        }
    }
    if file.stages.is_empty() {
        return Err(whole(if file.arguments.is_empty() {
            "file with no instructions"
        } else {
            "no build stage in current context"
        }));
    }
    Ok(file)
}

/// Parses the instruction that an image carries for those made from it.
///
/// # Errors
/// What is wrong with it.
pub fn parse_trigger(text: &str) -> Result<Instruction> {
    let lines = lines::read(text.as_bytes())?.lines;
    match lines.as_slice() {
        [line] => Statement::split(line, '\\')?.instruction(),
        _ => Err(ParseError {
            line: 1,
            column: 1,
            length: 1,
            source_line: text.to_owned(),
            message: "an ONBUILD trigger is one instruction".to_owned(),
        }),
    }
}

/// A line taken apart: keyword, flags, and the rest.
struct Statement<'a> {
    line: &'a Line,
    escape: char,
    keyword: String,
    flags: Vec<(String, Option<String>)>,
    rest: &'a str,
}

impl<'a> Statement<'a> {
    fn split(line: &'a Line, escape: char) -> Result<Self> {
        let (keyword, mut rest) = line.text.split_once(char::is_whitespace).unwrap_or((&line.text, ""));
        let word = keyword;
        let keyword = keyword.to_uppercase();
        if !KEYWORDS.contains(&keyword.as_str()) {
            let help =
                closest(&keyword, KEYWORDS).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
            return Err(line.error(word, format!("unknown instruction: {keyword}{help}")));
        }
        let mut flags = Vec::new();
        loop {
            rest = rest.trim_start();
            let Some(flag) = rest.strip_prefix("--") else { break };
            let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
            let (flag, after) = flag.split_at(end);
            rest = after;
            if flag.is_empty() {
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            flags.push((name.to_owned(), value));
        }
        Ok(Self { line, escape, keyword, flags, rest: rest.trim() })
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        self.line.error("", message)
    }

    /// The instruction's flags, each of which must be one of `known`.
    fn flags(&self, known: &[&str]) -> Result<()> {
        for (index, (name, _)) in self.flags.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let help =
                    closest(name, known).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
                return Err(self.line.error(name, format!("unknown flag: --{name}{help}")));
            }
            let repeated = self.flags[..index].iter().any(|(other, _)| other == name);
            if repeated && !LISTS.contains(&name.as_str()) {
                return Err(self.line.error(name, format!("duplicate flag specified: {name}")));
            }
        }
        Ok(())
    }

    /// A flag that says yes or no.
    fn switch(&self, name: &str) -> Result<Option<bool>> {
        debug_assert!(SWITCHES.contains(&name));
        match self.flags.iter().find(|(flag, _)| flag == name) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((_, Some(value))) => match value.to_lowercase().as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(self
                    .line
                    .error(value, format!("expecting boolean value for flag {name}, not: {value}"))),
            },
        }
    }

    /// All values of a flag that may be given more than once.
    fn list(&self, name: &str) -> Result<Vec<String>> {
        let given = self.flags.iter().filter(|(flag, _)| flag == name);
        given
            .map(|(_, value)| {
                let missing = || self.line.error(name, format!("missing a value on flag: {name}"));
                value.clone().ok_or_else(missing)
            })
            .collect()
    }

    fn flag(&self, name: &str) -> Result<Option<String>> {
        match self.flags.iter().find(|(flag, _)| flag == name) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value.clone())),
            Some((_, None)) => Err(self.line.error(name, format!("missing a value on flag: {name}"))),
        }
    }

    fn stage(&self) -> Result<Stage> {
        self.flags(&["platform"])?;
        let words: Vec<&str> = self.rest.split_whitespace().collect();
        let (base, name) = match words.as_slice() {
            [base] => (*base, None),
            [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
                let lower = name.to_lowercase();
                let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
                    && lower.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if !valid {
                    let message = format!(
                        "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
                    );
                    return Err(self.line.error(name, message));
                }
                (*base, Some(lower))
            }
            _ => return Err(self.error("FROM requires either one or three arguments")),
        };
        Ok(Stage {
            source: self.line.text.clone(),
            line: self.line.number,
            comment: self.line.comment.clone(),
            base: base.to_owned(),
            name,
            platform: self.flag("platform")?,
            instructions: Vec::new(),
        })
    }

    fn instruction(&self) -> Result<Instruction> {
        let kind = match self.keyword.as_str() {
            "ADD" => Kind::Add(self.transfer(&[
                "chown",
                "chmod",
                "link",
                "exclude",
                "checksum",
                "keep-git-dir",
                "unpack",
            ])?),
            "COPY" => Kind::Copy(self.transfer(&["from", "chown", "chmod", "link", "parents", "exclude"])?),
            "ARG" => Kind::Arg(self.arguments()?),
            "CMD" => Kind::Cmd(self.command(&[])?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(&[])?),
            "RUN" => Kind::Run(self.run()?),
            "ENV" => Kind::Env(self.pairs()?),
            "LABEL" => Kind::Label(self.pairs()?),
            "EXPOSE" => Kind::Expose(self.words()?),
            "VOLUME" => Kind::Volume(self.words_or_json()?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck()?),
            "MAINTAINER" => Kind::Maintainer(self.one()?),
            "USER" => Kind::User(self.one()?),
            "WORKDIR" => Kind::Workdir(self.one()?),
            "STOPSIGNAL" => Kind::StopSignal(self.one()?),
            "ONBUILD" => Kind::Onbuild(self.trigger()?),
            "SHELL" => match self.json()? {
                Some(words) if !words.is_empty() => Kind::Shell(words),
                Some(_) => return Err(self.error("SHELL requires at least one argument")),
                None => return Err(self.error("SHELL requires the arguments to be in JSON form")),
            },
            // FROM has its own way; a trigger of an image may name it.
            other => return Err(self.error(format!("{other} isn't allowed here"))),
        };
        Ok(Instruction {
            source: self.line.text.clone(),
            line: self.line.number,
            end: self.line.end,
            comment: self.line.comment.clone(),
            kind,
        })
    }

    fn required(&self) -> Result<&'a str> {
        if self.rest.is_empty() {
            return Err(self.error(format!("{} requires at least one argument", self.keyword)));
        }
        Ok(self.rest)
    }

    fn one(&self) -> Result<String> {
        self.flags(&[])?;
        if self.rest.is_empty() {
            return Err(self.error(format!("{} requires exactly one argument", self.keyword)));
        }
        Ok(self.rest.to_owned())
    }

    fn words(&self) -> Result<Vec<String>> {
        self.flags(&[])?;
        Ok(self.required()?.split_whitespace().map(str::to_owned).collect())
    }

    fn words_or_json(&self) -> Result<Vec<String>> {
        self.flags(&[])?;
        let words = match self.json()? {
            Some(words) => words,
            None => self.required()?.split_whitespace().map(str::to_owned).collect(),
        };
        if words.is_empty() {
            return Err(self.error(format!("{} requires at least one argument", self.keyword)));
        }
        if words.iter().any(|word| word.trim().is_empty()) {
            return Err(self.error(format!("{} specified can not be an empty string", self.keyword)));
        }
        Ok(words)
    }

    /// The rest as a JSON array of strings; none when it is no JSON array and so a line for the shell.
    fn json(&self) -> Result<Option<Vec<String>>> {
        if !self.rest.starts_with('[') {
            return Ok(None);
        }
        let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(self.rest) else { return Ok(None) };
        let words = values.into_iter().map(|value| match value {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        });
        words.collect::<Option<Vec<_>>>().map(Some).ok_or_else(|| {
            self.error("when using JSON array syntax, arrays must be comprised of strings only")
        })
    }

    fn command(&self, flags: &[&str]) -> Result<Command> {
        self.flags(flags)?;
        Ok(match self.json()? {
            Some(words) => Command::Exec(words),
            None => Command::Shell(self.rest.to_owned()),
        })
    }

    fn run(&self) -> Result<Run> {
        self.required()?;
        let command = self.command(&["network", "security", "mount"])?;
        let network = self.flag("network")?;
        let known = |mode: &&str| matches!(*mode, "default" | "none" | "host") || mode.contains('$');
        if let Some(mode) = network.as_deref().filter(|mode| !known(mode)) {
            let message = format!("unknown value for --network: {mode} (default, none and host are known)");
            return Err(self.line.error(mode, message));
        }
        let security = self.flag("security")?;
        if let Some(mode) = security.as_deref().filter(|mode| !matches!(*mode, "sandbox" | "insecure")) {
            let message = format!("unknown value for --security: {mode} (sandbox and insecure are known)");
            return Err(self.line.error(mode, message));
        }
        let mut all = Vec::new();
        for text in self.list("mount")? {
            let parsed = mounts::parse(&text);
            all.push(parsed.map_err(|(word, message)| self.line.error(&word, message))?);
        }
        let command = match (command, self.line.heredocs.as_slice()) {
            (Command::Shell(line), [only]) if line.split_whitespace().count() == 1 => {
                if only.content.starts_with("#!") {
                    Command::Script(only.clone())
                } else {
                    Command::Shell(only.content.clone())
                }
            }
            (Command::Shell(mut line), heredocs) => {
                for heredoc in heredocs {
                    line.push('\n');
                    line.push_str(&heredoc.content);
                    line.push_str(&heredoc.name);
                }
                Command::Shell(line)
            }
            (command, _) => command,
        };
        if matches!(&command, Command::Exec(words) if words.is_empty()) {
            return Err(self.error("RUN requires at least one argument"));
        }
        Ok(Run { command, network, security, mounts: all })
    }

    fn transfer(&self, flags: &[&str]) -> Result<Transfer> {
        self.flags(flags)?;
        let words = match self.json()? {
            Some(words) => words,
            None => self.required()?.split_whitespace().map(str::to_owned).collect(),
        };
        let Some((destination, sources)) = words.split_last().filter(|(_, sources)| !sources.is_empty())
        else {
            return Err(self.error(format!(
                "{} requires at least two arguments, but only one was provided. Destination could not be determined.",
                self.keyword
            )));
        };
        let is_text = |word: &String| word.starts_with("<<");
        let texts = if sources.iter().any(is_text) { self.line.heredocs.clone() } else { Vec::new() };
        let sources: Vec<String> =
            sources.iter().filter(|word| texts.is_empty() || !is_text(word)).cloned().collect();
        if let Some(url) = sources.iter().find(|source| self.keyword == "COPY" && is_url(source)) {
            return Err(self.line.error(url, format!("source can't be a URL for COPY: {url}")));
        }
        let checksum = self.flag("checksum")?;
        let is_digest = |text: &str| text.parse::<Digest>().is_ok() || text.contains('$');
        // What git calls its objects by is checked by git's own rules.
        let is_commit = |text: &str| text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(text) = checksum.as_deref().filter(|text| !is_digest(text) && !is_commit(text)) {
            let message = format!("invalid checksum {text:?}: write it as sha256:DIGEST");
            return Err(self.line.error(text, message));
        }
        Ok(Transfer {
            from: self.flag("from")?,
            chown: self.flag("chown")?,
            chmod: self.flag("chmod")?,
            link: self.switch("link")?.unwrap_or(false),
            parents: self.switch("parents")?.unwrap_or(false),
            excludes: self.list("exclude")?,
            checksum,
            keep_git_dir: self.switch("keep-git-dir")?.unwrap_or(false),
            unpack: self.switch("unpack")?,
            sources,
            texts,
            destination: destination.clone(),
        })
    }

    fn arguments(&self) -> Result<Vec<(String, Option<String>)>> {
        self.flags(&[])?;
        self.required()?;
        let mut arguments = Vec::new();
        for word in split_words(self.rest, self.escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err(self.line.error(&word, "ARG names can not be blank"));
            }
            arguments.push((name.to_owned(), default));
        }
        Ok(arguments)
    }

    /// `name=value …`, or the old form `name value with blanks`.
    fn pairs(&self) -> Result<Vec<(String, String)>> {
        self.flags(&[])?;
        self.required()?;
        let words = split_words(self.rest, self.escape);
        let first = words.first().map(String::as_str).unwrap_or_default();
        if !first.contains('=') {
            let (name, value) = self.rest.split_once(char::is_whitespace).unwrap_or((self.rest, ""));
            if value.trim().is_empty() {
                return Err(self.error(format!("{} must have two arguments", self.keyword)));
            }
            return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
        }
        words
            .iter()
            .map(|word| match word.split_once('=') {
                Some(("", _)) => {
                    Err(self.line.error(word, format!("{} names can not be blank", self.keyword)))
                }
                Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                None => {
                    let message =
                        format!("Syntax error - can't find = in \"{word}\". Must be of the form: name=value");
                    Err(self.line.error(word, message))
                }
            })
            .collect()
    }

    fn trigger(&self) -> Result<String> {
        self.flags(&[])?;
        self.required()?;
        let keyword = self.rest.split_whitespace().next().unwrap_or_default().to_uppercase();
        match keyword.as_str() {
            "ONBUILD" => {
                return Err(self.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
            }
            "FROM" | "MAINTAINER" => {
                return Err(self.error(format!("{keyword} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let inner = Line { text: self.rest.to_owned(), heredocs: Vec::new(), ..self.line.clone() };
        Statement::split(&inner, self.escape)?.instruction()?;
        Ok(self.rest.to_owned())
    }

    fn healthcheck(&self) -> Result<Healthcheck> {
        self.flags(&["interval", "timeout", "start-period", "start-interval", "retries"])?;
        let (kind, rest) = self.required()?.split_once(char::is_whitespace).unwrap_or((self.rest, ""));
        let duration = |name: &str| -> Result<Duration> {
            let Some(text) = self.flag(name)? else { return Ok(Duration::ZERO) };
            let parsed = parse_duration(&text)
                .ok_or_else(|| self.line.error(&text, format!("invalid duration for --{name}: {text}")))?;
            if parsed < Duration::from_millis(1) && !parsed.is_zero() {
                return Err(self.line.error(&text, format!("Interval \"{name}\" cannot be less than 1ms")));
            }
            Ok(parsed)
        };
        let retries = match self.flag("retries")? {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| self.line.error(&text, format!("--retries must be at least 0: {text}")))?,
        };
        let check = Healthcheck {
            command: None,
            interval: duration("interval")?,
            timeout: duration("timeout")?,
            start_period: duration("start-period")?,
            start_interval: duration("start-interval")?,
            retries,
        };
        match kind.to_uppercase().as_str() {
            "NONE" if rest.trim().is_empty() => Ok(check),
            "NONE" => Err(self.error("HEALTHCHECK NONE takes no arguments")),
            "CMD" => {
                let inner = Self { rest: rest.trim(), flags: Vec::new(), keyword: "CMD".into(), ..*self };
                if inner.rest.is_empty() {
                    return Err(self.error("Missing command after HEALTHCHECK CMD"));
                }
                Ok(Healthcheck { command: Some(inner.command(&[])?), ..check })
            }
            other => Err(self.line.error(kind, format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))),
        }
    }
}

/// Whether a source is to be fetched from somewhere else.
pub fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Go's form of a duration: `1h30m`, `1.5s`, `100ms`; none when the text is no such.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let unit = match &rest[end..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
