//! The smallest HTTP/1.1 client: one GET, of whose answer only the status counts.

use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;

use crate::{Error, Result};

/// Longest status line that is read.
const LONGEST_LINE: u64 = 8 * 1024;

fn failure(message: String) -> Error {
    Error::Probe { message }
}

/// Whether a header may be sent as it is: a line feed in it would begin another one.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte == b'\r' || byte == b'\n' || byte == 0)
}

/// The request, or none when a part of it would break out of its line.
fn request(host: &str, port: u16, get: &HTTPGetAction) -> Option<String> {
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut text = format!("GET {slash}{path} HTTP/1.1\r\n");
    let headers = get.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    if !has("host") {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        text.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    if !has("user-agent") {
        text.push_str("User-Agent: kube-probe/1.36\r\n");
    }
    if !has("accept") {
        text.push_str("Accept: */*\r\n");
    }
    for header in headers {
        if !is_plain(&header.name) || !is_plain(&header.value) || header.name.contains(':') {
            return None;
        }
        text.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    text.push_str("Connection: close\r\n\r\n");
    (is_plain(path) && !path.contains(' ')).then_some(text)
}

/// Whether the probe speaks TLS.
pub(super) fn is_tls(get: &HTTPGetAction) -> bool {
    get.scheme.as_deref() == Some("HTTPS")
}

/// Asks, and gives the status code.
///
/// # Errors
/// When nobody answers, or not with HTTP.
pub(super) async fn get(host: &str, port: u16, get: &HTTPGetAction) -> Result<u16> {
    let path = get.path.as_deref().unwrap_or("/");
    let scheme = if is_tls(get) { "https" } else { "http" };
    let url = format!("{scheme}://{host}:{port}{path}");
    let refused = |error: std::io::Error| failure(format!("Get {url:?}: {error}"));
    let Some(request) = request(host, port, get) else {
        return Err(failure(format!("Get {url:?}: malformed path or header")));
    };
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| failure(format!("Get {url:?}: dial tcp {host}:{port}: connect: {error}")))?;
    let line = if is_tls(get) {
        let stream = super::tls::connect(host, stream).await.map_err(refused)?;
        ask(stream, &request).await
    } else {
        ask(stream, &request).await
    };
    status(&line.map_err(refused)?).ok_or_else(|| failure(format!("Get {url:?}: malformed HTTP response")))
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    let mut reader = BufReader::with_capacity(1024, stream).take(LONGEST_LINE);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    Ok(line)
}

fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.trim_end().parse().ok().filter(|code| (100..1000).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for wrong in [&b""[..], b"200 OK", b"HTTP/1.1", b"HTTP/1.1 x", b"\xff\xfe"] {
            assert_eq!(status(wrong), None);
        }
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        let get = |path: &str| HTTPGetAction { path: Some(path.to_owned()), ..HTTPGetAction::default() };
        assert!(request("10.0.0.1", 80, &get("/a?b=c")).unwrap().starts_with("GET /a?b=c HTTP/1.1\r\n"));
        assert!(request("10.0.0.1", 80, &get("/a\r\nX: y")).is_none());
        assert!(request("10.0.0.1", 80, &get("/a HTTP/1.1")).is_none());
    }
}
