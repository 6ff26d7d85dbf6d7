//! Calls to etcd: gRPC over HTTP/2, to whichever member answers.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The largest answer that is read, in bytes; etcd's own messages are smaller.
const LARGEST: usize = 64 * 1024 * 1024;
/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection is tried that nothing comes over, and how long its answer may take.
const ALIVE: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member was asked, or none took the question.
    NotAsked(String),
    /// A member was asked, and nobody knows what came of it.
    Unknown(String),
    /// etcd refused.
    Refused { code: u32, message: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NotAsked(why) | Failure::Unknown(why) => f.write_str(why),
            Failure::Refused { message, .. } => f.write_str(message),
        }
    }
}

/// A member by its URL.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    encrypted: bool,
    url: String,
}

impl Endpoint {
    /// Reads "http://HOST:PORT" or "https://HOST:PORT".
    pub(super) fn parse(url: &str) -> Option<Endpoint> {
        let uri: Uri = url.parse().ok()?;
        let encrypted = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let url = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
        Some(Endpoint { host, port: uri.port_u16().unwrap_or(2379), encrypted, url })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }
}

struct Connection {
    /// Of the endpoint.
    index: usize,
    sender: SendRequest<Body>,
}

/// The members. One connection is used by all calls, and exchanged when it fails.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    connection: Mutex<Option<Connection>>,
}

impl Client {
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Client {
        Client { endpoints, tls, connection: Mutex::new(None) }
    }

    /// A connection that was usable a moment ago, and the URL of its member.
    async fn connection(&self) -> Result<(SendRequest<Body>, String), Failure> {
        let mut connection = self.connection.lock().await;
        let mut first = 0;
        if let Some(Connection { index, sender }) = connection.as_mut() {
            if sender.ready().await.is_ok() {
                return Ok((sender.clone(), self.endpoints[*index].url.clone()));
            }
            first = *index + 1;
        }
        *connection = None;
        let mut why = String::from("there is no member");
        for number in 0..self.endpoints.len() {
            let index = (first + number) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            match timeout(CONNECT, self.connect(endpoint)).await {
                Ok(Ok(sender)) => {
                    *connection = Some(Connection { index, sender: sender.clone() });
                    return Ok((sender, endpoint.url.clone()));
                }
                Ok(Err(error)) => why = format!("{}: {error}", endpoint.url),
                Err(_) => why = format!("{}: it does not answer", endpoint.url),
            }
        }
        Err(Failure::NotAsked(why))
    }

    /// Goes to another member at the next call.
    pub(super) async fn leave(&self) {
        if let Some(connection) = self.connection.lock().await.as_mut() {
            let next = (connection.index + 1) % self.endpoints.len();
            if let Ok(Ok(sender)) = timeout(CONNECT, self.connect(&self.endpoints[next])).await {
                *connection = Connection { index: next, sender };
            }
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> io::Result<SendRequest<Body>> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        stream.set_nodelay(true)?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 22);
        if let Some(tls) = self.tls.as_ref().filter(|_| endpoint.encrypted) {
            let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
            let (sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            return Ok(sender);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Asks for one answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        path: &'static str,
        question: &impl Message,
        within: Duration,
    ) -> Result<A, Failure> {
        let body = Full::new(frame(question)).boxed_unsync();
        let asked = async {
            let mut answers = Answers::<A>::new(self.ask(path, body).await?);
            answers.next().await?.ok_or_else(|| Failure::Unknown("the answer is empty".into()))
        };
        let answer = timeout(within, asked).await;
        answer.unwrap_or_else(|_| Err(Failure::Unknown(format!("no answer within {within:?}"))))
    }

    /// Begins a conversation with one question that stays open.
    pub(super) async fn converse<A: Message + Default>(
        &self,
        path: &'static str,
        question: &impl Message,
    ) -> Result<(mpsc::Sender<Bytes>, Answers<A>), Failure> {
        let (sender, receiver) = mpsc::channel(1);
        // There is room for one.
        let _ = sender.try_send(frame(question));
        let questions = futures_util::stream::unfold(receiver, |mut receiver| async {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
        });
        let response = self.ask(path, StreamBody::new(questions).boxed_unsync()).await?;
        Ok((sender, Answers::new(response)))
    }

    async fn ask(&self, path: &'static str, body: Body) -> Result<Incoming, Failure> {
        let (mut sender, url) = self.connection().await?;
        let request = Request::post(format!("{url}{path}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body)
            .map_err(|error| Failure::NotAsked(error.to_string()))?;
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            // What was not sent at all comes back.
            let unsent = error.take_message().is_some();
            let why = format!("{url}: {}", error.into_error());
            if unsent { Failure::NotAsked(why) } else { Failure::Unknown(why) }
        })?;
        if !response.status().is_success() {
            return Err(Failure::Unknown(format!("{url}: it answers {}", response.status())));
        }
        refusal(response.headers()).map_or(Ok(()), Err)?;
        Ok(response.into_body())
    }
}

/// The answers of one call.
pub(super) struct Answers<A> {
    body: Incoming,
    buffer: BytesMut,
    kind: std::marker::PhantomData<A>,
}

impl<A: Message + Default> Answers<A> {
    fn new(body: Incoming) -> Answers<A> {
        Answers { body, buffer: BytesMut::new(), kind: std::marker::PhantomData }
    }

    /// The next answer; none when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<A>, Failure> {
        loop {
            if let Some(answer) = self.decode()? {
                return Ok(Some(answer));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame.map_err(|error| Failure::Unknown(error.to_string()))?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(refusal) = frame.trailers_ref().and_then(refusal) {
                        return Err(refusal);
                    }
                }
            }
        }
    }

    fn decode(&mut self) -> Result<Option<A>, Failure> {
        let Some((compressed, rest)) = self.buffer.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if *compressed != 0 || length > LARGEST {
            return Err(Failure::Unknown("the answer is compressed or too large".into()));
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length).freeze();
        A::decode(message).map(Some).map_err(|error| Failure::Unknown(error.to_string()))
    }
}

fn frame(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    // Requests are bounded by what the API takes in.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], &body[..]].concat().into()
}

/// What headers or trailers say when the call was refused.
fn refusal(headers: &HeaderMap) -> Option<Failure> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    (code != 0).then(|| Failure::Refused { code, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn members_are_named_by_their_urls() {
        let endpoint = |url| Endpoint::parse(url).map(|it| (it.host, it.port, it.encrypted));
        assert_eq!(endpoint("http://127.0.0.1:2379"), Some(("127.0.0.1".to_owned(), 2379, false)));
        assert_eq!(endpoint("https://etcd-1.example:4001/"), Some(("etcd-1.example".to_owned(), 4001, true)));
        assert_eq!(endpoint("https://[::1]:2379"), Some(("::1".to_owned(), 2379, true)));
        assert_eq!(endpoint("https://etcd"), Some(("etcd".to_owned(), 2379, true)));
        for url in ["etcd:2379", "unix:///etcd", "http://", ""] {
            assert_eq!(endpoint(url), None, "{url}");
        }
    }
}
