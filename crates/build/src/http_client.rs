//! Files of web servers, for ADD and for contexts by address: plain HTTP/1.1 with redirects, over TLS where the address
//! says so.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::ServerName};

use crate::{Error, Result};

/// How often an address may point to another.
const REDIRECTS: usize = 10;
/// How long a server may take for a connection, its head, or the next bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    /// Where it came from in the end.
    pub(crate) address: Uri,
    body: Incoming,
    shown: String,
}

/// A request.
pub(crate) struct Ask<'a> {
    pub(crate) address: &'a str,
    /// Sent as a body with its type.
    pub(crate) body: Option<(&'static str, Bytes)>,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    /// `user:password`, only for the host of the address.
    pub(crate) login: Option<String>,
}

/// The address as it may be shown: without user and password.
pub(crate) fn shown(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => address.to_owned(),
    }
}

/// Sends a request and follows redirects; an answer that is no success is an error.
pub(crate) async fn ask(ask: Ask<'_>) -> Result<Answer> {
    let shown = shown(ask.address);
    let fail = |why: String| Error::Fetch { address: shown.clone(), why };
    let mut uri: Uri = ask.address.parse().map_err(|error| fail(format!("it is no address: {error}")))?;
    let own = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
    let mut login = ask.login.or_else(|| own.map(|(login, _)| percent_decoded(login)));
    for _ in 0..REDIRECTS {
        let answer = once(&uri, &ask.body, ask.headers, login.as_deref()).await.map_err(&fail)?;
        let status = answer.status();
        if status.is_redirection()
            && let Some(location) = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok())
        {
            let next = resolve(&uri, location).ok_or_else(|| fail(format!("it points to {location:?}")))?;
            if next.host() != uri.host() || next.scheme() != uri.scheme() {
                login = None;
            }
            uri = next;
            continue;
        }
        if !status.is_success() {
            let hint = match status {
                StatusCode::NOT_FOUND => ": check the address",
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": it needs a login",
                _ => "",
            };
            return Err(fail(format!("invalid response status {}{hint}", status.as_u16())));
        }
        let (head, body) = answer.into_parts();
        return Ok(Answer { headers: head.headers, address: uri, body, shown });
    }
    Err(fail(format!("it points to other addresses more than {REDIRECTS} times")))
}

impl Answer {
    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let fail = |why: String| Error::Fetch { address: self.shown.clone(), why };
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            match frame.map_err(|_| fail("the server stopped sending".to_owned()))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(fail(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// An address that another one points to.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = if location.contains("://") {
        location.parse().ok()?
    } else if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?).parse().ok()?
    } else {
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{location}")
        };
        let authority = base.authority()?.as_str();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{}://{authority}{path}", base.scheme_str()?).parse().ok()?
    };
    // From a secured address nothing leads to one that is not.
    let secured = base.scheme_str() == Some("https");
    matches!(next.scheme_str(), Some("https") | Some("http"))
        .then_some(next)
        .filter(|next| !secured || next.scheme_str() == Some("https"))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn once(
    uri: &Uri,
    body: &Option<(&'static str, Bytes)>,
    headers: &[(&'static str, &str)],
    login: Option<&str>,
) -> Result<http::Response<Incoming>, String> {
    let secured = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("only http and https are known".to_owned()),
    };
    let host = uri.host().ok_or("it names no host")?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let connecting = tokio::net::TcpStream::connect((host.as_str(), port));
    let stream = tokio::time::timeout(PATIENCE, connecting).await;
    let stream = stream.map_err(|_| format!("{host} does not answer"))?.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut request = Request::builder()
        .method(if body.is_some() { Method::POST } else { Method::GET })
        .uri(path)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("git/2.0 dray/", env!("CARGO_PKG_VERSION")));
    if let Some(login) = login {
        let encoded = base64::engine::general_purpose::STANDARD.encode(login);
        request = request.header(AUTHORIZATION, format!("Basic {encoded}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let bytes = match body {
        Some((kind, bytes)) => {
            request = request.header(CONTENT_TYPE, *kind);
            bytes.clone()
        }
        None => Bytes::new(),
    };
    let request = request.body(Full::new(bytes)).map_err(|error| error.to_string())?;
    let sent = async {
        if secured {
            let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(trust()?).connect(name, stream).await;
            send(stream.map_err(|error| error.to_string())?, request).await
        } else {
            send(stream, request).await
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.map_err(|_| format!("{host} does not answer"))?
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    // It ends with the answer's body.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// The host's certificates of authorities.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(trust) = TRUST.get() {
        return Ok(Arc::clone(trust));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::clone(TRUST.get_or_init(|| Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://u:p@host/a@b"), "https://host/a@b");
        assert_eq!(shown("git@host:path"), "git@host:path");
        assert_eq!(percent_decoded("a%40b%2"), "a@b%2");
    }

    #[test]
    fn redirects_lead_to_no_worse_place() {
        let base: Uri = "https://host/a/b?c".parse().unwrap();
        let to = |location: &str| resolve(&base, location).map(|uri| uri.to_string());
        assert_eq!(to("/x").as_deref(), Some("https://host/x"));
        assert_eq!(to("x?y").as_deref(), Some("https://host/a/x?y"));
        assert_eq!(to("//other/x").as_deref(), Some("https://other/x"));
        assert_eq!((to("http://host/x"), to("file:///etc/shadow")), (None, None));
    }
}
