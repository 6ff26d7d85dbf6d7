//! The side that is called.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;

use super::frame::{self, Messages};
use super::{AHEAD, CONNECTION_WINDOW, LARGEST_FRAME, STREAM_WINDOW, Status};

/// Calls that one connection may have open.
const MOST_CALLS: u32 = 512;

/// A call that is to be answered.
pub(crate) struct Call {
    /// `/package.Service/Method`.
    pub(crate) method: String,
    pub(crate) metadata: HeaderMap,
    messages: Messages,
    answers: mpsc::Sender<Bytes>,
}

impl Call {
    /// The next message of the caller; none when there are no more.
    pub(crate) async fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        self.messages.next().await
    }

    /// The one message of a caller who has one to send.
    pub(crate) async fn request<T: Message + Default>(&mut self) -> Result<T, Status> {
        self.next().await?.ok_or_else(|| Status::invalid("the call has no message"))
    }

    /// Sends a message; waits while the caller does not read.
    pub(crate) async fn answer(&self, message: &impl Message) -> Result<(), Status> {
        self.answers.send(frame::encode(message)).await.map_err(|_| Status::cancelled())
    }

    /// A piece of the call's metadata, when it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }
}

/// What is doing the work of a call.
type Work = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// An answer. It holds its work, and so the work ends when the caller goes.
struct Answer {
    messages: mpsc::Receiver<Bytes>,
    work: Option<Work>,
    status: Option<Status>,
    is_told: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(work) = self.work.as_mut()
            && let Poll::Ready(result) = work.as_mut().poll(context)
        {
            self.work = None;
            self.status = result.err();
        }
        // The sender is the work's own: it is gone after the work.
        match self.messages.poll_recv(context) {
            Poll::Ready(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Pending if self.work.is_some() => return Poll::Pending,
            _ => {}
        }
        if self.is_told {
            return Poll::Ready(None);
        }
        self.is_told = true;
        Poll::Ready(Some(Ok(Frame::trailers(Status::trailers(self.status.as_ref())))))
    }
}

/// Answers the calls of one connection until it ends. What is under way then ends, too.
pub(crate) async fn serve<I, F>(
    connection: I,
    handler: impl Fn(Call) -> F + Send + Sync + 'static,
) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(answer(request, &*handler)) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(LARGEST_FRAME)
        .max_concurrent_streams(MOST_CALLS)
        .serve_connection(connection, service)
        .await
}

fn answer<F>(request: Request<Incoming>, handler: &impl Fn(Call) -> F) -> Response<Answer>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let (answers, messages) = mpsc::channel(AHEAD);
    let call = Call {
        method: head.uri.path().to_owned(),
        metadata: head.headers,
        messages: Messages::new(body),
        answers,
    };
    let work: Work = Box::pin(handler(call));
    let mut response = Response::new(Answer { messages, work: Some(work), status: None, is_told: false });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
