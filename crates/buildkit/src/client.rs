//! A client's session as the builder asks it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use dray_build::{
    BoxFuture, Client, ClientError, Credentials, Duplex, LocalDirectory, LocalFilter, ProgressFn,
};
use dray_image::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::grpc::{Code, Metadata, Status};
use crate::kit::Inner;
use crate::pipe::{self, PipeReader};
use crate::proto::session::BytesMessage;
use crate::session::{Session, Sessions, UPLOAD};
use crate::sync::{Keep, Wanted, receive};

/// Bytes to and from an agent in one message.
const PIECE: usize = 32 * 1024;
/// The largest secret, in bytes: BuildKit's own limit.
const LARGEST_SECRET: usize = 500 * 1024;
/// The one who started a build.
pub(crate) struct SessionClient {
    pub(crate) session: Arc<Session>,
    pub(crate) sessions: Sessions,
    pub(crate) keep: Arc<Keep>,
    /// Directories that another session of the client's has, which several builds share.
    pub(crate) local_sessions: BTreeMap<String, String>,
    /// Keys of directories where clients name them.
    pub(crate) shared_keys: HashMap<String, String>,
}

/// What a status of the client's means to the builder.
fn error(what: String) -> impl FnOnce(Status) -> ClientError {
    move |status| match status.code {
        Code::NotFound | Code::Unimplemented => ClientError::Missing { what },
        _ => ClientError::Failed { what, why: status.message },
    }
}

impl SessionClient {
    /// The client of a session, whose directories have no names but their own.
    pub(crate) fn new(kit: &Inner, session: Arc<Session>) -> Self {
        Self {
            session,
            sessions: kit.sessions.clone(),
            keep: Arc::clone(&kit.keep),
            local_sessions: BTreeMap::new(),
            shared_keys: HashMap::new(),
        }
    }

    /// A tree's key: the same for the same part of the same directory of the same client.
    fn key(&self, session: &Session, name: &str, filter: &LocalFilter) -> String {
        let shared = self.shared_keys.get(name).map_or(session.shared_key.as_str(), String::as_str);
        // A Dockerfile alone has a place apart from all that stands beside it.
        let part = filter.include.join("\n");
        format!("{shared}\n{name}\n{}", Digest::of(part.as_bytes()))
    }

    async fn local_of(
        &self,
        name: &str,
        filter: &LocalFilter,
        progress: ProgressFn<'_>,
    ) -> Result<LocalDirectory, Status> {
        let other = match self.local_sessions.get(name) {
            Some(id) => Some(self.sessions.find(id).await?),
            None => None,
        };
        let session = other.as_ref().unwrap_or(&self.session);
        let place = {
            let (keep, key) = (Arc::clone(&self.keep), self.key(session, name, filter));
            let leased = tokio::task::spawn_blocking(move || keep.lease(&key)).await;
            leased.map_err(|_| Status::new(Code::Internal, "the transfer ended unexpectedly"))??
        };
        let wanted = Wanted {
            name: name.to_owned(),
            include: filter.include.clone(),
            exclude: filter.exclude.clone(),
            follow: filter.follow.clone(),
        };
        receive(session, &wanted, &place, progress).await?;
        let path = place.path().to_owned();
        Ok(LocalDirectory::new(path, place))
    }

    /// What the client sends for an address of its own, `/NAME`.
    pub(crate) fn upload(&self, path: &str) -> Result<PipeReader, Status> {
        let metadata = Metadata::from([("urlpath".to_owned(), path.to_owned())]);
        let mut stream = self.session.call(UPLOAD, &metadata)?;
        let (pieces, reader) = pipe::reader();
        tokio::spawn(async move {
            loop {
                let piece = match stream.next::<BytesMessage>().await {
                    Ok(Some(message)) => Ok(message.data),
                    Ok(None) => return,
                    Err(status) => Err(std::io::Error::other(status)),
                };
                let is_last = piece.is_err();
                if pieces.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(reader)
    }
}

impl Client for SessionClient {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        Box::pin(async move {
            let secret = self.session.secret(id).await.map_err(error(format!("secret {id}")))?;
            if secret.len() > LARGEST_SECRET {
                let why = format!("it is larger than {LARGEST_SECRET} bytes");
                return Err(ClientError::Failed { what: format!("secret {id}"), why });
            }
            Ok(secret)
        })
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>> {
        Box::pin(async move {
            let what = || format!("ssh agent {id}");
            self.session.check_agent(id).await.map_err(error(what()))?;
            let mut stream = self.session.forward_agent(id).map_err(error(what()))?;
            let sender = stream.sender();
            let (ours, theirs) = tokio::io::duplex(2 * PIECE);
            let (mut from_build, mut to_build) = tokio::io::split(theirs);
            tokio::spawn(async move {
                let to_agent = async {
                    let Some(sender) = sender else { return };
                    let mut buffer = vec![0; PIECE];
                    while let Ok(n @ 1..) = from_build.read(&mut buffer).await {
                        let data = Bytes::copy_from_slice(&buffer[..n]);
                        if sender.send(&BytesMessage { data }).await.is_err() {
                            return;
                        }
                    }
                };
                let to_build = async {
                    while let Ok(Some(message)) = stream.next::<BytesMessage>().await {
                        if to_build.write_all(&message.data).await.is_err() {
                            return;
                        }
                    }
                };
                // Whoever of the two goes first, there is nothing left to say.
                tokio::select! {
                    () = to_agent => {}
                    () = to_build => {}
                }
            });
            Ok(Box::new(ours) as Box<dyn Duplex>)
        })
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>> {
        Box::pin(async move {
            let what = format!("credentials for {host}");
            // Clients know their own registry by the host that answers for it.
            let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
            let (username, password) = self.session.credentials(host).await.map_err(error(what))?;
            let is_known = !username.is_empty() || !password.is_empty();
            Ok(is_known.then_some(Credentials { username, password }))
        })
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>> {
        Box::pin(async move {
            let brought = self.local_of(name, filter, progress).await;
            brought.map_err(error(format!("directory {name}")))
        })
    }
}
