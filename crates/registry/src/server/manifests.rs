//! Manifests and indexes, by tag or by digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use dray_image::{BlobDigest, Digest, ManifestLink, Repository};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, LOCATION};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Refusal, blocking, bytes, empty};
use super::blobs::{CONTENT_DIGEST, parse_digest};
use super::router::query;
use super::{BODY_PATIENCE, State};
use dray_image::media::{DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST, essence};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may give.
const TAG_LIMIT: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: BlobDigest,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pushed {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Part>,
    layers: Option<Vec<Part>>,
    manifests: Option<Vec<Part>>,
    subject: Option<Part>,
    annotations: Option<BTreeMap<String, Value>>,
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why)
}

impl Pushed {
    /// Reads what was pushed as `media_type`. It is one thing only, whatever it is called.
    fn parse(body: &[u8], media_type: &str) -> Result<Self, Refusal> {
        let parsed: Self =
            serde_json::from_slice(body).map_err(|error| invalid(format!("manifest invalid: {error}")))?;
        if parsed.schema_version != Some(2) {
            return Err(invalid("manifest invalid: its schemaVersion is not 2"));
        }
        let is_index = match media_type {
            OCI_INDEX | DOCKER_LIST => true,
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            other => return Err(invalid(format!("manifest invalid: {other:?} is no type of a manifest"))),
        };
        if parsed.media_type.as_deref().is_some_and(|own| own != media_type) {
            return Err(invalid("manifest invalid: its mediaType is another than its Content-Type"));
        }
        let fits = match is_index {
            true => parsed.manifests.is_some() && parsed.config.is_none() && parsed.layers.is_none(),
            false => parsed.manifests.is_none() && parsed.config.is_some() && parsed.layers.is_some(),
        };
        if fits { Ok(parsed) } else { Err(invalid("manifest invalid: it has not the fields of its type")) }
    }

    /// Every part has to be in the repository, but for layers that are only to be had elsewhere.
    fn check_parts(&self, repository: &Repository<'_>) -> Result<(), Refusal> {
        let is_foreign = |part: &Part| {
            part.urls.as_ref().is_some_and(|urls| !urls.is_empty())
                || part.media_type.contains("nondistributable")
                || part.media_type.contains(".foreign.")
        };
        let blobs = self.config.iter().chain(self.layers.iter().flatten());
        for part in blobs.filter(|part| !is_foreign(part)) {
            if repository.blob(&part.digest)?.is_none() {
                let message = format!("manifest references a blob unknown to registry: {}", part.digest);
                return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message));
            }
        }
        for part in self.manifests.iter().flatten() {
            if repository.manifest(&part.digest)?.is_none() && repository.blob(&part.digest)?.is_none() {
                let message = format!("index references a manifest unknown to registry: {}", part.digest);
                return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message));
            }
        }
        Ok(())
    }

    fn link(self, blob: Digest, media_type: &str, size: u64) -> ManifestLink {
        let config_type = self.config.as_ref().map(|config| config.media_type.clone());
        let artifact_type = self.artifact_type.or(config_type).filter(|kind| !kind.is_empty());
        let annotations = self.annotations.unwrap_or_default();
        let parts = self.config.into_iter().chain(self.layers.into_iter().flatten());
        let parts = parts.chain(self.manifests.into_iter().flatten()).map(|part| part.digest);
        ManifestLink {
            blob,
            media_type: media_type.to_owned(),
            size,
            artifact_type,
            annotations: annotations
                .into_iter()
                .filter_map(|(name, value)| value.as_str().map(|value| (name, value.to_owned())))
                .collect(),
            subject: self.subject.map(|subject| subject.digest),
            parts: parts.collect(),
        }
    }
}

/// The link of a manifest that came from elsewhere, with what it says of itself.
pub(crate) fn link_of(body: &[u8], media_type: &str) -> Option<ManifestLink> {
    let parsed = Pushed::parse(body, media_type).ok()?;
    Some(parsed.link(Digest::of(body), media_type, body.len() as u64))
}

/// The digest that a tag or digest leads to.
fn resolve(repository: &Repository<'_>, reference: &str) -> Result<BlobDigest, Refusal> {
    if reference.contains(':') {
        return parse_digest(reference);
    }
    repository.tag(reference)?.ok_or_else(|| Refusal::manifest_unknown(reference))
}

