//! Access with the real kubectl: roles and bindings, tokens of service accounts, acting in somebody's place, node agents.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::{Cluster, cluster};

/// Everything that a test of access wants to be there.
fn world() -> Cluster {
    let cluster = cluster();
    cluster.ok(&["create", "namespace", "team"], "");
    for name in ["robot", "default"] {
        cluster.ok(&["create", "serviceaccount", "-n", "team", name], "");
    }
    cluster
}

#[test]
fn a_token_is_its_service_account() {
    let cluster = world();
    let token = cluster.ok(&["create", "token", "-n", "team", "robot"], "");
    let token = token.trim();
    let who = cluster.with_token(token, &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]);
    for part in [
        r#""username":"system:serviceaccount:team:robot""#,
        r#""system:serviceaccounts:team""#,
        r#""authentication.kubernetes.io/credential-id""#,
    ] {
        assert!(who.stdout.contains(part), "{part}: {who:?}");
    }
    let refused = cluster.with_token(token, &["get", "pods", "-n", "team"]);
    let words = "pods is forbidden: User \"system:serviceaccount:team:robot\" cannot list resource \"pods\" in API group \
                 \"\" in the namespace \"team\"";
    assert!(refused.stderr.contains(words), "{refused:?}");
    // Discovery is for everybody who is somebody.
    assert!(cluster.with_token(token, &["api-resources"]).stdout.contains("configmaps"));

    let bind =
        ["create", "rolebinding", "r", "-n", "team", "--clusterrole=view", "--serviceaccount=team:robot"];
    cluster.ok(&bind, "");
    assert_eq!(
        cluster.with_token(token, &["get", "pods", "-n", "team"]).stderr.trim(),
        "No resources found in team namespace."
    );
    let can = |verb: &str, what: &str| {
        let asked = cluster.with_token(token, &["auth", "can-i", verb, what, "-n", "team"]);
        asked.stdout.trim() == "yes"
    };
    assert!(can("list", "deployments") && can("get", "pods/log"));
    assert!(!can("list", "secrets") && !can("create", "pods"));
    let listed = cluster.with_token(token, &["auth", "can-i", "--list", "-n", "team"]);
    assert!(
        listed.stdout.contains("selfsubjectreviews.authentication.k8s.io")
            && listed.stdout.contains("deployments.apps")
    );

    // It ends with the account, even when another of its name comes.
    cluster.ok(&["delete", "serviceaccount", "-n", "team", "robot"], "");
    let gone = cluster.with_token(token, &["get", "pods", "-n", "team"]);
    assert!(gone.stderr.contains("Unauthorized") || gone.stderr.contains("must be logged in"), "{gone:?}");
    cluster.ok(&["create", "serviceaccount", "-n", "team", "robot"], "");
    assert!(!cluster.with_token(token, &["get", "pods", "-n", "team"]).success);
    assert!(!cluster.with_token("x.y.z", &["get", "pods", "-n", "team"]).success);
}

