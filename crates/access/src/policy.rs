//! Roles and who has them: `rbac.authorization.k8s.io`, arranged by subject so that a request costs a few look-ups
//! however many bindings there are.

use std::collections::HashMap;

use serde_json::Value;

use crate::{Attributes, Rule, User, user};

/// The kinds of which a policy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Rules in a namespace.
    Role,
    /// Rules everywhere.
    ClusterRole,
    /// Who has a role in a namespace.
    RoleBinding,
    /// Who has a role everywhere.
    ClusterRoleBinding,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [PolicyKind; 4] =
        [PolicyKind::Role, PolicyKind::ClusterRole, PolicyKind::RoleBinding, PolicyKind::ClusterRoleBinding];

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::Role => "Role",
            PolicyKind::ClusterRole => "ClusterRole",
            PolicyKind::RoleBinding => "RoleBinding",
            PolicyKind::ClusterRoleBinding => "ClusterRoleBinding",
        }
    }

    /// The name of its resource.
    pub fn plural(self) -> &'static str {
        match self {
            PolicyKind::Role => "roles",
            PolicyKind::ClusterRole => "clusterroles",
            PolicyKind::RoleBinding => "rolebindings",
            PolicyKind::ClusterRoleBinding => "clusterrolebindings",
        }
    }
}

/// Who is meant. A service account is the user that it acts as.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    fn read(value: &Value, namespace: &str) -> Option<Subject> {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        match text("kind") {
            "User" => Some(Subject::User(text("name").to_owned())),
            "Group" => Some(Subject::Group(text("name").to_owned())),
            "ServiceAccount" => {
                let given = text("namespace");
                let namespace = if given.is_empty() { namespace } else { given };
                Some(Subject::User(user::service_account(namespace, text("name")).name))
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        let (kind, name) = match self {
            Subject::User(name) => ("User", name),
            Subject::Group(name) => ("Group", name),
        };
        if let (Subject::User(_), Some((namespace, name))) = (self, user::service_account_name(name)) {
            return format!("ServiceAccount \"{name}/{namespace}\"");
        }
        format!("{kind} {name:?}")
    }
}

/// Which role is meant: one of the namespace, or one of the cluster where that is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RoleKey {
    namespace: String,
    name: String,
}

#[derive(Debug)]
struct Binding {
    role: RoleKey,
    subjects: Vec<Subject>,
}

/// The bindings of a namespace, or of the cluster.
#[derive(Debug, Default)]
struct Scope {
    bindings: HashMap<String, Binding>,
    by_subject: HashMap<Subject, Vec<String>>,
}

impl Scope {
    fn remove(&mut self, name: &str) {
        let Some(binding) = self.bindings.remove(name) else { return };
        for subject in binding.subjects {
            if let Some(names) = self.by_subject.get_mut(&subject) {
                names.retain(|one| one != name);
                if names.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }

    fn set(&mut self, name: &str, binding: Binding) {
        self.remove(name);
        for subject in &binding.subjects {
            let names = self.by_subject.entry(subject.clone()).or_default();
            if !names.iter().any(|one| one == name) {
                names.push(name.to_owned());
            }
        }
        self.bindings.insert(name.to_owned(), binding);
    }
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Policy {
    roles: HashMap<RoleKey, Vec<Rule>>,
    scopes: HashMap<String, Scope>,
}

impl Policy {
    /// Takes in an object, in the place of the one of its name.
    pub fn set(&mut self, kind: PolicyKind, namespace: &str, name: &str, object: &Value) {
        match kind {
            PolicyKind::Role | PolicyKind::ClusterRole => {
                self.roles.insert(key(namespace, name), Rule::all_of(object));
            }
            PolicyKind::RoleBinding | PolicyKind::ClusterRoleBinding => {
                let subjects = object["subjects"].as_array().into_iter().flatten();
                let subjects = subjects.filter_map(|subject| Subject::read(subject, namespace)).collect();
                let binding = Binding { role: role_key(&object["roleRef"], namespace), subjects };
                self.scopes.entry(namespace.to_owned()).or_default().set(name, binding);
            }
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: PolicyKind, namespace: &str, name: &str) {
        match kind {
            PolicyKind::Role | PolicyKind::ClusterRole => {
                self.roles.remove(&key(namespace, name));
            }
            PolicyKind::RoleBinding | PolicyKind::ClusterRoleBinding => {
                if let Some(scope) = self.scopes.get_mut(namespace) {
                    scope.remove(name);
                    if scope.bindings.is_empty() {
                        self.scopes.remove(namespace);
                    }
                }
            }
        }
    }

    /// The rules of the role that a binding of a namespace refers to, if it is there.
    pub fn referred(&self, role: &Value, namespace: &str) -> Option<&[Rule]> {
        self.roles.get(&role_key(role, namespace)).map(Vec::as_slice)
    }

    /// What a user has in a scope: the binding's name, who of him is meant, and the role.
    fn bound<'a>(
        &'a self,
        user: &'a User,
        scope: &'a str,
    ) -> impl Iterator<Item = (&'a str, Subject, &'a RoleKey, &'a [Rule])> {
        let bindings = self.scopes.get(scope);
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.clone())));
        subjects.flat_map(move |subject| {
            let names = bindings.and_then(|scope| scope.by_subject.get(&subject));
            names.into_iter().flatten().filter_map(move |name| {
                let binding = bindings?.bindings.get(name)?;
                let rules = self.roles.get(&binding.role)?;
                Some((name.as_str(), subject.clone(), &binding.role, rules.as_slice()))
            })
        })
    }

