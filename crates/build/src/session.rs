//! What all stages of one build share: the contexts, the images, the cache, and who is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use dray_image::{Hold, Image, ImageConfig};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use crate::builder::{Builder, blocking};
use crate::cache::Pins;
use crate::cache_transfer::Elsewhere;
use crate::client::{Client, LocalFilter};
use crate::context::{Definition, Main};
use crate::images::Pull;
use crate::platform::Platform;
use crate::progress::{Event, Output, Running, VertexStatus};
use crate::request::{BuildRequest, NamedContext};
use crate::sources::Tree;
use crate::{Error, Result, context, remote};
use dray_dockerfile::ignore::Ignore;
use dray_dockerfile::{Dockerfile, Kind};

/// One build under way.
pub(crate) struct Session {
    pub(crate) builder: Builder,
    pub(crate) request: BuildRequest,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) output: Output,
    pub(crate) pins: Arc<Pins>,
    pub(crate) definition: Definition,
    pub(crate) file: Dockerfile,
    /// How many vertices work at once.
    pub(crate) permits: Semaphore,
    /// Nothing that the build makes is newer, in seconds since 1970.
    pub(crate) epoch: Option<i64>,
    /// The keys of the steps that this build has made.
    pub(crate) made: Mutex<HashSet<String>>,
    /// Containers whose removal goes on in the background.
    pub(crate) removals: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// What the result is made of: addresses and digests.
    pub(crate) materials: Mutex<BTreeMap<String, String>>,
    /// What keeps the files of images, whatever becomes of these.
    pub(crate) holds: Arc<Mutex<Vec<Hold>>>,
    /// Caches of other places that steps may be taken from.
    pub(crate) caches: Mutex<Vec<Arc<Elsewhere>>>,
    main: OnceCell<Arc<Tree>>,
    named: tokio::sync::Mutex<HashMap<String, Arc<Tree>>>,
    images: tokio::sync::Mutex<HashMap<(String, Platform), Image>>,
    nothing: OnceCell<Arc<Tree>>,
}

/// What a session begins with.
pub(crate) struct Start {
    pub(crate) builder: Builder,
    pub(crate) request: BuildRequest,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) output: Output,
    pub(crate) definition: Definition,
    pub(crate) file: Dockerfile,
    pub(crate) epoch: Option<i64>,
}

