//! A whole build: context, plan, stages, result.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use dray_engine::{Engine, NetworkMode, Resources, Ulimit};
use dray_image::{Digest, Image, Reference};
use tokio::sync::mpsc;

use crate::cache::{Cache, CachedStep, Pins};
use crate::configure::Scope;
use crate::context::Context;
use crate::expand::Expander;
use crate::instruction::{Dockerfile, Instruction, Kind, Stage};
use crate::state::{Arguments, State};
use crate::{Error, Result, parser};

/// What is to be built, and how.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The Dockerfile's path in the context; empty means `Dockerfile`.
    pub dockerfile: String,
    /// The names of the result.
    pub tags: Vec<Reference>,
    /// Arguments; those without a value are as if they were not given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// Labels of the result.
    pub labels: BTreeMap<String, String>,
    /// The stage to stop at; empty means the last.
    pub target: String,
    /// Whether what earlier builds made is left aside.
    pub no_cache: bool,
    /// Images whose steps alone may be taken from what earlier builds made; none means all.
    pub cache_from: Vec<String>,
    /// Whether images are to be pulled anew.
    pub pull: bool,
    /// The network of RUN.
    pub network: NetworkMode,
    /// Limits of RUN.
    pub resources: Resources,
    /// Limits of RUN's processes.
    pub ulimits: Vec<Ulimit>,
    /// `name:address` lines for RUN's `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Size of RUN's `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
}

/// What a build tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Text for the user, with its line ends.
    Text(String),
    /// The image that a stage has become.
    Image(Digest),
}

/// Where a build tells what it does. A listener that goes away cancels the build.
pub(crate) struct Output(mpsc::Sender<Progress>);

impl Output {
    pub(crate) async fn text(&self, text: String) -> Result<()> {
        self.0.send(Progress::Text(text)).await.map_err(|_| Error::Cancelled)
    }
}

/// Builds images from Dockerfiles. Clones share one cache.
#[derive(Clone)]
pub struct Builder {
    pub(crate) engine: Engine,
    pub(crate) cache: Arc<Cache>,
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
        Self { engine, cache: Arc::new(cache) }
    }

    /// Builds an image from a context, which is an archive (plain, or compressed with gzip or zstd).
    ///
    /// When the future is dropped, or the receiver of `progress`, the build ends and leaves nothing but what the
    /// cache has of it.
    ///
    /// # Errors
    /// What is wrong with the request, the context or the Dockerfile, or what failed. Then nothing is left behind.
    pub async fn build(
        &self,
        request: BuildRequest,
        context: impl Read + Send + 'static,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Digest> {
        let gone = progress.clone();
        tokio::select! {
            () = gone.closed() => Err(Error::Cancelled),
            result = self.build_whole(request, context, progress) => result,
        }
    }

    async fn build_whole(
        &self,
        request: BuildRequest,
        context: impl Read + Send + 'static,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Digest> {
        let path = match request.dockerfile.as_str() {
            "" => "Dockerfile".to_owned(),
            path => path.to_owned(),
        };
        let engine = self.engine.clone();
        let (context, mut file) = blocking(move || {
            let (context, dockerfile) = Context::unpack(&engine, context, &path)?;
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
            output: Output(progress),
            pins: Pins::new(&self.cache),
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
    pub(crate) pins: Pins,
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
            self.output.0.send(Progress::Image(id.clone())).await.map_err(|_| Error::Cancelled)?;
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

    /// Records the image and gives it its names.
    async fn finish(&mut self, state: State) -> Result<Digest> {
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
        let engine = self.builder.engine.clone();
        let tags = self.request.tags.clone();
        let recorded = blocking(move || {
            let image = engine.images().create(state.new_image())?;
            for tag in &tags {
                engine.images().tag(&image.id, tag)?;
                engine.image_event("tag", &image.id, &tag.familiar());
            }
            Ok(image.id)
        })
        .await?;
        debug_assert_eq!(recorded, id);
        self.output.text(format!("Successfully built {}\n", recorded.short())).await?;
        for tag in &self.request.tags {
            self.output.text(format!("Successfully tagged {}\n", tag.familiar())).await?;
        }
        Ok(recorded)
    }
}
