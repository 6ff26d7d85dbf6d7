//! The way through to the node agents: logs, exec, attach, port-forward. The API server checks and passes
//! bytes on; what is in the streams it does not know.

use std::{collections::BTreeSet, sync::Arc};

use dray_machinery::{Status, Subresource, object};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

use crate::{
    body,
    passage::exchange,
    query,
    request::ResourceRequest,
    respond::{self, Answer},
    server::{Inner, NodeStream},
};

const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// The parameters of `PodLogOptions` that the agent is told, as they are named.
const LOG_PARAMETERS: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// The names of a pod's containers, in the order of the reference: init, main, ephemeral.
fn containers(pod: &Value) -> Vec<&str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| object::at(pod, &["spec", field]).as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect()
}

/// The container that a request means.
fn container<'a>(pod: &'a Value, name: &'a str, wanted: &'a str) -> Result<&'a str, Status> {
    let all = containers(pod);
    if !wanted.is_empty() {
        return if all.contains(&wanted) {
            Ok(wanted)
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    let annotated =
        object::at(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]).as_str();
    if let Some(annotated) = annotated.filter(|annotated| all.contains(annotated)) {
        return Ok(annotated);
    }
    let names = |field: &str| -> Vec<&str> {
        object::at(pod, &["spec", field])
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect()
    };
    let main = names("containers");
    match main.as_slice() {
        [only] => Ok(only),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            let init = names("initContainers");
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// What a connection to a pod asks for, as admission shows it.
pub(crate) fn options(subresource: Subresource, request: &ResourceRequest) -> Value {
    let kind = subresource.kind().map_or("", |(_, _, kind)| kind);
    let mut options = json!({ "kind": kind, "apiVersion": "v1" });
    let query = &request.query;
    if subresource.is_proxy() {
        if !request.below.is_empty() {
            options["path"] = json!(query::decode(&request.below, false));
        }
        return options;
    }
    if subresource == Subresource::PortForward {
        let ports: Vec<u16> = query
            .all("ports")
            .flat_map(|list| list.split(','))
            .filter_map(|port| port.parse().ok())
            .collect();
        if !ports.is_empty() {
            options["ports"] = json!(ports);
        }
        return options;
    }
    for stream in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(stream) {
            options[stream] = json!(true);
        }
    }
    if !query.get("container").is_empty() {
        options["container"] = json!(query.get("container"));
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    options
}

impl Inner {
    pub(crate) async fn node_request(
        self: &Arc<Self>,
        subresource: Subresource,
        request: &ResourceRequest,
        parts: &mut Parts,
    ) -> Result<Answer, Status> {
        let method_fits = match subresource {
            Subresource::Log => parts.method == Method::GET,
            _ => matches!(parts.method, Method::GET | Method::POST),
        };
        if !method_fits {
            return Err(Status::method_not_allowed());
        }
        let entry = self.store.get(&self.key(request, &request.name)).ok_or_else(|| request.not_found())?;
        let pod = respond::parse(entry.json())?;
        let node = object::text(&pod, &["spec", "nodeName"]);
        let phase = object::text(&pod, &["status", "phase"]);
        let path = self.agent_path(subresource, request, &pod, phase)?;
        if node.is_empty() {
            return match subresource {
                // A pod that no node runs has said nothing yet.
                Subresource::Log => Ok(respond::text(StatusCode::OK, "")),
                _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", request.name))),
            };
        }
        // A log may be asked for as the messages of a WebSocket; all else always changes the protocol.
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.filter(|_| parts.headers.contains_key(header::UPGRADE));
        if subresource != Subresource::Log && upgrade.is_none() {
            return Err(Status::bad_request("Upgrade request required"));
        }
        self.forward(node, &path, parts, upgrade).await
    }

    fn agent_path(
        &self,
        subresource: Subresource,
        request: &ResourceRequest,
        pod: &Value,
        phase: &str,
    ) -> Result<String, Status> {
        let query = &request.query;
        let place = format!("{}/{}", request.namespace, request.name);
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        let path = match subresource {
            Subresource::Log => {
                let container = container(pod, &request.name, query.get("container"))?;
                for name in ["tailLines", "sinceSeconds", "limitBytes"] {
                    query.number(name)?;
                }
                parameters.extend(query.pairs().filter(|(key, _)| LOG_PARAMETERS.contains(key)));
                format!("/containerLogs/{place}/{container}")
            }
            Subresource::PortForward => {
                let ports: BTreeSet<&str> = query.all("ports").collect();
                parameters.extend(ports.into_iter().map(|port| ("port", port)));
                format!("/portForward/{place}")
            }
            _ => {
                if matches!(phase, "Succeeded" | "Failed") {
                    return Err(Status::bad_request(format!(
                        "cannot exec into a container in a completed pod; current phase is {phase}"
                    )));
                }
                let container = container(pod, &request.name, query.get("container"))?;
                for (from, to) in
                    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
                {
                    if query.flag(from) {
                        parameters.push((to, "1"));
                    }
                }
                if subresource == Subresource::Exec {
                    parameters.extend(query.all("command").map(|word| ("command", word)));
                    if query.all("command").next().is_none() {
                        return Err(Status::bad_request(
                            "you must specify at least one command for the container",
                        ));
                    }
                }
                if !["stdin", "stdout", "stderr"].into_iter().any(|stream| query.flag(stream)) {
                    return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
                }
                let verb = if subresource == Subresource::Exec { "exec" } else { "attach" };
                format!("/{verb}/{place}/{container}")
            }
        };
        let encoded: Vec<String> = parameters
            .iter()
            .map(|(key, value)| format!("{}={}", query::encode(key), query::encode(value)))
            .collect();
        Ok(if encoded.is_empty() { path } else { format!("{path}?{}", encoded.join("&")) })
    }

    /// Opens a connection to the agent of a node.
    pub(crate) async fn connect_agent(&self, node: &str) -> Result<Box<dyn NodeStream>, String> {
        let connector = self.config.node_connector.clone();
        let connector = connector.ok_or_else(|| "no node can be reached".to_owned())?;
        connector.connect(node).await.map_err(|error| error.to_string())
    }

    /// Asks the agent of a node and hands on what it answers.
    async fn forward(
        &self,
        node: &str,
        path: &str,
        parts: &Parts,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Answer, Status> {
        let unreachable =
            |why: &dyn std::fmt::Display| Status::internal(format!("error dialing backend: {why}"));
        let stream = self.connect_agent(node).await.map_err(|why| unreachable(&why))?;
        let mut request = Request::new(body::full(""));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() =
            path.parse::<Uri>().map_err(|_| Status::bad_request("the request's path is no path"))?;
        if upgrade.is_some() {
            copy_upgrade(&parts.headers, request.headers_mut());
        }
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("node"));
        let exchange = exchange::send(stream, request).await.map_err(|error| unreachable(&error))?;
        if exchange.answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = upgrade
                .ok_or_else(|| Status::internal("the node agent changed the protocol without being asked"))?;
            return Ok(exchange.join(upgrade));
        }
        // Only an answer comes back, whatever was asked: the connection is not the client's.
        let (head, body) = exchange.answer.into_parts();
        let mut answer = Answer::new(body.map_err(|error| Box::new(error) as _).boxed_unsync());
        *answer.status_mut() = head.status;
        if let Some(media) = head.headers.get(header::CONTENT_TYPE) {
            answer.headers_mut().insert(header::CONTENT_TYPE, media.clone());
        }
        Ok(answer)
    }
}

/// Copies what an upgrade needs: the protocol, the WebSocket's handshake, the versions of the streams.
fn copy_upgrade(from: &HeaderMap, to: &mut HeaderMap) {
    exchange::ask_upgrade(to, exchange::wanted_protocol(from));
    for (name, value) in &exchange::outgoing(from) {
        if name.as_str().starts_with("sec-websocket-") || *name == STREAM_VERSION {
            to.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_chosen_as_the_reference_does() {
        let one = json!({ "spec": { "containers": [{ "name": "a" }] } });
        assert_eq!(container(&one, "p", "").unwrap(), "a");
        assert_eq!(container(&one, "p", "x").unwrap_err().message, "container x is not valid for pod p");
        let two = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }] } });
        assert_eq!(
            container(&two, "p", "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        let mut named = two.clone();
        named["metadata"] = json!({ "annotations": { "kubectl.kubernetes.io/default-container": "b" } });
        assert_eq!(container(&named, "p", "").unwrap(), "b");
    }
}
