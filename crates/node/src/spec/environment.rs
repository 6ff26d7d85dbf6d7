//! The environment of a container: Services, ConfigMaps and Secrets, its own entries, and what they refer to.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, ResourceFieldSelector};

use crate::api::{self, Data, Kind};
use crate::context::Context;
use crate::quantity;
use crate::services::{Known, Port};
use crate::{Error, Result};

/// What fields of the pod's status are told, when they are not in its object yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) pod: String,
    pub(crate) host: String,
}

/// Replaces `$(NAME)` by what `lookup` knows, `$$` by `$`; an unknown name stays as it is written.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => expanded.push_str(&value),
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

/// The variables that tell of a Service, as docker links had them.
fn service_variables(name: &str, known: &Known, variables: &mut BTreeMap<String, String>) {
    let prefix = name.to_ascii_uppercase().replace('-', "_");
    let Some(first) = known.ports.first() else { return };
    let mut set = |suffix: String, value: String| {
        variables.insert(format!("{prefix}_{suffix}"), value);
    };
    let url = |port: &Port| {
        let protocol = port.protocol.to_ascii_lowercase();
        format!("{protocol}://{}", join(&known.address, port.number))
    };
    set("SERVICE_HOST".into(), known.address.clone());
    set("SERVICE_PORT".into(), first.number.to_string());
    for port in known.ports.iter().filter(|port| !port.name.is_empty()) {
        let name = port.name.to_ascii_uppercase().replace('-', "_");
        set(format!("SERVICE_PORT_{name}"), port.number.to_string());
    }
    set("PORT".into(), url(first));
    for port in &known.ports {
        let place = format!("PORT_{}_{}", port.number, port.protocol.to_ascii_uppercase());
        set(place.clone(), url(port));
        set(format!("{place}_PROTO"), port.protocol.to_ascii_lowercase());
        set(format!("{place}_PORT"), port.number.to_string());
        set(format!("{place}_ADDR"), known.address.clone());
    }
}

fn join(address: &str, port: i32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn of_services(context: &Context, pod: &Pod) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    if links {
        for (name, known) in context.services.of(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            service_variables(&name, &known, &mut variables);
        }
    }
    let kubernetes = context.config.kubernetes_service;
    let port = |number| Port { name: "https".into(), number, protocol: "TCP".into() };
    let known =
        Known { address: kubernetes.ip().to_string(), ports: vec![port(i32::from(kubernetes.port()))] };
    service_variables("kubernetes", &known, &mut variables);
    variables
}

/// Reads each ConfigMap and Secret once for one container.
struct Sources<'a> {
    context: &'a Context,
    namespace: &'a str,
    read: HashMap<(Kind, String), Option<Data>>,
}

impl Sources<'_> {
    async fn get(&mut self, kind: Kind, name: &str) -> Result<Option<&Data>> {
        let key = (kind, name.to_owned());
        if !self.read.contains_key(&key) {
            let data = api::data(&self.context.client, kind, self.namespace, name).await?;
            self.read.insert(key.clone(), data);
        }
        Ok(self.read.get(&key).and_then(Option::as_ref))
    }

    /// One value; none when it is missing and may be.
    async fn value(&mut self, kind: Kind, name: &str, key: &str, optional: bool) -> Result<Option<String>> {
        let namespace = self.namespace.to_owned();
        let Some(data) = self.get(kind, name).await? else {
            return if optional { Ok(None) } else { Err(missing(kind, name)) };
        };
        match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => {
                let kind = if kind == Kind::Secret { "Secret" } else { "ConfigMap" };
                Err(Error::pod(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
            }
        }
    }
}

fn missing(kind: Kind, name: &str) -> Error {
    Error::pod(format!("{} {name:?} not found", kind.as_str()))
}

/// The environment, in order, without repetitions.
pub(crate) async fn build(
    context: &Context,
    pod: &Pod,
    container: &Container,
    addresses: &Addresses,
) -> Result<Vec<(String, String)>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let services = of_services(context, pod);
    let mut sources = Sources { context, namespace, read: HashMap::new() };
    let mut all: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (Kind::ConfigMap, &map.name, map.optional),
            (_, Some(secret)) => (Kind::Secret, &secret.name, secret.optional),
            (None, None) => continue,
        };
        let Some(data) = sources.get(kind, name).await? else {
            if optional == Some(true) {
                continue;
            }
            return Err(missing(kind, name));
        };
        for (key, value) in data {
            if key.is_empty() || key.contains(['=', '\0']) {
                continue;
            }
            set(&mut all, format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
        }
    }
    for entry in container.env.iter().flatten() {
        let value = match &entry.value_from {
            Some(_) => match from_source(context, pod, container, addresses, &mut sources, entry).await? {
                Some(value) => value,
                None => continue,
            },
            None => expand(entry.value.as_deref().unwrap_or_default(), |name| {
                lookup(&all, name).or_else(|| services.get(name).cloned())
            }),
        };
        set(&mut all, entry.name.clone(), value);
    }
    for (name, value) in services {
        if lookup(&all, &name).is_none() {
            all.push((name, value));
        }
    }
    Ok(all)
}

