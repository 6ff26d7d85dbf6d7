//! `/portForward`: connections to ports of a pod, in streams of SPDY/3.1, alone or inside a WebSocket, or in numbered channels
//! ([`channels`]).
//!
//! For each connection the client opens two streams with the same `requestid`: one by which errors are told, and one
//! for the bytes.

mod channels;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::spdy::{self, Source, Wire};
use super::{Body, Refusal, find, websocket};
use crate::context::Context;
use crate::error::{IoContext, blocking};
use crate::pod::slot::Background;
use crate::spdy::frame::{self, Encoder, Frame};
use crate::{Error, Result};

const PROTOCOLS: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
/// The same without a WebSocket; the older form has no name.
const VERSIONS: &[&str] = &["portforward.k8s.io", ""];
/// Streams of one connection at a time.
const STREAMS: usize = 2048;
/// Pieces of a stream on their way to the pod.
const INCOMING: usize = 32;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if websocket::offers(request.headers(), channels::PROTOCOL) {
        return channels::answer(context, namespace, pod, request).await;
    }
    let sandbox = find::sandbox(context, namespace, pod)?;
    let namespace = sandbox.network_namespace();
    if spdy::is_wanted(&request) {
        let (response, agreed) = spdy::accept(&mut request, VERSIONS)?;
        tokio::spawn(async move {
            if let Some(wire) = agreed.wire().await {
                serve(namespace, wire).await;
            }
        });
        return Ok(response);
    }
    let mut handshake = websocket::accept(&mut request, PROTOCOLS)?;
    let response = handshake.take_response();
    tokio::spawn(async move {
        if let Some(socket) = handshake.socket().await {
            serve(namespace, Wire::over_socket(socket)).await;
        }
    });
    Ok(response)
}

async fn serve(namespace: Option<PathBuf>, wire: Wire) {
    let Wire { source, outgoing, writer } = wire;
    let mut session = Session {
        namespace,
        outgoing,
        encoder: Encoder::default(),
        streams: HashMap::new(),
        waiting: HashMap::new(),
        last: 0,
    };
    if let Err(error) = session.run(source).await {
        tracing::debug!(error = %error.chain(), "a port-forward connection broke");
        let _ = session.outgoing.send(frame::go_away(session.last)).await;
    }
    // Its connections go with it, and then nobody can send any more.
    drop(session);
    writer.finish().await;
}

/// A stream that the client has opened.
enum Stream {
    /// By which errors are told; what the client sends on it means nothing.
    Error { request: String },
    /// The bytes of a connection, before and after it is made.
    Data { request: String, bytes: Option<mpsc::Sender<Bytes>>, task: Option<Background> },
}

impl Stream {
    fn request(&self) -> &str {
        match self {
            Self::Error { request } | Self::Data { request, .. } => request,
        }
    }
}

/// Which streams of a request there are.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<(u32, mpsc::Receiver<Bytes>)>,
    port: u16,
}

struct Session {
    namespace: Option<PathBuf>,
    outgoing: mpsc::Sender<Vec<u8>>,
    encoder: Encoder,
    streams: HashMap<u32, Stream>,
    /// Requests of which only one stream has come.
    waiting: HashMap<String, Pair>,
    last: u32,
}

impl Session {
    async fn run(&mut self, mut source: Source) -> Result<()> {
        while let Some(frame) = source.next().await? {
            self.handle(frame).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: Vec<u8>) -> Result<()> {
        self.outgoing.send(frame).await.map_err(|_| broken("the client has gone"))
    }

    async fn handle(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::Open { stream, headers, fin } => self.open(stream, &headers, fin).await,
            Frame::Data { stream, bytes, fin } => {
                self.data(stream, bytes, fin).await;
                Ok(())
            }
            Frame::Reset { stream, .. } => {
                if let Some(gone) = self.streams.remove(&stream) {
                    self.waiting.remove(gone.request());
                }
                Ok(())
            }
            Frame::Ping { id } => self.send(frame::ping(id)).await,
            Frame::GoAway { .. }
            | Frame::Reply { .. }
            | Frame::Window { .. }
            | Frame::Headers { .. }
            | Frame::Ignored => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)], fin: bool) -> Result<()> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(broken(format!("a client must not open stream {stream}")));
        }
        self.last = stream;
        let get = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let port = get("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0);
        let (kind, request) = (get("streamtype"), get("requestid"));
        let (Some(port), Some(kind @ ("error" | "data")), Some(request)) = (port, kind, request) else {
            return self.send(frame::reset(stream, frame::PROTOCOL_ERROR)).await;
        };
        self.forget_ended();
        if self.streams.len() >= STREAMS {
            return self.send(frame::reset(stream, frame::REFUSED)).await;
        }
        let reply = self.encoder.reply(stream);
        self.send(reply).await?;
        let request = request.to_owned();
        let pair = self.waiting.entry(request.clone()).or_default();
        pair.port = port;
        if kind == "error" {
            pair.error = Some(stream);
            self.streams.insert(stream, Stream::Error { request: request.clone() });
        } else {
            let (sender, receiver) = mpsc::channel(INCOMING);
            pair.data = Some((stream, receiver));
            let bytes = (!fin).then_some(sender);
            self.streams.insert(stream, Stream::Data { request: request.clone(), bytes, task: None });
        }
        if pair.error.is_some() && pair.data.is_some() {
            self.begin(&request);
        }
        Ok(())
    }

    /// Both streams are there: connects.
    fn begin(&mut self, request: &str) {
        let Some(Pair { error: Some(error), data: Some((stream, receiver)), port }) =
            self.waiting.remove(request)
        else {
            return;
        };
        let connection = Connection {
            namespace: self.namespace.clone(),
            port,
            error,
            stream,
            outgoing: self.outgoing.clone(),
        };
        if let Some(Stream::Data { task, .. }) = self.streams.get_mut(&stream) {
            *task = Some(Background(tokio::spawn(connection.run(receiver))));
        }
        // What is said on the other one goes through the task.
        self.streams.remove(&error);
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let Some(Stream::Data { bytes: sender, .. }) = self.streams.get_mut(&stream) else { return };
        if let Some(open) = sender
            && !bytes.is_empty()
        {
            // A pod that does not read holds up the connection: there is no other bound on what is in memory.
            let _ = open.send(bytes).await;
        }
        if fin {
            *sender = None;
        }
    }

    fn forget_ended(&mut self) {
        self.streams.retain(|_, stream| match stream {
            Stream::Data { task: Some(task), .. } => !task.0.is_finished(),
            _ => true,
        });
    }
}

