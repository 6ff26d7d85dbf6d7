//! The whole: what connections share, and what becomes of a connection.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use dray_build::{
    BuildRequest, Builder, Built, CacheImport, Client, ContextSource, Event, LocalDirectory, NamedContext,
};
use dray_engine::Engine;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};

use crate::client::SessionClient;
use crate::definition::{self, Source};
use crate::frontend::{self, Attributes, ClientLayout, MainContext, OtherContext};
use crate::grpc::{self, Call, Code, Status};
use crate::history::History;
use crate::jobs::{Job, Jobs};
use crate::proto::ops::Definition;
use crate::record::Record;
use crate::session::{Session, Sessions};
use crate::sync::Keep;
use crate::{Error, Pusher, bridge, content, control, failure};

/// Events of a build that wait to be told.
const AHEAD: usize = 64;
/// Results that one connection may refer to.
const MOST_REFERENCES: usize = 1000;

/// BuildKit's API on a builder. Clones are the same.
#[derive(Clone)]
pub struct BuildKit {
    pub(crate) inner: Arc<Inner>,
}

/// What all connections share.
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) builder: Builder,
    pub(crate) pusher: Arc<dyn Pusher>,
    pub(crate) version: &'static str,
    pub(crate) sessions: Sessions,
    pub(crate) jobs: Jobs,
    pub(crate) history: History,
    pub(crate) keep: Arc<Keep>,
}

impl BuildKit {
    /// The API on a builder; it keeps its own below the engine's data directory. `version` is what clients are told.
    #[must_use]
    pub fn new(engine: Engine, builder: Builder, pusher: Arc<dyn Pusher>, version: &'static str) -> Self {
        let data = engine.config().data_dir.clone();
        let inner = Inner {
            engine,
            builder,
            pusher,
            version,
            sessions: Sessions::new(),
            jobs: Jobs::new(),
            history: History::open(data.join("build-history")),
            keep: Arc::new(Keep::new(data.join("build-sync"))),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether a request with this head may become a session.
    ///
    /// # Errors
    /// [`Error`] when the head names no session, or one that is open.
    pub fn check_session(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.inner.sessions.check(headers).map_err(Error::from)
    }

    /// Keeps a session on a connection, until that ends. The client is the one who answers.
    ///
    /// # Errors
    /// [`Error`] when it cannot begin.
    pub async fn serve_session<I>(&self, headers: &HeaderMap, connection: I) -> Result<(), Error>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        self.inner.sessions.run(headers, connection).await.map_err(Error::from)
    }

    /// Ends a build by its name; one that does not run is ended already.
    pub fn cancel(&self, build: &str) {
        if let Some(job) = self.inner.jobs.get(build) {
            job.cancel.cancel();
        }
    }

    /// Answers calls on a connection, until that ends. Builds that it asked for end with it.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks.
    pub async fn serve_calls<I>(&self, connection: I) -> Result<(), Error>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let shared = Arc::new(Connection { kit: Arc::clone(&self.inner), references: Mutex::default() });
        let handler = move |call: Call| {
            let connection = Arc::clone(&shared);
            async move {
                let method = call.method.clone();
                let result = connection.answer(call).await;
                if let Err(status) = &result {
                    tracing::debug!(method, %status, code = ?status.code, "a call failed");
                }
                result
            }
        };
        grpc::serve(connection, handler).await.map_err(|source| Error::Connection { source })
    }
}

/// What one connection has asked for so far.
pub(crate) struct Connection {
    pub(crate) kit: Arc<Inner>,
    /// Results, built or to be built, by what the client calls them.
    references: Mutex<HashMap<String, Arc<Reference>>>,
}

/// Graphs by name that are given to a frontend.
pub(crate) type Inputs = BTreeMap<String, Definition>;

