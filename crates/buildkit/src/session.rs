//! Sessions: connections on which a client answers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::grpc::{Client, Code, Metadata, Status, Stream};
use crate::proto::session::{
    CheckAgentRequest, CredentialsRequest, CredentialsResponse, Empty, GetSecretRequest, GetSecretResponse,
};

/// How long a build waits for its session: clients open both at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sessions that one daemon keeps, and the longest name of one.
const MOST_SESSIONS: usize = 1000;
const LONGEST_NAME: usize = 256;

const ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";

/// The methods that are called.
pub(crate) const FILE_SYNC: &str = "/moby.filesync.v1.FileSync/DiffCopy";
pub(crate) const FILE_SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
pub(crate) const READ_CONTENT: &str = "/containerd.services.content.v1.Content/Read";
pub(crate) const WRITE_CONTENT: &str = "/containerd.services.content.v1.Content/Write";
pub(crate) const UPLOAD: &str = "/moby.upload.v1.Upload/Pull";

/// A client that answers.
pub(crate) struct Session {
    /// What the client calls the place that its files are from; empty when it says nothing.
    pub(crate) shared_key: String,
    methods: BTreeSet<String>,
    client: Client,
    gone: CancellationToken,
}

impl Session {
    /// Whether the client has said that it answers this.
    pub(crate) fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// Is done when the client is gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Begins a call of any number of messages.
    pub(crate) fn call(&self, method: &str, metadata: &Metadata) -> Result<Stream, Status> {
        if !self.supports(method) {
            return Err(Status::new(Code::Unimplemented, format!("the client does not offer {method}")));
        }
        self.client.stream(method, metadata)
    }

    /// A secret's value.
    pub(crate) async fn secret(&self, id: &str) -> Result<Vec<u8>, Status> {
        if !self.supports(GET_SECRET) {
            return Err(Status::new(Code::NotFound, format!("secret {id}: not found")));
        }
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        let response: GetSecretResponse = self.client.unary(GET_SECRET, &request).await?;
        Ok(response.data)
    }

    /// The user and password for a registry; both empty when the client has none.
    pub(crate) async fn credentials(&self, host: &str) -> Result<(String, String), Status> {
        if !self.supports(CREDENTIALS) {
            return Ok((String::new(), String::new()));
        }
        let request = CredentialsRequest { host: host.to_owned() };
        let response: CredentialsResponse = self.client.unary(CREDENTIALS, &request).await?;
        Ok((response.username, response.secret))
    }

    /// Whether the client lends an SSH agent of this name.
    pub(crate) async fn check_agent(&self, id: &str) -> Result<(), Status> {
        if !self.supports(CHECK_AGENT) {
            return Err(Status::new(Code::NotFound, format!("no SSH key {id:?} forwarded from the client")));
        }
        let request = CheckAgentRequest { id: id.to_owned() };
        self.client.unary::<Empty>(CHECK_AGENT, &request).await.map(drop)
    }

    /// A connection to the client's agent of this name.
    pub(crate) fn forward_agent(&self, id: &str) -> Result<Stream, Status> {
        self.call(FORWARD_AGENT, &vec![("buildkit.ssh.id".to_owned(), id.to_owned())])
    }
}

/// The sessions that are open.
#[derive(Clone)]
pub(crate) struct Sessions {
    open: Arc<Mutex<HashMap<String, Arc<Session>>>>,
    /// Changes when one more is open.
    changed: Arc<watch::Sender<()>>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { open: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// The names that the head of a request to open a session gives: its own, its shared key, its methods.
    fn announced(headers: &HeaderMap) -> Result<(String, String, BTreeSet<String>), Status> {
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let id = text(ID).unwrap_or_default().to_owned();
        if id.is_empty() || id.len() > LONGEST_NAME {
            return Err(Status::invalid(format!("the session has no proper {ID}")));
        }
        let shared_key = text(SHARED_KEY).unwrap_or_default().to_owned();
        let methods = headers.get_all(METHOD).iter().filter_map(|value| value.to_str().ok());
        Ok((id, shared_key, methods.map(str::to_ascii_lowercase).collect()))
    }

    /// Whether a request with this head may open a session.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Status> {
        let (id, ..) = Self::announced(headers)?;
        let open = self.open.lock();
        if open.contains_key(&id) {
            return Err(Status::new(Code::AlreadyExists, format!("session {id} already exists")));
        }
        if open.len() >= MOST_SESSIONS {
            return Err(Status::new(Code::ResourceExhausted, "too many sessions are open"));
        }
        Ok(())
    }

    /// Keeps a session for as long as its connection lasts.
    pub(crate) async fn run<I>(&self, headers: &HeaderMap, connection: I) -> Result<(), Status>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        self.check(headers)?;
        let (id, shared_key, methods) = Self::announced(headers)?;
        let (client, life) = Client::connect(connection)
            .await
            .map_err(|error| Status::new(Code::Unavailable, format!("cannot begin session {id}: {error}")))?;
        let gone = CancellationToken::new();
        let session = Arc::new(Session { shared_key, methods, client, gone: gone.clone() });
        {
            let mut open = self.open.lock();
            if open.contains_key(&id) {
                return Err(Status::new(Code::AlreadyExists, format!("session {id} already exists")));
            }
            open.insert(id.clone(), session);
        }
        // Whatever ends this, the daemon's stop among others.
        let _closed = Closed { sessions: self.clone(), id: id.clone(), gone };
        self.changed.send_replace(());
        if let Err(error) = life.await {
            tracing::debug!(%error, id, "a session's connection ended badly");
        }
        Ok(())
    }

    /// A session by its name, which may have a word and a colon before it; one that is about to be opened is waited for.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        let id = id.split_once(':').map_or(id, |(_, id)| id);
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(session) = self.open.lock().get(id).map(Arc::clone) {
                    return Some(session);
                }
                changed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await.ok().flatten();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("no active session for {id}")))
    }
}

/// Forgets a session in the end.
struct Closed {
    sessions: Sessions,
    id: String,
    gone: CancellationToken,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.sessions.open.lock().remove(&self.id);
        self.gone.cancel();
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(crate) mod tests;
