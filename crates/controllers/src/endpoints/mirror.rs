//! A Service that selects no pods has the endpoints that somebody wrote into its Endpoints: as slices too, which is
//! where packets are sent by.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use kube::ResourceExt as _;

use super::slices::{Form, Group, Plan, is_of, service_of};
use super::{EndpointController, MANAGED_BY, MIRROR, SERVICE_NAME};
use crate::error::Result;
use crate::key::ObjectKey;
use crate::owner;

/// Endpoints with this label are left alone.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The most addresses that are taken from one subset (the reference's bound).
const LARGEST: usize = 1000;

impl EndpointController {
    /// Brings the slices of a Service without a selector up to date with its Endpoints.
    pub(super) async fn mirror(&self, service: &Service) -> Result<()> {
        let key = ObjectKey::of(service);
        let mut known = self.sources.slices.list(&key.namespace);
        known.retain(|slice| service_of(slice).as_ref() == Some(&key) && !owner::is_terminating(&**slice));
        let endpoints = self.sources.endpoints.get(&key).filter(|endpoints| is_mirrored(service, endpoints));
        let mut plan = Plan::default();
        for family in ["IPv4", "IPv6"] {
            let (of_family, others): (Vec<_>, Vec<_>) =
                known.into_iter().partition(|slice| slice.address_type == family);
            known = others;
            let Some(endpoints) = &endpoints else {
                plan.delete(of_family);
                continue;
            };
            let mut labels = endpoints.labels().clone();
            labels.insert(SERVICE_NAME.to_owned(), key.name.clone());
            labels.insert(MANAGED_BY.to_owned(), MIRROR.to_owned());
            let form = Form {
                service: key.clone(),
                family: family.to_owned(),
                labels,
                owner: owner::reference(&**endpoints),
            };
            plan.fill(&form, of_family, groups(endpoints, family));
        }
        plan.delete(known);
        self.carry_out(&key, plan).await
    }

    /// The Service is gone: Endpoints that stay have no slices.
    pub(super) async fn remove_mirrored(&self, key: &ObjectKey) -> Result<()> {
        let mut known = self.sources.slices.list(&key.namespace);
        known.retain(|slice| service_of(slice).as_ref() == Some(key) && is_of(slice, MIRROR));
        let mut plan = Plan::default();
        plan.delete(known);
        self.carry_out(key, plan).await
    }
}

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("ExternalName"))
        && endpoints.labels().get(SKIP).map(String::as_str) != Some("true")
}

/// The addresses of one family, by their ports.
fn groups(endpoints: &Endpoints, family: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|address| endpoint(address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| endpoint(address, false));
        let of_family = |endpoint: &Endpoint| {
            let address = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
            address.is_some_and(|address| address.is_ipv6() == (family == "IPv6"))
        };
        let all: Vec<Endpoint> = ready.chain(unready).filter(of_family).take(LARGEST).collect();
        if all.is_empty() {
            continue;
        }
        let ports = ports(subset);
        match groups.iter_mut().find(|(other, _)| *other == ports) {
            Some((_, endpoints)) => endpoints.extend(all),
            None => groups.push((ports, all)),
        }
    }
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
