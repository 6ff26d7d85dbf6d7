//! The client: what is shared by all that is pulled and pushed.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use dray_image::{Digest, ImageStore, Platform, Reference};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use rustls::RootCertStore;

use crate::connect::{HttpClient, client, host_roots};
use crate::exchange::{Payload, read_all};
use crate::hosts::{Endpoint, Hosts};
use crate::session::{ATTEMPTS, Session};
use crate::{Credentials, Error, Result};
use dray_image::media::{ACCEPTED, Descriptor, Document, MANIFEST_LIMIT, essence};

/// How long a registry may be silent.
const PATIENCE: Duration = Duration::from_mins(1);

/// Pulls and pushes, for one image store.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<ImageStore>,
    hosts: Hosts,
    patience: Duration,
    attempts: u32,
    roots: OnceLock<Arc<RootCertStore>>,
    /// Layers that somebody is fetching, by chain id: who wants the same waits.
    busy: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// A manifest or index, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) document: Document,
}

/// What a registry tells of a reference (`GET /distribution/{name}/json`).
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What the reference leads to.
    pub descriptor: Descriptor,
    /// The platforms that it is for.
    pub platforms: Vec<Platform>,
}

/// What came of a login.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// To be kept in place of the password, when the authorization server gave one.
    pub identity_token: String,
}

impl Client {
    /// A client that puts images into `store`.
    #[must_use]
    pub fn new(store: Arc<ImageStore>, hosts: Hosts) -> Self {
        Self::with_patience(store, hosts, PATIENCE)
    }

