//! Instructions that change an image's configuration and nothing else, in a build or on the way of a commit.

use dray_image::ImageConfig;
use serde_json::{Map, Value, json};

use crate::state::{Arguments, State};
use crate::{Error, Result};
use dray_dockerfile::expand::Expander;
use dray_dockerfile::{Command, Healthcheck, Kind};

/// What words of instructions mean at one place of a Dockerfile.
#[derive(Clone)]
pub(crate) struct Scope {
    /// What quotes the next character.
    pub(crate) escape: char,
    /// The arguments as the current stage sees them.
    pub(crate) arguments: Arguments,
    /// Names of arguments that some `ARG` declared.
    pub(crate) used: Vec<String>,
}

/// Applies instructions (`CMD`, `ENV`, …; each may have several lines) to the configuration of an image that is
/// committed or imported.
///
/// # Errors
/// When one does not parse, or is none that only changes a configuration.
pub fn amend(config: ImageConfig, changes: &[&str]) -> Result<ImageConfig> {
    let mut state = State { config, ..State::scratch() };
    if changes.is_empty() {
        return Ok(state.config);
    }
    let file = dray_dockerfile::parse(format!("FROM scratch\n{}\n", changes.join("\n")).as_bytes())?;
    let mut scope = Scope {
        escape: file.escape,
        arguments: Arguments::new(Default::default(), &crate::Platform::host(), ""),
        used: Vec::new(),
    };
    let mut command_set = false;
    if file.stages.len() > 1 {
        return Err(Error::invalid("FROM is not a valid change command"));
    }
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        match &instruction.kind {
            Kind::Workdir(path) => {
                let path = scope.expand(&state, path)?;
                // An absolute path replaces the one before.
                let joined = std::path::Path::new("/").join(&state.config.config.working_dir).join(path);
                state.config.config.working_dir = joined.to_string_lossy().into_owned();
            }
            Kind::Run(_)
            | Kind::Copy(_)
            | Kind::Add(_)
            | Kind::Arg(_)
            | Kind::Shell(_)
            | Kind::Maintainer(_) => {
                let word = instruction.source.split_whitespace().next().unwrap_or_default();
                return Err(Error::invalid(format!("{} is not a valid change command", word.to_lowercase())));
            }
            kind => drop(scope.configure(&mut state, &mut command_set, kind)?),
        }
    }
    Ok(state.config)
}

impl Scope {
    /// Replaces variables in a word: those of the image first, then declared arguments.
    pub(crate) fn expand(&self, state: &State, word: &str) -> Result<String> {
        let lookup =
            |name: &str| state.variable(name).map(str::to_owned).or_else(|| self.arguments.value(name));
        Expander { escape: self.escape, lookup: &lookup }.word(word).map_err(Error::invalid)
    }

    pub(crate) fn expand_all(&self, state: &State, words: &[String]) -> Result<Vec<String>> {
        words.iter().map(|word| self.expand(state, word)).collect()
    }

    fn expand_pairs(&self, state: &State, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        // All values of one instruction see the environment as it was before.
        pairs
            .iter()
            .map(|(name, value)| Ok((self.expand(state, name)?, self.expand(state, value)?)))
            .collect()
    }

