//! Whether the server is alive and ready: `/livez`, `/readyz` and the older `/healthz`, as a whole or one check at a time
//! (<https://kubernetes.io/docs/reference/using-api/health-checks/>).

use http::StatusCode;

use crate::{
    query::Query,
    respond::{self, Answer},
    server::Inner,
};

type Check = fn(&Inner) -> bool;

/// The checks, and whether each says that the server is alive (those of readiness come on top).
const CHECKS: &[(&str, bool, Check)] = &[
    ("ping", true, |_| true),
    ("log", true, |_| true),
    // Its name everywhere, whatever the store is.
    ("etcd", true, |inner| inner.store.is_open()),
    ("poststarthook/rbac/bootstrap-roles", true, |inner| {
        inner.store.snapshot().count("rbac.authorization.k8s.io/clusterroles") > 0
    }),
    ("shutdown", false, |inner| !*inner.shutdown.borrow()),
];

impl Inner {
    /// Answers a path of health; none for another.
    pub(crate) fn health(&self, path: &str, query: &str) -> Option<Answer> {
        let (of, one) = match path.trim_start_matches('/').split_once('/') {
            Some((of, one)) => (of, one),
            None => (path.trim_start_matches('/'), ""),
        };
        if !matches!(of, "healthz" | "livez" | "readyz") {
            return None;
        }
        let checks = CHECKS.iter().filter(|(_, alive, _)| *alive || of == "readyz");
        if !one.is_empty() {
            let (.., check) = checks.into_iter().find(|(name, ..)| *name == one)?;
            return Some(if check(self) {
                respond::text(StatusCode::OK, "ok")
            } else {
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld")
            });
        }
        let query = Query::parse(query);
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut text = String::new();
        let mut failed = false;
        for (name, _, check) in checks {
            let line = if excluded.contains(name) {
                format!("[+]{name} excluded: ok\n")
            } else if check(self) {
                format!("[+]{name} ok\n")
            } else {
                failed = true;
                format!("[-]{name} failed: reason withheld\n")
            };
            text.push_str(&line);
        }
        let known = |name: &&str| CHECKS.iter().any(|(check, ..)| check == name);
        let unknown: Vec<String> =
            excluded.iter().filter(|name| !known(name)).map(|name| format!("{name:?}")).collect();
        if !unknown.is_empty() {
            let list = unknown.join(", ");
            text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {list}\n"));
        }
        Some(if failed {
            text.push_str(&format!("{of} check failed\n"));
            respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        } else if query.flag("verbose") {
            text.push_str(&format!("{of} check passed\n"));
            respond::text(StatusCode::OK, text)
        } else {
            respond::text(StatusCode::OK, "ok")
        })
    }
}
