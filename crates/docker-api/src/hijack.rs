//! Connections that become raw streams: attach and exec.

use std::future::Future;
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::body::{self, Body};
use crate::error::{ApiError, Result};

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const BUFFER: usize = 32 * 1024;
/// How long such a client is given to read the head. Nothing tells when it has.
const HEAD_START: Duration = Duration::from_millis(25);

/// The keys that end a client's stay without ending the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// `ctrl-p,ctrl-q` and the like; nothing means just these.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self(vec![16, 17])) };
        let mut keys = Vec::new();
        for key in text.split(',') {
            let byte = match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
                ([single], _) => *single,
                (_, Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => {
                    letter.to_ascii_uppercase() & 0x1f
                }
                _ => return Err(ApiError::bad_request(format!("Invalid detach keys ({text}) provided"))),
            };
            keys.push(byte);
        }
        Ok(Self(keys))
    }
}

/// What a client that stays connected is given.
pub(crate) struct Session {
    /// What comes before everything else: the log so far, or a message.
    pub(crate) before: Option<mpsc::Receiver<Bytes>>,
    /// The process; without one the session ends after what comes before.
    pub(crate) process: Option<UnixStream>,
    /// How its output becomes what the client has asked for.
    pub(crate) framing: Framing,
}

impl Session {
    /// The process alone, its output as it is.
    pub(crate) fn with(process: UnixStream) -> Self {
        Self { before: None, process: Some(process), framing: Framing::AsIs }
    }

    /// A message instead of a process.
    pub(crate) fn message(text: &str, framing: Framing) -> Self {
        let (sender, before) = mpsc::channel(1);
        let bytes = match framing {
            Framing::Framed => frame(text.as_bytes()),
            Framing::AsIs | Framing::Unframed => Bytes::copy_from_slice(text.as_bytes()),
        };
        // There is room for it.
        let _ = sender.try_send(bytes);
        Self { before: Some(before), process: None, framing: Framing::AsIs }
    }
}

/// What is done to output on its way. Who starts an exec may want another form than it has by its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It goes on as it is.
    AsIs,
    /// Raw output is put into frames of the standard output.
    Framed,
    /// Frames are opened, and all streams are one.
    Unframed,
}

/// A frame of the standard output.
fn frame(bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(8 + bytes.len());
    framed.put_slice(&[1, 0, 0, 0]);
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.put_slice(bytes);
    framed.freeze()
}

/// Answers with an upgrade, or with an ordinary body when the client did not ask for one, and then joins the client
/// with what `connect` gives. A stream that has ended is closed when `ended` is done: what the client asks next must
/// see the end, too.
pub(crate) fn answer<B>(
    mut request: Request<B>,
    raw: bool,
    keys: Option<DetachKeys>,
    connect: impl Future<Output = Option<Session>> + Send + 'static,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Response<Body> {
    let content_type = if raw { RAW } else { MULTIPLEXED };
    if !request.headers().contains_key(header::UPGRADE) {
        let (sender, response) = body::stream(content_type);
        tokio::spawn(async move {
            let joined = async {
                let Some(session) = connect.await else { return };
                let (ours, mut theirs) = tokio::io::duplex(BUFFER);
                let (mut from_client, mut to_client) = tokio::io::split(ours);
                let joined =
                    join(&mut from_client, &mut to_client, session, None, std::future::pending(), ended);
                let sent = async {
                    let mut buffer = vec![0; BUFFER];
                    while let Ok(n @ 1..) = theirs.read(&mut buffer).await {
                        if sender.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                            return;
                        }
                    }
                };
                // What is written at the end is still sent after the join.
                let joined = async {
                    joined.await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = joined => {}
                    () = sent => {}
                }
            };
            tokio::select! {
                () = joined => {}
                () = sender.closed() => {}
            }
        });
        return response;
    }
    let hold = reads_ahead(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                if hold {
                    tokio::time::sleep(HEAD_START).await;
                }
                let (client, gone) = match client(upgraded) {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch a client's connection");
                        return;
                    }
                };
                let mut gone = std::pin::pin!(gone);
                // A container may be joined long before it is started.
                let session = tokio::select! {
                    session = connect => session,
                    () = &mut gone => return,
                };
                if let Some(session) = session {
                    let (mut from_client, mut to_client) = tokio::io::split(client);
                    join(&mut from_client, &mut to_client, session, keys, gone, ended).await;
                }
            }
            Err(error) => tracing::debug!(%error, "a client did not go on with its upgrade"),
        }
    });
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// A client's connection after its upgrade, and what ends when the client has closed it: one that has only no more to say
/// still listens, which reading alone does not tell apart.
pub(crate) fn client(
    upgraded: Upgraded,
) -> std::io::Result<(impl AsyncRead + AsyncWrite + Unpin, impl Future<Output = ()> + Send)> {
    let parts = auto::upgrade::downcast::<TokioIo<UnixStream>>(upgraded)
        .map_err(|_| std::io::Error::other("it is no unix socket"))?;
    let stream = parts.io.into_inner();
    // Its own descriptor has its own readiness, which nobody else waits for.
    let watch = stream.as_fd().try_clone_to_owned()?;
    let watch = UnixStream::from_std(watch.into())?;
    let gone = async move {
        while let Ok(ready) = watch.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            let wait_for_more = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
            let _ = watch.try_io(Interest::WRITABLE, wait_for_more);
        }
    };
    let (reader, writer) = stream.into_split();
    Ok((tokio::io::join(std::io::Cursor::new(parts.read_buf).chain(reader), writer), gone))
}

