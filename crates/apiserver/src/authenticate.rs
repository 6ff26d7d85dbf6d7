//! Who asks: what a client's certificate says, a bearer token, or nobody.

use std::collections::BTreeMap;

use base64::Engine as _;
use dray_access::{User, service_account};
use dray_machinery::{Status, object, time};
use dray_store::Key;
use http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    respond,
    server::Inner,
    tokens::{self, Claims, ISSUER, Named},
};

const EXTRA: &str = "authentication.kubernetes.io/";
/// For how long the token of a pod that is being deleted still holds.
const GRACE: SignedDuration = SignedDuration::from_secs(60);
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// What a token proves.
pub(crate) struct Proved {
    pub(crate) user: User,
    /// The audiences of those asked about that the token is for.
    pub(crate) audiences: Vec<String>,
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The audiences of this server.
pub(crate) fn own_audiences() -> Vec<String> {
    vec![ISSUER.to_owned()]
}

impl Inner {
    /// Who asks. A certificate, verified with the connection, comes before a token; with neither it is nobody.
    pub(crate) fn authenticate(&self, certified: Option<&User>, headers: &HeaderMap) -> Result<User, Status> {
        if let Some(user) = certified {
            return Ok(user.clone());
        }
        if !headers.contains_key(header::AUTHORIZATION) {
            return Ok(User::anonymous());
        }
        let token = bearer(headers).ok_or_else(Status::unauthorized)?;
        match self.prove(token, &own_audiences()) {
            Ok(proved) => Ok(proved.user),
            Err(why) => {
                tracing::debug!(why, "a bearer token is refused");
                Err(Status::unauthorized())
            }
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// Why it is nobody's, in words that hold nothing of the token.
    pub(crate) fn prove(&self, token: &str, audiences: &[String]) -> Result<Proved, String> {
        if let Some((id, secret)) = bootstrap_token(token) {
            let user = self.bootstrapper(id, secret)?;
            // It is for this server, whoever else is asked about.
            let own = own_audiences();
            let audiences: Vec<String> = audiences.iter().filter(|one| own.contains(one)).cloned().collect();
            if audiences.is_empty() {
                return Err("the token is for others".to_owned());
            }
            return Ok(Proved { user, audiences });
        }
        if tokens::issuer(token).as_deref() != Some(ISSUER) {
            return Err("invalid bearer token".to_owned());
        }
        let claims = self.signer.verify(token, audiences)?;
        self.check_alive(&claims)?;
        let audiences = audiences.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        Ok(Proved { user: account(&claims), audiences })
    }

    fn stored(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let entry = self.store.get(&Key::new(resource, key))?;
        respond::parse(entry.json()).ok()
    }

    /// A token ends with the service account it is of, and with the object it is bound to.
    fn check_alive(&self, claims: &Claims) -> Result<(), String> {
        let told = &claims.kubernetes;
        let namespace = told.namespace.as_str();
        let bound = [
            ("service account", "core/serviceaccounts", namespace, Some(&told.serviceaccount)),
            ("pod", "core/pods", namespace, told.pod.as_ref()),
            ("secret", "core/secrets", namespace, told.secret.as_ref()),
            // A node is only told about beside a pod.
            ("node", "core/nodes", "", told.node.as_ref().filter(|_| told.pod.is_none())),
        ];
        for (what, resource, namespace, named) in bound {
            let Some(Named { name, uid }) = named else { continue };
            let object = self.stored(resource, namespace, name);
            let object = object.filter(|object| object::meta(object, "uid") == uid);
            let object = object.ok_or_else(|| format!("the {what} that the token is for is gone"))?;
            let deleted = time::parse(object::meta(&object, "deletionTimestamp"));
            if deleted.is_some_and(|at| at.saturating_add(GRACE).is_ok_and(|end| end < Timestamp::now())) {
                return Err(format!("the {what} that the token is for is being deleted"));
            }
        }
        Ok(())
    }

    /// Whose bootstrap token it is (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).
    fn bootstrapper(&self, id: &str, secret: &str) -> Result<User, String> {
        let invalid = || "invalid bearer token".to_owned();
        let stored = self.stored("core/secrets", "kube-system", &format!("bootstrap-token-{id}"));
        let stored = stored.filter(|stored| stored["type"] == "bootstrap.kubernetes.io/token");
        let stored = stored.filter(|stored| !object::is_terminating(stored)).ok_or_else(invalid)?;
        let field = |name: &str| -> Option<String> {
            let encoded = stored["data"][name].as_str()?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
            String::from_utf8(bytes).ok()
        };
        let known = field("token-secret").unwrap_or_default();
        let same = known.len() == secret.len()
            && known.bytes().zip(secret.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        let usable = field("usage-bootstrap-authentication").as_deref() == Some("true");
        if !same || !usable || field("token-id").as_deref() != Some(id) {
            return Err(invalid());
        }
        if let Some(end) = field("expiration")
            && time::parse(&end).is_none_or(|end| end <= Timestamp::now())
        {
            return Err("the token has expired".to_owned());
        }
        let extra = field("auth-extra-groups").unwrap_or_default();
        let groups = extra.split(',').map(str::trim).filter(|group| {
            group.strip_prefix(BOOTSTRAPPERS).is_some_and(|rest| rest.starts_with(':') && rest.len() > 1)
        });
        let groups = std::iter::once(BOOTSTRAPPERS).chain(groups).map(str::to_owned);
        Ok(User::authenticated(format!("system:bootstrap:{id}"), groups))
    }
}

/// The two halves of what looks like a bootstrap token.
fn bootstrap_token(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The service account of a token, as a user.
fn account(claims: &Claims) -> User {
    let told = &claims.kubernetes;
    let mut user = service_account(&told.namespace, &told.serviceaccount.name);
    user.uid.clone_from(&told.serviceaccount.uid);
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| extra.insert(format!("{EXTRA}{key}"), vec![value]);
    add("credential-id", format!("JTI={}", claims.jti));
    for (what, named) in [("pod", &told.pod), ("node", &told.node)] {
        if let Some(named) = named {
            add(&format!("{what}-name"), named.name.clone());
            add(&format!("{what}-uid"), named.uid.clone());
        }
    }
    user.extra = extra;
    user
}
