//! Roles that are made of others: the rules of a ClusterRole with an aggregation rule are those of the ClusterRoles that
//! its selectors choose, in the order of their names.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::queue::{Again, Queue};

/// The controller of aggregated roles.
pub(crate) struct Aggregation {
    client: Client,
    roles: Arc<Informer<ClusterRole>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Aggregation {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(client: Client, roles: Arc<Informer<ClusterRole>>) -> Aggregation {
        let queue = Queue::new("role aggregation");
        roles.on_change({
            let queue = queue.clone();
            // A role may be a part of any other: all of them are looked at, as one.
            move |_| queue.add(ObjectKey::new("", ""))
        });
        Aggregation { client, roles, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.roles.wait_complete().await;
        self.queue.run(1, |_| self.sync()).await
    }

    async fn sync(&self) -> Result<Again> {
        let mut roles = self.roles.list_all();
        roles.sort_by_key(|role| role.name_any());
        let api = Api::<ClusterRole>::all(self.client.clone());
        for whole in roles.iter().filter(|role| role.aggregation_rule.is_some()) {
            let rules = gather(whole, &roles);
            if whole.rules.as_ref() == Some(&rules) || (rules.is_empty() && whole.rules.is_none()) {
                continue;
            }
            let name = whole.name_any();
            let patch = Patch::Merge(json!({ "rules": rules }));
            let patched = api.patch(&name, &PatchParams::default(), &patch).await;
            patched.map_err(Error::request("write", "ClusterRole", ObjectKey::new("", name)))?;
        }
        Ok(None)
    }
}

/// The rules of those that a role is made of, each once.
fn gather(whole: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors =
        whole.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let mut rules: Vec<PolicyRule> = Vec::new();
    // A selector that cannot be read chooses nothing.
    for selector in selectors.filter_map(|selector| Selector::new(selector).ok()) {
        let parts = roles.iter().filter(|part| {
            part.metadata.name != whole.metadata.name && selector.matches(part.metadata.labels.as_ref())
        });
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}