    /// Why a user may do what he asks for; none when no role says so.
    pub fn grants(&self, user: &User, asked: &Attributes<'_>) -> Option<String> {
        let scopes = ["", asked.namespace];
        let scopes = if asked.namespace.is_empty() { &scopes[..1] } else { &scopes };
        scopes.iter().find_map(|scope| {
            let found =
                self.bound(user, scope).find(|(.., rules)| rules.iter().any(|rule| rule.grants(asked)));
            found.map(|(name, subject, role, _)| {
                let kind = if role.namespace.is_empty() { "ClusterRole" } else { "Role" };
                let binding = if scope.is_empty() {
                    format!("ClusterRoleBinding {name:?}")
                } else {
                    format!("RoleBinding \"{name}/{scope}\"")
                };
                format!("RBAC: allowed by {binding} of {kind} {:?} to {}", role.name, subject.text())
            })
        })
    }

    /// All rules that a user has in a namespace, those of the cluster included.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            for (.., found) in self.bound(user, scope) {
                rules.extend(found.iter().cloned());
            }
        }
        rules
    }
}

fn key(namespace: &str, name: &str) -> RoleKey {
    RoleKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn role_key(reference: &Value, namespace: &str) -> RoleKey {
    let name = reference["name"].as_str().unwrap_or_default();
    key(if reference["kind"] == "Role" { namespace } else { "" }, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let rules = json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] });
        policy.set(PolicyKind::ClusterRole, "", "reader", &rules);
        policy.set(PolicyKind::Role, "a", "reader", &rules);
        policy
    }

    fn binding(kind: &str, subject: &Value) -> Value {
        json!({ "roleRef": { "kind": kind, "name": "reader" }, "subjects": [subject] })
    }

    const POD: Attributes<'_> = Attributes {
        verb: "get",
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "a",
        name: "p",
        fields: "",
        path: "",
    };

    #[test]
    fn bindings_of_the_cluster_hold_everywhere_and_others_where_they_are() {
        let mut policy = policy();
        let jane = User::authenticated("jane", []);
        assert_eq!(policy.grants(&jane, &POD), None);
        let subject = json!({ "kind": "User", "name": "jane" });
        policy.set(PolicyKind::RoleBinding, "a", "b", &binding("ClusterRole", &subject));
        let reason = "RBAC: allowed by RoleBinding \"b/a\" of ClusterRole \"reader\" to User \"jane\"";
        assert_eq!(policy.grants(&jane, &POD).as_deref(), Some(reason));
        assert_eq!(policy.grants(&jane, &Attributes { namespace: "other", ..POD }), None);
        assert_eq!(policy.grants(&jane, &Attributes { namespace: "", ..POD }), None);
        policy.remove(PolicyKind::RoleBinding, "a", "b");
        assert_eq!(policy.grants(&jane, &POD), None);
        policy.set(PolicyKind::ClusterRoleBinding, "", "c", &binding("ClusterRole", &subject));
        assert!(policy.grants(&jane, &Attributes { namespace: "other", ..POD }).is_some());
        assert_eq!(policy.rules_of(&jane, "a").len(), 1);
        // The binding stays when its role goes, and grants nothing meanwhile.
        policy.remove(PolicyKind::ClusterRole, "", "reader");
        assert_eq!(policy.grants(&jane, &POD), None);
    }

    #[test]
    fn groups_and_service_accounts_are_subjects() {
        let mut policy = policy();
        let group = json!({ "kind": "Group", "name": "system:serviceaccounts:a" });
        policy.set(PolicyKind::RoleBinding, "a", "g", &binding("Role", &group));
        let account = user::service_account("a", "one");
        assert!(policy.grants(&account, &POD).is_some());
        assert_eq!(policy.grants(&user::service_account("b", "one"), &POD), None);
        // Without a namespace the account is one of the binding's own.
        let subject = json!({ "kind": "ServiceAccount", "name": "two" });
        policy.set(PolicyKind::RoleBinding, "a", "g", &binding("Role", &subject));
        assert_eq!(policy.grants(&account, &POD), None);
        let reason = policy.grants(&user::service_account("a", "two"), &POD);
        let expected = "RBAC: allowed by RoleBinding \"g/a\" of Role \"reader\" to ServiceAccount \"two/a\"";
        assert_eq!(reason.as_deref(), Some(expected));
        // Somebody who calls himself by the name of a group is not in it.
        assert_eq!(policy.grants(&User::authenticated("system:serviceaccounts:a", []), &POD), None);
    }
}
