//! Bearer tokens, JSON Web Tokens as the distribution project's specification has them: those of another authority, which
//! are checked with its public key, or our own, given out for a name and a password.

use std::fs;
use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{Access, TokenAuthority, basic};
use super::answer::{Answer, Refusal, json};
use super::password::Passwords;
use super::router::query;
use super::{Peer, State};
use crate::{Error, Result};

/// How long a token of ours is good, in seconds.
const LIFETIME: i64 = 300;
/// By which name ours know this registry, and who gives them out.
const OWN_SERVICE: &str = "dray-registry";
/// Repositories of one token.
const SCOPE_LIMIT: usize = 64;

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    actions: Vec<String>,
}

impl Grant {
    pub(crate) fn allows(&self, kind: &str, name: &str, action: &str) -> bool {
        let same = self.kind == kind && self.name == name;
        same && self.actions.iter().any(|allowed| allowed == action || allowed == "*")
    }

    /// Parses `repository:NAME:ACTIONS`; only what users may have at all is left of it.
    fn of_scope(scope: &str, may_push: bool) -> Option<Self> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let allowed = |action: &str| match (kind, action) {
            ("repository", "pull") => true,
            ("repository", "push" | "delete" | "*") | ("registry", "*") => may_push,
            _ => false,
        };
        let actions: Vec<String> =
            actions.split(',').filter(|action| allowed(action)).map(str::to_owned).collect();
        let kind = kind.split('(').next().unwrap_or_default();
        (!actions.is_empty()).then(|| Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    sub: String,
    aud: serde_json::Value,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    #[serde(default)]
    iat: i64,
    #[serde(default)]
    access: Vec<Grant>,
}

/// How tokens are checked, and how ours are made.
pub(crate) struct Tokens {
    realm: Option<String>,
    service: String,
    key: DecodingKey,
    validation: Validation,
    own: Option<Own>,
}

struct Own {
    key: EncodingKey,
    passwords: Arc<Passwords>,
    anonymous_pull: bool,
}

fn validation(algorithms: &[Algorithm], service: &str, issuer: &str) -> Validation {
    let mut validation = Validation::new(algorithms.first().copied().unwrap_or_default());
    validation.algorithms = algorithms.to_vec();
    validation.set_audience(&[service]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    validation.validate_nbf = true;
    validation.leeway = 60;
    validation
}

impl Tokens {
    /// Tokens of ours. The key lives as long as the process: who has one gets another.
    pub(crate) fn own(passwords: Arc<Passwords>, anonymous_pull: bool) -> Self {
        let secret: [u8; 32] = rand::random();
        Self {
            realm: None,
            service: OWN_SERVICE.to_owned(),
            key: DecodingKey::from_secret(&secret),
            validation: validation(&[Algorithm::HS256], OWN_SERVICE, OWN_SERVICE),
            own: Some(Own { key: EncodingKey::from_secret(&secret), passwords, anonymous_pull }),
        }
    }

    /// Tokens of another authority.
    pub(crate) fn of(authority: &TokenAuthority) -> Result<Self> {
        let wrong = |why: String| Error::Setting { setting: authority.key.display().to_string(), why };
        let pem = fs::read(&authority.key).map_err(|error| wrong(error.to_string()))?;
        // The kind of the key decides which signatures are taken, never the token.
        let rsa = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
        let (key, algorithms) = if let Ok(key) = DecodingKey::from_rsa_pem(&pem) {
            (key, rsa.to_vec())
        } else if let Ok(key) = DecodingKey::from_ec_pem(&pem) {
            (key, vec![Algorithm::ES256])
        } else if let Ok(key) = DecodingKey::from_ed_pem(&pem) {
            (key, vec![Algorithm::EdDSA])
        } else {
            return Err(wrong("it is no public key of RSA, ECDSA or Ed25519 in PEM".to_owned()));
        };
        if authority.realm.contains('"') || authority.service.contains('"') {
            return Err(wrong("the realm and the service of its tokens hold no quotes".to_owned()));
        }
        Ok(Self {
            realm: Some(authority.realm.clone()),
            service: authority.service.clone(),
            key,
            validation: validation(&algorithms, &authority.service, &authority.issuer),
            own: None,
        })
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Where a client gets a token. Ours are had where the client asked.
    pub(crate) fn realm(&self, peer: Peer, host: &str) -> String {
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b));
        let host = if plain { host } else { "localhost" };
        let scheme = if peer.is_secure { "https" } else { "http" };
        self.realm.clone().unwrap_or_else(|| format!("{scheme}://{host}/token"))
    }

    /// What a token allows; none when it is not good.
    pub(crate) fn grants(&self, token: &str) -> Option<Vec<Grant>> {
        match decode::<Claims>(token, &self.key, &self.validation) {
            Ok(decoded) => Some(decoded.claims.access),
            Err(error) => {
                tracing::debug!(%error, "a token is not good");
                None
            }
        }
    }
}

/// Gives out a token of ours, for a name and a password or for nobody.
pub(crate) async fn give(state: &Arc<State>, _: Peer, request: Request<Incoming>) -> Answer {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is nothing at this path");
    let Access::Token(tokens) = &state.access else { return Err(unknown()) };
    let own = tokens.own.as_ref().ok_or_else(unknown)?;
    if request.method() != http::Method::GET {
        return Err(Refusal::unsupported("tokens are given for GET"));
    }
    let refused = || {
        Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "incorrect username or password")
            .with(WWW_AUTHENTICATE, "Basic realm=\"Registry\"")
    };
    let user = match basic(request.headers()) {
        Some((user, password)) if own.passwords.check(&user, &password).await => Some(user),
        Some(_) => return Err(refused()),
        None if own.anonymous_pull => None,
        None => return Err(refused()),
    };
    let query = query(&request);
    let scopes = query.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scope)| scope.split(' '));
    let access: Vec<Grant> =
        scopes.filter_map(|scope| Grant::of_scope(scope, user.is_some())).take(SCOPE_LIMIT).collect();
    let now = jiff::Timestamp::now();
    let claims = Claims {
        iss: OWN_SERVICE.to_owned(),
        sub: user.unwrap_or_default(),
        aud: json!(OWN_SERVICE),
        exp: now.as_second() + LIFETIME,
        nbf: now.as_second(),
        iat: now.as_second(),
        access,
    };
    let token = encode(&Header::new(Algorithm::HS256), &claims, &own.key)
        .map_err(|error| Refusal::internal(&error))?;
    let document = json!({
        "token": token, "access_token": token, "expires_in": LIFETIME, "issued_at": now.to_string(),
    });
    Ok(json(StatusCode::OK, &document, "application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_gives_no_more_than_its_user_may_have() {
        let grant = Grant::of_scope("repository:a/b:pull,push,fly", true).unwrap();
        assert!(grant.allows("repository", "a/b", "push") && !grant.allows("repository", "a/b", "fly"));
        assert!(!grant.allows("repository", "a", "push"));
        let grant = Grant::of_scope("repository:a/b:pull,push", false).unwrap();
        assert!(grant.allows("repository", "a/b", "pull") && !grant.allows("repository", "a/b", "push"));
        for scope in ["", "repository", "repository:a", "x:a:pull", "registry:catalog:pull"] {
            assert_eq!(Grant::of_scope(scope, true), None, "{scope}");
        }
    }
}
