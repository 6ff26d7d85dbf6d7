//! Images that builds stand on and that are not here: pulled by the client for registries, as whoever started the build.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use dray_build::{
    BoxFuture, CacheBlobs, Client as BuildClient, ClientError, Credentials as BuildCredentials, Duplex,
    ImageSource, LocalDirectory, LocalFilter, NoClient, ProgressFn, Pull, PullError,
};
use dray_image::{Digest, ImageStore, Layer, NewLayer, Reference};
use dray_registry::{Artifact, Client, Credentials, Event, Events, Platform, PullRequest, Step};
use http::HeaderMap;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result};
use crate::transfer::pull_error;

/// Events that a pull may be ahead of who is told.
const AHEAD: usize = 64;
/// Longest header that is decoded, in bytes.
const HEADER_LIMIT: usize = 256 << 10;
/// The user name by which clients say that the password is a token.
const TOKEN: &str = "<token>";

/// Pulls what builds need.
pub(crate) struct RegistryImages {
    pub(crate) registries: Client,
    pub(crate) store: Arc<ImageStore>,
}

impl ImageSource for RegistryImages {
    fn pull<'a>(&'a self, pull: Pull<'a>) -> BoxFuture<'a, std::result::Result<Digest, PullError>> {
        Box::pin(self.pull_for(pull))
    }

    fn cache<'a>(
        &'a self,
        pull: Pull<'a>,
    ) -> BoxFuture<'a, std::result::Result<Arc<dyn CacheBlobs>, PullError>> {
        Box::pin(async move {
            let failed = |why: String| PullError::Failed { why };
            let reference = Reference::parse(pull.name).map_err(|error| failed(error.to_string()))?;
            let credentials = login(pull.client.as_ref(), &reference).await.map_err(failed)?;
            let artifact = self.registries.artifact(&reference, credentials.as_ref()).await;
            let artifact = artifact.map_err(|error| failed(pull_error(&error, &reference).message))?;
            Ok(Arc::new(RegistryCache(artifact)) as Arc<dyn CacheBlobs>)
        })
    }
}

/// How whoever started a build logs in to the registry of a name.
pub(crate) async fn login(
    client: &dyn BuildClient,
    reference: &Reference,
) -> std::result::Result<Option<Credentials>, String> {
    let login = client.credentials(reference.registry()).await.map_err(|error| error.to_string())?;
    Ok(login.map(|BuildCredentials { username, password }| match username.as_str() {
        TOKEN => Credentials { identity_token: password, ..Credentials::default() },
        _ => Credentials { username, password, ..Credentials::default() },
    }))
}

/// What a registry has under a name, for a build that may take steps from it.
struct RegistryCache(Artifact);

impl CacheBlobs for RegistryCache {
    fn manifest(&self) -> &[u8] {
        self.0.manifest()
    }

    fn document<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
    ) -> BoxFuture<'a, std::result::Result<Vec<u8>, PullError>> {
        Box::pin(async move { self.0.document(digest, size).await.map_err(transfer_failed) })
    }

    fn layer<'a>(&'a self, layer: &'a NewLayer) -> BoxFuture<'a, std::result::Result<Layer, PullError>> {
        Box::pin(async move { self.0.layer(layer).await.map_err(transfer_failed) })
    }
}

fn transfer_failed(error: dray_registry::Error) -> PullError {
    PullError::Failed { why: error.chain() }
}

