//! Networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dray_engine::{AddressPool, Engine, IpNet, NetworkRecord, NetworkSpec, SubnetSpec};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::duration::rfc3339;
use crate::endpoints;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::version::Version;
use crate::wire::request;

fn document(engine: &Engine, network: &NetworkRecord, with_containers: bool) -> Value {
    let config: Vec<Value> = network.pools.iter().map(pool).collect();
    let mut containers = Map::new();
    for record in with_containers.then(|| engine.containers()).into_iter().flatten() {
        for endpoint in record.endpoints.iter().filter(|endpoint| endpoint.network == network.id) {
            let address = endpoint.address.map(|address| format!("{address}/{}", endpoint.prefix));
            let ipv6_address =
                endpoint.ipv6_address.map(|address| format!("{address}/{}", endpoint.ipv6_prefix));
            containers.insert(
                record.id.to_string(),
                json!({
                    "Name": record.name, "EndpointID": endpoint.id.as_str(),
                    "MacAddress": endpoint.mac.clone().unwrap_or_default(),
                    "IPv4Address": address.unwrap_or_default(),
                    "IPv6Address": ipv6_address.unwrap_or_default(),
                }),
            );
        }
    }
    let options = &network.ipam_options;
    json!({
        "Name": network.name,
        "Id": network.id.as_str(),
        "Created": rfc3339(Some(network.created)),
        "Scope": scope(network),
        "Driver": driver(network),
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default", "Options": if options.is_empty() { Value::Null } else { json!(options) },
            "Config": config,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "ConfigFrom": { "Network": network.config_from },
        "ConfigOnly": network.config_only,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}

/// How far it reaches, in Docker's words.
fn scope(network: &NetworkRecord) -> &'static str {
    if network.overlay { "swarm" } else { "local" }
}

fn driver(network: &NetworkRecord) -> &str {
    if network.overlay { "overlay" } else { &network.driver }
}

fn pool(pool: &AddressPool) -> Value {
    let mut config = Map::new();
    config.insert("Subnet".to_owned(), json!(pool.subnet.to_string()));
    config.extend(pool.range.map(|range| ("IPRange".to_owned(), json!(range.to_string()))));
    config.extend(pool.gateway.map(|gateway| ("Gateway".to_owned(), json!(gateway.to_string()))));
    if !pool.auxiliary.is_empty() {
        config.insert("AuxiliaryAddresses".to_owned(), json!(pool.auxiliary));
    }
    Value::Object(config)
}

pub(crate) fn list(api: &Api, query: &Query, version: Version) -> Result<Response<Body>> {
    let filters =
        Filters::parse(query, &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
    let containers = api.engine.containers();
    let is_dangling = |network: &NetworkRecord| {
        let mut endpoints = containers.iter().flat_map(|container| &container.endpoints);
        !network.is_predefined() && !endpoints.any(|endpoint| endpoint.network == network.id)
    };
    let listed: Vec<Value> = api
        .engine
        .networks()
        .iter()
        .filter(|network| {
            filters.any("name", |name| network.name.contains(name))
                && filters.any("id", |id| network.id.as_str().starts_with(id))
                && filters.any("driver", |wanted| driver(network) == wanted)
                && filters.any("scope", |wanted| scope(network) == wanted)
                && filters.any("type", |kind| (kind == "builtin") == network.is_predefined())
                && filters.labels(&network.labels)
                && filters.flag("dangling").is_none_or(|dangling| dangling == is_dangling(network))
        })
        .map(|network| {
            let mut listed = document(&api.engine, network, false);
            if version >= Version::new(1, 52)
                && let Some(fields) = listed.as_object_mut()
            {
                fields.remove("Containers");
            }
            listed
        })
        .collect();
    body::json(StatusCode::OK, &listed)
}

pub(crate) fn inspect(api: &Api, name: &str, query: &Query, version: Version) -> Result<Response<Body>> {
    let network = api.engine.network(name)?;
    if query.non_empty("scope").is_some_and(|wanted| wanted != scope(&network)) {
        return Err(ApiError::not_found(format!("network {name} not found")));
    }
    let mut value = document(&api.engine, &network, true);
    if version >= Version::new(1, 52) && !network.pools.is_empty() {
        let subnets: Map<String, Value> = api
            .engine
            .network_usage(&network.id)
            .into_iter()
            .map(|(subnet, in_use, free)| {
                (subnet.to_string(), json!({ "IPsInUse": in_use, "DynamicIPsAvailable": free }))
            })
            .collect();
        value["Status"] = json!({ "IPAM": { "Subnets": subnets } });
    }
    body::json(StatusCode::OK, &value)
}

request! {
    CreateNetwork {
        name: String = "Name",
        driver: String = "Driver",
        scope: String = "Scope",
        internal: bool = "Internal",
        attachable: bool = "Attachable",
        ingress: bool = "Ingress",
        config_only: bool = "ConfigOnly",
        config_from: ConfigFrom = "ConfigFrom",
        enable_ipv4: Option<bool> = "EnableIPv4",
        enable_ipv6: Option<bool> = "EnableIPv6",
        ipam: Ipam = "IPAM",
        options: BTreeMap<String, String> = "Options",
        labels: BTreeMap<String, String> = "Labels",
    }
}
request! { ConfigFrom { network: String = "Network" } }
request! {
    Ipam {
        driver: String = "Driver",
        options: BTreeMap<String, String> = "Options",
        config: Vec<IpamConfig> = "Config",
    }
}
request! {
    IpamConfig {
        subnet: String = "Subnet",
        range: String = "IPRange",
        gateway: String = "Gateway",
        auxiliary_addresses: BTreeMap<String, String> = "AuxiliaryAddresses",
    }
}

/// What is asked of a network's addresses; everything that is wrong is told at once.
fn subnets(config: &[IpamConfig], ipv6: bool) -> Result<Vec<SubnetSpec>> {
    let mut wrong = Vec::new();
    let mut subnets = Vec::new();
    for config in config {
        let errors = wrong.len();
        let mut network = |text: &str| -> Option<IpNet> {
            if text.is_empty() {
                return None;
            }
            let parsed = text.parse().ok();
            if parsed.is_none() {
                wrong.push(format!("invalid subnet {text}: invalid CIDR block notation"));
            }
            parsed
        };
        let (subnet, range) = (network(&config.subnet), network(&config.range));
        if let Some(subnet) = subnet
            && subnet != subnet.trunc()
        {
            wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
        }
        if let (Some(subnet), Some(range)) = (subnet, range) {
            wrong.extend(range_errors(subnet, range));
        }
        let mut address = |what: &str, text: &str| -> Option<IpAddr> {
            let address: Option<IpAddr> = text.parse().ok();
            match (address, subnet) {
                (None, _) => wrong.push(format!("invalid {what} {text}: invalid address")),
                (Some(address), Some(subnet)) if address.is_ipv4() != subnet.addr().is_ipv4() => {
                    wrong
                        .push(format!("invalid {what} {text}: parent subnet is an {} block", family(subnet)));
                }
                (Some(address), Some(subnet)) if !subnet.contains(&address) => {
                    wrong.push(format!(
                        "invalid {what} {text}: parent subnet {subnet} doesn't contain this address"
                    ));
                }
                _ => {}
            }
            address
        };
        let gateway = if config.gateway.is_empty() { None } else { address("gateway", &config.gateway) };
        let mut auxiliary = BTreeMap::new();
        for (name, text) in &config.auxiliary_addresses {
            if let Some(address) = address(&format!("auxiliary address {name}"), text) {
                auxiliary.insert(name.clone(), address);
            }
        }
        if subnet.is_some_and(|subnet| subnet.addr().is_ipv6()) && !ipv6 {
            // Docker passes over what the network does not have.
            continue;
        }
        if wrong.len() == errors {
            subnets.push(SubnetSpec { subnet, range, gateway, auxiliary });
        }
    }
    if wrong.is_empty() {
        return Ok(subnets);
    }
    Err(ApiError::bad_request(format!("invalid network config:\n{}", wrong.join("\n"))))
}

fn family(subnet: IpNet) -> &'static str {
    if subnet.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

fn range_errors(subnet: IpNet, range: IpNet) -> Vec<String> {
    if subnet.addr().is_ipv4() != range.addr().is_ipv4() {
        return vec![format!("invalid ip-range {range}: parent subnet is an {} block", family(subnet))];
    }
    let mut wrong = Vec::new();
    if range.prefix_len() < subnet.prefix_len() {
        wrong.push(format!("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"));
    }
    if range != range.trunc() {
        wrong.push(format!("invalid ip-range {range}: it should be {}", range.trunc()));
    }
    if !subnet.contains(&range.addr()) {
        wrong.push(format!("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"));
    }
    wrong
}

pub(crate) async fn create(api: &Api, incoming: Incoming) -> Result<Response<Body>> {
    let request: CreateNetwork = body::read_json(incoming).await?;
    let is_overlay = request.driver == "overlay";
    let is_wide = is_overlay || request.ingress || ["swarm", "global"].contains(&request.scope.as_str());
    if is_wide && !api.swarm.is_active() {
        return Err(ApiError::new(StatusCode::FORBIDDEN, dray_swarm::Error::NotManager.to_string()));
    }
    let driver = match request.driver.as_str() {
        // With one node there is nobody to reach beyond the bridge.
        "default" | "overlay" => "bridge",
        "none" => "null",
        driver => driver,
    };
    if !["", "bridge", "macvlan", "ipvlan", "host", "null"].contains(&driver) {
        return Err(ApiError::not_found(format!(
            "could not find plugin {driver} in v1 plugin registry: plugin not found"
        )));
    }
    let ipam = request.ipam;
    if !["", "default"].contains(&ipam.driver.as_str()) {
        return Err(ApiError::not_found(format!(
            "could not find plugin {} in v1 plugin registry: plugin not found",
            ipam.driver
        )));
    }
    let spec = NetworkSpec {
        name: request.name,
        driver: driver.to_owned(),
        subnets: subnets(&ipam.config, request.enable_ipv6 == Some(true))?,
        ipv4: request.enable_ipv4,
        ipv6: request.enable_ipv6,
        internal: request.internal,
        attachable: request.attachable,
        overlay: is_overlay,
        ingress: request.ingress,
        config_only: request.config_only,
        config_from: request.config_from.network,
        labels: request.labels,
        options: request.options,
        ipam_options: ipam.options,
    };
    let network = api.engine.create_network(spec).await?;
    body::json(StatusCode::CREATED, &json!({ "Id": network.id.as_str(), "Warning": "" }))
}

pub(crate) async fn remove(api: &Api, name: &str) -> Result<Response<Body>> {
    if let Ok(network) = api.engine.network(name)
        && network.overlay
    {
        api.swarm.leave_network(network.id.as_str()).await;
    }
    api.engine.remove_network(name).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

request! {
    Membership {
        container: String = "Container",
        force: bool = "Force",
        endpoint: endpoints::EndpointRequest = "EndpointConfig",
    }
}

pub(crate) async fn connect(api: &Api, name: &str, incoming: Incoming) -> Result<Response<Body>> {
    let request: Membership = body::read_json(incoming).await?;
    let container = api.engine.container(&request.container)?;
    let endpoint = endpoints::spec(request.endpoint)?;
    api.engine.connect_network(&container, name, endpoint).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(api: &Api, name: &str, incoming: Incoming) -> Result<Response<Body>> {
    let request: Membership = body::read_json(incoming).await?;
    let container = match api.engine.container(&request.container) {
        Ok(container) => container,
        // A container that is gone has left already.
        Err(_) if request.force => return Ok(body::empty(StatusCode::OK)),
        Err(error) => return Err(error.into()),
    };
    api.engine.disconnect_network(&container, name).await?;
    Ok(body::empty(StatusCode::OK))
}

/// Networks that no container is in, but for those that are always there.
pub(crate) async fn prune(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut deleted = Vec::new();
    for network in api.engine.networks() {
        let wanted = !network.is_predefined()
            && until.is_none_or(|until| network.created < until)
            && filters.labels(&network.labels)
            && !is_named(api, &network);
        // One that is used answers with a conflict and stays.
        if wanted && api.engine.remove_network(network.id.as_str()).await.is_ok() {
            deleted.push(network.name);
        }
    }
    body::json(StatusCode::OK, &json!({ "NetworksDeleted": deleted }))
}

/// Whether a container that does not run would need the network at its next start.
fn is_named(api: &Api, network: &NetworkRecord) -> bool {
    api.engine.containers().iter().any(|record| {
        crate::inspect::network_mode(record) == network.name
            || record.spec.endpoints.contains_key(&network.name)
    })
}