fn broken(why: impl Into<String>) -> Error {
    Error::Protocol { protocol: "port-forward", why: why.into() }
}

/// One forwarded connection.
struct Connection {
    namespace: Option<PathBuf>,
    port: u16,
    error: u32,
    stream: u32,
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Connection {
    async fn run(self, receiver: mpsc::Receiver<Bytes>) {
        let forwarded = match connect(self.namespace.clone(), self.port).await {
            Ok(socket) => self.copy(socket, receiver).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forwarded {
            let message = format!("error forwarding port {} to pod: {}", self.port, error.chain());
            let _ = self.outgoing.send(frame::data(self.error, message.as_bytes(), false)).await;
        }
        for stream in [self.stream, self.error] {
            let _ = self.outgoing.send(frame::data(stream, &[], true)).await;
        }
    }

    async fn copy(&self, socket: TcpStream, mut receiver: mpsc::Receiver<Bytes>) -> Result<()> {
        let (mut reader, mut writer) = socket.into_split();
        let to_pod = async move {
            while let Some(bytes) = receiver.recv().await {
                writer.write_all(&bytes).await?;
            }
            writer.shutdown().await
        };
        let from_pod = async {
            let mut buffer = vec![0; frame::LONGEST_DATA];
            loop {
                let count = reader.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                let data = frame::data(self.stream, &buffer[..count], false);
                if self.outgoing.send(data).await.is_err() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        };
        tokio::pin!(to_pod, from_pod);
        // When the pod has said all, the connection is over, whatever the client still has to say. A pod that does
        // not read any more may still have something to say.
        let copied = tokio::select! {
            copied = &mut from_pod => copied,
            _ = &mut to_pod => from_pod.await,
        };
        copied.map_err(|error: io::Error| broken(error.to_string()))
    }
}

/// Connects to a port on the pod's loopback interface, where programs that serve only the pod listen too.
async fn connect(namespace: Option<PathBuf>, port: u16) -> Result<TcpStream> {
    let stream = match namespace {
        // A thread of its own: its network namespace is changed, and it must not serve anything else afterwards.
        Some(path) => {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            std::thread::Builder::new()
                .name("port-forward".to_owned())
                .spawn(move || {
                    let _ = sender.send(enter(&path).and_then(|()| dial(port)));
                })
                .map_err(|error| broken(format!("cannot start a thread: {error}")))?;
            receiver.await.map_err(|_| Error::Interrupted)??
        }
        None => blocking(move || dial(port)).await?,
    };
    stream
        .set_nonblocking(true)
        .and_then(|()| TcpStream::from_std(stream))
        .map_err(|error| broken(format!("cannot use the connection to port {port}: {error}")))
}

fn enter(path: &std::path::Path) -> Result<()> {
    use std::os::fd::AsFd as _;
    let file = std::fs::File::open(path).io("open", path)?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
        .io("enter the network namespace", path)
}

fn dial(port: u16) -> Result<std::net::TcpStream> {
    let mut last = None;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(address, port);
        match std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            // The first is what counts: many pods have no IPv6.
            Err(error) => last = last.or(Some((address, error))),
        }
    }
    let Some((address, error)) = last else { return Err(Error::Interrupted) };
    Err(broken(format!("failed to connect to {address} inside the pod's network namespace: {error}")))
}
