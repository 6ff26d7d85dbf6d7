//! Which path leads to which handler, once it is clear who asks.

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::answer::{Answer, Body, Refusal, empty};
use super::{Peer, State, blobs, listing, manifests, tokens, uploads};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Base,
    Catalog,
    Token,
    Blob { name: &'a str, digest: &'a str },
    Uploads { name: &'a str },
    Upload { name: &'a str, id: &'a str },
    Manifest { name: &'a str, reference: &'a str },
    Tags { name: &'a str },
    Referrers { name: &'a str, digest: &'a str },
}

impl<'a> Target<'a> {
    /// Names hold slashes, so paths are read from their end.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let rest = match path {
            "/v2" | "/v2/" => return Some(Self::Base),
            "/v2/_catalog" => return Some(Self::Catalog),
            "/token" => return Some(Self::Token),
            other => other.strip_prefix("/v2/")?,
        };
        let (before, last) = rest.rsplit_once('/')?;
        if let Some(name) = before.strip_suffix("/blobs/uploads") {
            return Some(if last.is_empty() {
                Self::Uploads { name }
            } else {
                Self::Upload { name, id: last }
            });
        }
        let (name, kind) = before.rsplit_once('/')?;
        match (kind, last) {
            ("blobs", "uploads") => Some(Self::Uploads { name }),
            ("blobs", digest) => Some(Self::Blob { name, digest }),
            ("manifests", reference) => Some(Self::Manifest { name, reference }),
            ("tags", "list") => Some(Self::Tags { name }),
            ("referrers", digest) => Some(Self::Referrers { name, digest }),
            _ => None,
        }
    }

    pub(crate) fn repository(&self) -> Option<&'a str> {
        match *self {
            Self::Base | Self::Catalog | Self::Token => None,
            Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Manifest { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }
}

/// The pairs of a query, decoded; what is no UTF-8 is left out.
pub(crate) fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            let hex = (byte == b'%').then(|| after.get(..2)).flatten();
            let decoded = hex
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match decoded {
                Some(decoded) => {
                    bytes.push(decoded);
                    rest = &after[2..];
                }
                None => {
                    bytes.push(if byte == b'+' { b' ' } else { byte });
                    rest = after;
                }
            }
        }
        String::from_utf8(bytes).ok()
    };
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

pub(crate) fn parameter<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Answers one request.
pub(crate) async fn handle(state: &Arc<State>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match answer(state, peer, request).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(%method, path, peer = %peer.address, ?refusal, "the registry refuses");
            refusal.into_response()
        }
    };
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

async fn answer(state: &Arc<State>, peer: Peer, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is nothing at this path");
    let target = Target::of(&path).ok_or_else(unknown)?;
    if target == Target::Token {
        return tokens::give(state, peer, request).await;
    }
    let method = request.method().clone();
    let rights = state.access.check(peer, &request, &target).await?;
    if let Some(name) = target.repository() {
        state.store.repository(name)?;
    }
    let writes = !matches!(method, Method::GET | Method::HEAD);
    if writes && state.mirror.is_some() {
        return Err(Refusal::unsupported("this registry only gives out what another has"));
    }
    match (method.as_str(), target) {
        ("GET" | "HEAD", Target::Base) => {
            Ok(super::answer::json(StatusCode::OK, &serde_json::json!({}), "application/json"))
        }
        ("GET", Target::Catalog) => listing::catalog(state, &request).await,
        ("GET" | "HEAD", Target::Blob { name, digest }) => blobs::read(state, &request, name, digest).await,
        ("DELETE", Target::Blob { name, digest }) => blobs::delete(state, name, digest).await,
        ("POST", Target::Uploads { name }) => uploads::begin(state, peer, &rights, name, request).await,
        ("PATCH", Target::Upload { name, id }) => uploads::append(state, name, id, request).await,
        ("PUT", Target::Upload { name, id }) => uploads::finish(state, name, id, request).await,
        ("GET" | "HEAD", Target::Upload { name, id }) => uploads::status(state, name, id).await,
        ("DELETE", Target::Upload { name, id }) => uploads::cancel(state, name, id).await,
        ("GET" | "HEAD", Target::Manifest { name, reference }) => {
            manifests::read(state, name, reference, method == Method::HEAD).await
        }
        ("PUT", Target::Manifest { name, reference }) => {
            manifests::write(state, name, reference, request).await
        }
        ("DELETE", Target::Manifest { name, reference }) => manifests::delete(state, name, reference).await,
        ("GET", Target::Tags { name }) => listing::tags(state, &request, name).await,
        ("GET", Target::Referrers { name, digest }) => {
            listing::referrers(state, &request, name, digest).await
        }
        ("OPTIONS", _) => Ok(empty(StatusCode::OK, &[])),
        _ => Err(Refusal::unsupported("the operation is unsupported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        for (path, expected) in [
            ("/v2/", Some(Target::Base)),
            ("/v2/a/b/blobs/sha256:x", Some(Target::Blob { name: "a/b", digest: "sha256:x" })),
            ("/v2/a/blobs/uploads/", Some(Target::Uploads { name: "a" })),
            ("/v2/a/blobs/uploads/7", Some(Target::Upload { name: "a", id: "7" })),
            (
                "/v2/blobs/uploads/manifests/x",
                Some(Target::Manifest { name: "blobs/uploads", reference: "x" }),
            ),
            ("/v2/a/tags/list", Some(Target::Tags { name: "a" })),
            ("/v2/a/referrers/sha256:x", Some(Target::Referrers { name: "a", digest: "sha256:x" })),
            ("/v2/a", None),
            ("/v1/a/tags/list", None),
        ] {
            assert_eq!(Target::of(path), expected, "{path}");
        }
    }
}
