//! The instructions of a stage, one by one: looked up in the cache, or carried out.

use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::{NetworkMode, Root};
use dray_image::{ImageConfig, Layer};

use crate::builder::{Session, blocking};
use crate::cache::{self, Entry};
use crate::configure::words;
use crate::context::Context;
use crate::expand::Expander;
use crate::instruction::{Instruction, Kind, Run, Stage, Transfer};
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
                let text = self.scope.configure(state, command_set, other)?;
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
        if self.request.no_cache != crate::NoCache::Never {
            return Ok(false);
        }
        let cache = Arc::clone(&self.builder.cache);
        let wanted = key.to_owned();
        let Some(Entry { config, layers }) = blocking(move || Ok(cache.find(&wanted))).await? else {
            return Ok(false);
        };
        if !self.request.only_cache_of.is_empty() && !self.is_part_of_sources(&config, &layers) {
            return Ok(false);
        }
        state.config = config;
        state.layers = layers;
        state.id = Some(state.new_image().id()?);
        self.output.text(" ---> Using cache\n".to_owned()).await?;
        Ok(true)
    }

    /// Whether a step is one of those that led to an image the caller trusts.
    fn is_part_of_sources(&self, config: &ImageConfig, layers: &[Layer]) -> bool {
        let sources = self.request.only_cache_of.iter();
        let mut images = sources.filter_map(|name| self.builder.engine.images().resolve(name).ok());
        images.any(|image| {
            image.layers.starts_with(layers) && image.config.history.starts_with(&config.history)
        })
    }

    async fn keep(&self, state: &State, key: &str) -> Result<()> {
        let cache = Arc::clone(&self.builder.cache);
        let key = key.to_owned();
        let entry = Entry { config: state.config.clone(), layers: state.layers.clone() };
        blocking(move || cache.put(&key, &entry)).await
    }

    async fn workdir(&mut self, state: &mut State, path: &str) -> Result<()> {
        let path = self.scope.expand(state, path)?;
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
        let destination = self.scope.expand(state, &transfer.destination)?;
        if destination.is_empty() {
            return Err(Error::Copy { instruction, why: "the destination is empty".to_owned() });
        }
        let chmod = match &transfer.chmod {
            None => None,
            Some(text) => {
                let text = self.scope.expand(state, text)?;
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
                    state.variable(name).map(str::to_owned).or_else(|| self.scope.arguments.value(name))
                };
                let expander = Expander { escape: self.scope.escape, lookup: &lookup };
                expander.text(&heredoc.content).map_err(Error::invalid)?
            } else {
                heredoc.content.clone()
            };
            texts.push((heredoc.name.clone(), content));
        }
        let from = transfer.from.as_ref().map(|from| self.scope.expand(state, from)).transpose()?;
        let job = Job {
            instruction,
            sources: self.scope.expand_all(state, &transfer.sources)?,
            texts,
            destination: transfer::absolute(&state.config.config.working_dir, &destination),
            chown: transfer.chown.as_ref().map(|owner| self.scope.expand(state, owner)).transpose()?,
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
        if let Some(option) = run.foreign {
            return Err(Error::invalid(format!(
                "the --{option} option requires BuildKit, which this builder is not"
            )));
        }
        let args = words(state, &run.command);
        let arguments = self.scope.arguments.for_run(state);
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
        let mut env = self.scope.arguments.proxies();
        env.extend(arguments);
        let job = RunJob { engine: &self.builder.engine, request: self.request, state, args, env, network };
        let layer = job.run(&self.output, &cache::owner(&key)).await?;
        state.commit(&created_by, layer)?;
        self.keep(state, &key).await
    }
}
