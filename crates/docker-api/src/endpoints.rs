//! A container's places in networks, as requests ask for them and as inspect shows them.

use std::collections::BTreeMap;

use dray_engine::{ContainerRecord, EndpointRecord, EndpointSpec, NetworkMode};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::version::Version;
use crate::wire::request;

request! {
    pub(crate) EndpointRequest {
        aliases: Vec<String> = "Aliases",
        addresses: AddressRequest = "IPAMConfig",
        mac: String = "MacAddress",
        links: Vec<String> = "Links",
        driver_options: BTreeMap<String, String> = "DriverOpts",
        gateway_priority: i64 = "GwPriority",
    }
}
request! { pub(crate) AddressRequest { ipv4: String = "IPv4Address", ipv6: String = "IPv6Address" } }

pub(crate) fn network_name(name: &str) -> String {
    if name == "default" { "bridge".to_owned() } else { name.to_owned() }
}

pub(crate) fn network_mode(mode: &str) -> NetworkMode {
    match mode {
        "" | "default" | "bridge" => NetworkMode::Default,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => match other.strip_prefix("container:") {
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    }
}

/// A place in a network as the engine is asked for it.
pub(crate) fn spec(request: EndpointRequest) -> Result<EndpointSpec> {
    fn address<T: std::str::FromStr>(text: &str, version: &str) -> Result<Option<T>> {
        let invalid = |_| {
            ApiError::bad_request(format!("invalid endpoint settings:\ninvalid {version} address: {text}"))
        };
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(invalid) }
    }
    Ok(EndpointSpec {
        address: address(&request.addresses.ipv4, "IPv4")?,
        ipv6_address: address(&request.addresses.ipv6, "IPv6")?,
        aliases: request.aliases,
        mac: Some(request.mac).filter(|mac| !mac.is_empty()),
        links: request.links,
        driver_options: request.driver_options,
        gateway_priority: request.gateway_priority,
    })
}

/// A place as inspect shows it.
pub(crate) fn document(record: &ContainerRecord, endpoint: &EndpointRecord, version: Version) -> Value {
    let name = endpoint.network_name.as_str();
    let spec = record.spec.endpoints.get(name).cloned().unwrap_or_default();
    let is_own = !matches!(name, "bridge" | "host" | "none");
    let mut aliases = spec.aliases;
    // Up to 1.44 the short id was among the aliases.
    if is_own && version < Version::new(1, 45) && !aliases.iter().any(|alias| alias == record.id.short()) {
        aliases.push(record.id.short().to_owned());
    }
    let mut fixed = Map::new();
    fixed.extend(spec.address.map(|address| ("IPv4Address".to_owned(), json!(address.to_string()))));
    fixed.extend(spec.ipv6_address.map(|address| ("IPv6Address".to_owned(), json!(address.to_string()))));
    let link_local =
        &record.spec.api["NetworkingConfig"]["EndpointsConfig"][name]["IPAMConfig"]["LinkLocalIPs"];
    if !link_local.is_null() {
        fixed.insert("LinkLocalIPs".to_owned(), link_local.clone());
    }
    let or_null = |is_empty: bool, value: Value| if is_empty { Value::Null } else { value };
    let text = |address: Option<String>| address.unwrap_or_default();
    json!({
        "IPAMConfig": or_null(fixed.is_empty(), Value::Object(fixed)),
        "Links": or_null(spec.links.is_empty(), json!(spec.links)),
        "Aliases": or_null(aliases.is_empty(), json!(aliases)),
        "MacAddress": endpoint.mac.clone().or(spec.mac).unwrap_or_default(),
        "DriverOpts": or_null(spec.driver_options.is_empty(), json!(spec.driver_options)),
        "GwPriority": spec.gateway_priority,
        "NetworkID": endpoint.network.as_str(),
        "EndpointID": endpoint.id.as_str(),
        "Gateway": text(endpoint.gateway.map(|address| address.to_string())),
        "IPAddress": text(endpoint.address.map(|address| address.to_string())),
        "IPPrefixLen": endpoint.prefix,
        "IPv6Gateway": text(endpoint.ipv6_gateway.map(|address| address.to_string())),
        "GlobalIPv6Address": text(endpoint.ipv6_address.map(|address| address.to_string())),
        "GlobalIPv6PrefixLen": endpoint.ipv6_prefix,
        "DNSNames": or_null(!is_own || endpoint.names.is_empty(), json!(endpoint.names)),
    })
}
