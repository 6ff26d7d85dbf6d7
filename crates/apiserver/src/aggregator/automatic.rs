//! The APIServices of what this server serves itself: those of the built-in versions are made at its start, those of
//! definitions come and go with them.

use std::collections::BTreeMap;

use bytes::Bytes;
use dray_access::User;
use dray_machinery::{Status, kinds};
use http::HeaderMap;
use serde_json::{Value, json};

use super::{GROUP, KIND};
use crate::{
    ApiServer, Error,
    negotiate::{Accept, Encoding, Shape},
    query::Query,
    remove::Options,
    request::ResourceRequest,
    server::Inner,
    write::Change,
};

/// The label that says how this server looks after an APIService.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Made right at the start, and left alone from then on.
const ON_START: &str = "onstart";
/// Kept as it is wanted.
const ALWAYS: &str = "true";

/// How early the built-in groups come, and their versions where they are several (the reference's numbers: clients look
/// short names up in this order).
const PRIORITIES: &[(&str, i64)] = &[
    (GROUP, 20_000),
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("metrics.k8s.io", 100),
];
/// The versions whose rank is not the usual one.
const VERSIONS: &[((&str, &str), i64)] = &[
    (("", "v1"), 1),
    (("autoscaling", "v2"), 30),
    (("flowcontrol.apiserver.k8s.io", "v1"), 21),
    (("metrics.k8s.io", "v1beta1"), 100),
];
const USUAL: i64 = 15;
/// What comes with definitions comes late.
const DEFINED: (i64, i64) = (1000, 100);

/// How early a group comes, and a version in it, that this server serves itself.
pub(super) fn priority(group: &str, version: &str) -> (i64, i64) {
    let Some((_, rank)) = PRIORITIES.iter().find(|(known, _)| *known == group) else { return DEFINED };
    let own = VERSIONS.iter().find(|(known, _)| *known == (group, version));
    (*rank, own.map_or(USUAL, |(_, rank)| *rank))
}

fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

fn spec(group: &str, version: &str) -> Value {
    let (of_group, of_version) = priority(group, version);
    let mut spec =
        json!({ "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version });
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    spec
}

fn object(group: &str, version: &str, managed: &str) -> Value {
    json!({
        "metadata": { "name": name(group, version), "labels": { MANAGED: managed } },
        "spec": spec(group, version),
    })
}

/// The versions of groups that are built in, but for the one of APIServices themselves: nobody could register that.
fn built_in() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = kinds::all()
        .iter()
        .map(|kind| (kind.group, kind.version))
        .filter(|(group, _)| *group != GROUP)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl ApiServer {
    /// Makes the APIServices of what is built in; those of an earlier release go.
    pub(crate) async fn bootstrap_services(&self) -> Result<(), Error> {
        let mut wanted = built_in();
        let extensions = &self.inner.config.extensions;
        wanted.extend(extensions.iter().map(|one| (one.group(), one.version())));
        let made = wanted.iter().map(|(group, version)| self.ensure_local(group, version, ON_START));
        futures_util::future::try_join_all(made).await?;
        let directory = self.inner.aggregator.directory();
        for old in directory.all().filter(|old| old.managed == ON_START) {
            if !wanted.contains(&(old.group.as_str(), old.version.as_str())) {
                self.remove_local(&old.name).await?;
            }
        }
        Ok(())
    }

    /// Makes an APIService, and makes one that is looked after what it must be.
    async fn ensure_local(&self, group: &str, version: &str, managed: &str) -> Result<(), Error> {
        let wanted = object(group, version, managed);
        self.ensure_with(GROUP, KIND, wanted, |old, wanted| {
            let mut new = old.clone();
            // Who has put a server of his own there keeps it.
            let is_elsewhere = old["spec"]["service"].is_object();
            if !is_elsewhere && matches!(old["metadata"]["labels"][MANAGED].as_str(), Some(ON_START | ALWAYS))
            {
                new["spec"] = wanted["spec"].clone();
            }
            new
        })
        .await
    }

    async fn remove_local(&self, name: &str) -> Result<(), Error> {
        let failed = |source: Status| Error::Bootstrap { object: format!("{KIND} {name}"), source };
        let kind = kinds::find_kind(GROUP, KIND).ok_or_else(|| failed(Status::no_such_resource()))?;
        let request = ResourceRequest {
            kind,
            custom: None,
            namespace: String::new(),
            name: name.to_owned(),
            subresource: None,
            below: String::new(),
            query: Query::default(),
        };
        let user = User::component("system:apiserver");
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
        let change = Change::new(&request, &user, &headers, &body, accept, "kube-apiserver".to_owned());
        match self.inner.delete_with(&change, &Options::default()).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(failed(status)),
        }
    }
}

impl Inner {
    /// Keeps one APIService for each version of a group that definitions have.
    pub(super) async fn keep_local(self: &std::sync::Arc<Self>) -> Result<(), Error> {
        let server = ApiServer { inner: self.clone() };
        let table = self.custom.table();
        let mut wanted: BTreeMap<String, (&str, &str)> = BTreeMap::new();
        for custom in table.all() {
            let (group, version) = (custom.kind.group, custom.kind.version);
            wanted.insert(name(group, version), (group, version));
        }
        let built_in = built_in();
        wanted.retain(|_, served| !built_in.contains(served));
        let directory = self.aggregator.directory();
        for (name, (group, version)) in &wanted {
            let is_right = directory
                .get(name)
                .is_some_and(|known| known.managed != ALWAYS || known.spec == spec(group, version));
            if !is_right {
                server.ensure_local(group, version, ALWAYS).await?;
            }
        }
        let old = directory.all().filter(|old| old.managed == ALWAYS && !wanted.contains_key(&old.name));
        for old in old {
            server.remove_local(&old.name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_that_is_built_in_has_a_rank() {
        for (group, version) in built_in() {
            assert_ne!(priority(group, version), DEFINED, "{group}/{version}");
            let service = object(group, version, ON_START);
            let mut errors = dray_machinery::FieldErrors::default();
            let kind = kinds::find_kind(GROUP, KIND).unwrap();
            (kind.validate)(&service, &mut errors);
            assert!(errors.is_empty(), "{group}/{version}: {:?}", errors.as_slice());
        }
        assert_eq!(priority("autoscaling", "v2"), (17_500, 30));
        assert_eq!(priority("example.com", "v1"), DEFINED);
        assert_eq!(name("", "v1"), "v1.");
    }
}
