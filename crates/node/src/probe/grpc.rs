//! The gRPC health protocol: one call of `grpc.health.v1.Health/Check`, of whose messages there is so little that they
//! are written and read by hand.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::pod::slot::Background;
use crate::{Error, Result};

/// Longest answer that is read.
const LONGEST: usize = 64 * 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

fn failure(message: impl Into<String>) -> Error {
    Error::Probe { message: message.into() }
}

/// `HealthCheckRequest { service }` as a gRPC message: a byte that says "not compressed", a length, protobuf.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The status of a `HealthCheckResponse`; the default, 0, when it is not in it.
fn status(framed: &[u8]) -> Option<u64> {
    let (head, rest) = framed.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 {
        return None;
    }
    let mut message = rest.get(..length)?;
    let mut found = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    found = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Asks whether a service is served.
///
/// # Errors
/// When it is not, or nobody answers.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<()> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let stream = TcpStream::connect((host, port)).await.map_err(|error| {
        failure(format!("error: failed to connect service {address:?}: connection error: {error}"))
    })?;
    let broken = |error: hyper::Error| failure(format!("error: health rpc probe failed: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(broken)?;
    let _driver = Background(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(request(service)))
        .map_err(|error| failure(format!("error: health rpc probe failed: {error}")))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::OK {
        return Err(failure(format!("error: health rpc probe failed: HTTP status {}", response.status())));
    }
    // A call that fails at once says so in the headers.
    let early = response.headers().get("grpc-status").cloned();
    let body = Limited::new(response.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|error| failure(format!("error: health rpc probe failed: {error}")))?;
    let code = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned().or(early);
    if let Some(code) = code.filter(|code| code != "0") {
        let code = code.to_str().unwrap_or("?");
        let why = if code == "12" {
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                .to_owned()
        } else {
            format!("error: health rpc probe failed: rpc error: code {code}")
        };
        return Err(failure(why));
    }
    match status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(failure(format!("service unhealthy (responded with status {other})"))),
        None => Err(failure("error: health rpc probe failed: malformed answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        assert_eq!(request(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(request("db"), &[0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b'][..]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 0x08, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 1], &[0, 0, 0, 0, 1, 0x08]] {
            assert_eq!(status(wrong), None);
        }
    }

    /// A server that gives one answer.
    async fn serve(answer: &'static [u8], code: &'static str) -> u16 {
        use http_body_util::StreamBody;
        use hyper::body::Frame;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service =
                hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static(code));
                    let frames = [
                        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(answer))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
        port
    }

    #[tokio::test]
    async fn servers_are_asked() {
        for (answer, code, expected) in [
            (&[0, 0, 0, 0, 2, 0x08, 1][..], "0", None),
            (&[0, 0, 0, 0, 2, 0x08, 2], "0", Some("service unhealthy (responded with status 2)")),
            (
                &[],
                "12",
                Some(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)",
                ),
            ),
            (&[0], "0", Some("error: health rpc probe failed: malformed answer")),
        ] {
            let port = serve(answer, code).await;
            let checked = check("127.0.0.1", port, "db").await;
            assert_eq!(checked.err().map(|error| error.to_string()).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = status(&bytes);
        }
    }
}
