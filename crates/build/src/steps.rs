//! The instructions of a stage, one by one: looked up in the cache, or carried out.

use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::{NetworkMode, Root};
use dray_image::Layer;
use serde_json::{Map, Value, json};

use crate::builder::{Session, blocking};
use crate::cache::{self, Entry};
use crate::context::Context;
use crate::expand::Expander;
use crate::instruction::{Command, Healthcheck, Instruction, Kind, Run, Stage, Transfer};
use crate::run::RunJob;
use crate::state::State;
use crate::transfer::{self, Job};
use crate::{Error, Result};

/// The prefix by which history tells what made no process.
const NOP: &str = "/bin/sh -c #(nop) ";

/// Where sources of COPY and ADD are.
#[derive(Clone)]
enum Source {
    Context(Arc<Context>),
    Layers(Arc<Root>),
}

impl Source {
    fn root(&self) -> &Root {
        match self {
            Self::Context(context) => context.root(),
            Self::Layers(root) => root,
        }
    }
}

impl Session<'_> {
    /// Carries one instruction out.
    pub(crate) async fn instruction(
        &mut self,
        earlier: &[Stage],
        state: &mut State,
        command_set: &mut bool,
        instruction: &Instruction,
    ) -> Result<()> {
        match &instruction.kind {
            Kind::Run(run) => self.run_instruction(state, run).await,
            Kind::Copy(transfer) => self.transfer(earlier, state, "COPY", transfer).await,
            Kind::Add(transfer) => self.transfer(earlier, state, "ADD", transfer).await,
            Kind::Workdir(path) => self.workdir(state, path).await,
            other => {
                let text = self.configure(state, command_set, other)?;
                let configured = state.config.clone();
                let created_by = format!("{NOP} {text}");
                // How history tells a step may fit two different ones, so what it leads to counts as well.
                let result = serde_json::to_string(&(&configured.config, &configured.author));
                let result = result.map_err(|error| Error::invalid(error.to_string()))?;
                let key = cache::key(state.id.as_ref(), &format!("{created_by}\0{result}"));
                if self.cached(state, &key).await? {
                    return Ok(());
                }
                state.config = configured;
                state.commit(&created_by, None)?;
                self.keep(state, &key).await
            }
        }
    }

    /// Takes the result of a step from the cache, if it is there.
    async fn cached(&self, state: &mut State, key: &str) -> Result<bool> {
        self.pins.add(key);
        if self.request.no_cache {
            return Ok(false);
        }
        let cache = Arc::clone(&self.builder.cache);
        let wanted = key.to_owned();
        let Some(Entry { config, layers }) = blocking(move || Ok(cache.find(&wanted))).await? else {
            return Ok(false);
        };
        state.config = config;
        state.layers = layers;
        state.id = Some(state.new_image().id()?);
        self.output.text(" ---> Using cache\n".to_owned()).await?;
        Ok(true)
    }

    async fn keep(&self, state: &State, key: &str) -> Result<()> {
        let cache = Arc::clone(&self.builder.cache);
        let key = key.to_owned();
        let entry = Entry { config: state.config.clone(), layers: state.layers.clone() };
        blocking(move || cache.put(&key, &entry)).await
    }

    /// Replaces variables in a word: those of the image first, then declared arguments.
    fn expand(&self, state: &State, word: &str) -> Result<String> {
        let lookup =
            |name: &str| state.variable(name).map(str::to_owned).or_else(|| self.arguments.value(name));
        Expander { escape: self.escape, lookup: &lookup }.word(word).map_err(Error::invalid)
    }

    fn expand_all(&self, state: &State, words: &[String]) -> Result<Vec<String>> {
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
    fn configure(&mut self, state: &mut State, command_set: &mut bool, kind: &Kind) -> Result<String> {
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

    async fn workdir(&mut self, state: &mut State, path: &str) -> Result<()> {
        let path = self.expand(state, path)?;
        if path.is_empty() || path.contains('\0') {
            return Err(Error::invalid("cannot normalize nothing"));
        }
        let absolute = transfer::absolute(&state.config.config.working_dir, &path);
        let absolute = if absolute == "/" { absolute } else { absolute.trim_end_matches('/').to_owned() };
        let created_by = format!("{NOP}WORKDIR {absolute}");
        let key = cache::key(state.id.as_ref(), &created_by);
        if self.cached(state, &key).await? {
            return Ok(());
        }
        let layer = self
            .write(state, &key, {
                let absolute = PathBuf::from(&absolute);
                move |root| transfer::make_directories(root, &absolute, None).map(drop)
            })
            .await?;
        state.config.config.working_dir = absolute;
        state.commit(&created_by, layer)?;
        self.keep(state, &key).await
    }

    /// Makes a layer of what `work` writes into the stage's file system; none when that is nothing.
    async fn write(
        &self,
        state: &State,
        key: &str,
        work: impl FnOnce(&Root) -> Result<()> + Send + 'static,
    ) -> Result<Option<Layer>> {
        let engine = self.builder.engine.clone();
        let (layers, owner) = (state.layers.clone(), cache::owner(key));
        blocking(move || {
            let layer = engine.write_layer(&layers)?;
            work(layer.root())?;
            Ok(layer.commit(&owner)?)
        })
        .await
    }

    async fn transfer(
        &mut self,
        earlier: &[Stage],
        state: &mut State,
        instruction: &'static str,
        transfer: &Transfer,
    ) -> Result<()> {
        let destination = self.expand(state, &transfer.destination)?;
        if destination.is_empty() {
            return Err(Error::Copy { instruction, why: "the destination is empty".to_owned() });
        }
        let chmod = match &transfer.chmod {
            None => None,
            Some(text) => {
                let text = self.expand(state, text)?;
                let mode = transfer::parse_mode(&text);
                Some(mode.ok_or_else(|| Error::Copy {
                    instruction,
                    why: format!(
                        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                    ),
                })?)
            }
        };
        let mut texts = Vec::new();
        for heredoc in &transfer.texts {
            let content = if heredoc.expand {
                let lookup = |name: &str| {
                    state.variable(name).map(str::to_owned).or_else(|| self.arguments.value(name))
                };
                let expander = Expander { escape: self.escape, lookup: &lookup };
                expander.text(&heredoc.content).map_err(Error::invalid)?
            } else {
                heredoc.content.clone()
            };
            texts.push((heredoc.name.clone(), content));
        }
        let from = transfer.from.as_ref().map(|from| self.expand(state, from)).transpose()?;
        let job = Job {
            instruction,
            sources: self.expand_all(state, &transfer.sources)?,
            texts,
            destination: transfer::absolute(&state.config.config.working_dir, &destination),
            chown: transfer.chown.as_ref().map(|owner| self.expand(state, owner)).transpose()?,
            chmod,
            keep_owners: from.is_some(),
        };
        let source = match &from {
            None => Source::Context(Arc::clone(&self.context)),
            Some(from) => {
                let layers = self.source_layers(earlier, from).await?;
                let engine = self.builder.engine.clone();
                blocking(move || Ok(Source::Layers(Arc::new(engine.open_layers(&layers)?)))).await?
            }
        };
        let (found, digest) = {
            let (job, source) = (job.clone(), source.clone());
            blocking(move || {
                let found = job.find(source.root())?;
                let digest = job.digest(source.root(), &found)?;
                Ok((found, digest))
            })
            .await?
        };
        let mut created_by = format!("{NOP}{instruction}");
        for (name, value) in [("chown", &job.chown), ("chmod", &transfer.chmod), ("from", &from)] {
            if let Some(value) = value {
                created_by.push_str(&format!(" --{name}={value}"));
            }
        }
        let kind = if found.len() + job.texts.len() > 1 { "multi" } else { "file" };
        created_by.push_str(&format!(" {kind}:{digest} in {} ", job.destination));
        let exact = (&job.chown, job.chmod, &from, &job.destination);
        let key = cache::key(state.id.as_ref(), &format!("{created_by}\0{exact:?}"));
        if self.cached(state, &key).await? {
            return Ok(());
        }
        let layer = self.write(state, &key, move |root| job.run(source.root(), &found, root)).await?;
        state.commit(&created_by, layer)?;
        self.keep(state, &key).await
    }

    async fn run_instruction(&mut self, state: &mut State, run: &Run) -> Result<()> {
        let args = words(state, &run.command);
        let arguments = self.arguments.for_run(state);
        let mut created_by = args.join(" ");
        if !arguments.is_empty() {
            created_by = format!("|{} {} {created_by}", arguments.len(), arguments.join(" "));
        }
        // What the words are must not depend on where blanks are.
        let key = cache::key(
            state.id.as_ref(),
            &format!("{created_by}\0{args:?}\0{arguments:?}\0{:?}", run.network),
        );
        if self.cached(state, &key).await? {
            return Ok(());
        }
        let network = match run.network.as_deref() {
            Some("none") => Some(NetworkMode::None),
            Some("host") => Some(NetworkMode::Host),
            _ => None,
        };
        let mut env = self.arguments.proxies();
        env.extend(arguments);
        let job = RunJob { engine: &self.builder.engine, request: self.request, state, args, env, network };
        let layer = job.run(&self.output, &cache::owner(&key)).await?;
        state.commit(&created_by, layer)?;
        self.keep(state, &key).await
    }
}

/// The program and its arguments: a line is one for the stage's shell.
fn words(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) if line.is_empty() => Vec::new(),
        Command::Shell(line) => state.shell().into_iter().chain([line.clone()]).collect(),
    }
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut value = Map::new();
    let test = match &check.command {
        None => json!(["NONE"]),
        Some(Command::Shell(line)) => json!(["CMD-SHELL", line]),
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
