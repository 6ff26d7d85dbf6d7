//! The roles and bindings that every cluster has from its start, as documented for the reference
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings>).
//!
//! A rule is one line, `VERBS GROUPS RESOURCES [NAMES]`, or `VERBS PATHS`: lists are joined by commas, `core` is the core
//! group, and `read`, `write` and `events` stand for the verbs that go together.

use serde_json::{Value, json};

use crate::Rule;

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const GROUP: &str = "rbac.authorization.k8s.io";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
const EVENTS: &str = "create,patch,update core,events.k8s.io events";

/// Roles of the cluster: the name, the role of users that it is a part of, the rules.
const CLUSTER_ROLES: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "", &["* * *", "* *"]),
    (
        "system:discovery",
        "",
        &["get /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"],
    ),
    (
        "system:monitoring",
        "",
        &["get /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*"],
    ),
    (
        "system:basic-user",
        "",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    ("system:public-info-viewer", "", &["get /healthz,/livez,/readyz,/version,/version/"]),
    (
        "system:service-account-issuer-discovery",
        "",
        &[
            "get /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/",
        ],
    ),
    (
        "system:aggregate-to-admin",
        "admin",
        &[
            "create authorization.k8s.io localsubjectaccessreviews",
            "read,write rbac.authorization.k8s.io roles,rolebindings",
        ],
    ),
    (
        "system:aggregate-to-edit",
        "edit",
        &[
            "read core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate core serviceaccounts",
            "write core pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create core pods/eviction",
            "write core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create core serviceaccounts/token",
            "write apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "write autoscaling horizontalpodautoscalers",
            "write batch cronjobs,jobs",
            "write policy poddisruptionbudgets",
            "write networking.k8s.io ingresses,networkpolicies",
            "read,write coordination.k8s.io leases",
            "write resource.k8s.io resourceclaims,resourceclaimtemplates",
        ],
    ),
    (
        "system:aggregate-to-view",
        "view",
        &[
            "read core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "read core bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "read core namespaces",
            "read discovery.k8s.io endpointslices",
            "read apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "read autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
            "read batch cronjobs,cronjobs/status,jobs,jobs/status",
            "read policy poddisruptionbudgets,poddisruptionbudgets/status",
            "read networking.k8s.io ingresses,ingresses/status,networkpolicies",
            "read resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates",
        ],
    ),
    ("system:aggregated-metrics-reader", "view", &["read metrics.k8s.io nodes,pods"]),
    (
        "system:node",
        "",
        &[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
            "read core services",
            "create,get,list,watch core nodes",
            "patch,update core nodes,nodes/status",
            EVENTS,
            "create,delete,get,list,watch core pods",
            "patch,update core pods/status",
            "create core pods/eviction",
            "read core configmaps,secrets",
            "get core persistentvolumeclaims,persistentvolumes",
            "get core endpoints",
            "create,get,list,watch certificates.k8s.io certificatesigningrequests",
            "create,delete,get,patch,update coordination.k8s.io leases",
            "get storage.k8s.io volumeattachments",
            "create core serviceaccounts/token",
            "get core serviceaccounts",
            "get,patch,update core persistentvolumeclaims/status",
            "read storage.k8s.io csidrivers",
            "create,delete,get,patch,update storage.k8s.io csinodes",
            "read node.k8s.io runtimeclasses",
            "get resource.k8s.io resourceclaims",
            "read,write resource.k8s.io resourceslices",
        ],
    ),
    ("system:node-problem-detector", "", &["get core nodes", "patch core nodes/status", EVENTS]),
    (
        "system:kubelet-api-admin",
        "",
        &[
            "read core nodes",
            "proxy core nodes",
            "* core nodes/configz,nodes/healthz,nodes/log,nodes/metrics,nodes/pods,nodes/proxy,nodes/spec,nodes/stats",
        ],
    ),
    (
        "system:node-bootstrapper",
        "",
        &["create,get,list,watch certificates.k8s.io certificatesigningrequests"],
    ),
    (
        "system:auth-delegator",
        "",
        &["create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews"],
    ),
    ("system:kube-aggregator", "", &["read core endpoints,services"]),
    (
        "system:kube-controller-manager",
        "",
        &[
            EVENTS,
            "create coordination.k8s.io leases",
            "get,update coordination.k8s.io leases kube-controller-manager",
            "create core secrets,serviceaccounts",
            "delete core secrets",
            "get core configmaps,namespaces,secrets,serviceaccounts",
            "update core secrets,serviceaccounts",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "list,watch * *",
            "create core serviceaccounts/token",
        ],
    ),
    (
        "system:kube-scheduler",
        "",
        &[
            EVENTS,
            "create coordination.k8s.io leases",
            "get,update coordination.k8s.io leases kube-scheduler",
            "read core nodes",
            "delete,get,list,watch core pods",
            "create core bindings,pods/binding",
            "patch,update core pods/status",
            "read core replicationcontrollers,services",
            "read apps replicasets,statefulsets",
            "read policy poddisruptionbudgets",
            "read core persistentvolumeclaims,persistentvolumes",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "read storage.k8s.io csidrivers,csinodes,csistoragecapacities",
            "read core namespaces",
            "read resource.k8s.io deviceclasses,resourceclaims,resourceslices",
            "patch,update resource.k8s.io resourceclaims/status",
        ],
    ),
    ("system:kube-dns", "", &["list,watch core endpoints,services"]),
    (
        "system:persistent-volume-provisioner",
        "",
        &[
            "create,delete,get,list,watch core persistentvolumes",
            "get,list,update,watch core persistentvolumeclaims",
            "read storage.k8s.io storageclasses",
            "watch core events",
            EVENTS,
        ],
    ),
    (
        "system:volume-scheduler",
        "",
        &[
            "get,list,patch,update,watch core persistentvolumes",
            "read storage.k8s.io storageclasses",
            "get,list,patch,update,watch core persistentvolumeclaims",
        ],
    ),
    (
        "system:node-proxier",
        "",
        &[
            "list,watch core endpoints,services",
            "read core nodes",
            EVENTS,
            "list,watch discovery.k8s.io endpointslices",
            "list,watch networking.k8s.io servicecidrs",
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kubelet-serving"],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/legacy-unknown"],
    ),
];

