//! Who may do what: anybody everything, users with a password everything, or who has a token what it says.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderMap, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::answer::Refusal;
use super::password::Passwords;
use super::router::{Target, parameter, query};
use super::tokens::{Grant, Tokens};
use super::{Options, Peer};
use crate::{Error, Result};

/// Bytes of the longest header that is decoded.
const HEADER_LIMIT: usize = 16 << 10;

/// An authority whose tokens are taken.
#[derive(Clone, Debug)]
pub struct TokenAuthority {
    /// Where clients get them, a URL.
    pub realm: String,
    /// By which name it knows this registry.
    pub service: String,
    /// By which name it signs.
    pub issuer: String,
    /// Its public key, a PEM file: RSA, ECDSA or Ed25519.
    pub key: PathBuf,
}

/// What is asked of clients.
pub(crate) enum Access {
    Open,
    Basic(Arc<Passwords>),
    Token(Box<Tokens>),
}

/// What a request may do.
#[derive(Clone, Debug)]
pub(crate) enum Rights {
    All,
    Granted(Vec<Grant>),
}

impl Rights {
    /// Whether there is nothing that it may not.
    pub(crate) fn all(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(crate) fn may_pull(&self, repository: &str) -> bool {
        self.may(repository, "pull")
    }

    fn may(&self, repository: &str, action: &str) -> bool {
        match self {
            Self::All => true,
            Self::Granted(grants) => {
                grants.iter().any(|grant| grant.allows("repository", repository, action))
            }
        }
    }
}

/// Name and password of a request, when it gives any.
pub(crate) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok().filter(|header| header.len() <= HEADER_LIMIT)?;
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// The bearer token of a request, when it has one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok().filter(|header| header.len() <= HEADER_LIMIT)?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// What a request wants to do, in the words of token scopes.
fn action(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => "pull",
        Method::DELETE => "delete",
        _ => "push",
    }
}

fn unauthorized(challenge: String) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
        .with(WWW_AUTHENTICATE, challenge)
}

impl Access {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let contradiction =
            |why: &str| Error::Setting { setting: "registry".to_owned(), why: why.to_owned() };
        let passwords = options.htpasswd.as_deref().map(Passwords::open).transpose()?.map(Arc::new);
        let anonymous_pull = options.anonymous_pull;
        if anonymous_pull && !options.tokens {
            // A client that is asked for a password asks its user, and one that is not asked gives none.
            return Err(contradiction(
                "who gives no password may pull only where there are tokens: give --tokens",
            ));
        }
        match (passwords, &options.authority) {
            (Some(_), Some(_)) => {
                Err(contradiction("passwords and tokens of another authority exclude each other"))
            }
            (None, None) if options.tokens => {
                Err(contradiction("to give out tokens it needs users: give --htpasswd"))
            }
            (None, None) => Ok(Self::Open),
            (Some(passwords), None) if options.tokens => {
                Ok(Self::Token(Box::new(Tokens::own(passwords, anonymous_pull))))
            }
            (Some(passwords), None) => Ok(Self::Basic(passwords)),
            (None, Some(authority)) => Ok(Self::Token(Box::new(Tokens::of(authority)?))),
        }
    }

    /// What a request may do, unless it may not do what it wants.
    pub(crate) async fn check(
        &self,
        peer: Peer,
        request: &Request<Incoming>,
        target: &Target<'_>,
    ) -> Result<Rights, Refusal> {
        let action = action(request.method());
        match self {
            Self::Open => Ok(Rights::All),
            Self::Basic(passwords) => match basic(request.headers()) {
                Some((user, password)) if passwords.check(&user, &password).await => Ok(Rights::All),
                _ => Err(unauthorized("Basic realm=\"Registry\"".to_owned())),
            },
            Self::Token(tokens) => {
                let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
                let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
                let scope = wanted_scope(request, target, action);
                let realm = tokens.realm(peer, host.unwrap_or("localhost"));
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", tokens.service());
                if let Some(scope) = &scope {
                    challenge.push_str(&format!(",scope=\"{scope}\""));
                }
                let Some(token) = bearer(request.headers()) else { return Err(unauthorized(challenge)) };
                let Some(grants) = tokens.grants(token) else {
                    return Err(unauthorized(format!("{challenge},error=\"invalid_token\"")));
                };
                let rights = Rights::Granted(grants.clone());
                let allowed = match target.repository() {
                    Some(repository) => rights.may(repository, action),
                    None if *target == Target::Catalog => {
                        grants.iter().any(|grant| grant.allows("registry", "catalog", "*"))
                    }
                    None => true,
                };
                if !allowed {
                    return Err(unauthorized(format!("{challenge},error=\"insufficient_scope\"")));
                }
                Ok(rights)
            }
        }
    }
}

/// The scope that a token needs for a request.
fn wanted_scope(request: &Request<Incoming>, target: &Target<'_>, action: &str) -> Option<String> {
    let Some(repository) = target.repository() else {
        return (*target == Target::Catalog).then(|| "registry:catalog:*".to_owned());
    };
    let actions = if action == "push" { "pull,push" } else { action };
    // A name with quotes has no scope, and no repository either.
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let mut scope = plain(repository).then(|| format!("repository:{repository}:{actions}"))?;
    if let Some(lender) =
        parameter(&query(request), "from").filter(|lender| plain(lender) && !lender.is_empty())
    {
        scope.push_str(&format!(" repository:{lender}:pull"));
    }
    Some(scope)
}
