//! Nobody gives others what he does not hold: the checks on new roles and bindings
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).

use dray_access::{Attributes, MASTERS, Rule, User, missing};
use dray_machinery::{Status, object};
use serde_json::Value;

use crate::{request::ResourceRequest, server::Inner};

const GROUP: &str = "rbac.authorization.k8s.io";

impl Inner {
    /// Checks that a user may write a role or a binding as it is (`old`: the one before, where there is one).
    pub(crate) fn check_grant(
        &self,
        user: &User,
        request: &ResourceRequest,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), Status> {
        if request.kind.group != GROUP || user.is_in(MASTERS) {
            return Ok(());
        }
        match request.kind.kind {
            "Role" | "ClusterRole" => {
                let same = old.is_some_and(|old| {
                    old["rules"] == new["rules"] && old["aggregationRule"] == new["aggregationRule"]
                });
                if same || self.may(user, "escalate", request.kind.plural, request, object::name(new))? {
                    return Ok(());
                }
                // What a role gathers is not known yet, so only who holds everything may say it.
                if new["aggregationRule"].is_object() {
                    let all = [Rule {
                        verbs: vec!["*".into()],
                        groups: vec!["*".into()],
                        resources: vec!["*".into()],
                        ..Rule::default()
                    }];
                    self.check_held(user, request, new, &all)?;
                }
                self.check_held(user, request, new, &Rule::all_of(new))
            }
            _ => {
                let same = old.is_some_and(|old| {
                    old["roleRef"] == new["roleRef"] && old["subjects"] == new["subjects"]
                });
                let role = &new["roleRef"];
                let plural = if role["kind"] == "Role" { "roles" } else { "clusterroles" };
                let name = object::text(role, &["name"]);
                if same || self.may(user, "bind", plural, request, name)? {
                    return Ok(());
                }
                let rules = self.access.policy(&self.store, |policy| {
                    policy.referred(role, &request.namespace).map(<[Rule]>::to_vec)
                })?;
                let kind = object::text(role, &["kind"]).to_lowercase();
                let rules = rules.ok_or_else(|| {
                    let why = format!("{kind}.{GROUP} {name:?} not found");
                    Status::forbidden(GROUP, request.kind.plural, object::name(new), why)
                })?;
                self.check_held(user, request, new, &rules)
            }
        }
    }

    fn may(
        &self,
        user: &User,
        verb: &str,
        resource: &str,
        request: &ResourceRequest,
        name: &str,
    ) -> Result<bool, Status> {
        let namespace = request.namespace.as_str();
        let asked = Attributes { verb, group: GROUP, resource, namespace, name, ..Attributes::default() };
        Ok(self.access.decide(&self.store, user, &asked)?.allowed)
    }

    fn check_held(
        &self,
        user: &User,
        request: &ResourceRequest,
        new: &Value,
        wanted: &[Rule],
    ) -> Result<(), Status> {
        let held = self.access.policy(&self.store, |policy| policy.rules_of(user, &request.namespace))?;
        let lacking = missing(&held, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
        let lines: Vec<String> = lacking.iter().map(describe).collect();
        let why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            lines.join("\n")
        );
        Err(Status::forbidden(GROUP, request.kind.plural, object::name(new), why))
    }
}

/// A rule in the words of the refusal.
fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ];
    let texts: Vec<String> = fields
        .iter()
        .filter(|(_, all)| !all.is_empty())
        .map(|(name, all)| {
            let quoted: Vec<String> = all.iter().map(|one| format!("{one:?}")).collect();
            format!("{name}:[{}]", quoted.join(" "))
        })
        .collect();
    format!("{{{}}}", texts.join(", "))
}
