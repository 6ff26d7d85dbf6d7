//! The side that calls.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;

use super::frame::{self, Messages};
use super::{AHEAD, CONNECTION_WINDOW, Code, LARGEST_FRAME, STREAM_WINDOW, Status};

/// Names and values that go with a call; a name may come more than once.
pub(crate) type Metadata = Vec<(String, String)>;

/// What a call sends.
struct Outgoing(mpsc::Receiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A connection on which the other side answers. Clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    requests: SendRequest<Outgoing>,
}

impl Client {
    /// Begins on a connection. The future that is returned is the connection's life: somebody has to wait for it.
    pub(crate) async fn connect<I>(
        connection: I,
    ) -> hyper::Result<(Self, impl Future<Output = hyper::Result<()>> + Send)>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (requests, life) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(LARGEST_FRAME)
            .handshake(connection)
            .await?;
        Ok((Self { requests }, life))
    }

    /// A call with one message and one answer.
    pub(crate) async fn unary<T: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<T, Status> {
        let mut stream = self.stream(method, &Metadata::new())?;
        if let Some(sender) = stream.sender() {
            // Whoever answers without having read the question has answered all the same.
            let _ = sender.send(message).await;
        }
        stream.close();
        let answer = stream.next().await?;
        let answer = answer.ok_or_else(|| Status::new(Code::Internal, "the answer has no message"))?;
        // What follows is the status, which may still be a failure.
        match stream.next::<T>().await? {
            None => Ok(answer),
            Some(_) => Err(Status::new(Code::Internal, "the answer has more than one message")),
        }
    }

    /// Begins a call with any number of messages in both directions.
    pub(crate) fn stream(&self, method: &str, metadata: &Metadata) -> Result<Stream, Status> {
        let (sender, outgoing) = mpsc::channel(AHEAD);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{method}"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(header::TE, HeaderValue::from_static("trailers"));
        for (name, value) in metadata {
            request = request.header(name, value);
        }
        let request = request
            .body(Outgoing(outgoing))
            .map_err(|error| Status::invalid(format!("cannot call {method}: {error}")))?;
        let mut requests = self.requests.clone();
        let answer = Box::pin(requests.send_request(request));
        Ok(Stream { sender: Some(sender), answer: Answer::Awaited(answer) })
    }
}

type Head = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// An answer, before and after its head has come.
enum Answer {
    Awaited(Head),
    Begun(Messages),
    Ended,
}

/// A call under way. Dropping it cancels the call.
pub(crate) struct Stream {
    sender: Option<mpsc::Sender<Bytes>>,
    answer: Answer,
}

impl Stream {
    /// Sends a message; waits while the other side does not read.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        let Some(sender) = &self.sender else { return Err(Status::cancelled()) };
        if sender.send(frame::encode(message)).await.is_ok() {
            return Ok(());
        }
        // The other side has ended the call; its status says why.
        loop {
            match self.next::<()>().await {
                Err(status) => return Err(status),
                Ok(Some(())) => {}
                Ok(None) => return Err(Status::new(Code::Unavailable, "the call ended early")),
            }
        }
    }

    /// What sends while another task receives.
    pub(crate) fn sender(&self) -> Option<Sender> {
        self.sender.clone().map(Sender)
    }

    /// Says that no more messages come.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// The next message of the answer; none when it has ended well.
    pub(crate) async fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        if let Answer::Awaited(head) = &mut self.answer {
            let response = head.await;
            self.answer = begun(response)?;
        }
        let Answer::Begun(messages) = &mut self.answer else { return Ok(None) };
        match messages.next().await {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) => {
                let status = messages.trailers().map(Status::of_trailers);
                self.answer = Answer::Ended;
                match status {
                    Some(Err(status)) => Err(status),
                    Some(Ok(())) => Ok(None),
                    None => Err(Status::new(Code::Unavailable, "the answer ended without a status")),
                }
            }
            Err(status) => {
                self.answer = Answer::Ended;
                Err(status)
            }
        }
    }
}

/// The sending half of a call.
#[derive(Clone)]
pub(crate) struct Sender(mpsc::Sender<Bytes>);

impl Sender {
    /// Sends a message; waits while the other side does not read.
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        self.0.send(frame::encode(message)).await.map_err(|_| Status::cancelled())
    }
}

fn begun(response: hyper::Result<Response<Incoming>>) -> Result<Answer, Status> {
    let response = response
        .map_err(|error| Status::new(Code::Unavailable, format!("the client cannot be called: {error}")))?;
    if response.status() != StatusCode::OK {
        let message = format!("the client answered with HTTP status {}", response.status());
        return Err(Status::new(Code::Unavailable, message));
    }
    // An answer without messages may have its status in the head.
    if response.headers().contains_key("grpc-status") {
        Status::of_trailers(response.headers())?;
        return Ok(Answer::Ended);
    }
    Ok(Answer::Begun(Messages::new(response.into_body())))
}
