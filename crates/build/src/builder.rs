//! A whole build: what is asked for, the graph of each platform, the result.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::Engine;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::cache::{Cache, CachedStep};
use crate::cache_mounts::CacheMounts;
use crate::checks;
use crate::client::Client;
use crate::context::Loader;
use crate::describe::{self, CheckReport, Outline, TargetDescription};
use crate::error::Place;
use crate::graph::{Finished, Graph};
use crate::images::ImageSource;
use crate::plan::{self, Plan};
use crate::platform::Platform;
use crate::progress::{Event, Output, Running, SourceRange};
use crate::request::BuildRequest;
use crate::result::{Built, BuiltImage};
use crate::session::{Session, Start};
use crate::{Error, Result, mount_place};
use dray_dockerfile::{Instruction, Kind};

/// Builds images from Dockerfiles. Clones share one cache.
#[derive(Clone)]
pub struct Builder {
    pub(crate) engine: Engine,
    pub(crate) cache: Arc<Cache>,
    pub(crate) cache_mounts: Arc<CacheMounts>,
    pub(crate) source: Option<Arc<dyn ImageSource>>,
    /// Digests of parts of layers, by layer and part.
    pub(crate) memo: Arc<Mutex<HashMap<String, String>>>,
}

/// What a pruning of the cache did.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Entries that went.
    pub entries: Vec<CachedStep>,
    /// Bytes that this freed.
    pub bytes: u64,
}

