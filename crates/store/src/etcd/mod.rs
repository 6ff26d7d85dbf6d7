//! The store of several servers: etcd, version 3 of its API.
//!
//! Revisions are etcd's. Every server follows all changes with one watch and answers reads from its own picture; a write is
//! one transaction that compares the key's last revision, and is answered when the picture has it. Without etcd reads go on
//! from the picture as it was, writes fail, and everything goes on by itself when it is back.
//!
//! A value lies there without its revision, which etcd gives it: the text with a gap, after four bytes that say where.

mod client;
mod follow;
mod messages;
mod write;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    Draft, Encryption, Error, Key, Limits, Store,
    store::Shared,
    writer::{Message, Request},
};
use client::{Client, Endpoint, Failure};

/// Transactions that are under way at once.
const WRITES: u32 = 256;
/// How long a start tries to reach etcd.
const START: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How long etcd may take for a call. A member that lost the others refuses after about as long.
const CALL: Duration = Duration::from_secs(8);

/// Which etcd, and who this server is to it.
#[derive(Debug, Clone, Default)]
pub struct EtcdConfig {
    /// The members' URLs.
    pub endpoints: Vec<String>,
    /// Whose certificates members may have, a PEM file; the host's authorities without one.
    pub authority: Option<PathBuf>,
    /// The certificate and the key by which this server is known, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What all keys begin with, as "/dray". Servers with the same share everything.
    pub prefix: String,
}

/// What all tasks share.
struct Core {
    client: Client,
    shared: Arc<Shared>,
    encryption: Encryption,
    prefix: String,
    /// The revision of the picture.
    seen: watch::Sender<u64>,
}

impl Store {
    /// The store in an etcd. Blocks until all that is there has been read.
    ///
    /// # Errors
    /// `EtcdConfig`, `Unavailable`, `Sealed`, `Damaged`.
    pub fn in_etcd(config: &EtcdConfig, limits: Limits, encryption: Encryption) -> Result<Store, Error> {
        let client = Client::new(endpoints(config)?, tls(config)?);
        let (messages, receiver) = mpsc::channel(limits.queue);
        let (opened, outcome) = oneshot::channel();
        let prefix = config.prefix.clone();
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(unavailable(error)))),
            };
            runtime.block_on(async {
                match open(client, prefix, limits, encryption).await {
                    Ok(core) => {
                        let core = Arc::new(core);
                        let _ = opened.send(Ok(core.shared.clone()));
                        drive(core, receiver).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
        };
        let thread = thread::Builder::new().name("store-etcd".into()).spawn(run).map_err(unavailable)?;
        let shared = outcome.blocking_recv().map_err(|_| Error::Closed)??;
        Ok(Store::of(shared, messages, thread))
    }
}

fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::Unavailable { why: why.to_string() }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        /// gRPC's RESOURCE_EXHAUSTED, in which etcd says more than one thing.
        const EXHAUSTED: u32 = 8;
        match failure {
            Failure::Refused { code: EXHAUSTED, message } if message.contains("space exceeded") => {
                Error::SpaceExceeded { limit: 0 }
            }
            other => unavailable(other),
        }
    }
}

fn endpoints(config: &EtcdConfig) -> Result<Vec<Endpoint>, Error> {
    let wrong = |why: String| Error::EtcdConfig { why };
    if config.endpoints.is_empty() {
        return Err(wrong("name at least one member".into()));
    }
    let parse = |url: &String| {
        Endpoint::parse(url).ok_or_else(|| wrong(format!("{url:?} is no URL such as https://127.0.0.1:2379")))
    };
    config.endpoints.iter().map(parse).collect()
}

/// What TLS needs, when a member is reached by it.
fn tls(config: &EtcdConfig) -> Result<Option<Arc<rustls::ClientConfig>>, Error> {
    if endpoints(config)?.iter().all(|endpoint| !endpoint.is_encrypted()) {
        return Ok(None);
    }
    let wrong = |path: &Path, why: &dyn std::fmt::Display| Error::EtcdConfig {
        why: format!("{}: {why}", path.display()),
    };
    let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
    let certificates = |path: &Path| {
        let found = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
        found.map_err(|error| wrong(path, &error))
    };
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.authority {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| wrong(path, &error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::EtcdConfig { why: error.to_string() })?
        .with_root_certificates(roots);
    let mut tls = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, &error))?;
            let chain = certificates(certificate)?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| wrong(key, &error))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(tls)))
}

/// Reads everything, as long as etcd does not answer again and again.
async fn open(client: Client, prefix: String, limits: Limits, encryption: Encryption) -> Result<Core, Error> {
    let begun = tokio::time::Instant::now();
    let core = Core {
        client,
        shared: Arc::new(Shared::new(crate::Snapshot::default(), limits)),
        encryption,
        prefix,
        seen: watch::Sender::new(0),
    };
    loop {
        match core.load().await {
            Ok(snapshot) => {
                core.show_anew(snapshot);
                return Ok(core);
            }
            Err(Error::Unavailable { .. }) if begun.elapsed() < START => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// Follows and writes until nobody asks any more.
async fn drive(core: Arc<Core>, mut messages: mpsc::Receiver<Message>) {
    let following = tokio::spawn(follow::follow(core.clone()));
    let compacting = tokio::spawn(follow::compact(core.clone()));
    let seats = Arc::new(Semaphore::new(WRITES as usize));
    while let Some(message) = messages.recv().await {
        let Ok(seat) = seats.clone().acquire_owned().await else { break };
        let core = core.clone();
        tokio::spawn(async move {
            let _seat = seat;
            match message {
                Message::Write(Request { key, operation, answer }) => {
                    let _ = answer.send(core.write(&key, operation).await);
                }
                Message::Rewrite(done) => done(core.rewrite().await),
            }
        });
    }
    // Those that are under way.
    let _ = seats.acquire_many(WRITES).await;
    following.abort();
    compacting.abort();
}

impl Core {
    fn etcd_key(&self, key: &Key) -> Vec<u8> {
        format!("{}{}", self.prefix, key.encode()).into_bytes()
    }

    /// The key of the store that a key of etcd stands for.
    fn key(&self, bytes: &[u8]) -> Option<Key> {
        Key::decode(std::str::from_utf8(bytes).ok()?.strip_prefix(&self.prefix)?)
    }

    fn encode(&self, key: &Key, draft: &Draft) -> Result<Vec<u8>, Error> {
        self.encryption.seal(key, &draft.encode())
    }

    fn decode(&self, key: &Key, record: &[u8]) -> Result<Draft, Error> {
        let (text, _) = self.encryption.open(key, record)?;
        Draft::decode(&text)
            .ok_or_else(|| Error::Sealed { key: key.to_string(), why: "it is not as it was written".into() })
    }
}
