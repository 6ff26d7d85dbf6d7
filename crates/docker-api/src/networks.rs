//! Networks.

use std::collections::BTreeMap;

use dray_engine::{Engine, NetworkRecord, NetworkSpec};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::create::{self, EndpointRequest};
use crate::duration::rfc3339;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;

fn document(engine: &Engine, network: &NetworkRecord, with_containers: bool) -> Value {
    let mut config = Vec::new();
    if let Some(subnet) = network.subnet {
        let gateway = network.gateway.map(|address| address.to_string()).unwrap_or_default();
        config.push(json!({ "Subnet": subnet.to_string(), "Gateway": gateway }));
    }
    let mut containers = Map::new();
    for record in with_containers.then(|| engine.containers()).into_iter().flatten() {
        for endpoint in record.endpoints.iter().filter(|endpoint| endpoint.network == network.id) {
            let address = endpoint.address.map(|address| format!("{address}/{}", endpoint.prefix));
            containers.insert(
                record.id.to_string(),
                json!({
                    "Name": record.name, "EndpointID": endpoint.id.as_str(),
                    "MacAddress": endpoint.mac.clone().unwrap_or_default(),
                    "IPv4Address": address.unwrap_or_default(), "IPv6Address": "",
                }),
            );
        }
    }
    json!({
        "Name": network.name,
        "Id": network.id.as_str(),
        "Created": rfc3339(Some(network.created)),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": config },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}

pub(crate) fn list(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters =
        Filters::parse(query, &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
    let listed: Vec<Value> = api
        .engine
        .networks()
        .iter()
        .filter(|network| {
            filters.any("name", |name| network.name.contains(name))
                && filters.any("id", |id| network.id.as_str().starts_with(id))
                && filters.any("driver", |driver| network.driver == driver)
                && filters.any("scope", |scope| scope == "local")
                && filters.any("type", |kind| (kind == "builtin") == network.is_predefined())
                && filters.labels(&network.labels)
        })
        .map(|network| document(&api.engine, network, false))
        .collect();
    body::json(StatusCode::OK, &listed)
}

pub(crate) fn inspect(api: &Api, name: &str) -> Result<Response<Body>> {
    let network = api.engine.network(name)?;
    body::json(StatusCode::OK, &document(&api.engine, &network, true))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateNetwork {
    name: String,
    driver: String,
    internal: bool,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<IpamConfig>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: String,
    gateway: String,
}

pub(crate) async fn create(api: &Api, incoming: Incoming) -> Result<Response<Body>> {
    let request: CreateNetwork = body::read_json(incoming).await?;
    if !["", "bridge", "default"].contains(&request.driver.as_str()) {
        return Err(ApiError::not_found(format!(
            "could not find plugin {} in v1 plugin registry: plugin not found",
            request.driver
        )));
    }
    let config = request.ipam.and_then(|ipam| ipam.config).unwrap_or_default().into_iter().next();
    let config = config.unwrap_or_default();
    let invalid = |what: &str, text: &str| ApiError::bad_request(format!("invalid {what} {text}"));
    let parse_subnet = |text: &str| text.parse().map_err(|_| invalid("subnet", text));
    let parse_gateway = |text: &str| text.parse().map_err(|_| invalid("gateway", text));
    let some = |text: &String| !text.is_empty();
    let spec = NetworkSpec {
        name: request.name,
        subnet: Some(&config.subnet).filter(|t| some(t)).map(|t| parse_subnet(t)).transpose()?,
        gateway: Some(&config.gateway).filter(|t| some(t)).map(|t| parse_gateway(t)).transpose()?,
        internal: request.internal,
        labels: request.labels.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
    };
    let network = api.engine.create_network(spec).await?;
    body::json(StatusCode::CREATED, &json!({ "Id": network.id.as_str(), "Warning": "" }))
}

pub(crate) async fn remove(api: &Api, name: &str) -> Result<Response<Body>> {
    let network = api.engine.network(name)?;
    if network.is_predefined() {
        let message = format!("{} is a pre-defined network and cannot be removed", network.name);
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    match api.engine.remove_network(name).await {
        // Docker's own code for this one.
        Err(error @ dray_engine::Error::Conflict { .. }) => {
            Err(ApiError::new(StatusCode::FORBIDDEN, error.to_string()))
        }
        result => Ok(result.map(|()| body::empty(StatusCode::NO_CONTENT))?),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Membership {
    container: String,
    endpoint_config: Option<EndpointRequest>,
}

pub(crate) async fn connect(api: &Api, name: &str, incoming: Incoming) -> Result<Response<Body>> {
    let request: Membership = body::read_json(incoming).await?;
    let container = api.engine.container(&request.container)?;
    let endpoint = create::endpoint_spec(request.endpoint_config.unwrap_or_default())?;
    api.engine.connect_network(&container, name, endpoint).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(api: &Api, name: &str, incoming: Incoming) -> Result<Response<Body>> {
    let request: Membership = body::read_json(incoming).await?;
    let container = api.engine.container(&request.container)?;
    api.engine.disconnect_network(&container, name).await?;
    Ok(body::empty(StatusCode::OK))
}

/// Networks that no container is in, but for those that are always there.
pub(crate) async fn prune(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["label", "label!", "until"])?;
    let mut deleted = Vec::new();
    for network in api.engine.networks() {
        let wanted = !network.is_predefined() && filters.labels(&network.labels) && !is_named(api, &network);
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