/// What the builder is given.
pub(crate) struct Asking {
    pub(crate) builder: Builder,
    pub(crate) request: BuildRequest,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// A result that is built when somebody needs it.
pub(crate) struct Reference {
    pub(crate) id: String,
    attributes: Attributes,
    inputs: Inputs,
    session: String,
    entitlements: Vec<String>,
    inline_cache: bool,
    record: Arc<Record>,
    built: OnceCell<Result<Arc<Built>, Status>>,
}

impl Reference {
    fn new(job: &Job, attributes: Attributes, inputs: Inputs) -> Self {
        Self {
            id: crate::random_id(),
            attributes,
            inputs,
            session: job.session.clone(),
            entitlements: job.entitlements.clone(),
            inline_cache: job.inline_cache,
            record: Arc::clone(&job.record),
            built: OnceCell::new(),
        }
    }

    /// Whether the client wants several platforms, if only one of them.
    pub(crate) fn is_multi_platform(&self) -> bool {
        let is_so =
            |name: &str| self.attributes.get(name).is_some_and(|text| matches!(text.as_str(), "1" | "true"));
        is_so("multi-platform") || is_so("build-arg:BUILDKIT_MULTI_PLATFORM")
    }
}

/// What is doing the work of a build, on the heap: an input of a build is a build.
type Building<'a> = Pin<Box<dyn Future<Output = Result<Arc<Built>, Status>> + Send + 'a>>;

impl Connection {
    async fn answer(self: &Arc<Self>, call: Call) -> Result<(), Status> {
        let method = call.method.clone();
        match method.rsplit_once('/') {
            Some(("/moby.buildkit.v1.Control", method)) => control::answer(self, method, call).await,
            Some(("/moby.buildkit.v1.frontend.LLBBridge", method)) => {
                bridge::answer(self, method, call).await
            }
            Some(("/grpc.health.v1.Health", "Check")) => call.answer(&control::Serving { status: 1 }).await,
            // Clients send their traces here; nobody collects them.
            Some(("/opentelemetry.proto.collector.trace.v1.TraceService", "Export")) => {
                call.answer(&()).await
            }
            _ => Err(Status::new(Code::Unimplemented, format!("unknown method {method}"))),
        }
    }

    /// Takes note of a result that a client wants of a frontend.
    pub(crate) fn refer(
        &self,
        job: &Job,
        attributes: Attributes,
        inputs: Inputs,
    ) -> Result<Arc<Reference>, Status> {
        let reference = Arc::new(Reference::new(job, attributes, inputs));
        let mut references = self.references.lock();
        if references.len() >= MOST_REFERENCES {
            return Err(Status::new(Code::ResourceExhausted, "the connection has too many results"));
        }
        references.insert(reference.id.clone(), Arc::clone(&reference));
        Ok(reference)
    }

    /// A result by what the client calls it.
    pub(crate) fn reference(&self, id: &str) -> Result<Arc<Reference>, Status> {
        let found = self.references.lock().get(id).map(Arc::clone);
        found.ok_or_else(|| Status::new(Code::NotFound, format!("no such ref {id}")))
    }

    /// What a result is, built once whoever asks.
    pub(crate) fn evaluate<'a>(&'a self, reference: &'a Reference) -> Building<'a> {
        Box::pin(async move {
            let built = reference.built.get_or_init(|| self.build(reference)).await;
            built.clone()
        })
    }

    async fn build(&self, reference: &Reference) -> Result<Arc<Built>, Status> {
        let work = |asking: Asking| async move {
            asking.builder.build(asking.request, asking.client, asking.events).await
        };
        self.work(reference, work).await.map(Arc::new)
    }

