//! Sending one blob: asked for first, lent by another repository if one has it, and otherwise sent, on from where the
//! connection broke.

use std::fs::File;
use std::sync::Arc;

use dray_image::Digest;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use crate::events::Step;
use crate::exchange::{Payload, Sent, location};
use crate::session::{ATTEMPTS, Header, Session, pause};
use crate::token::encode;
use crate::{Error, Result};

/// Blobs up to so many bytes go in one request.
const MONOLITHIC: u64 = 1 << 20;

impl Session {
    /// Sees to it that the repository has a blob. The step tells how it came there.
    pub(crate) async fn push_blob(
        &self,
        digest: &Digest,
        (file, size): (Arc<File>, u64),
        lenders: &[String],
        sent: Sent,
    ) -> Result<Step> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.request(Method::HEAD, &url, &[], Payload::Nothing).await?;
        match response.status() {
            StatusCode::OK => return Ok(Step::PushExists),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.failure(response).await),
        }
        for lender in lenders {
            self.also_read(lender);
        }
        let mut begun = None;
        for lender in lenders {
            let query = format!("?mount={}&from={}", encode(digest.as_str()), encode(lender));
            let response = self.begin(&query).await?;
            match response.status() {
                StatusCode::CREATED => return Ok(Step::Mounted(lender.clone())),
                StatusCode::ACCEPTED => {
                    begun = Some(response);
                    break;
                }
                // Whoever may not read there may still push here.
                _ => {}
            }
        }
        let response = match begun {
            Some(response) => response,
            None => self.begin("").await?,
        };
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.failure(response).await);
        }
        let place = self.place(response.headers(), &self.url("blobs/uploads/"))?;
        let whole = Payload::File { file: Arc::clone(&file), from: 0, length: size, sent: Arc::clone(&sent) };
        let place = if size <= MONOLITHIC {
            return self.finish(&place, digest, whole).await.map(|()| Step::Pushed);
        } else {
            self.send_pieces(place, &file, size, &sent).await?
        };
        self.finish(&place, digest, Payload::Nothing).await?;
        Ok(Step::Pushed)
    }

    async fn begin(&self, query: &str) -> Result<Response<Incoming>> {
        let url = self.url(&format!("blobs/uploads/{query}"));
        self.request(Method::POST, &url, &[], Payload::Nothing).await
    }

    fn place(&self, headers: &HeaderMap, asked: &str) -> Result<String> {
        location(headers, asked).ok_or_else(|| Error::Protocol {
            registry: self.endpoint.authority.clone(),
            why: "it does not say where to upload to".to_owned(),
        })
    }

    /// Sends all of a file, and answers where the upload is to be finished.
    async fn send_pieces(
        &self,
        mut place: String,
        file: &Arc<File>,
        size: u64,
        sent: &Sent,
    ) -> Result<String> {
        let mut from = 0;
        let mut failed = 0;
        loop {
            let payload =
                Payload::File { file: Arc::clone(file), from, length: size - from, sent: Arc::clone(sent) };
            let mut headers: Vec<Header> = vec![(CONTENT_TYPE, "application/octet-stream".to_owned())];
            if from > 0 {
                headers.push((CONTENT_RANGE, format!("{from}-{}", size - 1)));
            }
            let error = match self.request(Method::PATCH, &place, &headers, payload).await {
                Ok(response) if response.status() == StatusCode::ACCEPTED => {
                    return self.place(response.headers(), &place);
                }
                Ok(response) if response.status().is_success() => {
                    return self.place(response.headers(), &place);
                }
                Ok(response) => self.failure(response).await,
                Err(error) => error,
            };
            let before = from;
            let resumable = error.may_pass()
                || matches!(&error, Error::Refused { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE);
            if !resumable || failed + 1 >= ATTEMPTS {
                return Err(error);
            }
            failed += 1;
            tokio::time::sleep(pause(failed)).await;
            tracing::debug!(url = place, error = error.chain(), "a blob is sent on from where it broke off");
            let response = self.request(Method::GET, &place, &[], Payload::Nothing).await?;
            if !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK) {
                return Err(error);
            }
            from = received(response.headers()).filter(|received| *received <= size).unwrap_or(0);
            if let Some(next) = location(response.headers(), &place) {
                place = next;
            }
            if from == size {
                return Ok(place);
            }
            if from > before {
                failed = 0;
            }
        }
    }

    async fn finish(&self, place: &str, digest: &Digest, payload: Payload) -> Result<()> {
        let url = format!(
            "{place}{}digest={}",
            if place.contains('?') { '&' } else { '?' },
            encode(digest.as_str())
        );
        let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let response = self.request(Method::PUT, &url, &headers, payload).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK) {
            return Err(self.failure(response).await);
        }
        Ok(())
    }
}

/// How many bytes of an upload a registry has: its header `Range` is `0-LAST`.
fn received(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    // An upload without a byte says `0-0` too.
    if last == 0 { Some(0) } else { last.checked_add(1) }
}