pub(crate) fn lookup(all: &[(String, String)], name: &str) -> Option<String> {
    all.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn set(all: &mut Vec<(String, String)>, name: String, value: String) {
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name, value)),
    }
}

async fn from_source(
    context: &Context,
    pod: &Pod,
    container: &Container,
    addresses: &Addresses,
    sources: &mut Sources<'_>,
    entry: &EnvVar,
) -> Result<Option<String>> {
    let Some(from) = &entry.value_from else { return Ok(None) };
    if let Some(field) = &from.field_ref {
        return self::field(pod, &field.field_path, addresses, context).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return self::resource(pod, container, resource, context).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        return sources.value(Kind::ConfigMap, &key.name, &key.key, key.optional == Some(true)).await;
    }
    if let Some(key) = &from.secret_key_ref {
        return sources.value(Kind::Secret, &key.name, &key.key, key.optional == Some(true)).await;
    }
    Err(Error::pod(format!("the source of the variable {} is not supported", entry.name)))
}

fn of_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A field of the pod, as the downward API names it.
pub(crate) fn field(pod: &Pod, path: &str, addresses: &Addresses, context: &Context) -> Result<String> {
    let metadata = &pod.metadata;
    let subscript =
        |field: &str| path.strip_prefix(field)?.strip_prefix("['").and_then(|rest| rest.strip_suffix("']"));
    if let Some(key) = subscript("metadata.labels") {
        return Ok(metadata.labels.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(metadata.annotations.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => of_map(metadata.labels.as_ref()),
        "metadata.annotations" => of_map(metadata.annotations.as_ref()),
        "spec.nodeName" => context.config.name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" | "status.podIPs" => addresses.pod.clone(),
        "status.hostIP" | "status.hostIPs" => addresses.host.clone(),
        other => return Err(Error::pod(format!("unsupported fieldPath: {other}"))),
    })
}

/// A container's resource, in the unit of its divisor.
pub(crate) fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    context: &Context,
) -> Result<String> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => container,
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| container.name == name)
            .ok_or_else(|| Error::pod(format!("container {name} not found")))?,
    };
    let (side, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| Error::pod(format!("unsupported container resource: {}", selector.resource)))?;
    let resources = container.resources.as_ref();
    let list = match side {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(Error::pod(format!("unsupported container resource: {}", selector.resource))),
    };
    let set = quantity::milli_of(list, name);
    // A limit that is not set is the node's own.
    let amount = match (set, side, name) {
        (Some(amount), ..) => i128::from(amount),
        (None, "limits", "cpu") => std::thread::available_parallelism().map_or(1, usize::from) as i128 * 1000,
        (None, "limits", "memory") => i128::from(context.memory) * 1000,
        _ => 0,
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(quantity::parse)
        .map(|divisor| i128::from(divisor.millis()))
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok((amount.div_euclid(divisor) + i128::from(amount.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_the_reference_does() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    #[test]
    fn services_are_told_as_links_were() {
        let known = Known {
            address: "10.43.0.9".into(),
            ports: vec![Port { name: "web-ui".into(), number: 80, protocol: "TCP".into() }],
        };
        let mut variables = BTreeMap::new();
        service_variables("my-app", &known, &mut variables);
        let expected = [
            ("MY_APP_PORT", "tcp://10.43.0.9:80"),
            ("MY_APP_PORT_80_TCP", "tcp://10.43.0.9:80"),
            ("MY_APP_PORT_80_TCP_ADDR", "10.43.0.9"),
            ("MY_APP_PORT_80_TCP_PORT", "80"),
            ("MY_APP_PORT_80_TCP_PROTO", "tcp"),
            ("MY_APP_SERVICE_HOST", "10.43.0.9"),
            ("MY_APP_SERVICE_PORT", "80"),
            ("MY_APP_SERVICE_PORT_WEB_UI", "80"),
        ];
        let found: Vec<(&str, &str)> = variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
    }
}