impl RegistryImages {
    async fn pull_for(&self, pull: Pull<'_>) -> std::result::Result<Digest, PullError> {
        let failed = |why: String| PullError::Failed { why };
        let reference = Reference::parse(pull.name).map_err(|error| failed(error.to_string()))?;
        let credentials = login(pull.client.as_ref(), &reference).await.map_err(failed)?;
        let foreign = *pull.platform != dray_build::Platform::host();
        let platform = if foreign { Platform::parse(&pull.platform.to_string()).ok() } else { None };
        let before = self.store.named(&reference).map(|id| (id, self.store.index_of(&reference)));
        let request = PullRequest { reference: reference.clone(), platform, credentials };
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let events = Events::to(sender);
        let mut pulling = std::pin::pin!(self.registries.pull(&request, &events));
        let pulled = loop {
            tokio::select! {
                pulled = &mut pulling => break pulled,
                Some(event) = receiver.recv() => {
                    if let Event::Layer { id, step } = event
                        && let Some((part, done, total)) = progress(&id, &step)
                    {
                        (pull.progress)(&part, done, total);
                    }
                }
            }
        };
        let pulled = pulled.map_err(|error| {
            let message = pull_error(&error, &reference).message;
            match error {
                dray_registry::Error::NotFound { .. } | dray_registry::Error::Denied { .. } => {
                    PullError::NotFound { why: message }
                }
                _ => PullError::Failed { why: message },
            }
        })?;
        // For another machine's sake the name does not change what it means on this one.
        if let Some((before, index)) = before.filter(|_| foreign)
            && self.store.named(&reference).as_ref() != Some(&before)
        {
            let store = Arc::clone(&self.store);
            let restored = tokio::task::spawn_blocking(move || match index {
                Some(index) => store.name_index(&reference, &index.digest).map(drop),
                None => store.tag(&before, &reference),
            });
            let restored = restored.await;
            restored
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(pulled.image.id)
    }
}

fn progress(id: &str, step: &Step) -> Option<(String, u64, u64)> {
    match step {
        Step::Downloading(done, total) => Some((id.to_owned(), *done, *total)),
        Step::Extracting(done, total) => Some((format!("extracting {id}"), *done, *total)),
        _ => None,
    }
}

/// The client of a classic build: it gives nothing but the logins that its request has.
pub(crate) struct ClassicClient(HashMap<String, BuildCredentials>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identityToken")]
    identitytoken: String,
}

impl ClassicClient {
    /// Reads the header `X-Registry-Config`: logins by registry, JSON in base64.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self> {
        let Some(header) = headers.get("x-registry-config") else { return Ok(Self(HashMap::new())) };
        let invalid = || ApiError::bad_request("invalid X-Registry-Config header: it is JSON in base64");
        let text = header.to_str().map_err(|_| invalid())?;
        if text.len() > HEADER_LIMIT {
            return Err(invalid());
        }
        let plain = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(plain).map_err(|_| invalid())?;
        let logins: HashMap<String, Login> = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        Ok(Self(
            logins.into_iter().filter_map(|(host, login)| Some((host_of(&host), login.read()?))).collect(),
        ))
    }
}

impl Login {
    fn read(self) -> Option<BuildCredentials> {
        if !self.identitytoken.is_empty() {
            return Some(BuildCredentials { username: TOKEN.to_owned(), password: self.identitytoken });
        }
        if !self.username.is_empty() {
            return Some(BuildCredentials { username: self.username, password: self.password });
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(BuildCredentials { username: username.to_owned(), password: password.to_owned() })
    }
}

/// The name of a registry, of an address as configurations have it.
fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
}

impl BuildClient for ClassicClient {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, std::result::Result<Vec<u8>, ClientError>> {
        NoClient.secret(id)
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, std::result::Result<Box<dyn Duplex>, ClientError>> {
        NoClient.ssh(id)
    }

    fn credentials<'a>(
        &'a self,
        host: &'a str,
    ) -> BoxFuture<'a, std::result::Result<Option<BuildCredentials>, ClientError>> {
        Box::pin(std::future::ready(Ok(self.0.get(host).cloned())))
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, std::result::Result<LocalDirectory, ClientError>> {
        NoClient.local(name, filter, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_by_host() {
        let json =
            r#"{"https://index.docker.io/v1/":{"username":"u","password":"p"},"h:5000":{"auth":"YTpi"}}"#;
        let encoded = base64::engine::general_purpose::URL_SAFE.encode(json);
        let mut headers = HeaderMap::new();
        headers.insert("x-registry-config", encoded.parse().unwrap());
        let ClassicClient(logins) = ClassicClient::of(&headers).unwrap();
        assert_eq!((logins["docker.io"].username.as_str(), logins["h:5000"].password.as_str()), ("u", "b"));
        headers.insert("x-registry-config", "e30".parse().unwrap());
        assert!(ClassicClient::of(&headers).unwrap().0.is_empty());
        headers.insert("x-registry-config", "!".parse().unwrap());
        assert!(ClassicClient::of(&headers).is_err());
    }
}
