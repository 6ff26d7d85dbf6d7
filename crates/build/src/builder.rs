//! A whole build: context, plan, stages, result.

use std::collections::BTreeMap;
use std::sync::Arc;

use dray_engine::Engine;
use dray_image::Image;
use tokio::sync::mpsc;

use crate::cache::{Cache, CachedStep, Pins};
use crate::client::Client;
use crate::configure::Scope;
use crate::context::Context;
use crate::expand::Expander;
use crate::images::ImageSource;
use crate::instruction::{Dockerfile, Instruction, Kind, Stage};
use crate::platform::Platform;
use crate::progress::{Event, Output};
use crate::request::{BuildRequest, ContextSource, DockerfileSource};
use crate::result::{Built, BuiltImage};
use crate::state::{Arguments, State};
use crate::{Error, Result, parser};

/// Builds images from Dockerfiles. Clones share one cache.
#[derive(Clone)]
pub struct Builder {
    pub(crate) engine: Engine,
    pub(crate) cache: Arc<Cache>,
    #[expect(dead_code, reason = "asked for images in the next change")]
    pub(crate) source: Option<Arc<dyn ImageSource>>,
}

/// What a pruning of the cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries that went.
    pub entries: usize,
    /// Bytes that this freed.
    pub bytes: u64,
}

impl Builder {
    /// A builder on an engine, with its cache below the engine's data directory.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let directory = engine.config().data_dir.join("build-cache");
        let cache = Cache::open(directory, Arc::clone(engine.images()));
        Self { engine, cache: Arc::new(cache), source: None }
    }

    /// The same builder, which has images that are not here brought by `source`.
    #[must_use]
    pub fn with_images(self, source: Arc<dyn ImageSource>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Builds an image. Nothing is named or recorded: see [`Built::record`].
    ///
    /// When the future is dropped, or the receiver of `events`, the build ends and leaves nothing but what the
    /// cache has of it.
    ///
    /// # Errors
    /// What is wrong with the request, the context or the Dockerfile, or what failed. Then nothing is left behind.
    pub async fn build(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        events: mpsc::Sender<Event>,
    ) -> Result<Built> {
        let gone = events.clone();
        tokio::select! {
            () = gone.closed() => Err(Error::Cancelled),
            result = self.build_whole(request, client, events) => result,
        }
    }

    async fn build_whole(
        &self,
        mut request: BuildRequest,
        _client: Arc<dyn Client>,
        events: mpsc::Sender<Event>,
    ) -> Result<Built> {
        let path = match &request.dockerfile {
            DockerfileSource::Context(path) if !path.is_empty() => path.clone(),
            _ => "Dockerfile".to_owned(),
        };
        let engine = self.engine.clone();
        let ContextSource::Archive(context) = std::mem::take(&mut request.context) else {
            return Err(Error::invalid("only archives are built"));
        };
        let (context, mut file) = blocking(move || {
            let (context, dockerfile) = Context::unpack(&engine, context.into_inner(), &path)?;
            let file = parser::parse(&dockerfile)?;
            Ok((Arc::new(context), file))
        })
        .await?;
        let target = target(&file, &request.target)?;
        file.stages.truncate(target + 1);
        if !request.labels.is_empty() {
            file.stages[target].instructions.push(label_instruction(&request.labels));
        }
        let needed = needed(&file);
        let total = file.arguments.len()
            + file
                .stages
                .iter()
                .zip(&needed)
                .filter(|(_, needed)| **needed)
                .map(|(s, _)| s.instructions.len() + 1)
                .sum::<usize>();
        let mut session = Session {
            builder: self,
            request: &request,
            context,
            output: Output::new(events),
            pins: Arc::new(Pins::new(&self.cache)),
            scope: Scope {
                escape: file.escape,
                arguments: Arguments::new(request.build_args.clone()),
                used: Vec::new(),
            },
            results: Vec::new(),
            step: 0,
            total,
        };
        let state = session.run(&file, &needed).await?;
        session.finish(state).await
    }

    /// What earlier builds made and the cache has. This reads each entry.
    #[must_use]
    pub fn cached(&self) -> Vec<CachedStep> {
        self.cache.steps()
    }

    /// Forgets what earlier builds made, but for what a build that runs now uses.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn prune(&self) -> Result<Pruned> {
        let cache = Arc::clone(&self.cache);
        let (entries, bytes) = blocking(move || cache.prune()).await?;
        Ok(Pruned { entries, bytes })
    }
}

