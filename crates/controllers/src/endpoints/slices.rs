//! EndpointSlices: endpoints in portions, so that a change of one is a small write.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};

use super::{EndpointController, HEADLESS, MANAGED_BY, MANAGER, MIRROR, SERVICE_NAME, endpoint};
use crate::error::Result;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;

/// The most endpoints of one slice.
const LARGEST: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
/// Labels that a Service has and its slices have not: what a slice says of these is its own.
const OWN_LABELS: &[&str] = &[SERVICE_NAME, MANAGED_BY, HEADLESS];

/// The Service of a slice of this controller.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.labels();
    matches!(labels.get(MANAGED_BY)?.as_str(), MANAGER | MIRROR).then_some(())?;
    Some(ObjectKey::new(slice.namespace().unwrap_or_default(), labels.get(SERVICE_NAME)?))
}

/// Whether a slice was made from the pods that a Service selects, or from Endpoints.
pub(super) fn is_of(slice: &EndpointSlice, manager: &str) -> bool {
    slice.labels().get(MANAGED_BY).map(String::as_str) == Some(manager)
}

/// Whether a slice may be one of a Service, by its name alone.
pub(super) fn is_named_after(slice: &str, service: &str) -> bool {
    slice.strip_prefix(service).is_some_and(|rest| rest.starts_with('-') && !rest[1..].contains('-'))
}

/// Endpoints with the same ports.
pub(super) type Group = (Vec<EndpointPort>, Vec<Endpoint>);

/// What slices are made of, but for their endpoints.
pub(super) struct Form {
    pub(super) service: ObjectKey,
    pub(super) family: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) owner: OwnerReference,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// Has slices deleted.
    pub(super) fn delete(&mut self, slices: impl IntoIterator<Item = Arc<EndpointSlice>>) {
        self.delete.extend(slices);
    }

    /// Has endpoints put into the known slices of their ports, and into new ones.
    pub(super) fn fill(&mut self, form: &Form, known: Vec<Arc<EndpointSlice>>, groups: Vec<Group>) {
        let mut left = known;
        for (ports, endpoints) in groups {
            let (same, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|slice| slice.ports.clone().unwrap_or_default() == ports);
            left = others;
            // One that says that there are no endpoints is needed only where none says anything else.
            let mut needless = !endpoints.is_empty();
            for filled in fill(&same, endpoints) {
                match filled {
                    Filled::Old { slice, endpoints } if endpoints.is_empty() && needless => {
                        self.delete.push(slice);
                    }
                    Filled::Old { slice, endpoints } => {
                        needless = true;
                        let up_to_date = slice.endpoints.as_deref().unwrap_or_default() == endpoints
                            && slice.metadata.labels.as_ref() == Some(&form.labels)
                            && slice.owner_references() == [form.owner.clone()];
                        if !up_to_date {
                            let mut slice = (*slice).clone();
                            slice.endpoints = Some(endpoints);
                            slice.metadata.labels = Some(form.labels.clone());
                            slice.metadata.owner_references = Some(vec![form.owner.clone()]);
                            self.update.push(slice);
                        }
                    }
                    Filled::New { endpoints } => self.create.push(EndpointSlice {
                        metadata: ObjectMeta {
                            generate_name: Some(format!("{}-", form.service.name)),
                            namespace: Some(form.service.namespace.clone()),
                            labels: Some(form.labels.clone()),
                            owner_references: Some(vec![form.owner.clone()]),
                            ..ObjectMeta::default()
                        },
                        address_type: form.family.clone(),
                        endpoints: Some(endpoints),
                        ports: Some(ports.clone()),
                    }),
                }
            }
        }
        self.delete.extend(left);
        self.reuse();
    }

    /// A slice that would be deleted becomes one that would be made: one write instead of two.
    fn reuse(&mut self) {
        let can = |old: &EndpointSlice, new: &EndpointSlice| old.address_type == new.address_type;
        let mut create = Vec::new();
        for mut new in self.create.drain(..) {
            match self.delete.iter().position(|old| can(old, &new)) {
                Some(at) => {
                    let old = self.delete.swap_remove(at);
                    let given = std::mem::take(&mut new.metadata);
                    new.metadata = old.metadata.clone();
                    new.metadata.labels = given.labels;
                    new.metadata.owner_references = given.owner_references;
                    self.update.push(new);
                }
                None => create.push(new),
            }
        }
        self.create = create;
    }
}

