//! Which requests belong together and how much of the server they may have: FlowSchemas, which sort requests into flows,
//! and PriorityLevelConfigurations, which share out seats.

use std::{collections::BTreeMap, sync::Arc};

use dray_access::{User, service_account_name};
use dray_machinery::object;
use serde_json::Value;

use super::{
    bootstrap,
    level::{Level, Queuing},
};
use crate::{access::Follows, request::Subject};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// How many requests the server works on at the same time, in seats.
const SEATS: u32 = 600;

/// What a request is to the schemas.
pub(crate) struct Digest<'a> {
    pub(crate) user: &'a User,
    pub(crate) verb: &'a str,
    pub(crate) path: &'a str,
    /// None for a path that is no resource.
    pub(crate) subject: Option<Subject<'a>>,
}

/// Where a request belongs.
pub(super) struct Place {
    pub(super) schema: String,
    pub(super) schema_uid: String,
    /// Tells flows of a schema apart.
    pub(super) distinguisher: String,
    pub(super) level: Arc<Level>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Schema,
    Level,
}

/// The schemas and levels that are stored, and those that there always are.
pub(crate) struct Plan {
    schemas: BTreeMap<String, Value>,
    /// Names of schemas, the first to be tried first.
    order: Vec<String>,
    configurations: BTreeMap<String, Value>,
    levels: BTreeMap<String, Arc<Level>>,
}

impl Default for Plan {
    fn default() -> Plan {
        let mut plan = Plan {
            schemas: BTreeMap::new(),
            order: Vec::new(),
            configurations: BTreeMap::new(),
            levels: BTreeMap::new(),
        };
        plan.renew();
        plan
    }
}

impl Follows for Plan {
    type Kind = Kind;

    fn resources() -> Vec<(String, Kind)> {
        vec![
            (format!("{GROUP}/flowschemas"), Kind::Schema),
            (format!("{GROUP}/prioritylevelconfigurations"), Kind::Level),
        ]
    }

    fn set(&mut self, kind: Kind, _: &str, name: &str, object: &Value) {
        let objects = match kind {
            Kind::Schema => &mut self.schemas,
            Kind::Level => &mut self.configurations,
        };
        objects.insert(name.to_owned(), object.clone());
        self.renew();
    }

    fn remove(&mut self, kind: Kind, _: &str, name: &str) {
        match kind {
            Kind::Schema => drop(self.schemas.remove(name)),
            Kind::Level => drop(self.configurations.remove(name)),
        }
        self.renew();
    }
}

impl Plan {
    /// Sees to the order of schemas and the shares of levels after a change.
    fn renew(&mut self) {
        for wanted in bootstrap::mandatory() {
            let name = object::name(&wanted).to_owned();
            let objects =
                if wanted["kind"] == "FlowSchema" { &mut self.schemas } else { &mut self.configurations };
            objects.entry(name).or_insert(wanted);
        }
        let precedence = |schema: &Value| schema["spec"]["matchingPrecedence"].as_u64().unwrap_or(u64::MAX);
        let mut order: Vec<(u64, String)> =
            self.schemas.iter().map(|(name, schema)| (precedence(schema), name.clone())).collect();
        order.sort();
        self.order = order.into_iter().map(|(_, name)| name).collect();
        let shares = |level: &Value| -> u64 {
            let part = if level["spec"]["type"] == "Exempt" { "exempt" } else { "limited" };
            level["spec"][part]["nominalConcurrencyShares"].as_u64().unwrap_or(if part == "limited" {
                30
            } else {
                0
            })
        };
        let all: u64 = self.configurations.values().map(shares).sum();
        let mut levels = BTreeMap::new();
        for (name, configuration) in &self.configurations {
            let limit = (u64::from(SEATS) * shares(configuration)).div_ceil(all.max(1));
            let limit = u32::try_from(limit).unwrap_or(SEATS);
            let queuing = Queuing::of(configuration);
            let uid = object::meta(configuration, "uid");
            // Whoever waits in the queues of a level that has become another is served there to the end.
            let known = self.levels.get(name).filter(|level| level.is_like(uid, &queuing));
            let level = known.cloned().unwrap_or_else(|| Level::new(uid, queuing));
            level.set_limit(limit);
            levels.insert(name.clone(), level);
        }
        self.levels = levels;
    }

