//! Requests to one repository of one registry: who asks, once more after a challenge, and again when it may pass.
//!
//! Credentials go to the registry and to the server that it names for tokens. A redirect leads elsewhere without them
//! (CVE-2020-15157 is the same mistake with URLs of layers).

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::challenge::{self, Challenge};
use crate::client::Client;
use crate::connect::HttpClient;
use crate::exchange::{Payload, failure, location, origin, send};
use crate::hosts::{Endpoint, Trust};
use crate::token::{self, Wanted, secret};
use crate::{Credentials, Error, Result};

/// Redirects of one request.
const REDIRECTS: usize = 8;
/// How often the same is tried.
pub(crate) const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a registry may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A header of a request.
pub(crate) type Header = (HeaderName, String);

pub(crate) struct Session {
    pub(crate) shared: Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) repository: String,
    http: HttpClient,
    credentials: Option<Credentials>,
    scopes: Mutex<Vec<String>>,
    authorization: Mutex<Option<String>>,
}

/// The pause before attempt `number`, counted from one.
pub(crate) fn pause(number: u32) -> Duration {
    let spread = 0.75 + rand::random::<f64>() / 2.0;
    (FIRST_PAUSE * 2_u32.saturating_pow(number.min(8).saturating_sub(1))).mul_f64(spread).min(LONGEST_PAUSE)
}

/// What a registry asks to be waited.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let time = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            time.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default()
        }
    };
    Some(seconds)
}

impl Session {
    /// Begins with an endpoint that answers; `actions` are those of a token's scope, for example `pull,push`.
    pub(crate) async fn open(
        shared: &Client,
        endpoint: Endpoint,
        repository: &str,
        actions: &str,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let http = shared.http(&endpoint)?;
        let scopes = if repository.is_empty() {
            Vec::new()
        } else {
            vec![format!("repository:{repository}:{actions}")]
        };
        let session = Self {
            shared: shared.clone(),
            endpoint,
            repository: repository.to_owned(),
            http,
            credentials,
            scopes: Mutex::new(scopes),
            authorization: Mutex::new(None),
        };
        if let Some(token) =
            session.credentials.as_ref().map(|known| &known.registry_token).filter(|token| !token.is_empty())
        {
            *session.authorization.lock() = Some(format!("Bearer {token}"));
        }
        Ok(session)
    }

