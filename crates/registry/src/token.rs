//! Bearer tokens: an authorization server gives them for a scope (the distribution project's token specification and its
//! OAuth2 variant).

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;

use crate::client::Client;
use crate::exchange::{Payload, failure, origin, read_all, send};
use crate::hosts::{Endpoint, Trust};
use crate::{Credentials, Error, Result};

/// Bytes of the longest answer of an authorization server.
const ANSWER_LIMIT: usize = 256 << 10;
/// By which name we are known to authorization servers.
const CLIENT_ID: &str = "dray";

/// What a token is wanted for.
pub(crate) struct Wanted<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: &'a str,
    pub(crate) scopes: &'a [String],
    /// Whether a refresh token is wanted as well, to be kept in place of the password.
    pub(crate) offline: bool,
}

/// What an authorization server gives.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    token: String,
    access_token: String,
    pub(crate) refresh_token: String,
}

impl Token {
    fn checked(self, realm: &str) -> Result<Self> {
        let token = if self.token.is_empty() { self.access_token.clone() } else { self.token.clone() };
        let plain = |b: u8| b.is_ascii_graphic();
        if token.is_empty() || !token.bytes().all(plain) {
            let why = "it gave no token".to_owned();
            return Err(Error::Protocol { registry: realm.to_owned(), why });
        }
        Ok(Self { token, ..self })
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

/// Makes a value of a query or a form of any text.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn form(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    pairs.join("&")
}

/// Asks for a token. A password goes over a connection without TLS only if the registry itself may do without.
pub(crate) async fn fetch(
    shared: &Client,
    registry: &Endpoint,
    credentials: Option<&Credentials>,
    wanted: &Wanted<'_>,
) -> Result<Token> {
    let realm = wanted.realm;
    let wrong = |why: &str| Error::Protocol { registry: registry.authority.clone(), why: why.to_owned() };
    let (scheme, authority) = origin(realm).ok_or_else(|| wrong("the realm of its challenge is no URL"))?;
    let trust = match scheme {
        "https" if shared.hosts().is_insecure(authority) => Trust::Unverified,
        "https" => Trust::Verified,
        "http" if registry.trust != Trust::Verified => Trust::Plain,
        "http" => return Err(wrong("it wants credentials to be sent without TLS")),
        _ => return Err(wrong("the realm of its challenge is no URL")),
    };
    let place = Endpoint { authority: authority.to_owned(), prefix: String::new(), trust, is_mirror: false };
    let http = shared.http(&place)?;
    let patience = shared.patience();
    let scope = wanted.scopes.join(" ");
    let identity = credentials.filter(|credentials| !credentials.identity_token.is_empty());
    if let Some(credentials) = identity {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("service", wanted.service),
            ("client_id", CLIENT_ID),
            ("scope", &scope),
            ("refresh_token", &credentials.identity_token),
        ];
        let body = form(&pairs);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let response =
            send(&http, &Method::POST, realm, &headers, &Payload::Bytes(body.into()), patience).await?;
        if !response.status().is_success() {
            return Err(failure(response, authority, patience).await);
        }
        return answer(read_all(response.into_body(), realm, ANSWER_LIMIT, patience).await?.as_ref(), realm);
    }
    let basic = credentials.and_then(Credentials::basic);
    let account = credentials.map_or("", |credentials| credentials.username.as_str());
    let mut query = form(&[("account", account), ("service", wanted.service), ("client_id", CLIENT_ID)]);
    for scope in wanted.scopes {
        query.push_str(&format!("&scope={}", encode(scope)));
    }
    if wanted.offline {
        query.push_str("&offline_token=true");
    }
    let url = format!("{realm}{}{query}", if realm.contains('?') { '&' } else { '?' });
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    if let Some(basic) = &basic {
        headers.insert(AUTHORIZATION, secret(basic)?);
    }
    let response = send(&http, &Method::GET, &url, &headers, &Payload::Nothing, patience).await?;
    if response.status() != StatusCode::OK {
        return Err(failure(response, authority, patience).await);
    }
    answer(read_all(response.into_body(), realm, ANSWER_LIMIT, patience).await?.as_ref(), realm)
}

fn answer(bytes: &[u8], realm: &str) -> Result<Token> {
    let parsed: Token = serde_json::from_slice(bytes)
        .map_err(|error| Error::Protocol { registry: realm.to_owned(), why: error.to_string() })?;
    parsed.checked(realm)
}

/// A header's value that is not written into logs.
pub(crate) fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Setting {
        setting: "credentials".to_owned(),
        why: "they hold what cannot be sent".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
