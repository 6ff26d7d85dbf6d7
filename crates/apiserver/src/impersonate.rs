//! Acting in somebody's place: the headers `Impersonate-*`, each of which must be allowed on its own.

use dray_access::{
    ANONYMOUS, AUTHENTICATED, Attributes, UNAUTHENTICATED, User, service_account, service_account_name,
};
use dray_machinery::Status;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{query, server::Inner};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The key of an extra header.
fn extra(name: &HeaderName) -> Option<String> {
    name.as_str().strip_prefix(EXTRA).map(|key| query::decode(key, false).to_lowercase())
}

impl Inner {
    /// Who is meant by a request of `user`: somebody in whose place he may act, or he himself.
    pub(crate) fn impersonate(&self, user: User, headers: &HeaderMap) -> Result<User, Status> {
        let asks = |name: &HeaderName| matches!(name.as_str(), USER | GROUP | UID) || extra(name).is_some();
        if !headers.keys().any(asks) {
            return Ok(user);
        }
        let wanted = headers.get(USER).map(text).unwrap_or_default();
        if wanted.is_empty() {
            return Err(Status::bad_request("requested [impersonation] without impersonating a user"));
        }
        let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            let verb = "impersonate";
            let asked =
                Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() };
            self.access.check(&self.store, &user, &asked)
        };
        let account = service_account_name(&wanted);
        match account {
            Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
            None => check("", "users", "", "", &wanted)?,
        }
        let mut acted = User { name: wanted.clone(), ..User::default() };
        for group in headers.get_all(GROUP).iter().map(text) {
            check("", "groups", "", "", &group)?;
            acted.groups.push(group);
        }
        if let Some((namespace, name)) = account.filter(|_| acted.groups.is_empty()) {
            acted.groups = service_account(namespace, name).groups;
        }
        if let Some(uid) = headers.get(UID).map(text) {
            check(AUTHENTICATION, "uids", "", "", &uid)?;
            acted.uid = uid;
        }
        for (name, value) in headers {
            let Some(key) = extra(name) else { continue };
            let value = text(value);
            check(AUTHENTICATION, "userextras", &key, "", &value)?;
            acted.extra.entry(key).or_default().push(value);
        }
        let known = if wanted == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !acted.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            acted.groups.push(known.to_owned());
        }
        Ok(acted)
    }
}