    /// Where a request belongs; none where not even the last schema takes it.
    pub(super) fn classify(&self, digest: &Digest<'_>) -> Option<Place> {
        let (name, schema) = self
            .order
            .iter()
            .filter_map(|name| Some((name, self.schemas.get(name)?)))
            .find(|(_, schema)| is_about(schema, digest))?;
        let spec = &schema["spec"];
        let level = self.levels.get(object::text(spec, &["priorityLevelConfiguration", "name"]))?;
        let distinguisher = match object::text(spec, &["distinguisherMethod", "type"]) {
            "ByUser" => digest.user.name.clone(),
            "ByNamespace" => digest.subject.map(|subject| subject.namespace.to_owned()).unwrap_or_default(),
            _ => String::new(),
        };
        Some(Place {
            schema: name.clone(),
            schema_uid: object::meta(schema, "uid").to_owned(),
            distinguisher,
            level: level.clone(),
        })
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn names(rule: &Value, field: &str, one: &str) -> bool {
    list(rule, field).any(|item| item == "*" || item == one)
}

fn is_about(schema: &Value, digest: &Digest<'_>) -> bool {
    list(&schema["spec"], "rules").any(|rules| {
        list(rules, "subjects").any(|subject| is_subject(subject, digest.user))
            && match digest.subject {
                Some(subject) => {
                    list(rules, "resourceRules").any(|rule| resource_rule(rule, digest.verb, subject))
                }
                None => list(rules, "nonResourceRules").any(|rule| path_rule(rule, digest)),
            }
    })
}

fn is_subject(subject: &Value, user: &User) -> bool {
    let text = |part: &str, field: &str| object::text(subject, &[part, field]);
    match object::text(subject, &["kind"]) {
        "User" => matches!(text("user", "name"), name if name == "*" || name == user.name),
        "Group" => matches!(text("group", "name"), name if name == "*" || user.is_in(name)),
        "ServiceAccount" => service_account_name(&user.name).is_some_and(|(namespace, name)| {
            let wanted = text("serviceAccount", "name");
            text("serviceAccount", "namespace") == namespace && (wanted == "*" || wanted == name)
        }),
        _ => false,
    }
}

fn resource_rule(rule: &Value, verb: &str, subject: Subject<'_>) -> bool {
    let resource = match subject.part {
        "" => subject.resource.to_owned(),
        part => format!("{}/{part}", subject.resource),
    };
    let namespace = subject.namespace;
    names(rule, "verbs", verb)
        && names(rule, "apiGroups", subject.group)
        && names(rule, "resources", &resource)
        && if namespace.is_empty() {
            rule["clusterScope"] == true
        } else {
            names(rule, "namespaces", namespace)
        }
}

fn path_rule(rule: &Value, digest: &Digest<'_>) -> bool {
    names(rule, "verbs", digest.verb)
        && list(rule, "nonResourceURLs").filter_map(Value::as_str).any(|path| match path.strip_suffix('*') {
            Some(start) => digest.path.starts_with(start),
            None => path == digest.path,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{query::Query, request};

    fn plan() -> Plan {
        let mut plan = Plan::default();
        for object in bootstrap::mandatory().into_iter().chain(bootstrap::suggested()) {
            let kind = if object["kind"] == "FlowSchema" { Kind::Schema } else { Kind::Level };
            plan.set(kind, "", object::name(&object), &object);
        }
        plan
    }

    fn check(name: &str, groups: &[&str], verb: &str, path: &str, expected: (&str, &str)) {
        let groups = groups.iter().map(|group| (*group).to_owned());
        let user = User::authenticated(name, groups);
        let resource = request::resource(path, Query::default(), Arc::default).ok();
        let subject = resource.as_ref().map(request::ResourceRequest::subject);
        let digest = Digest { user: &user, verb, path, subject };
        let place = plan().classify(&digest).unwrap();
        assert_eq!((place.schema.as_str(), place.distinguisher.as_str()), expected, "{name} {path}");
    }

    #[test]
    fn requests_are_sorted_as_the_reference_sorts_them() {
        let pods = "/api/v1/namespaces/a/pods";
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
        check("root", &["system:masters"], "list", pods, ("exempt", ""));
        check("bob", &[], "get", "/healthz", ("probes", ""));
        check("bob", &[], "get", "/version", ("global-default", "bob"));
        check("bob", &[], "list", pods, ("global-default", "bob"));
        check("system:node:n", &["system:nodes"], "update", lease, ("system-node-high", "system:node:n"));
        check("system:node:n", &["system:nodes"], "list", pods, ("system-nodes", "system:node:n"));
        check("system:kube-scheduler", &[], "list", pods, ("kube-scheduler", "a"));
        check(
            "system:kube-scheduler",
            &[],
            "update",
            lease,
            ("system-leader-election", "system:kube-scheduler"),
        );
        let account = "system:serviceaccount:kube-system:x";
        check(account, &["system:serviceaccounts"], "list", pods, ("kube-system-service-accounts", "a"));
        let account = "system:serviceaccount:other:x";
        check(account, &["system:serviceaccounts"], "list", pods, ("service-accounts", account));
    }

    #[test]
    fn seats_are_shared_out_and_the_last_levels_are_always_there() {
        let mut plan = plan();
        // 30 + 40 + 10 + 40 + 100 + 20 + 5 shares.
        assert_eq!(plan.levels["system"].limit(), 74);
        assert_eq!(plan.levels["catch-all"].limit(), 13);
        plan.remove(Kind::Schema, "", "exempt");
        plan.remove(Kind::Level, "", "catch-all");
        assert_eq!(plan.order.first().map(String::as_str), Some("exempt"));
        assert!(plan.levels.contains_key("catch-all"));
    }
}