#[test]
fn tokens_are_for_whom_and_for_what_they_say() {
    let cluster = world();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: team}\n\
               spec: {serviceAccountName: robot, containers: [{name: c, image: c}]}\n";
    cluster.ok(&["create", "-f", "-"], pod);
    let request =
        ["create", "token", "-n", "team", "robot", "--bound-object-kind=Pod", "--bound-object-name=p"];
    let bound = cluster.ok(&request, "");
    let who =
        cluster.with_token(bound.trim(), &["auth", "whoami", "-o", "jsonpath={.status.userInfo.extra}"]);
    assert!(who.stdout.contains(r#""authentication.kubernetes.io/pod-name":["p"]"#), "{who:?}");
    cluster.ok(&["delete", "pod", "-n", "team", "p", "--grace-period=0", "--force"], "");
    assert!(!cluster.with_token(bound.trim(), &["auth", "whoami"]).success);

    let other = cluster.ok(&["create", "token", "-n", "team", "robot", "--audience=vault"], "");
    assert!(!cluster.with_token(other.trim(), &["auth", "whoami"]).success);
    let review = |audiences: &str| {
        let review = format!(
            "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {}, audiences: [{audiences}]}}\n",
            other.trim()
        );
        cluster.ok(&["create", "-f", "-", "-o", "jsonpath={.status}"], &review)
    };
    let known = review("vault");
    assert!(
        known.contains(r#""authenticated":true"#) && known.contains(r#""audiences":["vault"]"#),
        "{known}"
    );
    assert!(!review("other").contains("\"authenticated\":true"));

    let short = cluster.refused(&["create", "token", "-n", "team", "robot", "--duration=5m"], "");
    assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");
    let missing = cluster.refused(&["create", "token", "-n", "team", "nobody"], "");
    assert!(missing.contains("serviceaccounts \"nobody\" not found"), "{missing}");
    let found = cluster.ok(&["get", "--raw", "/.well-known/openid-configuration"], "");
    assert!(found.contains(r#""issuer":"https://kubernetes.default.svc.cluster.local""#), "{found}");
    let keys = cluster.ok(&["get", "--raw", "/openid/v1/jwks"], "");
    assert!(keys.contains(r#""kty":"EC""#) && !keys.contains("\"d\""), "{keys}");
}

#[test]
fn who_may_watch_one_object_sees_no_other_that_begins_like_it() {
    let cluster = world();
    cluster.ok(&["create", "configmap", "-n", "team", "one"], "");
    cluster.ok(&["create", "configmap", "-n", "team", "one-more"], "");
    let role = ["create", "role", "one", "-n", "team", "--verb=get,watch", "--resource=configmaps"];
    cluster.ok(&[&role[..], &["--resource-name=one"]].concat(), "");
    cluster.ok(&["create", "rolebinding", "one", "-n", "team", "--role=one", "--user=jane"], "");
    let path = "/api/v1/namespaces/team/configmaps/one?watch=true&timeoutSeconds=1&resourceVersion=0\
                &fieldSelector=metadata.namespace%3Dteam";
    let seen = cluster.run(&["--as=jane", "get", "--raw", path], "");
    assert!(seen.stdout.contains(r#""name":"one""#) && !seen.stdout.contains("one-more"), "{seen:?}");
    let all = "/api/v1/namespaces/team/configmaps?watch=true&timeoutSeconds=1";
    assert!(!cluster.run(&["--as=jane", "get", "--raw", all], "").success);
}

#[test]
fn nobody_gives_what_he_does_not_hold() {
    let cluster = world();
    cluster.ok(&["create", "rolebinding", "a", "-n", "team", "--clusterrole=admin", "--user=jane"], "");
    let jane = |arguments: &[&str]| cluster.run(&[&["--as=jane", "-n", "team"], arguments].concat(), "");
    let ok = jane(&["create", "role", "reader", "--verb=get", "--resource=pods"]);
    assert!(ok.success, "{ok:?}");
    let more = jane(&["create", "role", "more", "--verb=get", "--resource=nodes"]);
    let words = "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], \
                 Verbs:[\"get\"]}";
    assert!(more.stderr.contains(words), "{more:?}");
    assert!(jane(&["create", "rolebinding", "ok", "--role=reader", "--user=joe"]).success);
    let bound = jane(&["create", "rolebinding", "all", "--clusterrole=cluster-admin", "--user=jane"]);
    assert!(bound.stderr.contains("not currently held"), "{bound:?}");
    // Who may bind a role gives it though he does not hold it.
    let bind = [
        "create",
        "role",
        "binder",
        "-n",
        "team",
        "--verb=bind",
        "--resource=clusterroles",
        "--resource-name=cluster-admin",
    ];
    cluster.ok(&bind, "");
    cluster.ok(&["create", "rolebinding", "binder", "-n", "team", "--role=binder", "--user=jane"], "");
    assert!(jane(&["create", "rolebinding", "all", "--clusterrole=cluster-admin", "--user=joe"]).success);
    assert_eq!(
        cluster.run(&["--as=joe", "-n", "team", "auth", "can-i", "delete", "secrets"], "").stdout.trim(),
        "yes"
    );
    assert!(!cluster.run(&["--as=joe", "get", "nodes"], "").success);
}

#[test]
fn who_acts_for_another_must_be_allowed_to() {
    let cluster = world();
    let who = ["auth", "whoami", "-o", "jsonpath={.status.userInfo}"];
    let acted = cluster.run(&[&["--as=jane", "--as-group=devs", "--as-uid=7"], &who[..]].concat(), "");
    assert!(
        acted.stdout.contains("\"jane\"") && acted.stdout.contains("devs") && acted.stdout.contains("\"7\"")
    );
    let token = cluster.ok(&["create", "token", "-n", "team", "robot"], "");
    let pods = ["get", "--raw", "/api/v1/pods"];
    let refused = cluster.with_token(token.trim(), &[&["--as=jane"], &pods[..]].concat());
    assert!(refused.stderr.contains("cannot impersonate resource \"users\""), "{refused:?}");
    cluster.ok(
        &["create", "clusterrole", "act", "--verb=impersonate", "--resource=users", "--resource-name=jane"],
        "",
    );
    cluster
        .ok(&["create", "clusterrolebinding", "act", "--clusterrole=act", "--serviceaccount=team:robot"], "");
    let acted = cluster.with_token(token.trim(), &[&["--as=jane"], &who[..]].concat());
    assert!(acted.stdout.contains("\"jane\""), "{acted:?}");
    assert!(!cluster.with_token(token.trim(), &[&["--as=joe"], &who[..]].concat()).success);
    let masters = [&["--as=jane", "--as-group=system:masters"], &pods[..]].concat();
    assert!(
        cluster.with_token(token.trim(), &masters).stderr.contains("cannot impersonate resource \"groups\"")
    );
}

#[test]
fn who_does_not_say_who_he_is_sees_what_is_public() {
    let cluster = world();
    let anonymous = |path: &str| cluster.raw(path);
    assert_eq!(anonymous("/healthz").0, 200);
    assert_eq!(anonymous("/version").0, 200);
    for path in ["/api", "/api/v1/namespaces/default/pods", "/metrics", "/apis/apps/v1", "/openapi/v2"] {
        let (status, body) = anonymous(path);
        assert_eq!(status, 403, "{path}: {body}");
        assert!(body.contains("system:anonymous"), "{body}");
    }
}

#[test]
fn an_agent_reads_and_writes_what_is_its_nodes() {
    let cluster = world();
    let objects = "
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Secret, metadata: {name: mine, namespace: team}}
---
{apiVersion: v1, kind: Secret, metadata: {name: other, namespace: team}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: team}, spec: {nodeName: n1, containers: [{name: c, image: c}],
  volumes: [{name: s, secret: {secretName: mine}}]}}
";
    cluster.ok(&["create", "-f", "-"], objects);
    let agent = |arguments: &[&str]| {
        cluster.run(&[&["--as=system:node:n1", "--as-group=system:nodes"], arguments].concat(), "")
    };
    assert!(agent(&["get", "secret", "-n", "team", "mine"]).success);
    let refused = agent(&["get", "secret", "-n", "team", "other"]);
    assert!(
        refused.stderr.contains("no relationship found between node 'n1' and this object"),
        "{refused:?}"
    );
    assert!(!agent(&["get", "secrets", "-n", "team"]).success);
    assert!(agent(&["get", "node", "n1"]).success);
    assert!(agent(&["label", "node", "n1", "topology.kubernetes.io/zone=z"]).success);
    let label = agent(&["label", "node", "n1", "node-restriction.kubernetes.io/a=b"]);
    assert!(
        label.stderr.contains("is not allowed to modify labels: node-restriction.kubernetes.io/a"),
        "{label:?}"
    );
    assert!(!agent(&["label", "node", "n2", "a=b"]).success);
    assert!(!agent(&["delete", "pod", "-n", "team", "nothing"]).success);
    let token = ["create", "token", "-n", "team", "default"];
    let unbound = agent(&token);
    assert!(unbound.stderr.contains("node requested token not bound to a pod"), "{unbound:?}");
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=p"];
    assert!(agent(&[&token[..], &bound].concat()).success);
    cluster.ok(&["delete", "pod", "-n", "team", "p", "--grace-period=0", "--force"], "");
    assert!(!agent(&["get", "secret", "-n", "team", "mine"]).success);
}

#[test]
fn roles_that_were_changed_get_back_what_they_lack() {
    let mut cluster = world();
    let rules = ["get", "clusterrole", "system:node-proxier", "-o", "jsonpath={.rules}"];
    let before = cluster.ok(&rules, "");
    cluster.ok(
        &[
            "patch",
            "clusterrole",
            "system:node-proxier",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/rules/1"}]"#,
        ],
        "",
    );
    cluster.ok(
        &[
            "annotate",
            "--overwrite",
            "clusterrole",
            "system:kube-dns",
            "rbac.authorization.kubernetes.io/autoupdate=false",
        ],
        "",
    );
    cluster.ok(&["patch", "clusterrole", "system:kube-dns", "--type=merge", "-p", r#"{"rules":[]}"#], "");
    cluster.ok(&["delete", "clusterrolebinding", "system:discovery"], "");
    assert_ne!(cluster.ok(&rules, ""), before);
    cluster.restart();
    let after = cluster.ok(&rules, "");
    assert_eq!(after.matches("verbs").count(), before.matches("verbs").count(), "{after}");
    assert_eq!(cluster.ok(&["get", "clusterrole", "system:kube-dns", "-o", "jsonpath={.rules}"], ""), "[]");
    cluster.ok(&["get", "clusterrolebinding", "system:discovery"], "");
}