    /// Asks the builder something about a Dockerfile, instead of building it.
    pub(crate) async fn ask<T, F>(
        &self,
        job: &Job,
        attributes: Attributes,
        inputs: Inputs,
        work: impl FnOnce(Asking) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = dray_build::Result<T>>,
    {
        self.work(&Reference::new(job, attributes, inputs), work).await
    }

    /// Has the builder work for a client, and tells what it says meanwhile.
    async fn work<T, F>(&self, reference: &Reference, work: impl FnOnce(Asking) -> F) -> Result<T, Status>
    where
        F: Future<Output = dray_build::Result<T>>,
    {
        let session = self.kit.sessions.find(&reference.session).await?;
        let mut wanted = frontend::read(&reference.attributes, &reference.entitlements)?;
        wanted.request.inline_cache = reference.inline_cache;
        let client = Arc::new(SessionClient {
            local_sessions: std::mem::take(&mut wanted.local_sessions),
            shared_keys: std::mem::take(&mut wanted.shared_keys),
            ..SessionClient::new(&self.kit, Arc::clone(&session))
        });
        wanted.request.context = match &wanted.context {
            MainContext::Upload(path) => ContextSource::archive(client.upload(path)?),
            MainContext::Input => Self::main_input(reference)?,
            plain => match reference.inputs.contains_key("context") {
                true => Self::main_input(reference)?,
                false => plain.plain().unwrap_or_default(),
            },
        };
        for (name, context) in std::mem::take(&mut wanted.named) {
            let context = match context {
                OtherContext::Input(input) => self.input(reference, &input).await?,
                OtherContext::Layout(layout) => {
                    let directory = self.layout(&session, &layout).await?;
                    Some(NamedContext::OciLayout { directory, reference: Some(layout.digest) })
                }
                plain => plain.plain(),
            };
            wanted.request.named_contexts.extend(context.map(|context| (name, context)));
        }
        for cache in std::mem::take(&mut wanted.caches) {
            match self.layout(&session, &cache).await {
                Ok(directory) => wanted.request.cache_from.push(CacheImport::Directory(directory)),
                Err(status) => tracing::warn!(%status, "a client's cache cannot be read"),
            }
        }
        let (sender, mut events) = mpsc::channel(AHEAD);
        let working = work(Asking {
            builder: self.kit.builder.clone(),
            request: wanted.request,
            client,
            events: sender,
        });
        let telling = async {
            let mut some = Vec::with_capacity(AHEAD);
            while events.recv_many(&mut some, AHEAD).await > 0 {
                reference.record.tell_events(some.drain(..));
            }
        };
        let done = async { tokio::join!(working, telling).0 };
        tokio::select! {
            done = done => done.map_err(|error| failure::status(&error)),
            () = session.gone() => Err(Status::new(Code::Cancelled, "the client has gone")),
        }
    }

    /// A layout that the client lends, brought here.
    async fn layout(&self, session: &Session, layout: &ClientLayout) -> Result<LocalDirectory, Status> {
        let scratch = self.kit.engine.scratch();
        let scratch = scratch.map_err(|error| Status::new(Code::Internal, error.chain()))?;
        content::fetch(session, &layout.store, &layout.digest, scratch.path()).await?;
        Ok(LocalDirectory::new(scratch.path().to_owned(), scratch))
    }

    fn main_input(reference: &Reference) -> Result<ContextSource, Status> {
        let definition = reference.inputs.get("context");
        match definition::source(
            definition.ok_or_else(|| Status::invalid("the input \"context\" is missing"))?,
        )? {
            Source::Local(name) => Ok(ContextSource::Local(name)),
            Source::Remote(address) => Ok(ContextSource::Remote(address)),
            Source::Scratch => Ok(ContextSource::Empty),
            Source::Image(_) | Source::Result(_) => {
                let message = "a main context that is an image is not supported: name it with --build-context and copy from it";
                Err(Status::new(Code::Unimplemented, message))
            }
        }
    }

    /// What an input is; an empty one is none.
    async fn input(&self, reference: &Reference, name: &str) -> Result<Option<NamedContext>, Status> {
        let definition = reference.inputs.get(name);
        let definition =
            definition.ok_or_else(|| Status::invalid(format!("the input {name:?} is missing")))?;
        Ok(Some(match definition::source(definition)? {
            Source::Result(id) => {
                let other = self.reference(&id)?;
                NamedContext::Built(self.evaluate(&other).await?)
            }
            Source::Image(image) => NamedContext::Image(image),
            Source::Local(name) => NamedContext::Local(name),
            Source::Remote(address) => NamedContext::Remote(address),
            Source::Scratch => return Ok(None),
        }))
    }
}
