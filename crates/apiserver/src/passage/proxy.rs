//! Requests for what pods, Services and nodes serve themselves: `pods/NAME/proxy/PATH` and its like
//! (<https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/>). Both bodies go through as they
//! come, and a connection that changes its protocol goes through as a whole.

use std::net::IpAddr;

use dray_machinery::{Reason, Status, Subresource, object};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{self, InvalidHeaderValue},
    request::Parts,
};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use super::{
    dial::{self, Address, Tls, Trust, authority},
    exchange::{self, Exchange},
    links::{self, Links},
    places::{is_proxyable, pod_addresses},
};
use crate::{
    body::{self, ResponseBody},
    request::ResourceRequest,
    respond::Answer,
    server::{Inner, NodeStream},
};

/// The port of a node's agent where the node does not say.
const AGENT_PORT: u64 = 10_250;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What another server says of other pages' rights, which are for this server to say.
const OF_OTHER_PAGES: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// The client's address, which others are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Whether a path is one whose requests go through to others: their bodies must not be waited for.
pub(crate) fn is_proxy_path(path: &str) -> bool {
    let mut segments = path.trim_start_matches('/').split('/');
    let mut next = || segments.next().unwrap_or_default();
    if (next(), next()) != ("api", "v1") {
        return false;
    }
    let known = match next() {
        "namespaces" => !next().is_empty() && matches!(next(), "pods" | "services"),
        resource => resource == "nodes",
    };
    known && !next().is_empty() && next() == "proxy"
}

/// "NAME", "NAME:PORT" or "SCHEME:NAME:PORT".
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asked<'a> {
    fn read(text: &'a str) -> Option<Asked<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Asked {
            tls: scheme == "https",
            name,
            port,
        })
    }
}

/// Who is meant.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// The agent of a node.
    Agent(String),
    Server {
        address: Address,
        tls: bool,
    },
}

fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

/// A port that has to be a number.
fn number(port: &str) -> Result<u16, Status> {
    port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))
}

/// Where a pod is reached: at the port that was asked for, or the first that it names.
fn of_pod(pod: &Value, asked: &Asked<'_>) -> Result<Target, Status> {
    let address = pod_addresses(pod).first().copied().unwrap_or_default();
    if !is_proxyable(address) {
        return Err(not_allowed());
    }
    let port = match asked.port {
        "" => {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let mut ports =
                containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
            let first = ports.next().and_then(|port| u16::try_from(port).ok());
            first.unwrap_or(if asked.tls { 443 } else { 80 })
        }
        port => number(port)?,
    };
    Ok(Target::Server { address: (address.to_owned(), port), tls: asked.tls })
}

/// Where a node is reached: its agent, or what else listens there.
fn of_node(node: &Value, asked: &Asked<'_>) -> Result<Target, Status> {
    let agent = object::at(node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).as_u64();
    let agent = agent.filter(|port| *port > 0).unwrap_or(AGENT_PORT);
    if asked.port.is_empty() || asked.port == agent.to_string() {
        return Ok(Target::Agent(asked.name.to_owned()));
    }
    let port = number(asked.port)?;
    let known = node["status"]["addresses"].as_array().into_iter().flatten();
    let of = |kind: &str| known.clone().find(|one| one["type"] == kind)?["address"].as_str();
    let address = of("InternalIP").or_else(|| of("ExternalIP")).unwrap_or_default();
    if !is_proxyable(address) {
        return Err(not_allowed());
    }
    Ok(Target::Server { address: (address.to_owned(), port), tls: asked.tls })
}

impl Inner {
    fn target(&self, part: Subresource, request: &ResourceRequest) -> Result<Target, Status> {
        let asked = Asked::read(&request.name).ok_or_else(|| {
            let kind = request.kind.singular;
            Status::bad_request(format!("invalid {kind} request {:?}", request.name))
        })?;
        let object = || {
            let found = self.object(&request.kind.storage(), request.stored_name(asked.name));
            found.ok_or_else(|| Status::not_found("", request.kind.plural, asked.name))
        };
        match part {
            Subresource::PodProxy => of_pod(&object()?, &asked),
            Subresource::NodeProxy => of_node(&object()?, &asked),
            _ => self.of_service(&object()?, &request.namespace, &asked),
        }
    }

    /// Where a Service is reached: at one of its pods. A port is named, by its number or its name, as the Service has it.
    fn of_service(&self, service: &Value, namespace: &str, asked: &Asked<'_>) -> Result<Target, Status> {
        let unavailable = |why: String| Status::new(503, Reason::ServiceUnavailable, why);
        let name = match asked.port.parse::<u32>() {
            Ok(number) => {
                let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
                let found = ports.find(|port| port["port"] == number).ok_or_else(|| {
                    unavailable(format!("no service port {number} found for service {:?}", asked.name))
                })?;
                object::text(found, &["name"])
            }
            Err(_) => asked.port,
        };
        let address = self.pods_of(namespace, asked.name, name).into_iter().next();
        let address = address
            .ok_or_else(|| unavailable(format!("no endpoints available for service {:?}", asked.name)))?;
        Ok(Target::Server { address, tls: asked.tls })
    }

