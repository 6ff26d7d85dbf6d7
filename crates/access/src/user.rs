//! Who asks.

use std::collections::BTreeMap;

/// The group that may do everything, whatever the rules say.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who has said who he is.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of who has not said who he is.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// The group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A user, as `authentication.k8s.io/v1 UserInfo` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// What tells users of one name apart over time; empty when unknown.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator says, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody who has said who he is.
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> User {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        User { name: name.into(), groups, ..User::default() }
    }

    /// A part of the control plane in the same process, as "system:kube-scheduler". May do everything.
    pub fn component(name: impl Into<String>) -> User {
        User::authenticated(name, [MASTERS.to_owned()])
    }

    /// Somebody who has not.
    pub fn anonymous() -> User {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// Whether a user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }
}

/// A service account as a user: its name and groups.
pub fn service_account(namespace: &str, name: &str) -> User {
    let groups = [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
    User::authenticated(format!("{SERVICE_ACCOUNT}{namespace}:{name}"), groups)
}

/// Namespace and name of the service account that a user's name means.
pub fn service_account_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_are_users_and_back() {
        let user = service_account("a", "b");
        assert_eq!(user.name, "system:serviceaccount:a:b");
        assert_eq!(user.groups, [SERVICE_ACCOUNTS, "system:serviceaccounts:a", AUTHENTICATED]);
        assert_eq!(service_account_name(&user.name), Some(("a", "b")));
        for other in
            ["a:b", "system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c"]
        {
            assert_eq!(service_account_name(other), None, "{other}");
        }
    }
}