/// Runs work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| dray_engine::Error::Interrupted)?
}

/// The labels of the request as the last instruction.
fn label_instruction(labels: &BTreeMap<String, String>) -> Instruction {
    let quoted = |text: &str| format!("{:?}", text).replace('$', "\\$");
    let words: Vec<String> =
        labels.iter().map(|(name, value)| format!("{}={}", quoted(name), quoted(value))).collect();
    Instruction {
        source: format!("LABEL {}", words.join(" ")),
        line: 0,
        kind: Kind::GivenLabel(labels.clone().into_iter().collect()),
    }
}

/// The stage that was asked for, by name or number.
fn target(file: &Dockerfile, name: &str) -> Result<usize> {
    if name.is_empty() {
        return Ok(file.stages.len() - 1);
    }
    let lower = name.to_lowercase();
    let by_name = file.stages.iter().position(|stage| stage.name.as_deref() == Some(lower.as_str()));
    let by_number = || name.parse().ok().filter(|index| *index < file.stages.len());
    by_name
        .or_else(by_number)
        .ok_or_else(|| Error::invalid(format!("failed to reach build target {name} in Dockerfile")))
}

/// The earlier stage that a name means.
fn stage_named(stages: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
}

/// Which stages the last one needs.
fn needed(file: &Dockerfile) -> Vec<bool> {
    let mut needed = vec![false; file.stages.len()];
    if let Some(last) = needed.last_mut() {
        *last = true;
    }
    for index in (0..file.stages.len()).rev() {
        if !needed[index] {
            continue;
        }
        let (earlier, stage) = (&file.stages[..index], &file.stages[index]);
        let mut used: Vec<usize> = stage_named(earlier, &stage.base).into_iter().collect();
        if stage.base.contains('$') {
            // Which one it is will be known when the arguments are.
            used.extend(0..index);
        }
        for instruction in &stage.instructions {
            let (Kind::Copy(transfer) | Kind::Add(transfer)) = &instruction.kind else { continue };
            if let Some(from) = &transfer.from {
                used.extend(source_stage(earlier, from));
            }
        }
        // Triggers that an image brings may name any stage.
        for index in used {
            needed[index] = true;
        }
    }
    needed
}

/// The stage that `--from` means, by name or number.
fn source_stage(earlier: &[Stage], from: &str) -> Option<usize> {
    stage_named(earlier, from).or_else(|| from.parse().ok().filter(|index| *index < earlier.len()))
}

/// One build under way.
pub(crate) struct Session<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) request: &'a BuildRequest,
    pub(crate) context: Arc<Context>,
    pub(crate) output: Output,
    pub(crate) pins: Arc<Pins>,
    /// What words mean in the current stage.
    pub(crate) scope: Scope,
    /// What each stage has become; those that nobody needs are not built.
    results: Vec<Option<State>>,
    step: usize,
    total: usize,
}

