//! One stage: what it stands on, the image's triggers, and its instructions.

use std::sync::Arc;

use dray_image::Digest;

use crate::builder::blocking;
use crate::cache::{Entry, Key};
use crate::client::BoxFuture;
use crate::configure::Scope;
use crate::error::Place;
use crate::graph::{Finished, Graph};
use crate::plan::Base;
use crate::platform::Platform;
use crate::progress::{Event, Running, SourceRange};
use crate::request::NoCache;
use crate::state::{State, Told};
use crate::{Error, Result, cache_transfer, tree};
use dray_dockerfile::{Instruction, Kind, Stage};

/// The prefix by which the classic builder's history tells what made no process.
const NOP: &str = "/bin/sh -c #(nop) ";

/// A stage under way.
pub(crate) struct StageRun<'g> {
    pub(crate) graph: &'g Arc<Graph>,
    pub(crate) index: usize,
    pub(crate) state: State,
    /// What words mean.
    pub(crate) scope: Scope,
    pub(crate) command_set: bool,
    pub(crate) platform: Platform,
    /// The vertex that the next one stands on.
    pub(crate) vertex: Option<Digest>,
    no_cache: bool,
    /// Steps of the graph, and how many there will be.
    done: usize,
    total: usize,
    step: usize,
}

/// A step that writes files.
pub(crate) struct Step {
    /// As it was written.
    pub(crate) title: String,
    /// All that it depends on.
    pub(crate) key: String,
    /// How the classic builder's history tells it, and BuildKit's.
    pub(crate) told: (String, String),
    /// The kind of its entry in the cache.
    pub(crate) kind: &'static str,
    /// Vertices it reads besides the one before.
    pub(crate) inputs: Vec<Digest>,
    /// The working directory that holds from here on, if it changes.
    pub(crate) working_dir: Option<String>,
}

impl<'g> StageRun<'g> {
    pub(crate) async fn run(graph: &'g Arc<Graph>, index: usize) -> Result<Finished> {
        let session = &graph.session;
        let stage = &session.file.stages[index];
        let plan = &graph.plan.stages[index];
        let declared = session.file.arguments.iter().filter_map(|instruction| match &instruction.kind {
            Kind::Arg(arguments) => Some(arguments.iter().map(|(name, _)| name.clone())),
            _ => None,
        });
        let mut run = Self {
            graph,
            index,
            state: State::scratch(),
            scope: Scope {
                escape: session.file.escape,
                arguments: graph.plan.arguments.clone(),
                used: declared.flatten().collect(),
            },
            command_set: false,
            platform: plan.platform.clone(),
            vertex: None,
            no_cache: match &session.request.no_cache {
                NoCache::Never => false,
                NoCache::All => true,
                NoCache::Stages(names) => {
                    stage.name.as_ref().is_some_and(|name| names.contains(name))
                        || names.contains(&index.to_string())
                }
            },
            done: 0,
            total: usize::from(matches!(plan.base, Base::Image(_) | Base::Named(_)))
                + stage.instructions.iter().filter(|instruction| instruction.kind.writes()).count(),
            step: plan.first_step,
        };
        if index == graph.plan.stages.iter().position(|stage| stage.needed).unwrap_or(0) {
            run.step = 0;
            for instruction in &session.file.arguments {
                run.print_step(&instruction.source).await?;
            }
        }
        run.instructions(stage).await?;
        if let Some(id) = &run.state.id {
            run.say(Event::Image(id.clone())).await?;
        }
        graph.transcript.finish(index).await?;
        let Self { state, scope: Scope { arguments, used, .. }, vertex, .. } = run;
        Ok(Finished { state, arguments, vertex, used })
    }