impl Session {
    pub(crate) fn new(start: Start) -> Self {
        let Start { builder, request, client, output, definition, file, epoch } = start;
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            pins: Arc::new(Pins::new(&builder.cache)),
            builder,
            request,
            client,
            output,
            definition,
            file,
            permits: Semaphore::new(processors.max(2)),
            epoch,
            made: Mutex::default(),
            removals: Mutex::default(),
            materials: Mutex::default(),
            holds: Arc::default(),
            caches: Mutex::default(),
            main: OnceCell::new(),
            named: tokio::sync::Mutex::default(),
            images: tokio::sync::Mutex::default(),
            nothing: OnceCell::new(),
        }
    }

    /// The time that a step is told to be made at, RFC 3339.
    pub(crate) fn now(&self) -> String {
        let epoch = self.epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        epoch.unwrap_or_else(jiff::Timestamp::now).to_string()
    }

    /// The digest of a part of a tree that never changes, if it was asked for before.
    pub(crate) fn memo(&self, key: &str) -> Option<String> {
        self.builder.memo.lock().get(key).cloned()
    }

    /// Remembers the digest of a part of a tree that never changes, also for later builds.
    pub(crate) fn remember(&self, key: String, digest: String) {
        /// More are not kept.
        const MOST: usize = 10_000;
        let mut kept = self.builder.memo.lock();
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(key, digest);
    }

    /// The main context, brought here when it is first needed.
    pub(crate) async fn main_context(&self) -> Result<Arc<Tree>> {
        let loaded = self.main.get_or_try_init(|| async {
            match &self.definition.main {
                Main::Ready(tree) => Ok(Arc::clone(tree)),
                Main::Empty => self.nothing().await,
                Main::Local(name) => {
                    let filter = LocalFilter {
                        include: Vec::new(),
                        exclude: self.definition.ignore.patterns().to_vec(),
                        follow: self.wanted_of_context(),
                    };
                    self.local("load build context", name, &filter).await
                }
            }
        });
        loaded.await.cloned()
    }

    /// A tree with nothing in it, for who copies only what stands in the Dockerfile.
    pub(crate) async fn nothing(&self) -> Result<Arc<Tree>> {
        let made = self.nothing.get_or_try_init(|| async {
            let engine = self.builder.engine.clone();
            blocking(move || Ok(Arc::new(context::unpack(&engine, EMPTY_ARCHIVE)?))).await
        });
        made.await.cloned()
    }

    async fn local(&self, what: &str, name: &str, filter: &LocalFilter) -> Result<Arc<Tree>> {
        let key = format!("local {name} {filter:?}");
        let vertex = Running::start(&self.output, &key, format!("[internal] {what}"), Vec::new()).await?;
        let meter = vertex.meter("transferring context:");
        let brought = self.client.local(name, filter, &|done| meter.tell(done)).await.map_err(Error::from);
        meter.end().await?;
        let result = brought.and_then(|directory| Ok((Arc::new(Tree::directory(directory)?), false)));
        vertex.end(result).await
    }

    /// The paths that the Dockerfile reads of the main context; none means all.
    fn wanted_of_context(&self) -> Vec<String> {
        let mut wanted = Vec::new();
        for instruction in self.file.stages.iter().flat_map(|stage| &stage.instructions) {
            let sources: Vec<&str> = match &instruction.kind {
                Kind::Copy(transfer) | Kind::Add(transfer) if transfer.from.is_none() => {
                    transfer.sources.iter().map(String::as_str).collect()
                }
                Kind::Run(run) => run
                    .mounts
                    .iter()
                    .filter(|mount| mount.kind == "bind" && mount.get("from").is_none())
                    .map(|mount| mount.get("source").unwrap_or_default())
                    .collect(),
                Kind::Onbuild(_) => return Vec::new(),
                _ => Vec::new(),
            };
            for source in sources {
                let path = source.trim_start_matches("./").trim_matches('/');
                if path.is_empty() || path == "." || path.contains(['$', '\\', '"']) || source.contains("..")
                {
                    return Vec::new();
                }
                if !dray_dockerfile::is_url(source) && !remote::is_git(source) {
                    wanted.push(path.to_owned());
                }
            }
        }
        // An image may bring triggers that read anything.
        wanted.sort_unstable();
        wanted.dedup();
        if self.may_have_triggers() { Vec::new() } else { wanted }
    }

    fn may_have_triggers(&self) -> bool {
        let resolve = |name: &str| self.builder.engine.images().resolve(name).ok();
        self.file.stages.iter().any(|stage| {
            let is_stage = self.file.stages.iter().any(|other| other.name.as_deref() == Some(&stage.base));
            if is_stage || stage.base == "scratch" {
                return false;
            }
            let image = resolve(&stage.base);
            image.is_none_or(|image| image.config.config.other.contains_key("OnBuild"))
        })
    }

    /// The files of a context that the caller named; none when it is an image.
    pub(crate) async fn named_tree(&self, name: &str) -> Result<Option<Arc<Tree>>> {
        let mut named = self.named.lock().await;
        if let Some(present) = named.get(name) {
            return Ok(Some(Arc::clone(present)));
        }
        let Some(context) = self.request.named_contexts.get(name) else {
            return Err(Error::invalid(format!("there is no context named {name}")));
        };
        let tree = match context {
            NamedContext::Image(_) | NamedContext::OciLayout { .. } | NamedContext::Built(_) => {
                return Ok(None);
            }
            NamedContext::Directory(directory) => {
                let (engine, directory) = (self.builder.engine.clone(), directory.clone());
                blocking(move || context::without_ignored(&engine, Tree::directory(directory)?)).await?
            }
            NamedContext::Local(local) => {
                let wanted = vec![".dockerignore".to_owned()];
                let ignore =
                    LocalFilter { include: wanted.clone(), follow: wanted, ..LocalFilter::default() };
                let directory = self.client.local(local, &ignore, &|_| {}).await?;
                let text = tokio::fs::read_to_string(directory.path().join(".dockerignore")).await;
                let ignore = Ignore::parse(&text.unwrap_or_default()).map_err(Error::invalid)?;
                let filter = LocalFilter { exclude: ignore.patterns().to_vec(), ..LocalFilter::default() };
                self.local(&format!("load context {name}"), local, &filter).await?
            }
            NamedContext::Remote(address) => {
                let fetcher =
                    remote::Fetcher { engine: &self.builder.engine, client: &self.client, keep_git: false };
                match fetcher.context(address).await? {
                    remote::Fetched::Tree(tree) => Arc::new(tree),
                    remote::Fetched::Dockerfile(_) => {
                        return Err(Error::invalid(format!(
                            "context {name} is no archive and no repository"
                        )));
                    }
                }
            }
        };
        named.insert(name.to_owned(), Arc::clone(&tree));
        Ok(Some(tree))
    }

    /// The image that a named context is.
    pub(crate) async fn named_image(&self, name: &str, platform: &Platform) -> Result<Image> {
        match self.request.named_contexts.get(name) {
            Some(NamedContext::Image(image)) => self.image(image, platform).await,
            Some(NamedContext::OciLayout { directory, reference }) => {
                let engine = self.builder.engine.clone();
                let (directory, reference, platform) =
                    (directory.clone(), reference.clone(), platform.clone());
                let (image, hold) = blocking(move || {
                    crate::layout::load(&engine, directory.path(), reference.as_deref(), &platform)
                })
                .await?;
                self.holds.lock().push(hold);
                Ok(image)
            }
            Some(NamedContext::Built(built)) => {
                let image = built.images.iter().find(|image| platform.matches(&image.platform));
                let image = image.or(built.images.first()).ok_or(Error::NoResult)?;
                Ok(Image {
                    id: image.id.clone(),
                    config: image.config.clone(),
                    layers: image.layers.clone(),
                    references: Vec::new(),
                    added: String::new(),
                })
            }
            _ => Err(Error::invalid(format!("context {name} is no image"))),
        }
    }

    /// An image by name, of this machine or of whoever brings them; the same one for the whole build.
    pub(crate) async fn image(&self, name: &str, platform: &Platform) -> Result<Image> {
        let mut images = self.images.lock().await;
        if let Some(present) = images.get(&(name.to_owned(), platform.clone())) {
            return Ok(present.clone());
        }
        let shown =
            dray_image::Reference::parse(name).map_or_else(|_| name.to_owned(), |full| full.to_string());
        let title = format!("[internal] load metadata for {shown}");
        let key = format!("image {shown} {platform}");
        let vertex = Running::start(&self.output, &key, title, Vec::new()).await?;
        let found = self.find_image(name, platform, vertex.digest()).await;
        let image = vertex.end(found.map(|image| (image, false))).await?;
        // Whoever removes it meanwhile takes its name, and not its files.
        let chains: Vec<_> = image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let store = Arc::clone(self.builder.engine.images());
        let hold = blocking(move || Ok(store.hold(chains))).await?;
        self.holds.lock().push(hold);
        self.materials.lock().insert(format!("docker-image {shown}"), image.id.to_string());
        images.insert((name.to_owned(), platform.clone()), image.clone());
        Ok(image)
    }

    async fn find_image(
        &self,
        name: &str,
        platform: &Platform,
        vertex: &dray_image::Digest,
    ) -> Result<Image> {
        let store = Arc::clone(self.builder.engine.images());
        let (wanted, asked) = (name.to_owned(), dray_image::Platform::parse(&platform.to_string()).ok());
        let here = blocking(move || match store.resolve_for(&wanted, asked.as_ref()) {
            Ok(image) => Ok(Some(image)),
            Err(dray_image::Error::NotFound { .. }) => Ok(None),
            Err(dray_image::Error::OtherPlatform { .. }) => Ok(store.resolve(&wanted).ok()),
            Err(error) => Err(error.into()),
        })
        .await?;
        let suits = |image: &Image| platform_of(&image.config).is_none_or(|own| platform.matches(&own));
        if let Some(image) = here.as_ref().filter(|image| !self.request.pull && suits(image)) {
            return Ok(image.clone());
        }
        let missing = |why: String| Error::NoImage { name: name.to_owned(), why };
        let Some(source) = &self.builder.source else {
            return Err(missing(match here {
                Some(image) if !suits(&image) => format!(
                    "it is here for {} and not for {platform}; load the image for {platform}",
                    platform_of(&image.config).map_or_else(String::new, |own| own.to_string())
                ),
                _ => "pulling from registries is not supported; use `docker load`".to_owned(),
            }));
        };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
        let progress = move |part: &str, done: u64, total: u64| {
            // What comes too fast for who draws it is left out.
            let _ = sender.try_send((part.to_owned(), done, total));
        };
        let pull =
            Pull { name, platform, anew: self.request.pull, client: &self.client, progress: &progress };
        let mut pulling = source.pull(pull);
        let id = loop {
            tokio::select! {
                pulled = &mut pulling => break pulled.map_err(|error| missing(error.to_string()))?,
                Some((part, current, total)) = receiver.recv() => {
                    let now = jiff::Timestamp::now();
                    let completed = (total > 0 && current >= total).then_some(now);
                    let status = VertexStatus {
                        vertex: vertex.clone(), id: part, current, total,
                        timestamp: now, started: Some(now), completed,
                    };
                    self.output.send(Event::Status(status)).await?;
                }
            }
        };
        let store = Arc::clone(self.builder.engine.images());
        blocking(move || Ok(store.resolve(id.as_str())?)).await
    }
}

/// What an image is made for; none when it does not say.
pub(crate) fn platform_of(config: &ImageConfig) -> Option<Platform> {
    let variant = config.other.get("variant").and_then(serde_json::Value::as_str).unwrap_or_default();
    format!("{}/{}/{variant}", config.os, config.architecture).trim_end_matches('/').parse().ok()
}

/// An archive with nothing in it.
const EMPTY_ARCHIVE: &[u8] = &[0; 1024];