/// The roles of users, of which others are parts: each holds the one after it.
const USER_ROLES: &[&str] = &["admin", "edit", "view"];

/// Who has roles of the cluster: `KIND NAME`, of service accounts with the namespace before a colon.
const CLUSTER_BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["Group system:masters"]),
    ("system:discovery", &["Group system:authenticated"]),
    ("system:monitoring", &["Group system:monitoring"]),
    ("system:basic-user", &["Group system:authenticated"]),
    ("system:public-info-viewer", &["Group system:authenticated", "Group system:unauthenticated"]),
    ("system:service-account-issuer-discovery", &["Group system:serviceaccounts"]),
    ("system:node", &[]),
    ("system:node-proxier", &["User system:kube-proxy"]),
    ("system:kube-controller-manager", &["User system:kube-controller-manager"]),
    ("system:kube-scheduler", &["User system:kube-scheduler"]),
    ("system:volume-scheduler", &["User system:kube-scheduler"]),
    ("system:kube-dns", &["ServiceAccount kube-system:kube-dns"]),
];

/// Roles in namespaces: namespace, name, rules.
const ROLES: &[(&str, &str, &[&str])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["read core configmaps extension-apiserver-authentication"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &["create,get,list,update,watch coordination.k8s.io leases"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &["create,get,list,update,watch coordination.k8s.io leases"],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &["read core secrets"]),
    ("kube-system", "system:controller:token-cleaner", &["delete,get,list,watch core secrets", EVENTS]),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &["read core configmaps", "update core configmaps cluster-info", EVENTS],
    ),
];

/// Bindings in namespaces: namespace, name, role, subjects.
const BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["User system:kube-controller-manager", "User system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["User system:kube-controller-manager", "ServiceAccount kube-system:kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["User system:kube-scheduler", "ServiceAccount kube-system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount kube-system:bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["ServiceAccount kube-system:token-cleaner"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount kube-system:bootstrap-signer"],
    ),
];

fn rule(line: &str) -> Rule {
    let mut parts = line.split(' ');
    let mut list = || -> Vec<String> {
        parts.next().into_iter().flat_map(|part| part.split(',')).map(str::to_owned).collect()
    };
    let mut verbs = Vec::new();
    for verb in list() {
        match verb.as_str() {
            "read" => verbs.extend(READ.iter().map(|verb| (*verb).to_owned())),
            "write" => verbs.extend(WRITE.iter().map(|verb| (*verb).to_owned())),
            _ => verbs.push(verb),
        }
    }
    verbs.sort();
    let (groups, resources, names) = (list(), list(), list());
    if resources.is_empty() {
        return Rule { verbs, urls: groups, ..Rule::default() };
    }
    let group = |group: String| if group == "core" { String::new() } else { group };
    Rule { verbs, groups: groups.into_iter().map(group).collect(), resources, names, urls: Vec::new() }
}

fn rules(lines: &[&str]) -> Vec<Value> {
    lines.iter().map(|line| rule(line).to_value()).collect()
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(' ').unwrap_or_default();
    match name.split_once(':').filter(|_| kind == "ServiceAccount") {
        Some((namespace, name)) => json!({ "kind": kind, "name": name, "namespace": namespace }),
        None => json!({ "apiGroup": GROUP, "kind": kind, "name": name }),
    }
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: &[&str]) -> Value {
    let mut binding = object(kind, namespace, name);
    binding["roleRef"] = json!({ "apiGroup": GROUP, "kind": role.0, "name": role.1 });
    if !subjects.is_empty() {
        binding["subjects"] = subjects.iter().map(|text| subject(text)).collect();
    }
    binding
}