    /// A client that waits only so long for a registry that is silent.
    #[must_use]
    pub fn with_patience(store: Arc<ImageStore>, hosts: Hosts, patience: Duration) -> Self {
        let inner = Inner {
            store,
            hosts,
            patience,
            attempts: ATTEMPTS,
            roots: OnceLock::new(),
            busy: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A client that tries the same only so often.
    #[must_use]
    pub(crate) fn with_attempts(self, attempts: u32) -> Self {
        let Inner { store, hosts, patience, .. } = self.inner.as_ref();
        let (roots, busy) = (OnceLock::new(), Mutex::default());
        let inner = Inner {
            store: Arc::clone(store),
            hosts: hosts.clone(),
            patience: *patience,
            attempts,
            roots,
            busy,
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.inner.attempts
    }

    pub(crate) fn store(&self) -> &Arc<ImageStore> {
        &self.inner.store
    }

    /// What is configured about registries.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.inner.hosts
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.patience
    }

    /// Connections to servers that need to prove as much as this one.
    pub(crate) fn http(&self, endpoint: &Endpoint) -> Result<HttpClient> {
        let roots = self.inner.roots.get_or_init(|| Arc::new(host_roots()));
        client(&self.inner.hosts, roots, endpoint)
    }

    /// The lock of a layer that is fetched.
    pub(crate) fn turn(&self, chain_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.inner.busy.lock();
        busy.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = busy.get(chain_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(chain_id.clone(), Arc::downgrade(&lock));
        lock
    }

    /// A session with the registry of `reference` itself.
    pub(crate) async fn session(
        &self,
        reference: &Reference,
        actions: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Session> {
        let endpoints = self.inner.hosts.endpoints(reference.registry(), false);
        self.first_session(endpoints, reference, actions, credentials).await
    }

    /// A session with the first of these places that answers.
    pub(crate) async fn first_session(
        &self,
        endpoints: Vec<Endpoint>,
        reference: &Reference,
        actions: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Session> {
        let mut first_error = None;
        for endpoint in endpoints {
            // A mirror is somebody else: the registry's password is none of its business.
            let credentials = credentials.filter(|_| !endpoint.is_mirror).cloned();
            let session = Session::open(self, endpoint, reference.repository(), actions, credentials).await?;
            match session.ping().await {
                Ok(()) => return Ok(session),
                Err(error @ (Error::Connect { .. } | Error::Interrupted { .. })) => {
                    // With TLS and without: the last word is that of the one that may be meant.
                    first_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_error.unwrap_or(Error::Cancelled))
    }

    /// Checks credentials with a registry, named by its host or by the URL that `docker login` gives.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when it does not take them.
    pub async fn login(&self, address: &str, credentials: Credentials) -> Result<Login> {
        let registry = registry_of(address);
        let wrong = || Error::Setting {
            setting: "serveraddress".to_owned(),
            why: format!("{address:?} is no registry"),
        };
        // The name must be one that a reference could have.
        let reference = Reference::parse(&format!("{registry}/login")).map_err(|_| wrong())?;
        let mut last = Error::Cancelled;
        for endpoint in self.inner.hosts.endpoints(reference.registry(), false) {
            let session = Session::open(self, endpoint, "", "", Some(credentials.clone())).await?;
            match session.login().await {
                Err(error @ (Error::Connect { .. } | Error::Interrupted { .. })) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// When the registry has no such repository or cannot be asked.
    pub async fn tags(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let session = self.session(reference, "pull", credentials).await?;
        let url = session.url("tags/list");
        let response = session.request(Method::GET, &url, &[], Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Err(session.failure(response).await);
        }
        let bytes = read_all(response.into_body(), &url, MANIFEST_LIMIT, self.patience()).await?;
        let tags: Tags = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Protocol { registry: url, why: error.to_string() })?;
        Ok(tags.tags.unwrap_or_default())
    }

    /// Asks a registry what a reference leads to, without taking anything in.
    ///
    /// # Errors
    /// When the registry has no such thing or cannot be asked.
    pub async fn inspect(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Inspected> {
        let session = self.session(reference, "pull", credentials).await?;
        let fetched = session.manifest(reference).await?;
        let mut platforms = Vec::new();
        match &fetched.document {
            Document::Index(manifests) => {
                platforms.extend(manifests.iter().filter_map(|descriptor| descriptor.platform.clone()));
            }
            Document::Manifest(manifest) => {
                let config = session.small_blob(&manifest.config).await?;
                platforms.extend(serde_json::from_slice::<Platform>(&config).ok());
            }
        }
        let descriptor = Descriptor {
            media_type: fetched.media_type,
            size: fetched.bytes.len() as u64,
            digest: fetched.digest,
            urls: Vec::new(),
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        };
        Ok(Inspected { descriptor, platforms })
    }
}

/// The registry that an address of `docker login` means.
fn registry_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

impl Session {
    async fn login(&self) -> Result<Login> {
        let url = self.endpoint.url("/v2/");
        let none = http::HeaderMap::new();
        let patience = self.shared.patience();
        let http = self.shared.http(&self.endpoint)?;
        let response =
            crate::exchange::send(&http, &Method::GET, &url, &none, &Payload::Nothing, patience).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            // Anybody may come in.
            return if response.status().is_success() {
                Ok(Login::default())
            } else {
                Err(self.failure(response).await)
            };
        }
        let identity_token = self.authorize(response.headers(), true).await?;
        let response = self.request(Method::GET, &url, &[], Payload::Nothing).await?;
        if response.status().is_success() {
            Ok(Login { identity_token })
        } else {
            Err(self.failure(response).await)
        }
    }

    /// The manifest or index of a reference. What was asked for by digest has that digest.
    pub(crate) async fn manifest(&self, reference: &Reference) -> Result<Fetched> {
        let what = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => "latest".to_owned(),
        };
        self.manifest_by(&what, reference.digest(), &[]).await
    }

    /// The digest that the registry says a tag has, without the manifest.
    pub(crate) async fn head_digest(&self, tag: &str) -> Result<Option<Digest>> {
        let url = self.url(&format!("manifests/{tag}"));
        let response =
            self.request(Method::HEAD, &url, &[(ACCEPT, ACCEPTED.to_owned())], Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let header = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()))
    }

    /// A manifest or index by tag or digest; `said` are the types that others say it is of.
    pub(crate) async fn manifest_by(
        &self,
        what: &str,
        expected: Option<&Digest>,
        said: &[Option<&str>],
    ) -> Result<Fetched> {
        let url = self.url(&format!("manifests/{what}"));
        let response =
            self.request(Method::GET, &url, &[(ACCEPT, ACCEPTED.to_owned())], Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response).await);
        }
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let content_type =
            header(CONTENT_TYPE.as_str()).map(|text| essence(&text).to_owned()).unwrap_or_default();
        let promised = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let bytes = read_all(response.into_body(), &url, MANIFEST_LIMIT, self.shared.patience()).await?;
        let digest = Digest::of(&bytes);
        for wanted in [expected, promised.as_ref()].into_iter().flatten() {
            if *wanted != digest {
                return Err(Error::DigestMismatch {
                    what: format!("manifest {what}"),
                    expected: wanted.to_string(),
                    actual: digest.to_string(),
                });
            }
        }
        let mut types = vec![Some(content_type.as_str())];
        types.extend(said);
        let document = Document::parse(&bytes, &types).map_err(|why| Error::Manifest { why })?;
        // Some servers give everything as plain JSON.
        let known = dray_image::media::is_index(&content_type).is_some();
        let media_type =
            if known { content_type } else { dray_image::media::own_type(&bytes).unwrap_or(content_type) };
        Ok(Fetched { bytes, digest, media_type, document })
    }

    /// A blob that is a document.
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor) -> Result<bytes::Bytes> {
        let limit = dray_image::media::CONFIG_LIMIT;
        if descriptor.size > limit {
            let why = format!("a document of {} bytes is larger than {limit}", descriptor.size);
            return Err(Error::Manifest { why });
        }
        let url = self.url(&format!("blobs/{}", descriptor.digest));
        let response = self.request(Method::GET, &url, &[], Payload::Nothing).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response).await);
        }
        let limit = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
        let bytes = read_all(response.into_body(), &url, limit, self.shared.patience()).await?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(Error::DigestMismatch {
                what: "blob".to_owned(),
                expected: descriptor.digest.to_string(),
                actual: actual.to_string(),
            });
        }
        Ok(bytes)
    }
}