/// Whether a client loses what comes together with the head of the answer: Python's reads the head through a buffer,
/// and the stream beside it.
fn reads_ahead(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    agent.contains("python") || agent.starts_with("docker-compose/")
}

/// Copies both ways until the process has closed its output, or the client is `gone` or typed the keys. A client that has
/// no more to say may still listen: `gone` is asked then.
pub(crate) async fn join(
    from_client: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    session: Session,
    keys: Option<DetachKeys>,
    gone: impl Future<Output = ()>,
    ended: impl Future<Output = ()>,
) {
    if let Some(mut before) = session.before {
        while let Some(bytes) = before.recv().await {
            let written = match session.framing {
                // Every chunk of a log is whole frames.
                Framing::Unframed => copy_unframed(&mut &bytes[..], to_client).await,
                Framing::AsIs | Framing::Framed => to_client.write_all(&bytes).await,
            };
            if written.is_err() {
                return;
            }
        }
        // The process may say nothing for long.
        let _ = to_client.flush().await;
    }
    let Some(process) = session.process else {
        let _ = to_client.shutdown().await;
        return;
    };
    let (mut from_process, mut to_process) = process.into_split();
    let input = async {
        let detached = match keys {
            Some(keys) => copy_until_keys(from_client, &mut to_process, &keys).await,
            None => {
                let _ = tokio::io::copy(from_client, &mut to_process).await;
                false
            }
        };
        if !detached {
            let _ = to_process.shutdown().await;
            gone.await;
        }
    };
    let output = async {
        let _ = match session.framing {
            Framing::AsIs => tokio::io::copy(&mut from_process, to_client).await.map(drop),
            Framing::Framed => copy_framed(&mut from_process, to_client).await,
            Framing::Unframed => copy_unframed(&mut from_process, to_client).await,
        };
        ended.await;
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
    let _ = to_client.shutdown().await;
}

async fn copy_framed(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&frame(&buffer[..n])).await?;
        to.flush().await?;
    }
}

async fn copy_unframed(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    loop {
        let mut header = [0; 8];
        match from.read_exact(&mut header).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        tokio::io::copy(&mut (&mut *from).take(u64::from(length)), to).await?;
    }
}

/// Copies input, but for the detach keys; true when they came. A key that might begin the sequence is held back until
/// it is clear that it does not.
async fn copy_until_keys(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    keys: &DetachKeys,
) -> bool {
    let mut buffer = vec![0; BUFFER];
    let mut matched = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let mut out = Vec::with_capacity(n + matched);
        for byte in &buffer[..n] {
            if *byte == keys.0[matched] {
                matched += 1;
                if matched == keys.0.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&keys.0[..matched]);
            matched = usize::from(*byte == keys.0[0]);
            if matched == 0 {
                out.push(*byte);
            }
        }
        if to.write_all(&out).await.is_err() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_letters_or_control_letters() {
        assert_eq!(DetachKeys::parse(None).unwrap().0, [16, 17]);
        assert_eq!(DetachKeys::parse(Some("ctrl-a,d,ctrl-[")).unwrap().0, [1, b'd', 27]);
        for text in ["", "ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(DetachKeys::parse(Some(text)).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn output_is_framed_and_unframed() {
        let (mut framed, mut plain) = (Vec::new(), Vec::new());
        copy_framed(&mut &b"hello"[..], &mut framed).await.unwrap();
        assert_eq!(framed, b"\x01\0\0\0\0\0\0\x05hello");
        framed.extend_from_slice(b"\x02\0\0\0\0\0\0\x01!");
        copy_unframed(&mut &framed[..], &mut plain).await.unwrap();
        assert_eq!(plain, b"hello!");
    }

    #[tokio::test]
    async fn held_back_keys_are_not_lost() {
        let keys = DetachKeys::parse(None).unwrap();
        for (input, expected, detached) in [
            (&b"ab\x10cd"[..], &b"ab\x10cd"[..], false),
            (&b"ab\x10\x10\x11cd"[..], &b"ab\x10"[..], true),
            (&b"\x10\x11"[..], &b""[..], true),
        ] {
            let mut out = Vec::new();
            assert_eq!(copy_until_keys(&mut &input[..], &mut out, &keys).await, detached);
            if !detached {
                assert_eq!(out, expected);
            }
        }
    }
}