    /// An instruction that only changes the configuration; answers how history tells it.
    pub(crate) fn configure(
        &mut self,
        state: &mut State,
        command_set: &mut bool,
        kind: &Kind,
    ) -> Result<String> {
        let shown = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let text = match kind {
            Kind::Arg(arguments) => {
                let mut shown = Vec::new();
                for (name, default) in arguments {
                    let default = default.as_ref().map(|text| self.expand(state, text)).transpose()?;
                    shown
                        .push(default.as_ref().map_or_else(|| name.clone(), |text| format!("{name}={text}")));
                    self.arguments.declare(name, default);
                    self.used.push(name.clone());
                }
                format!("ARG {}", shown.join(" "))
            }
            Kind::Env(pairs) => {
                let pairs = self.expand_pairs(state, pairs)?;
                for (name, value) in &pairs {
                    if name.is_empty() || name.contains('\0') || value.contains('\0') {
                        return Err(Error::invalid(format!("invalid environment variable: {name:?}")));
                    }
                    state.set_variable(name, value);
                }
                format!("ENV {}", shown(&pairs))
            }
            Kind::Label(pairs) => {
                let pairs = self.expand_pairs(state, pairs)?;
                state.config.config.labels.extend(pairs.iter().cloned());
                format!("LABEL {}", shown(&pairs))
            }
            Kind::GivenLabel(pairs) => {
                state.config.config.labels.extend(pairs.iter().cloned());
                format!("LABEL {}", shown(pairs))
            }
            Kind::User(user) => {
                state.config.config.user = self.expand(state, user)?;
                format!("USER {}", state.config.config.user)
            }
            Kind::Expose(ports) => self.expose(state, ports)?,
            Kind::Volume(paths) => {
                let paths = self.expand_all(state, paths)?;
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                for path in &paths {
                    state.config.config.volumes.insert(path.clone(), json!({}));
                }
                format!("VOLUME [{}]", paths.join(" "))
            }
            Kind::StopSignal(signal) => {
                let signal = self.expand(state, signal)?;
                dray_engine::parse_signal(&signal)?;
                let text = format!("STOPSIGNAL {signal}");
                state.config.config.stop_signal = Some(signal);
                text
            }
            Kind::Maintainer(name) => {
                state.config.author = Some(name.clone());
                format!("MAINTAINER {name}")
            }
            Kind::Cmd(command) => {
                let words = words(state, command);
                *command_set = true;
                let text = format!("CMD {words:?}");
                state.config.config.cmd = Some(words);
                text
            }
            Kind::Entrypoint(command) => {
                let words = words(state, command);
                // A command that the base image gave was meant for its own entry point.
                if !*command_set {
                    state.config.config.cmd = None;
                }
                let text = format!("ENTRYPOINT {words:?}");
                state.config.config.entrypoint = Some(words).filter(|words| !words.is_empty());
                text
            }
            Kind::Shell(words) => {
                state.config.config.shell = Some(words.clone());
                format!("SHELL {words:?}")
            }
            Kind::Healthcheck(check) => {
                let value = healthcheck(check);
                let text = format!("HEALTHCHECK {value}");
                state.config.config.other.insert("Healthcheck".to_owned(), value);
                text
            }
            Kind::Onbuild(trigger) => {
                let triggers =
                    state.config.config.other.entry("OnBuild").or_insert_with(|| Value::Array(Vec::new()));
                match triggers {
                    Value::Array(list) => list.push(json!(trigger)),
                    other => *other = json!([trigger]),
                }
                format!("ONBUILD {trigger}")
            }
            Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => {
                return Err(Error::invalid("an instruction that writes files changes no configuration"));
            }
        };
        Ok(text)
    }

    fn expose(&self, state: &mut State, ports: &[String]) -> Result<String> {
        let mut all = Vec::new();
        for words in self.expand_all(state, ports)? {
            for word in words.split_whitespace() {
                let invalid = || Error::invalid(format!("Invalid containerPort: {word}"));
                let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
                let protocol = protocol.to_lowercase();
                if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
                    return Err(Error::invalid(format!("Invalid proto: {protocol}")));
                }
                let (low, high) = numbers.split_once('-').unwrap_or((numbers, numbers));
                let low: u16 = low.parse().map_err(|_| invalid())?;
                let high: u16 = high.parse().map_err(|_| invalid())?;
                if high < low {
                    return Err(invalid());
                }
                all.extend((low..=high).map(|port| format!("{port}/{protocol}")));
            }
        }
        for port in &all {
            state.config.config.exposed_ports.insert(port.clone(), json!({}));
        }
        let shown = if all.len() > 16 { ports.join(" ") } else { all.join(" ") };
        Ok(format!("EXPOSE {shown}"))
    }
}

/// Where a text with its own interpreter is while it runs.
pub(crate) fn script_path(name: &str) -> String {
    format!("/dev/pipes/{name}")
}

/// The program and its arguments: a line is one for the stage's shell.
pub(crate) fn words(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) if line.is_empty() => Vec::new(),
        Command::Shell(line) => state.shell().into_iter().chain([line.clone()]).collect(),
        Command::Script(text) => vec![script_path(&text.name)],
    }
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut value = Map::new();
    let test = match &check.command {
        None => json!(["NONE"]),
        Some(Command::Shell(line)) => json!(["CMD-SHELL", line]),
        Some(Command::Script(text)) => json!(["CMD-SHELL", text.content]),
        Some(Command::Exec(words)) => {
            json!(std::iter::once("CMD").chain(words.iter().map(String::as_str)).collect::<Vec<_>>())
        }
    };
    value.insert("Test".to_owned(), test);
    for (name, duration) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if !duration.is_zero() {
            value.insert(name.to_owned(), json!(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)));
        }
    }
    if check.retries > 0 {
        value.insert("Retries".to_owned(), json!(check.retries));
    }
    Value::Object(value)
}