impl Session<'_> {
    async fn run(&mut self, file: &Dockerfile, needed: &[bool]) -> Result<State> {
        for instruction in &file.arguments {
            self.print_step(&instruction.source).await?;
            let Kind::Arg(arguments) = &instruction.kind else { continue };
            for (name, default) in arguments {
                let default = match default {
                    Some(text) => Some(self.expand_global(text)?),
                    None => None,
                };
                self.scope.arguments.declare_global(name, default);
                self.scope.used.push(name.clone());
            }
        }
        let global = self.scope.arguments.clone();
        for (index, stage) in file.stages.iter().enumerate() {
            let result = if needed[index] {
                self.scope.arguments = global.clone();
                Some(self.stage(&file.stages[..index], stage).await?)
            } else {
                None
            };
            self.results.push(result);
        }
        self.results.pop().flatten().ok_or(Error::NoResult)
    }

    fn expand_global(&self, text: &str) -> Result<String> {
        let lookup = |name: &str| self.scope.arguments.global(name);
        Expander { escape: self.scope.escape, lookup: &lookup }.word(text).map_err(Error::invalid)
    }

    async fn print_step(&mut self, source: &str) -> Result<()> {
        self.step += 1;
        self.output.text(format!("Step {}/{} : {source}\n", self.step, self.total)).await
    }

    async fn stage(&mut self, earlier: &[Stage], stage: &Stage) -> Result<State> {
        self.print_step(&stage.source).await?;
        let mut state = self.base(earlier, stage).await?;
        self.output.text(format!(" ---> {}\n", state.short_id())).await?;
        // The image's triggers come first, and count once.
        let triggers = state.config.config.other.remove("OnBuild");
        let triggers: Vec<String> =
            triggers.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        let mut command_set = false;
        if !triggers.is_empty() {
            let plural = if triggers.len() == 1 { "" } else { "s" };
            self.output.text(format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
        }
        for trigger in &triggers {
            let instruction = parser::parse_trigger(trigger)?;
            self.instruction(earlier, &mut state, &mut command_set, &instruction).await?;
            self.output.text(format!(" ---> {}\n", state.short_id())).await?;
        }
        for instruction in &stage.instructions {
            self.print_step(&instruction.source).await?;
            self.instruction(earlier, &mut state, &mut command_set, instruction).await?;
            self.output.text(format!(" ---> {}\n", state.short_id())).await?;
        }
        if let Some(id) = &state.id {
            self.output.send(Event::Image(id.clone())).await?;
        }
        Ok(state)
    }

    /// What a stage stands on.
    async fn base(&self, earlier: &[Stage], stage: &Stage) -> Result<State> {
        let name = self.expand_global(&stage.base)?;
        if name.is_empty() {
            return Err(Error::invalid(format!("base name ({}) should not be blank", stage.base)));
        }
        if let Some(platform) = &stage.platform {
            let platform = self.expand_global(platform)?;
            let own = dray_image::ImageConfig::host_architecture();
            let suits =
                platform == own || platform == "linux" || platform.starts_with(&format!("linux/{own}"));
            if !suits {
                return Err(Error::invalid(format!(
                    "platform {platform} is not supported: this machine builds for linux/{own}"
                )));
            }
        }
        if let Some(index) = stage_named(earlier, &name) {
            return self.result(index);
        }
        if name == "scratch" {
            return Ok(State::scratch());
        }
        if self.request.pull {
            return Err(Error::NoImage { name });
        }
        self.image(name).await.map(State::of)
    }

    /// What an earlier stage has become.
    fn result(&self, index: usize) -> Result<State> {
        self.results.get(index).cloned().flatten().ok_or(Error::NoResult)
    }

    /// An image of the store, by name.
    async fn image(&self, name: String) -> Result<Image> {
        let images = Arc::clone(self.builder.engine.images());
        blocking(move || {
            images.resolve(&name).map_err(|error| match error {
                dray_image::Error::NotFound { .. } => Error::NoImage { name },
                other => other.into(),
            })
        })
        .await
    }

    /// The layers that `--from` means: of an earlier stage, or of an image.
    pub(crate) async fn source_layers(
        &self,
        earlier: &[Stage],
        from: &str,
    ) -> Result<Vec<dray_image::Layer>> {
        let layers = match source_stage(earlier, from) {
            Some(index) => self.result(index)?.layers,
            None => match self.image(from.to_owned()).await {
                Ok(image) => image.layers,
                Err(error) => {
                    return Err(Error::invalid(format!("invalid from flag value {from}: {}", error.chain())));
                }
            },
        };
        if layers.is_empty() {
            return Err(Error::invalid(format!("invalid from flag value {from}: it has no files")));
        }
        Ok(layers)
    }

    async fn finish(&mut self, state: State) -> Result<Built> {
        let Some(id) = state.id.clone() else { return Err(Error::NoResult) };
        let unused: Vec<&str> = self
            .scope
            .arguments
            .given_names()
            .filter(|name| !self.scope.used.iter().any(|used| used == name))
            .collect();
        if !unused.is_empty() {
            let text = format!("[Warning] One or more build-args {unused:?} were not consumed\n");
            self.output.text(text.replace('"', "").replace(", ", " ")).await?;
        }
        let image = BuiltImage {
            platform: Platform::host(),
            config: state.config,
            layers: state.layers,
            id,
            attestations: Vec::new(),
        };
        let engine = self.builder.engine.clone();
        Ok(Built { images: vec![image], engine, _pins: Arc::clone(&self.pins) })
    }
}
