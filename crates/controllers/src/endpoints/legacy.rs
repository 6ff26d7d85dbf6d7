//! Endpoints, the older form of the same, which some clients still read.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};

use super::{EndpointController, HEADLESS, endpoint};
use crate::error::Result;
use crate::key::ObjectKey;
use crate::model::Pod;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The most addresses that are shown (the reference's bound).
const LARGEST: usize = 1000;

impl EndpointController {
    pub(super) async fn sync_endpoints(
        &self,
        service: &Service,
        spec: &ServiceSpec,
        pods: &[Arc<Pod>],
    ) -> Result<()> {
        let key = ObjectKey::of(service);
        let subsets = subsets(service, spec, pods);
        let mut labels = service.labels().clone();
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        if spec.cluster_ip.as_deref() == Some("None") {
            labels.insert(HEADLESS.to_owned(), String::new());
        } else {
            labels.remove(HEADLESS);
        }
        let known = self.sources.endpoints.get(&key);
        if let Some(known) = &known
            && known.subsets.clone().unwrap_or_default() == subsets
            && known.metadata.labels.as_ref() == Some(&labels)
        {
            return Ok(());
        }
        let version = known.as_ref().and_then(|known| known.metadata.resource_version.clone());
        let endpoints = Endpoints {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                labels: Some(labels),
                annotations: known.as_ref().and_then(|known| known.metadata.annotations.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            subsets: (!subsets.is_empty()).then_some(subsets),
        };
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let written = match known {
            Some(_) => api.replace(&key.name, &PostParams::default(), &endpoints).await,
            None => api.create(&PostParams::default(), &endpoints).await,
        };
        let written = written.map_err(Self::failed("write", "Endpoints", key))?;
        self.written.note(&written, &self.sources.endpoints);
        Ok(())
    }

    /// The Service is gone: the Endpoints that were made for it go. Those that somebody else wrote may be waiting for
    /// a Service to come.
    pub(super) async fn remove_endpoints(&self, key: &ObjectKey) -> Result<()> {
        if self.sources.endpoints.get(key).is_none_or(|known| !is_ours(&known)) {
            return Ok(());
        }
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::default()).await;
        match deleted.map_err(Self::failed("delete", "Endpoints", key.clone())) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

/// Addresses with the same ports together, in a fixed order.
fn subsets(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let name = service.name_any();
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    let six =
        spec.ip_families.as_ref().and_then(|families| families.first()).is_some_and(|one| one == "IPv6");
    let mut by_ports: BTreeMap<Vec<(String, i32, String)>, EndpointSubset> = BTreeMap::new();
    let mut count = 0;
    for pod in pods {
        if pod.is_terminating() && !unready_too {
            continue;
        }
        let addresses = pod.addresses();
        let Some(ip) = addresses.iter().find(|address| address.contains(':') == six) else { continue };
        count += 1;
        if count > LARGEST {
            break;
        }
        let address = EndpointAddress {
            ip: (*ip).to_owned(),
            hostname: endpoint::host_name(pod, &name),
            node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
            target_ref: Some(endpoint::reference(pod)),
        };
        let ports: Vec<EndpointPort> = endpoint::ports(pod, spec)
            .into_iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.filter(|name| !name.is_empty()),
                    port: port.port?,
                    protocol: port.protocol,
                    app_protocol: port.app_protocol,
                })
            })
            .collect();
        let key = ports
            .iter()
            .map(|port| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                (text(&port.name), port.port, text(&port.protocol))
            })
            .collect();
        let subset = by_ports.entry(key).or_default();
        subset.ports = (!ports.is_empty()).then_some(ports);
        let list = if unready_too || pod.is_ready() {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|left, right| left.ip.cmp(&right.ip));
        }
    }
    subsets
}