pub(crate) async fn read(state: &Arc<State>, name: &str, reference: &str, is_head: bool) -> Answer {
    if let Some(mirror) = &state.mirror {
        mirror.manifest(&state.store, name, reference).await?;
    }
    let (store, name, reference) = (Arc::clone(&state.store), name.to_owned(), reference.to_owned());
    let (digest, link, body) = blocking(move || {
        let repository = store.repository(&name)?;
        let digest = resolve(&repository, &reference)?;
        let link = repository.manifest(&digest)?.ok_or_else(|| Refusal::manifest_unknown(&reference))?;
        let body = match is_head {
            true => Vec::new(),
            false => store
                .document_blob(&link.blob, MANIFEST_LIMIT as u64)
                .map_err(|_| Refusal::manifest_unknown(&reference))?,
        };
        Ok((digest, link, body))
    })
    .await?;
    let mut headers = vec![(CONTENT_DIGEST, digest.to_string()), (ETAG, format!("\"{digest}\""))];
    let mut response = if is_head {
        headers.extend([(CONTENT_LENGTH, link.size.to_string()), (CONTENT_TYPE, link.media_type)]);
        empty(StatusCode::OK, &[])
    } else {
        bytes(StatusCode::OK, body.into(), &link.media_type)
    };
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn whole_body(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    let mut body = request.into_body();
    let mut all = BytesMut::new();
    let mut is_too_large = false;
    loop {
        let frame = tokio::time::timeout(BODY_PATIENCE, body.frame()).await;
        match frame.map_err(|_| invalid("nothing came for too long"))? {
            None => break,
            Some(frame) => {
                let frame = frame.map_err(|_| invalid("the connection broke off"))?;
                let Ok(bytes) = frame.into_data() else { continue };
                is_too_large |= all.len() + bytes.len() > MANIFEST_LIMIT;
                if is_too_large {
                    let message = format!("a manifest has at most {MANIFEST_LIMIT} bytes");
                    return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message));
                }
                all.extend_from_slice(&bytes);
            }
        }
    }
    Ok(all.to_vec())
}

pub(crate) async fn write(
    state: &Arc<State>,
    name: &str,
    reference: &str,
    request: Request<Incoming>,
) -> Answer {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.map(|text| essence(text).to_owned());
    let mut tags: Vec<String> = query(&request)
        .into_iter()
        .filter(|(name, _)| name == "tag")
        .map(|(_, tag)| tag)
        .take(TAG_LIMIT)
        .collect();
    let expected = if reference.contains(':') { Some(parse_digest(reference)?) } else { None };
    let given = tags.clone();
    if expected.is_none() {
        tags = vec![reference.to_owned()];
    }
    let body = whole_body(request).await?;
    let (store, named) = (Arc::clone(&state.store), name.to_owned());
    let (digest, subject) = blocking(move || {
        if let Some(expected) = expected.as_ref().filter(|expected| !expected.fits(&body)) {
            let message = format!("provided digest did not match uploaded content: {expected}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        }
        let media_type = media_type.or_else(|| dray_image::media::own_type(&body)).unwrap_or_default();
        let parsed = Pushed::parse(&body, &media_type)?;
        let repository = store.repository(&named)?;
        parsed.check_parts(&repository)?;
        let hold = store.hold([Digest::of(&body)]);
        let blob = store.put_blob(&body)?;
        let link = parsed.link(blob.clone(), &media_type, body.len() as u64);
        let digest = expected.unwrap_or(BlobDigest::Sha256(blob));
        repository.put_manifest(&digest, &link)?;
        for tag in &tags {
            repository.set_tag(tag, &digest).map_err(|error| invalid(error.to_string()))?;
        }
        drop(hold);
        Ok((digest, link.subject))
    })
    .await?;
    let mut headers =
        vec![(LOCATION, format!("/v2/{name}/manifests/{digest}")), (CONTENT_DIGEST, digest.to_string())];
    headers.extend(subject.map(|subject| (SUBJECT, subject.to_string())));
    if reference.contains(':') && !given.is_empty() {
        headers.push((TAG, given.join(", ")));
    }
    Ok(empty(StatusCode::CREATED, &headers))
}

pub(crate) async fn delete(state: &Arc<State>, name: &str, reference: &str) -> Answer {
    let (store, name, reference) = (Arc::clone(&state.store), name.to_owned(), reference.to_owned());
    blocking(move || {
        let repository = store.repository(&name)?;
        let was_there = match reference.contains(':') {
            true => repository.remove_manifest(&parse_digest(&reference)?)?,
            false => repository.remove_tag(&reference)?,
        };
        if was_there { Ok(()) } else { Err(Refusal::manifest_unknown(&reference)) }
    })
    .await?;
    state.deleted.notify_one();
    Ok(empty(StatusCode::ACCEPTED, &[]))
}