    /// Asks whether this is a registry, and has it tell how it wants to know who asks.
    pub(crate) async fn ping(&self) -> Result<()> {
        let url = self.endpoint.url("/v2/");
        let response = send(
            &self.http,
            &Method::GET,
            &url,
            &HeaderMap::new(),
            &Payload::Nothing,
            self.shared.patience(),
        )
        .await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // Without a scope of its own nothing is asked for yet, and without a name there is nothing to say: what is
            // asked for next may be for everybody.
            // Who was given a token for just this needs no other.
            let is_known = self.authorization.lock().is_some();
            let is_scoped = !self.scopes.lock().is_empty();
            if is_scoped
                && !is_known
                && let Err(error) = self.authorize(response.headers(), false).await
                && (self.credentials.is_some() || !matches!(error, Error::Unauthorized { .. }))
            {
                return Err(error);
            }
            return Ok(());
        }
        // A registry behind a proxy may answer anything here, and is asked for what matters next.
        Ok(())
    }

    /// Adds the right to read another repository, from which a blob is to be mounted.
    pub(crate) fn also_read(&self, repository: &str) {
        let scope = format!("repository:{repository}:pull");
        let mut scopes = self.scopes.lock();
        let is_bearer = self.authorization.lock().as_ref().is_some_and(|header| header.starts_with("Bearer"));
        if !scopes.contains(&scope) {
            scopes.push(scope);
            if is_bearer && self.credentials.as_ref().is_none_or(|known| known.registry_token.is_empty()) {
                *self.authorization.lock() = None;
            }
        }
    }

    /// The URL of something in the repository.
    pub(crate) fn url(&self, path: &str) -> String {
        self.endpoint.url(&format!("/v2/{}/{path}", self.repository))
    }

    /// Answers the challenge of a registry; the refresh token that came with the answer, if any.
    pub(crate) async fn authorize(&self, headers: &HeaderMap, offline: bool) -> Result<String> {
        let all = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = all.flat_map(challenge::parse).collect();
        let unauthorized = |message: &str| Error::Unauthorized {
            registry: self.endpoint.authority.clone(),
            message: message.to_owned(),
        };
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        if let Some(Challenge::Bearer { realm, service, scope }) = bearer {
            let mut scopes = self.scopes.lock().clone();
            let asked = scope.split(' ').filter(|scope| !scope.is_empty());
            for scope in asked.take(16) {
                let covered = scopes.iter().any(|known| covers(known, scope));
                if !covered {
                    scopes.push(scope.to_owned());
                }
            }
            let wanted = Wanted { realm, service, scopes: &scopes, offline };
            let token =
                token::fetch(&self.shared, &self.endpoint, self.credentials.as_ref(), &wanted).await?;
            *self.authorization.lock() = Some(token.header());
            return Ok(token.refresh_token);
        }
        if challenges.contains(&Challenge::Basic) {
            let basic = self.credentials.as_ref().and_then(Credentials::basic);
            let header = basic.ok_or_else(|| unauthorized("no basic auth credentials"))?;
            *self.authorization.lock() = Some(header);
            return Ok(String::new());
        }
        Err(unauthorized("authentication required"))
    }

    /// Sends a request to something in the repository, and once more when the registry wants to know who asks or has no
    /// time now. What does not change anything is tried again also when the connection breaks.
    pub(crate) async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[Header],
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        let safe = matches!(method, Method::GET | Method::HEAD);
        let mut failed = 0;
        loop {
            let error = match self.authorized(&method, url, headers, &payload).await {
                Ok(response) => {
                    let status = response.status();
                    let later =
                        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
                            || safe && status.is_server_error();
                    failed += 1;
                    if !later || failed >= self.shared.attempts() {
                        return Ok(response);
                    }
                    let asked = asked_pause(response.headers());
                    if asked.is_some_and(|asked| asked > LONGEST_PAUSE) {
                        return Ok(response);
                    }
                    tokio::time::sleep(asked.unwrap_or_else(|| pause(failed))).await;
                    continue;
                }
                Err(error) => error,
            };
            failed += 1;
            let again = matches!(error, Error::Connect { .. }) || safe && error.may_pass();
            if !again || failed >= self.shared.attempts() {
                return Err(error);
            }
            tracing::debug!(url, error = error.chain(), "a registry is asked again");
            tokio::time::sleep(pause(failed)).await;
        }
    }

    async fn authorized(
        &self,
        method: &Method,
        url: &str,
        headers: &[Header],
        payload: &Payload,
    ) -> Result<Response<Incoming>> {
        let used = self.authorization.lock().clone();
        let response = self.follow(method, url, headers, payload, used.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(url) {
            return Ok(response);
        }
        if used.as_deref().is_some_and(|used| used.starts_with("Basic")) {
            return Ok(response);
        }
        self.authorize(response.headers(), false).await?;
        let fresh = self.authorization.lock().clone();
        self.follow(method, url, headers, payload, fresh.as_deref()).await
    }

    /// Whether an address is the registry's own.
    fn is_own(&self, url: &str) -> bool {
        origin(url) == Some((self.endpoint.scheme(), self.endpoint.authority.as_str()))
    }

    async fn follow(
        &self,
        method: &Method,
        url: &str,
        headers: &[Header],
        payload: &Payload,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let wrong =
            |why: &str| Error::Protocol { registry: self.endpoint.authority.clone(), why: why.to_owned() };
        for _ in 0..REDIRECTS {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let value = HeaderValue::from_str(value).map_err(|_| wrong("a header cannot be sent"))?;
                map.insert(name.clone(), value);
            }
            let own = self.is_own(&url);
            if let Some(authorization) = authorization.filter(|_| own) {
                map.insert(AUTHORIZATION, secret(authorization)?);
            }
            let stranger = if own { None } else { Some(self.stranger(&url)?) };
            let http = stranger.as_ref().unwrap_or(&self.http);
            let response = send(http, method, &url, &map, payload, self.shared.patience()).await?;
            let safe = matches!(*method, Method::GET | Method::HEAD);
            if !safe || !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            url = location(response.headers(), &url).ok_or_else(|| wrong("a redirect leads nowhere"))?;
        }
        Err(wrong("it redirects too often"))
    }

    /// A client for an address of somebody else. What came with TLS does not go on without.
    fn stranger(&self, url: &str) -> Result<HttpClient> {
        let wrong =
            |why: &str| Error::Protocol { registry: self.endpoint.authority.clone(), why: why.to_owned() };
        let (scheme, authority) = origin(url).ok_or_else(|| wrong("a redirect leads nowhere"))?;
        let trust = match scheme {
            "https" if self.shared.hosts().is_insecure(authority) => Trust::Unverified,
            "https" => Trust::Verified,
            "http" if self.endpoint.trust != Trust::Verified => Trust::Plain,
            "http" => return Err(wrong("it redirects from https to http")),
            _ => return Err(wrong("a redirect leads nowhere")),
        };
        let place =
            Endpoint { authority: authority.to_owned(), prefix: String::new(), trust, is_mirror: false };
        self.shared.http(&place)
    }

    /// The error that an answer is.
    pub(crate) async fn failure(&self, response: Response<Incoming>) -> Error {
        failure(response, &self.endpoint.authority, self.shared.patience()).await
    }
}

/// Whether who has the scope `known` has `asked` too: the same name, and all its actions.
fn covers(known: &str, asked: &str) -> bool {
    let (Some((name, actions)), Some((asked_name, asked_actions))) =
        (known.rsplit_once(':'), asked.rsplit_once(':'))
    else {
        return known == asked;
    };
    name == asked_name
        && asked_actions.split(',').all(|action| actions.split(',').any(|known| known == action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_each_other() {
        assert!(covers("repository:a/b:pull,push", "repository:a/b:pull"));
        assert!(!covers("repository:a/b:pull", "repository:a/b:pull,push"));
        assert!(!covers("repository:a/c:pull", "repository:a/b:pull"));
    }

    #[test]
    fn pauses_grow_and_end() {
        assert!(pause(1) < pause(4) && pause(40) <= LONGEST_PAUSE);
        let headers = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        assert_eq!(asked_pause(&headers("7")), Some(Duration::from_secs(7)));
        assert_eq!(asked_pause(&headers("x")), None);
    }
}
