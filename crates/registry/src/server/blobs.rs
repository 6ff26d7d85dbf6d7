//! Blobs: given out whole or in part, and taken out of a repository.

use std::sync::Arc;

use dray_image::BlobDigest;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, RANGE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::State;
use super::answer::{Answer, Refusal, blocking, empty, file};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCTETS: &str = "application/octet-stream";

pub(crate) fn parse_digest(text: &str) -> Result<BlobDigest, Refusal> {
    BlobDigest::parse(text).map_err(|_| Refusal::digest(text))
}

/// What a header `Range` asks for: the first byte and how many. Several ranges at once are answered with everything.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(u64, u64),
    Nothing,
}

fn asked(header: Option<&str>, size: u64) -> Asked {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Asked::All;
    };
    if spec.contains(',') {
        return Asked::All;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::All };
    let number = |text: &str| text.trim().parse::<u64>();
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => Asked::All,
        (true, false) => match number(last) {
            Ok(count) if count > 0 && size > 0 => Asked::Part(size - count.min(size), count.min(size)),
            _ => Asked::Nothing,
        },
        (false, is_open) => {
            let (Ok(first), Ok(last)) = (number(first), if is_open { Ok(u64::MAX) } else { number(last) })
            else {
                return Asked::All;
            };
            if first > last || first >= size {
                return Asked::Nothing;
            }
            Asked::Part(first, last.min(size - 1) - first + 1)
        }
    }
}

pub(crate) async fn read(
    state: &Arc<State>,
    request: &Request<Incoming>,
    name: &str,
    digest: &str,
) -> Answer {
    let digest = parse_digest(digest)?;
    if let Some(mirror) = &state.mirror {
        mirror.blob(&state.store, name, &digest).await?;
    }
    let (store, named, wanted) = (Arc::clone(&state.store), name.to_owned(), digest.clone());
    let (opened, size) = blocking(move || {
        let blob = store.repository(&named)?.blob(&wanted)?.ok_or_else(Refusal::blob_unknown)?;
        // It may have gone since.
        store.open_blob(&blob).map_err(|_| Refusal::blob_unknown())
    })
    .await?;
    let header = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let mut response = match asked(header, size) {
        Asked::Nothing => {
            return Err(Refusal::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "SIZE_INVALID",
                "the blob has no such range",
            )
            .with(CONTENT_RANGE, format!("bytes */{size}")));
        }
        _ if request.method() == Method::HEAD => empty(StatusCode::OK, &[(CONTENT_LENGTH, size.to_string())]),
        Asked::All => file(StatusCode::OK, Arc::new(opened), 0, size),
        Asked::Part(first, count) => {
            let mut response = file(StatusCode::PARTIAL_CONTENT, Arc::new(opened), first, count);
            let range = format!("bytes {first}-{}/{size}", first + count - 1);
            if let Ok(range) = HeaderValue::from_str(&range) {
                response.headers_mut().insert(CONTENT_RANGE, range);
            }
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    for (name, value) in [(CONTENT_DIGEST, digest.to_string()), (ETAG, format!("\"{digest}\""))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

pub(crate) async fn delete(state: &Arc<State>, name: &str, digest: &str) -> Answer {
    let digest = parse_digest(digest)?;
    let (store, name) = (Arc::clone(&state.store), name.to_owned());
    let was_there = blocking(move || Ok(store.repository(&name)?.unlink_blob(&digest)?)).await?;
    if !was_there {
        return Err(Refusal::blob_unknown());
    }
    state.deleted.notify_one();
    Ok(empty(StatusCode::ACCEPTED, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, expected) in [
            (None, Asked::All),
            (Some("bytes=0-"), Asked::Part(0, 10)),
            (Some("bytes=2-4"), Asked::Part(2, 3)),
            (Some("bytes=2-400"), Asked::Part(2, 8)),
            (Some("bytes=-3"), Asked::Part(7, 3)),
            (Some("bytes=-30"), Asked::Part(0, 10)),
            (Some("bytes=10-"), Asked::Nothing),
            (Some("bytes=5-0"), Asked::Nothing),
            (Some("bytes=0-1,3-4"), Asked::All),
            (Some("lines=1-2"), Asked::All),
            (Some("bytes=99999999999999999999-"), Asked::All),
        ] {
            assert_eq!(asked(header, 10), expected, "{header:?}");
        }
        assert_eq!(asked(Some("bytes=-1"), 0), Asked::Nothing);
    }
}