    async fn instructions(&mut self, stage: &Stage) -> Result<()> {
        self.print_step(&stage.source).await?;
        let based = self.base().await;
        self.located(based, stage.line, stage.line)?;
        self.text(format!(" ---> {}\n", self.state.short_id())).await?;
        let replaced = stage.name.as_ref();
        if replaced.is_some_and(|name| self.graph.session.request.named_contexts.contains_key(name)) {
            return Ok(());
        }
        // The image's triggers come first, and count once.
        let triggers = self.state.config.config.other.remove("OnBuild");
        let triggers: Vec<String> =
            triggers.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        if !triggers.is_empty() {
            let plural = if triggers.len() == 1 { "" } else { "s" };
            self.text(format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
        }
        for trigger in &triggers {
            let instruction = dray_dockerfile::parse_trigger(trigger)?;
            self.total += usize::from(instruction.kind.writes());
            let done = self.instruction(&instruction).await;
            self.located(done, stage.line, stage.line)?;
            self.text(format!(" ---> {}\n", self.state.short_id())).await?;
        }
        for instruction in &stage.instructions {
            self.print_step(&instruction.source).await?;
            let done = self.instruction(instruction).await;
            self.located(done, instruction.line, instruction.end)?;
            self.text(format!(" ---> {}\n", self.state.short_id())).await?;
        }
        Ok(())
    }

    /// The error of an instruction with the place it is about.
    fn located(&self, result: Result<()>, first: usize, last: usize) -> Result<()> {
        let definition = &self.graph.session.definition;
        let place = || Place {
            file: definition.path.clone(),
            source: Arc::clone(&definition.dockerfile),
            range: SourceRange { start_line: first, end_line: last, ..SourceRange::default() },
            vertex: self.vertex.clone(),
        };
        result.map_err(|error| error.at(place))
    }

    /// Carries one instruction out.
    fn instruction<'a>(&'a mut self, instruction: &'a Instruction) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let title = instruction.source.as_str();
            match &instruction.kind {
                Kind::Run(run) => self.run_instruction(title, run).await,
                Kind::Copy(transfer) => self.transfer(title, "COPY", transfer).await,
                Kind::Add(transfer) => self.transfer(title, "ADD", transfer).await,
                Kind::Workdir(path) => self.workdir(title, path).await,
                other => self.configure(other).await,
            }
        })
    }

    pub(crate) async fn say(&self, event: Event) -> Result<()> {
        self.graph.transcript.say(self.index, event).await
    }

    pub(crate) async fn text(&self, text: String) -> Result<()> {
        self.say(Event::Text(text)).await
    }

    async fn print_step(&mut self, source: &str) -> Result<()> {
        self.step += 1;
        self.text(format!("Step {}/{} : {source}\n", self.step, self.graph.plan.steps)).await
    }

    /// `[build 2/5] RUN make`.
    fn vertex_name(&mut self, title: &str) -> String {
        /// Longer titles are no titles.
        const WIDTH: usize = 1000;
        self.done += 1;
        let file = &self.graph.session.file;
        let label = match &file.stages[self.index].name {
            Some(name) => format!("{name} "),
            None if file.stages.len() > 1 => format!("stage-{} ", self.index),
            None => String::new(),
        };
        let title: String = title.chars().take(WIDTH).collect();
        format!("[{}{label}{}/{}] {title}", self.graph.prefix, self.done, self.total)
    }

    /// What a stage stands on.
    async fn base(&mut self) -> Result<()> {
        let session = &self.graph.session;
        let platform = self.platform.clone();
        let (shown, state) = match &self.graph.plan.stages[self.index].base {
            Base::Stage(index) => {
                let finished = self.graph.stage(*index).await?;
                self.scope.arguments.inherit(&finished.arguments);
                self.vertex.clone_from(&finished.vertex);
                self.state = finished.state.clone();
                return Ok(());
            }
            Base::Scratch => {
                self.state = State::scratch();
                self.state.config.architecture.clone_from(&platform.architecture);
                self.state.config.os.clone_from(&platform.os);
                if !platform.variant.is_empty() {
                    self.state.config.other.insert("variant".to_owned(), platform.variant.clone().into());
                }
                return Ok(());
            }
            Base::Named(name) => match session.named_tree(name).await? {
                Some(tree) => (name.clone(), self.of_tree(&tree).await?),
                None => (name.clone(), State::of(session.named_image(name, &platform).await?)),
            },
            Base::Image(name) => {
                let shown = dray_image::Reference::parse(name);
                let shown = shown.map_or_else(|_| name.clone(), |full| full.to_string());
                (shown, State::of(session.image(name, &platform).await?))
            }
        };
        let key = format!("from {}", state.lineage);
        let name = self.vertex_name(&format!("FROM {shown}"));
        let vertex = Running::start(&session.output, &key, name, Vec::new()).await?;
        self.vertex = Some(vertex.digest().clone());
        vertex.end(Ok(((), true))).await?;
        self.state = state;
        Ok(())
    }

    /// A stage that stands on the files of a directory.
    async fn of_tree(&self, tree: &Arc<crate::sources::Tree>) -> Result<State> {
        use std::os::fd::AsFd as _;
        let session = &self.graph.session;
        let digest = {
            let tree = Arc::clone(tree);
            blocking(move || {
                let mut hasher = tree::Hasher::new(false);
                hasher.directory(tree.open_for_reading()?.as_fd())?;
                Ok(hasher.finish())
            })
            .await?
        };
        let key = Key::new("tree").with(&digest).with(format!("{:?}", session.epoch)).finish();
        session.pins.add(&key);
        let mut state = State::scratch();
        let (engine, tree, newest) = (session.builder.engine.clone(), Arc::clone(tree), session.epoch);
        let owner = crate::cache::owner(&key);
        let layer = blocking(move || {
            let layer = engine.write_layer(&[])?;
            let to = layer.root().open_at(".", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty());
            let to = to.map_err(|error| Error::invalid(error.to_string()))?;
            let ownership = tree::Ownership { owner: Some((0, 0)), ..tree::Ownership::default() };
            let from = tree.open_for_reading()?;
            tree::Copier::new(ownership, to.as_fd())?.contents(from.as_fd(), to.as_fd())?;
            Ok(layer.commit(&owner, newest)?)
        })
        .await?;
        let told = Told { created_by: "FROM context", created: session.now(), comment: None };
        let history = state.history(told, layer.as_ref());
        self.keep(&key, &history, layer.as_ref(), "source.local").await?;
        state.commit(&key, history, layer)?;
        Ok(state)
    }

    async fn configure(&mut self, kind: &Kind) -> Result<()> {
        let text = self.scope.configure(&mut self.state, &mut self.command_set, kind)?;
        // How history tells a step may fit two different ones, so what it leads to counts as well.
        let result = serde_json::to_string(&(&self.state.config.config, &self.state.config.author));
        let result = result.map_err(|error| Error::invalid(error.to_string()))?;
        let session = &self.graph.session;
        let key = Key::new("configure").with(&self.state.lineage).with(&text).with(result);
        let key = key.with(format!("{:?} {}", session.epoch, session.request.classic)).finish();
        session.pins.add(&key);
        if let Some(entry) = self.cached(&key).await? {
            return self.state.commit(&key, entry.history, None);
        }
        let history = self.history((format!("{NOP} {text}"), text), None);
        self.keep(&key, &history, None, "regular").await?;
        self.state.commit(&key, history, None)
    }

    fn history(&self, told: (String, String), layer: Option<&dray_image::Layer>) -> dray_image::History {
        let session = &self.graph.session;
        let (created_by, comment) = if session.request.classic {
            (told.0, None)
        } else {
            (told.1, Some("buildkit.dockerfile.v0".to_owned()))
        };
        self.state.history(Told { created_by: &created_by, created: session.now(), comment }, layer)
    }

    /// Takes the result of a step from the cache, if it is there, and says so. What this build has made counts even where
    /// the cache does not: two stages that begin alike share their steps.
    async fn cached(&self, key: &str) -> Result<Option<Entry>> {
        let own = self.graph.session.made.lock().contains(key);
        if self.no_cache && !own {
            return Ok(None);
        }
        let cache = Arc::clone(&self.graph.session.builder.cache);
        let (wanted, parent) = (key.to_owned(), self.state.top().cloned());
        let mut found = blocking(move || Ok(cache.find(&wanted, parent.as_ref()))).await?;
        if found.is_none() {
            found = cache_transfer::find(&self.graph.session, key, self.state.top()).await?;
        }
        let Some(entry) = found.filter(|entry| own || self.is_trusted(entry)) else { return Ok(None) };
        self.text(" ---> Using cache\n".to_owned()).await?;
        Ok(Some(entry))
    }

    /// Whether a step is one of those that led to an image the caller trusts, if he says which.
    fn is_trusted(&self, entry: &Entry) -> bool {
        let session = &self.graph.session;
        let sources = &session.request.only_cache_of;
        if sources.is_empty() {
            return true;
        }
        let mut layers = self.state.layers.clone();
        layers.extend(entry.layer.clone());
        let mut history = self.state.config.history.clone();
        history.push(entry.history.clone());
        let images = session.builder.engine.images();
        let mut images = sources.iter().filter_map(|name| images.resolve(name).ok());
        images.any(|image| image.layers.starts_with(&layers) && image.config.history.starts_with(&history))
    }

    async fn keep(
        &self,
        key: &str,
        history: &dray_image::History,
        layer: Option<&dray_image::Layer>,
        kind: &str,
    ) -> Result<()> {
        let cache = Arc::clone(&self.graph.session.builder.cache);
        let key = key.to_owned();
        let entry = Entry {
            history: history.clone(),
            layer: layer.cloned(),
            kind: kind.to_owned(),
            made: jiff::Timestamp::now(),
        };
        let made = key.clone();
        blocking(move || cache.put(&key, &entry)).await?;
        self.graph.session.made.lock().insert(made);
        Ok(())
    }

    /// Begins a step that writes files. It is found in the cache, and then done; or the caller makes it and calls
    /// [`Self::finish`] whatever comes of that.
    pub(crate) async fn begin(&mut self, step: Step) -> Result<Option<Making<'g>>> {
        let session = &self.graph.session;
        session.pins.add(&step.key);
        let name = self.vertex_name(&step.title);
        let inputs = self.vertex.iter().cloned().chain(step.inputs.iter().cloned()).collect();
        let vertex = Running::start(&session.output, &step.key, name, inputs).await?;
        self.vertex = Some(vertex.digest().clone());
        // What another stage or build makes at the moment is waited for.
        let flight = session.builder.cache.flight(&step.key).lock_owned().await;
        let looked = self.cached(&step.key).await;
        match looked {
            Ok(Some(entry)) => {
                vertex.end(Ok(((), true))).await?;
                self.commit(&step, entry.history, entry.layer)?;
                Ok(None)
            }
            Ok(None) => {
                let permit = session.permits.acquire().await.map_err(|_| Error::Cancelled)?;
                Ok(Some(Making { step, vertex, _flight: flight, _permit: permit }))
            }
            Err(error) => vertex.end(Err(error)).await,
        }
    }

    /// Takes what was made of a step, or tells why it was not.
    pub(crate) async fn finish(
        &mut self,
        making: Making<'g>,
        made: Result<Option<dray_image::Layer>>,
    ) -> Result<()> {
        let Making { step, vertex, .. } = making;
        let kept = match made {
            Ok(layer) => {
                let history = self.history(step.told.clone(), layer.as_ref());
                let kept = self.keep(&step.key, &history, layer.as_ref(), step.kind).await;
                kept.map(|()| ((history, layer), false))
            }
            Err(error) => Err(error),
        };
        let (history, layer) = vertex.end(kept).await?;
        self.commit(&step, history, layer)
    }

    fn commit(
        &mut self,
        step: &Step,
        history: dray_image::History,
        layer: Option<dray_image::Layer>,
    ) -> Result<()> {
        if let Some(path) = &step.working_dir {
            self.state.config.config.working_dir.clone_from(path);
        }
        self.state.commit(&step.key, history, layer)
    }
}

/// A step that is being made.
pub(crate) struct Making<'g> {
    pub(crate) step: Step,
    pub(crate) vertex: Running,
    _flight: tokio::sync::OwnedMutexGuard<()>,
    _permit: tokio::sync::SemaphorePermit<'g>,
}

impl Making<'_> {
    /// Who leases its layer.
    pub(crate) fn owner(&self) -> String {
        crate::cache::owner(&self.step.key)
    }
}
