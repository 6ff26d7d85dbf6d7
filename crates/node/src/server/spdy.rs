//! SPDY/3.1 with a client: over the connection itself, which older clients change the protocol of, or inside a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::websocket::{self, Socket};
use super::{Body, Refusal, full};
use crate::Result;
use crate::spdy::frame::{Decoder, Frame};

const PROTOCOL: &str = "SPDY/3.1";
/// Which version of what goes through the streams the client wants, the best first, and which the server took.
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken.
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Frames on their way to the client.
const OUTGOING: usize = 32;
/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// How long what is said last may take to reach the client.
const FAREWELL: Duration = Duration::from_secs(10);

/// Whether a client asks for SPDY without a WebSocket around it.
pub(super) fn is_wanted(request: &Request<Incoming>) -> bool {
    websocket::has_token(request.headers(), header::UPGRADE, PROTOCOL)
}

/// A change of the protocol that was agreed on.
pub(super) struct Agreed {
    /// What goes through the streams, as the list of supported ones names it.
    pub(super) version: &'static str,
    upgrade: OnUpgrade,
}

impl Agreed {
    /// The connection, once the answer has been sent.
    pub(super) async fn wire(self) -> Option<Wire> {
        match self.upgrade.await {
            Ok(upgraded) => Some(Wire::over_connection(upgraded)),
            Err(error) => {
                tracing::debug!(%error, "an upgrade came to nothing");
                None
            }
        }
    }
}

/// Agrees on what goes through the streams: of what the client offers the first that is supported. A client that offers nothing
/// means the oldest, which has no name.
///
/// # Errors
/// 403 with the supported ones when none fits, as the reference answers.
pub(super) fn accept(
    request: &mut Request<Incoming>,
    supported: &[&'static str],
) -> std::result::Result<(Response<Body>, Agreed), Refusal> {
    let offered = websocket::tokens(request.headers(), STREAM_VERSION);
    let offered = if offered.is_empty() { vec![""] } else { offered };
    let found = offered.iter().find_map(|offer| supported.iter().find(|known| *known == offer));
    let Some(version) = found.copied() else {
        let mut refusal = Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {supported:?}"
            ),
        );
        refusal.headers =
            supported.iter().map(|known| (ACCEPTED_VERSIONS, HeaderValue::from_static(known))).collect();
        return Err(refusal);
    };
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, PROTOCOL)
        .header(header::CONNECTION, "Upgrade");
    if !version.is_empty() {
        response = response.header(STREAM_VERSION, version);
    }
    let response = response
        .body(full(Bytes::new()))
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok((response, Agreed { version, upgrade: hyper::upgrade::on(request) }))
}

/// What the client says.
pub(super) struct Source {
    bytes: BoxStream<'static, Bytes>,
    decoder: Decoder,
}

impl Source {
    /// The next frame; none when the client has gone.
    ///
    /// # Errors
    /// When the bytes are not SPDY/3.1.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            match self.bytes.next().await {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Both directions of a connection.
pub(super) struct Wire {
    pub(super) source: Source,
    /// Takes whole frames.
    pub(super) outgoing: mpsc::Sender<Vec<u8>>,
    pub(super) writer: Writer,
}

/// The task that writes frames. It ends when nobody can send any more, and at once when this is dropped.
pub(super) struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until all that was sent is written; all senders have to be gone.
    pub(super) async fn finish(mut self) {
        if tokio::time::timeout(FAREWELL, &mut self.0).await.is_err() {
            tracing::debug!("a client does not read what is said last");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wire {
    fn new(
        bytes: BoxStream<'static, Bytes>,
        write: impl FnOnce(mpsc::Receiver<Vec<u8>>) -> JoinHandle<()>,
    ) -> Wire {
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        let source = Source { bytes, decoder: Decoder::new() };
        Wire { source, outgoing, writer: Writer(write(frames)) }
    }

    fn over_connection(upgraded: Upgraded) -> Wire {
        let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let bytes = unfold(reader, |mut reader| async move {
            let mut buffer = vec![0; CHUNK];
            let count = reader.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
            buffer.truncate(count);
            Some((Bytes::from(buffer), reader))
        });
        Wire::new(bytes.boxed(), |mut frames| {
            tokio::spawn(async move {
                while let Some(frame) = frames.recv().await {
                    if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                        return;
                    }
                }
                let _ = writer.shutdown().await;
            })
        })
    }

    pub(super) fn over_socket(socket: Socket) -> Wire {
        let (mut sink, source) = socket.split();
        let bytes = unfold(source, |mut source| async move {
            loop {
                match source.next().await? {
                    Ok(Message::Binary(bytes)) => return Some((bytes, source)),
                    Ok(Message::Close(_)) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        });
        Wire::new(bytes.boxed(), |mut frames| {
            tokio::spawn(async move {
                while let Some(frame) = frames.recv().await {
                    if sink.send(Message::binary(frame)).await.is_err() {
                        return;
                    }
                }
                let _ = sink.close().await;
            })
        })
    }
}