impl EndpointController {
    pub(super) async fn sync_slices(
        &self,
        service: &Service,
        spec: &ServiceSpec,
        pods: &[Arc<Pod>],
    ) -> Result<()> {
        let key = ObjectKey::of(service);
        let mut known = self.sources.slices.list(&key.namespace);
        known.retain(|slice| service_of(slice).as_ref() == Some(&key) && !owner::is_terminating(&**slice));
        let mut plan = Plan::default();
        // It may have had no selector before.
        let (known, mirrored): (Vec<_>, Vec<_>) = known.into_iter().partition(|slice| is_of(slice, MANAGER));
        plan.delete(mirrored);
        let mut families = spec.ip_families.clone().unwrap_or_default();
        if families.is_empty() {
            families.push("IPv4".to_owned());
        }
        let (mine, other): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|slice| families.contains(&slice.address_type));
        plan.delete(other);
        for family in &families {
            let of_family: Vec<_> =
                mine.iter().filter(|slice| slice.address_type == *family).cloned().collect();
            self.plan(service, spec, pods, family, of_family, &mut plan);
        }
        self.carry_out(&key, plan).await
    }

    fn plan(
        &self,
        service: &Service,
        spec: &ServiceSpec,
        pods: &[Arc<Pod>],
        family: &str,
        known: Vec<Arc<EndpointSlice>>,
        plan: &mut Plan,
    ) {
        let name = service.name_any();
        let mut wanted: Vec<Group> = Vec::new();
        for pod in pods {
            let is_six = |address: &str| address.contains(':');
            let addresses = pod.addresses();
            let address = addresses.iter().find(|address| is_six(address) == (family == "IPv6"));
            let Some(address) = address else { continue };
            let mut endpoint = endpoint::endpoint(pod, address, &name, spec);
            endpoint.zone = self.zone(&pod.spec.node_name);
            let ports = endpoint::ports(pod, spec);
            match wanted.iter_mut().find(|(other, _)| *other == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => wanted.push((ports, vec![endpoint])),
            }
        }
        if wanted.is_empty() {
            // A slice without endpoints says that there are none.
            wanted.push((Vec::new(), Vec::new()));
        }
        let form = Form {
            service: ObjectKey::of(service),
            family: family.to_owned(),
            labels: labels(service, spec),
            owner: owner::reference(service),
        };
        plan.fill(&form, known, wanted);
    }

    fn zone(&self, node: &str) -> Option<String> {
        let node = self.sources.nodes.get(&ObjectKey::new("", node))?;
        node.labels().get(ZONE).cloned()
    }

    pub(super) async fn carry_out(&self, service: &ObjectKey, plan: Plan) -> Result<()> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &service.namespace);
        let creations = plan.create.iter().map(|slice| async {
            let made = api.create(&PostParams::default(), slice).await;
            let made = made.map_err(Self::failed("create a slice of", "Service", service.clone()))?;
            self.written.note(&made, &self.sources.slices);
            Ok(())
        });
        let updates = plan.update.iter().map(|slice| async {
            let made = api.replace(&slice.name_any(), &PostParams::default(), slice).await;
            let made = made.map_err(Self::failed("change", "EndpointSlice", ObjectKey::of(slice)))?;
            self.written.note(&made, &self.sources.slices);
            Ok(())
        });
        let deletions = plan.delete.iter().map(|slice| async {
            let deleted = api.delete(&slice.name_any(), &DeleteParams::default()).await;
            match deleted.map_err(Self::failed("delete", "EndpointSlice", ObjectKey::of(&**slice))) {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(()),
            }
        });
        let results = (join_all(creations).await.into_iter())
            .chain(join_all(updates).await)
            .chain(join_all(deletions).await);
        results.collect()
    }
}

fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.retain(|key, _| !OWN_LABELS.contains(&key.as_str()));
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

enum Filled {
    Old { slice: Arc<EndpointSlice>, endpoints: Vec<Endpoint> },
    New { endpoints: Vec<Endpoint> },
}

/// Puts endpoints into slices so that as few slices as possible change: each stays where it is, and new ones go where
/// there is room.
fn fill(known: &[Arc<EndpointSlice>], wanted: Vec<Endpoint>) -> Vec<Filled> {
    let id = |endpoint: &Endpoint| {
        let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
        (endpoint.addresses.first().cloned().unwrap_or_default(), target.unwrap_or_default())
    };
    let mut left: BTreeMap<_, Endpoint> =
        wanted.into_iter().map(|endpoint| (id(&endpoint), endpoint)).collect();
    let mut old: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = known
        .iter()
        .map(|slice| {
            let stays = slice.endpoints.iter().flatten().filter_map(|endpoint| left.remove(&id(endpoint)));
            (slice.clone(), stays.collect())
        })
        .collect();
    let mut new: Vec<Endpoint> = left.into_values().collect();
    // Those that change anyway, and those that are fuller, first.
    let changes =
        |slice: &EndpointSlice, stays: &[Endpoint]| slice.endpoints.as_deref().unwrap_or_default() != stays;
    old.sort_by_key(|(slice, stays)| (!changes(slice, stays), usize::MAX - stays.len()));
    for (_, stays) in &mut old {
        let room = LARGEST.saturating_sub(stays.len()).min(new.len());
        stays.extend(new.drain(..room));
    }
    let mut filled: Vec<Filled> =
        old.into_iter().map(|(slice, endpoints)| Filled::Old { slice, endpoints }).collect();
    while !new.is_empty() {
        let rest = new.split_off(LARGEST.min(new.len()));
        filled.push(Filled::New { endpoints: new });
        new = rest;
    }
    if filled.is_empty() {
        filled.push(Filled::New { endpoints: Vec::new() });
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.42.{}.{}", number / 256, number % 256)],
            ..Endpoint::default()
        }
    }

    fn slice(name: &str, numbers: std::ops::Range<usize>) -> Arc<EndpointSlice> {
        Arc::new(EndpointSlice {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            endpoints: Some(numbers.map(endpoint).collect()),
            ..EndpointSlice::default()
        })
    }

    /// Names and sizes; new slices have no name.
    fn check(known: &[Arc<EndpointSlice>], wanted: std::ops::Range<usize>, expected: &[(&str, usize)]) {
        let mut found: Vec<(String, usize)> = fill(known, wanted.map(endpoint).collect())
            .into_iter()
            .map(|filled| match filled {
                Filled::Old { slice, endpoints } => (slice.name_any(), endpoints.len()),
                Filled::New { endpoints } => (String::new(), endpoints.len()),
            })
            .collect();
        found.sort();
        let expected: Vec<_> = expected.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn slices_are_filled_to_the_brim_and_kept() {
        check(&[], 0..250, &[("", 50), ("", 100), ("", 100)]);
        check(&[], 0..0, &[("", 0)]);
        check(&[slice("a", 0..100), slice("b", 100..150)], 0..160, &[("a", 100), ("b", 60)]);
        check(&[slice("a", 0..100), slice("b", 100..150)], 0..100, &[("a", 100), ("b", 0)]);
        check(&[slice("a", 0..3)], 1..4, &[("a", 3)]);
    }

    #[test]
    fn slices_are_told_by_their_names() {
        assert!(is_named_after("web-x7k2p", "web"));
        assert!(!is_named_after("web-two-x7k2p", "web"));
        assert!(!is_named_after("other-x7k2p", "web"));
    }
}