    async fn open(&self, target: &Target) -> Result<Box<dyn NodeStream>, String> {
        match target {
            Target::Agent(node) => self.connect_agent(node).await,
            Target::Server { address, tls: false } => {
                dial::connect(std::slice::from_ref(address), None).await
            }
            Target::Server { address, tls: true } => {
                // Pods and Services are reached by their address, which no certificate of theirs is for.
                let tls = Tls { name: address.0.clone(), config: dial::config(Trust::Anybody, None)? };
                dial::connect(std::slice::from_ref(address), Some(&tls)).await
            }
        }
    }

    /// Lets a request through to whom it names.
    pub(crate) async fn proxy(
        &self,
        part: Subresource,
        request: &ResourceRequest,
        parts: &mut Parts,
        body: ResponseBody,
    ) -> Result<Answer, Status> {
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Status::method_not_allowed());
        }
        let target = self.target(part, request)?;
        let path = parts.uri.path();
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.filter(|_| exchange::wanted_protocol(&parts.headers).is_some());
        if upgrade.is_none() && request.below.is_empty() && matches!(parts.method, Method::GET | Method::HEAD)
        {
            return moved(&format!("{path}/{query}"));
        }
        let prefix = path.strip_suffix(&request.below).unwrap_or(path).to_owned();
        let host = match &target {
            Target::Agent(node) => node.clone(),
            Target::Server { address: (host, port), .. } => authority(host, *port),
        };
        let asked = asked_host(parts);
        let outgoing = outgoing(parts, &request.below, &query, &asked, &host, body)?;
        let stream = self.open(&target).await;
        let Some(upgrade) = upgrade else {
            let unreachable = |why: &dyn std::fmt::Display| {
                Status::new(503, Reason::ServiceUnavailable, format!("error trying to reach service: {why}"))
            };
            let stream = stream.map_err(|why| unreachable(&why))?;
            let exchange = exchange::send(stream, outgoing).await.map_err(|why| unreachable(&told(&why)))?;
            let links = Links { prefix, server: host, asked };
            return Ok(incoming(exchange, links, parts.method == Method::HEAD));
        };
        let failed = |why: String| Status::new(500, Reason::Unknown, why);
        let stream = stream.map_err(|why| failed(format!("error dialing backend: {why}")))?;
        let exchange = exchange::send(stream, outgoing).await.map_err(|why| failed(told(&why)))?;
        match exchange.answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => Ok(exchange.join(upgrade)),
            code if code.as_u16() < 400 => {
                Err(failed(format!("invalid upgrade response: status code {}", code.as_u16())))
            }
            _ => Ok(answered(exchange)),
        }
    }
}

