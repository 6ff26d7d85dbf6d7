//! The API as a service in the same process: what `kube::Client` is made of, and what connections are served by.

use std::{
    convert::Infallible,
    future::Future,
    io::Write as _,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use dray_access::User;
use dray_machinery::Status;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::{
    body::{self, BoxError, ResponseBody, Sent},
    decode::BODY_LIMIT,
    negotiate,
    passage::proxy::{Peer, is_proxy_path},
    respond,
    server::Inner,
};

/// Answers requests of one user, or of those whom their tokens name. Cheap to clone.
#[derive(Clone)]
pub struct ApiService {
    pub(crate) inner: Arc<Inner>,
    pub(crate) user: Option<Arc<User>>,
    /// Where requests come from, when that is not this process.
    pub(crate) peer: Option<IpAddr>,
}

impl<B> tower_service::Service<Request<B>> for ApiService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

impl ApiService {
    /// Answers one request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        parts.extensions.remove::<Peer>();
        if let Some(peer) = self.peer {
            parts.extensions.insert(Peer(peer));
        }
        if self.inner.passes_on(parts.uri.path()) {
            // Nobody waits for a change here but its client, and its answer is sent as it comes.
            let sent = Sent::Coming(body.map_err(Into::into).boxed_unsync());
            return self.inner.handle(self.user.as_deref(), self.peer, &mut parts, sent).await;
        }
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => Sent::Whole(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                return respond::failure(&Status::too_large(BODY_LIMIT));
            }
            Err(error) => {
                return respond::failure(&Status::bad_request(format!(
                    "cannot read the request's body: {error}"
                )));
            }
        };
        let takes_gzip = negotiate::takes_gzip(&parts.headers);
        let changes = !matches!(parts.method, Method::GET | Method::HEAD);
        let (inner, user, peer) = (self.inner.clone(), self.user.clone(), self.peer);
        let work = async move { inner.handle(user.as_deref(), peer, &mut parts, body).await };
        // A change is done to its end, even when whoever asked for it goes away meanwhile.
        let answer = if changes {
            match tokio::spawn(work).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::error!(%error, "a request was cut off");
                    respond::failure(&Status::internal("the request was cut off"))
                }
            }
        } else {
            work.await
        };
        let big = answer.body().size_hint().exact().is_some_and(|length| length >= COMPRESSED_FROM);
        if big && takes_gzip && !answer.headers().contains_key(header::CONTENT_ENCODING) {
            compressed(answer).await
        } else {
            answer
        }
    }
}

impl Inner {
    /// Whether requests for a path go on to others with all that comes.
    fn passes_on(&self, path: &str) -> bool {
        is_proxy_path(path) || self.aggregator.remote(path).is_some()
    }
}

/// Answers from this length on, in bytes, are compressed for those who accept it (the reference's bound).
const COMPRESSED_FROM: u64 = 128 * 1024;

async fn compressed(answer: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, body) = answer.into_parts();
    let Ok(body) = body.collect().await else {
        return respond::failure(&Status::internal("the answer broke off"));
    };
    let plain = body.to_bytes();
    let packed = tokio::task::spawn_blocking(move || {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).and_then(|()| encoder.finish())
    });
    match packed.await {
        Ok(Ok(packed)) => {
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Response::from_parts(head, body::full(packed))
        }
        _ => respond::failure(&Status::internal("the answer cannot be compressed")),
    }
}