impl Builder {
    /// A builder on an engine, with its cache below the engine's data directory. What a crash left is cleared away.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let data = engine.config().data_dir.clone();
        if let Err(error) = mount_place::tidy(&data.join(MOUNTS)) {
            tracing::warn!(error = %error.chain(), "cannot clear the mounts of builds");
        }
        let cache = Cache::open(data.join("build-cache"), Arc::clone(engine.images()));
        Self {
            engine,
            cache: Arc::new(cache),
            cache_mounts: Arc::new(CacheMounts::open(data.join("build-cache-mounts"))),
            source: None,
            memo: Arc::default(),
        }
    }

    /// The same builder, which has images that are not here brought by `source`.
    #[must_use]
    pub fn with_images(self, source: Arc<dyn ImageSource>) -> Self {
        Self { source: Some(source), ..self }
    }

    pub(crate) fn mount_directory(&self) -> PathBuf {
        self.engine.config().data_dir.join(MOUNTS)
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
            result = self.build_whole(request, client, Output::new(events)) => result,
        }
    }

    /// Brings the Dockerfile here and reads it.
    async fn load(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        output: &Output,
    ) -> Result<(Session, usize)> {
        let mut request = request;
        let name = format!("[internal] load build definition from {}", shown_path(&request));
        let vertex = Running::start(output, "definition", name, Vec::new()).await?;
        let context = std::mem::take(&mut request.context);
        let given = |name: &str| request.build_args.get(name).cloned().flatten();
        let keep_git =
            given("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|text| text == "1" || text == "true");
        let loader = Loader { engine: &self.engine, client: &client, keep_git };
        let meter = vertex.meter("transferring dockerfile:");
        let loaded = loader.load(context, &request.dockerfile, &|done| meter.tell(done)).await;
        meter.end().await?;
        let definition = vertex.end(loaded.map(|loaded| (loaded, false))).await?;
        let mut file = dray_dockerfile::parse(&definition.dockerfile).map_err(|error| {
            let range = SourceRange { start_column: error.column, ..SourceRange::line(error.line) };
            let end_column = error.column + error.length.saturating_sub(1);
            let range = SourceRange { end_column, ..range };
            let source = Arc::clone(&definition.dockerfile);
            let file = definition.path.clone();
            Error::from(error).at(|| Place { file, source, range, vertex: None })
        })?;
        if let Some(text) = given("BUILDKIT_DOCKERFILE_CHECK") {
            file.directives.read_check(&text).map_err(Error::invalid)?;
        }
        if let Some(name) = given("BUILDKIT_SANDBOX_HOSTNAME") {
            request.hostname.get_or_insert(name);
        }
        request.inline_cache |=
            given("BUILDKIT_INLINE_CACHE").is_some_and(|text| text == "1" || text == "true");
        let epoch = match (request.source_date_epoch, given("SOURCE_DATE_EPOCH")) {
            (Some(epoch), _) => Some(epoch),
            (None, Some(text)) if !text.is_empty() => Some(text.parse().map_err(|_| {
                Error::invalid(format!(
                    "invalid SOURCE_DATE_EPOCH: {text}: it is a number of seconds since 1970"
                ))
            })?),
            _ => None,
        };
        let target = plan::target(&file, &request.target)?;
        file.stages.truncate(target + 1);
        if !request.labels.is_empty() {
            file.stages[target].instructions.push(label_instruction(&request.labels));
        }
        let start =
            Start { builder: self.clone(), request, client, output: output.clone(), definition, file, epoch };
        Ok((Session::new(start), target))
    }

    async fn build_whole(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        output: Output,
    ) -> Result<Built> {
        let (session, target) = self.load(request, client, &output).await?;
        let warnings = checks::check(&session);
        for warning in &warnings {
            output.send(Event::Warning(warning.clone())).await?;
        }
        if !warnings.is_empty() && checks::are_errors(&session) {
            return Err(checks::as_error(&warnings));
        }
        crate::cache_transfer::import(&session).await?;
        let session = Arc::new(session);
        let request = &session.request;
        let platforms =
            if request.platforms.is_empty() { vec![Platform::host()] } else { request.platforms.clone() };
        let started = jiff::Timestamp::now();
        let (mut images, mut used) = (Vec::new(), Vec::new());
        let mut graphs = tokio::task::JoinSet::new();
        for (index, platform) in platforms.iter().enumerate() {
            let plan = Plan::new(
                &session.file,
                target,
                platform,
                &request.named_contexts,
                &request.build_args,
                &request.target,
            )
            .map_err(|error| error.in_file(&session.definition.path, &session.definition.dockerfile))?;
            let prefix = if platforms.len() > 1 { format!("{platform} ") } else { String::new() };
            let graph = Arc::new(Graph::new(Arc::clone(&session), plan, prefix));
            graphs.spawn(async move { (index, Arc::clone(&graph).run().await, graph) });
        }
        let mut done: BTreeMap<usize, Arc<Finished>> = BTreeMap::new();
        let mut stages = Vec::new();
        while let Some(ended) = graphs.join_next().await {
            let (index, result, graph) = ended.map_err(|_| Error::Cancelled)?;
            done.insert(index, result?);
            for (platform, stage) in graph.others() {
                stages.extend(BuiltImage::of(platform, &stage.state, false));
            }
        }
        for (platform, finished) in platforms.into_iter().zip(done.into_values()) {
            used.extend(finished.used.iter().cloned());
            let mut image = BuiltImage::of(platform, &finished.state, request.inline_cache)?;
            image.attestations = crate::attest::statements(&session, &image, started).await?;
            images.push(image);
        }
        self.warn_of_unused(&session, &used).await?;
        let pins = Arc::clone(&session.pins);
        let holds = Arc::clone(&session.holds);
        Ok(Built { images, engine: self.engine.clone(), stages, pins, holds })
    }

    async fn warn_of_unused(&self, session: &Session, used: &[String]) -> Result<()> {
        let arguments =
            crate::state::Arguments::new(session.request.build_args.clone(), &Platform::host(), "");
        let unused: Vec<&str> =
            arguments.given_names().filter(|name| !used.iter().any(|used| used == name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let text = format!("[Warning] One or more build-args {unused:?} were not consumed\n");
        session.output.text(text.replace('"', "").replace(", ", " ")).await
    }

    /// What the checks of the Dockerfile say; nothing is built.
    ///
    /// # Errors
    /// When there is no Dockerfile, or the context cannot be had. One that does not parse is told in the report.
    pub async fn check(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        events: mpsc::Sender<Event>,
    ) -> Result<CheckReport> {
        match self.load(request, client, &Output::new(events)).await {
            Ok((session, _)) => {
                let warnings = checks::check(&session);
                let is_failure = !warnings.is_empty() && checks::are_errors(&session);
                Ok(CheckReport { warnings, error: String::new(), is_failure })
            }
            Err(error) if matches!(error.inner(), Error::Parse(_)) => {
                Ok(CheckReport { warnings: Vec::new(), error: error.chain(), is_failure: true })
            }
            Err(error) => Err(error),
        }
    }

    /// The stages of the Dockerfile; nothing is built.
    ///
    /// # Errors
    /// When there is no Dockerfile, or it does not parse.
    pub async fn targets(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        events: mpsc::Sender<Event>,
    ) -> Result<Vec<TargetDescription>> {
        let (session, _) = self.load(request, client, &Output::new(events)).await?;
        Ok(describe::targets(&session.file))
    }

    /// What the target takes from outside; nothing is built.
    ///
    /// # Errors
    /// When there is no Dockerfile, or it does not parse.
    pub async fn outline(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        events: mpsc::Sender<Event>,
    ) -> Result<Outline> {
        let (session, target) = self.load(request, client, &Output::new(events)).await?;
        Ok(describe::outline(&session, target))
    }

    /// What earlier builds made and the cache has. This reads each entry.
    #[must_use]
    pub fn cached(&self) -> Vec<CachedStep> {
        let mut steps = self.cache.steps();
        steps.extend(self.cache_mounts.steps());
        steps
    }

    /// Forgets what earlier builds made and is `chosen`, but for what a build that runs now uses.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn prune(&self, chosen: impl Fn(&CachedStep) -> bool + Send + 'static) -> Result<Pruned> {
        let (cache, mounts) = (Arc::clone(&self.cache), Arc::clone(&self.cache_mounts));
        self.memo.lock().clear();
        blocking(move || {
            let (mut entries, mut bytes) = cache.prune(&chosen)?;
            let (more, more_bytes) = mounts.prune(&chosen)?;
            entries.extend(more);
            bytes += more_bytes;
            Ok(Pruned { entries, bytes })
        })
        .await
    }
}

/// The directory of what RUN's containers mount, below the data directory.
const MOUNTS: &str = "build-mounts";

fn shown_path(request: &BuildRequest) -> String {
    match &request.dockerfile {
        crate::DockerfileSource::Context(path) | crate::DockerfileSource::Local { path, .. }
            if !path.is_empty() =>
        {
            path.clone()
        }
        _ => "Dockerfile".to_owned(),
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
        end: 0,
        comment: Vec::new(),
        kind: Kind::GivenLabel(labels.clone().into_iter().collect()),
    }
}