/// Why a server did not answer, in a word that users know.
pub(crate) fn told(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

/// Whom the client says that it asks.
fn asked_host(parts: &Parts) -> String {
    let named = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    named.or(parts.uri.authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

fn moved(place: &str) -> Result<Answer, Status> {
    let mut answer = Answer::new(body::full(""));
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let place = HeaderValue::from_str(place).map_err(|_| Status::bad_request("the path is no path"))?;
    answer.headers_mut().insert(header::LOCATION, place);
    Ok(answer)
}

/// A path without what leads up and nowhere.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// The request that goes on.
fn outgoing(
    parts: &Parts,
    below: &str,
    query: &str,
    asked: &str,
    host: &str,
    body: ResponseBody,
) -> Result<Request<ResponseBody>, Status> {
    let wrong = || Status::bad_request("the request cannot be passed on");
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = format!("{}{query}", clean(below)).parse::<Uri>().map_err(|_| wrong())?;
    let mut headers = exchange::outgoing(&parts.headers);
    let host = if asked.is_empty() { host } else { asked };
    headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| wrong())?);
    let path = HeaderValue::from_str(&clean(parts.uri.path())).map_err(|_| wrong())?;
    headers.insert(FORWARDED_URI, path);
    forward_for(parts, &mut headers).map_err(|_| wrong())?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Tells for whom a request is passed on: an address more than it had.
pub(crate) fn forward_for(parts: &Parts, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
    let Some(Peer(peer)) = parts.extensions.get::<Peer>() else { return Ok(()) };
    let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = before.map(str::to_owned).chain([peer.to_string()]).collect();
    headers.insert(FORWARDED_FOR, HeaderValue::from_str(&all.join(", "))?);
    Ok(())
}

/// Takes away what another server says of other pages' rights.
pub(crate) fn drop_rights(headers: &mut HeaderMap) {
    for name in OF_OTHER_PAGES {
        headers.remove(name);
    }
}

/// What a server answered, as it is.
pub(crate) fn answered(exchange: Exchange) -> Answer {
    let (mut head, body) = exchange.answer.into_parts();
    exchange::strip(&mut head.headers);
    let mut answer = Answer::new(body.map_err(|error| Box::new(error) as _).boxed_unsync());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    answer
}

/// What a server answered, with addresses that lead through this one.
fn incoming(exchange: Exchange, links: Links, bodiless: bool) -> Answer {
    let mut answer = answered(exchange);
    let headers = answer.headers_mut();
    drop_rights(headers);
    if let Some(place) = headers.get(header::LOCATION) {
        let led = place.to_str().ok().and_then(|place| links.lead(place));
        if let Some(led) = led.and_then(|led| HeaderValue::from_str(&led).ok()) {
            headers.insert(header::LOCATION, led);
        }
        return answer;
    }
    let text = |name: HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_owned()
    };
    let (media, encoding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
    let media = media.split(';').next().unwrap_or_default().trim();
    if bodiless || !media.eq_ignore_ascii_case("text/html") {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let body = links::page(body, links, &encoding).inspect(|_| {
        // It is another length now.
        head.headers.remove(header::CONTENT_LENGTH);
    });
    Answer::from_parts(head, body.unwrap_or_else(|body| body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_that_go_through() {
        for (path, expected) in [
            ("/api/v1/namespaces/n/pods/p/proxy", true),
            ("/api/v1/namespaces/n/pods/https:p:1/proxy/", true),
            ("/api/v1/namespaces/n/services/s/proxy/a/b", true),
            ("/api/v1/nodes/n/proxy/healthz", true),
            ("/api/v1/namespaces/n/pods/proxy", false),
            ("/api/v1/namespaces/n/pods/p/log", false),
            ("/api/v1/namespaces/n/configmaps/p/proxy", false),
            ("/api/v1/pods/p/proxy", false),
            ("/apis/apps/v1/namespaces/n/pods/p/proxy", false),
            ("/", false),
        ] {
            assert_eq!(is_proxy_path(path), expected, "{path}");
        }
    }

    #[test]
    fn names_say_how_and_where() {
        let asked = |tls, name, port| Some(Asked { tls, name, port });
        for (text, expected) in [
            ("web", asked(false, "web", "")),
            ("web:80", asked(false, "web", "80")),
            ("http:web:80", asked(false, "web", "80")),
            ("https:web:", asked(true, "web", "")),
            (":web:http", asked(false, "web", "http")),
            ("ftp:web:80", None),
            ("https::80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Asked::read(text), expected, "{text}");
        }
    }

    fn check(found: Result<Target, Status>, expected: Result<(&str, u16, bool), &str>) {
        let found = found.map_err(|status| status.message.clone());
        let expected = expected
            .map(|(host, port, tls)| match port {
                0 => Target::Agent(host.to_owned()),
                port => Target::Server { address: (host.to_owned(), port), tls },
            })
            .map_err(str::to_owned);
        assert_eq!(found, expected);
    }

    #[test]
    fn pods_are_reached_where_they_may_be() {
        let pod = |address: &str| {
            json!({ "status": { "podIP": address }, "spec": { "containers": [
                { "name": "a" }, { "name": "b", "ports": [{ "containerPort": 8080 }, { "containerPort": 9090 }] },
            ] } })
        };
        for (address, asked, expected) in [
            ("10.0.0.1", "p", Ok(("10.0.0.1", 8080, false))),
            ("10.0.0.1", "p:81", Ok(("10.0.0.1", 81, false))),
            ("fd00::1", "https:p:81", Ok(("fd00::1", 81, true))),
            ("10.0.0.1", "p:http", Err("invalid port \"http\"")),
            ("10.0.0.1", "p:70000", Err("invalid port \"70000\"")),
            ("127.0.0.1", "p", Err("address not allowed")),
            ("169.254.169.254", "p:80", Err("address not allowed")),
            ("", "p", Err("address not allowed")),
        ] {
            check(of_pod(&pod(address), &Asked::read(asked).unwrap()), expected);
        }
        let bare = json!({ "status": { "podIPs": [{ "ip": "10.0.0.2" }, { "ip": "fd00::2" }] } });
        for (asked, expected) in
            [("p", Ok(("10.0.0.2", 80, false))), ("https:p:", Ok(("10.0.0.2", 443, true)))]
        {
            check(of_pod(&bare, &Asked::read(asked).unwrap()), expected);
        }
    }

    #[test]
    fn nodes_are_reached_through_their_agents() {
        let node = |port: u16, address: &str| {
            json!({ "status": {
                "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
                "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": address }],
            } })
        };
        for (port, address, asked, expected) in [
            (10250, "10.0.0.1", "n", Ok(("n", 0, false))),
            (10250, "127.0.0.1", "https:n:10250", Ok(("n", 0, false))),
            (0, "10.0.0.1", "n:10250", Ok(("n", 0, false))),
            (20250, "10.0.0.1", "n:10250", Ok(("10.0.0.1", 10250, false))),
            (10250, "10.0.0.1", "https:n:9100", Ok(("10.0.0.1", 9100, true))),
            (10250, "127.0.0.1", "n:22", Err("address not allowed")),
            (10250, "10.0.0.1", "n:ssh", Err("invalid port \"ssh\"")),
        ] {
            check(of_node(&node(port, address), &Asked::read(asked).unwrap()), expected);
        }
    }

    #[test]
    fn paths_lead_nowhere_above() {
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a//./b", "/a/b"),
            ("/../../a", "/a"),
            ("/a/../", "/"),
            ("/a%2Fb%20c", "/a%2Fb%20c"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