/// The roles and bindings, complete objects, roles first. Those of users hold the rules of their parts from the start.
pub fn bootstrap_objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for (name, part_of, lines) in CLUSTER_ROLES {
        let mut role = object("ClusterRole", "", name);
        role["rules"] = json!(rules(lines));
        if !part_of.is_empty() {
            role["metadata"]["labels"][format!("{AGGREGATE}{part_of}")] = json!("true");
        }
        objects.push(role);
    }
    for (at, name) in USER_ROLES.iter().enumerate() {
        let mut role = object("ClusterRole", "", name);
        if at > 0 {
            role["metadata"]["labels"][format!("{AGGREGATE}{}", USER_ROLES[at - 1])] = json!("true");
        }
        let label = format!("{AGGREGATE}{name}");
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
        let parts = CLUSTER_ROLES.iter().filter(|(_, part_of, _)| USER_ROLES[at..].contains(part_of));
        role["rules"] = parts.flat_map(|(.., lines)| rules(lines)).collect();
        objects.push(role);
    }
    for (namespace, name, lines) in ROLES {
        let mut role = object("Role", namespace, name);
        role["rules"] = json!(rules(lines));
        objects.push(role);
    }
    for (name, subjects) in CLUSTER_BINDINGS {
        objects.push(binding("ClusterRoleBinding", "", name, ("ClusterRole", name), subjects));
    }
    for (namespace, name, role, subjects) in BINDINGS {
        objects.push(binding("RoleBinding", namespace, name, ("Role", role), subjects));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, Policy, PolicyKind, User, service_account};

    fn policy() -> Policy {
        let mut policy = Policy::default();
        for object in bootstrap_objects() {
            let kind = PolicyKind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            policy.set(kind, namespace, metadata["name"].as_str().unwrap(), &object);
        }
        policy
    }

    #[test]
    fn lines_are_rules() {
        let read = rule("read,proxy core,apps pods,pods/log a,b").to_value();
        let expected = json!({
            "verbs": ["get", "list", "proxy", "watch"], "apiGroups": ["", "apps"],
            "resources": ["pods", "pods/log"], "resourceNames": ["a", "b"],
        });
        assert_eq!(read, expected);
        assert_eq!(
            rule("get /a,/b/*").to_value(),
            json!({ "verbs": ["get"], "nonResourceURLs": ["/a", "/b/*"] })
        );
        for line in CLUSTER_ROLES.iter().flat_map(|(.., lines)| *lines) {
            assert!((2..=4).contains(&line.split(' ').count()), "{line}");
        }
    }

    #[test]
    fn everybody_may_do_what_the_documents_say() {
        let policy = policy();
        let mut bound = policy;
        let binding = json!({
            "roleRef": { "kind": "ClusterRole", "name": "view" }, "subjects": [{ "kind": "User", "name": "v" }],
        });
        bound.set(PolicyKind::RoleBinding, "a", "v", &binding);
        let pods = |verb| Attributes { verb, resource: "pods", namespace: "a", ..Attributes::default() };
        let viewer = User::authenticated("v", []);
        let master = User::authenticated("root", [crate::MASTERS.to_owned()]);
        let nobody = User::anonymous();
        let account = service_account("a", "default");
        let secrets = Attributes { resource: "secrets", ..pods("get") };
        let cases: &[(&User, Attributes<'_>, bool)] = &[
            (&viewer, pods("list"), true),
            (&viewer, pods("create"), false),
            (&viewer, secrets, false),
            (&viewer, Attributes { namespace: "b", ..pods("list") }, false),
            (&master, secrets, true),
            (&master, Attributes::path("get", "/anything"), true),
            (&nobody, Attributes::path("get", "/version"), true),
            (&nobody, Attributes::path("get", "/api"), false),
            (&account, Attributes::path("get", "/openapi/v3"), true),
            (&account, Attributes::path("get", "/openid/v1/jwks"), true),
            (&account, pods("get"), false),
        ];
        for (user, asked, expected) in cases {
            assert_eq!(bound.grants(user, asked).is_some(), *expected, "{} {asked}", user.name);
        }
    }

    #[test]
    fn roles_of_users_hold_one_another() {
        let objects = bootstrap_objects();
        let of = |name: &str| {
            let role = objects.iter().find(|role| role["metadata"]["name"] == name).unwrap();
            Rule::all_of(role)
        };
        assert_eq!(crate::missing(&of("edit"), &of("view")), []);
        assert_eq!(crate::missing(&of("admin"), &of("edit")), []);
        assert!(!crate::missing(&of("view"), &of("edit")).is_empty());
    }
}
