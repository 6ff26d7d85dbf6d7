//! How many pods the owners of some pods ask for: of the kinds that everybody knows by what is in memory, of all others
//! by their scale.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;

use crate::error::Result;
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::scale::{Found, Scales, group_of};

/// Those that ask for pods.
pub(crate) struct Owners {
    pub(crate) scales: Scales,
    pub(crate) deployments: Arc<Informer<Deployment>>,
    pub(crate) sets: Arc<Informer<ReplicaSet>>,
    pub(crate) older_sets: Arc<Informer<ReplicationController>>,
    pub(crate) stateful_sets: Arc<Informer<StatefulSet>>,
}

/// What the owners of some pods ask for.
#[derive(Debug, Default)]
pub(super) struct Scale {
    pub(super) total: i32,
    /// Pods that nobody asks for.
    pub(super) unmanaged: Vec<String>,
}

/// An owner's uid, and how many pods it asks for.
type Asked = Option<(String, i32)>;

impl Owners {
    pub(super) async fn wait_complete(&self) {
        self.deployments.wait_complete().await;
        self.sets.wait_complete().await;
        self.older_sets.wait_complete().await;
        self.stateful_sets.wait_complete().await;
    }

    /// Adds up what the owners of pods ask for; says why that cannot be known.
    pub(super) async fn scale(&self, pods: &[Arc<Pod>]) -> Result<std::result::Result<Scale, String>> {
        let mut scale = Scale::default();
        let mut known: BTreeMap<String, i32> = BTreeMap::new();
        let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
        for pod in pods {
            let Some(reference) = owner::controller(&**pod) else {
                scale.unmanaged.push(pod.name_any());
                continue;
            };
            if seen.insert(&reference.uid, ()).is_some() {
                continue;
            }
            let key = ObjectKey::new(pod.namespace().unwrap_or_default(), &reference.name);
            let asked = match self.in_memory(reference, &key) {
                Some(asked) => Some(asked),
                None => match self.by_scale(reference, &key).await? {
                    Ok(asked) => asked,
                    Err(why) => return Ok(Err(why)),
                },
            };
            let Some((uid, replicas)) = asked else {
                return Ok(Err(format!("found no controllers for pod {:?}", pod.name_any())));
            };
            known.insert(uid, replicas);
        }
        scale.total = known.values().fold(0, |sum: i32, replicas| sum.saturating_add(*replicas));
        Ok(Ok(scale))
    }

    /// What the owner of a kind that is in memory asks for.
    fn in_memory(&self, reference: &OwnerReference, key: &ObjectKey) -> Asked {
        let (uid, replicas) = match (group_of(&reference.api_version), reference.kind.as_str()) {
            ("", "ReplicationController") => {
                let set = self.older_sets.get(key)?;
                (owner::uid(&*set).to_owned(), set.spec.as_ref()?.replicas)
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(key)?;
                (owner::uid(&*set).to_owned(), set.spec.as_ref()?.replicas)
            }
            ("apps", "ReplicaSet") => {
                let set = self.sets.get(key)?;
                // Pods of several generations have one that asks for them.
                if let Some(above) = owner::controller(&*set).filter(|above| above.kind == "Deployment") {
                    if owner::uid(&*set) != reference.uid {
                        return None;
                    }
                    let key = ObjectKey::new(&key.namespace, &above.name);
                    let deployment = self.deployments.get(&key)?;
                    let replicas = deployment.spec.as_ref()?.replicas.unwrap_or(1);
                    let uid = owner::uid(&*deployment).to_owned();
                    return (uid == above.uid).then_some((uid, replicas));
                }
                (owner::uid(&*set).to_owned(), set.spec.as_ref()?.replicas)
            }
            _ => return None,
        };
        (uid == reference.uid).then(|| (uid, replicas.unwrap_or(1)))
    }

    /// What the scale of an owner says.
    async fn by_scale(
        &self,
        reference: &OwnerReference,
        key: &ObjectKey,
    ) -> Result<std::result::Result<Asked, String>> {
        Ok(match self.scales.get(group_of(&reference.api_version), &reference.kind, key).await? {
            Found::Scale(scale) => Ok((scale.uid == reference.uid).then_some((scale.uid, scale.replicas))),
            Found::NoObject(_) => Ok(None),
            Found::NoScale(why) => Err(why),
        })
    }
}
