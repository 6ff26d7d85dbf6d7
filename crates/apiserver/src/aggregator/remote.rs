//! Requests for what others serve: who asks is told to their server under this server's own certificate, which is how it
//! knows that it may believe that.

use dray_access::{Attributes, User};
use dray_machinery::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;

use super::{Registered, directory::Place};
use crate::{
    body::{self, ResponseBody},
    passage::{
        dial::{self, authority},
        exchange,
        proxy::{answered, drop_rights, forward_for, told},
    },
    query::{self, Query},
    request::{self, Subject},
    respond::{self, Answer},
    server::Inner,
};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const ORGANISATION: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// What a request is about that others answer, by its path alone.
#[derive(Debug, Default)]
pub(crate) struct Target {
    group: String,
    version: String,
    namespace: String,
    resource: String,
    name: String,
    part: String,
    query: Query,
}

impl Target {
    /// Reads a path; none where it is about no resource.
    pub(crate) fn read(path: &str, query: Query) -> Option<Target> {
        let segments = path.trim_matches('/').split('/');
        let mut segments: Vec<String> =
            segments.map(|segment| query::decode(segment, false).into_owned()).collect();
        if segments.first().is_none_or(|first| first != "apis") || segments.len() < 4 {
            return None;
        }
        let mut rest = segments.split_off(3);
        let mut namespace = String::new();
        if rest[0] == "namespaces" && rest.len() > 1 {
            namespace.clone_from(&rest[1]);
            if rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
                rest.drain(..2);
            }
        }
        let mut rest = rest.into_iter();
        let mut next = || rest.next().unwrap_or_default();
        let (resource, name, part) = (next(), next(), next());
        let mut before = segments.into_iter().skip(1);
        let (group, version) = (before.next().unwrap_or_default(), before.next().unwrap_or_default());
        Some(Target { group, version, namespace, resource, name, part, query })
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            part: &self.part,
            namespace: &self.namespace,
            name: &self.name,
        }
    }

    pub(crate) fn verb(&self, method: &Method) -> &'static str {
        request::verb_of(method, !self.name.is_empty(), self.query.flag("watch"))
    }

    /// What it asks for, in the words of the rules of access.
    pub(crate) fn attributes(&self, method: &Method) -> Attributes<'_> {
        self.subject().attributes(self.verb(method), self.query.get("fieldSelector"))
    }
}

/// Tells a server who asks.
pub(super) fn introduce(headers: &mut HeaderMap, user: &User) -> Result<(), http::Error> {
    headers.insert(USER, HeaderValue::from_str(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, HeaderValue::from_str(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(ORGANISATION, HeaderValue::from_str(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("{EXTRA}{}", query::encode(key)))?;
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value)?);
        }
    }
    Ok(())
}

/// A refusal in plain text, as the reference has it here.
fn plain(code: StatusCode, why: &str) -> Answer {
    let mut answer = respond::text(code, format!("{why}\n"));
    let sniff = HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, sniff);
    answer
}

impl Inner {
    /// Lets a request of somebody through to the server of a version of a group.
    pub(crate) async fn send_on(
        &self,
        registered: &Registered,
        user: &User,
        parts: &mut Parts,
        body: ResponseBody,
    ) -> Result<Answer, Status> {
        let unavailable = |why: &str| Ok(plain(StatusCode::SERVICE_UNAVAILABLE, why));
        let unreachable = |why: &str| format!("error trying to reach service: {why}");
        let remote = registered.remote.as_ref().filter(|remote| remote.is_available);
        let Some(remote) = remote else { return unavailable("service unavailable") };
        let (host, stream) = match &remote.place {
            Place::Here(extension) => ("localhost".to_owned(), extension.connect()),
            Place::Service(behind) => {
                let tls = match &behind.tls {
                    Ok(tls) => tls,
                    Err(why) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, why)),
                };
                let addresses = match self.addresses(&behind.namespace, &behind.service, behind.port) {
                    Ok(addresses) => addresses,
                    Err(why) => {
                        tracing::debug!(name = registered.name, why, "an APIService is nowhere");
                        return unavailable("service unavailable");
                    }
                };
                let host = addresses.first().map(|(host, port)| authority(host, *port)).unwrap_or_default();
                match dial::connect(&addresses, Some(tls)).await {
                    Ok(stream) => (host, stream),
                    Err(why) => return unavailable(&unreachable(&why)),
                }
            }
        };
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.filter(|_| exchange::wanted_protocol(&parts.headers).is_some());
        let request = outgoing(parts, user, &host, body)
            .map_err(|_| Status::bad_request("the request cannot be passed on"))?;
        let exchange = match exchange::send(stream, request).await {
            Ok(exchange) => exchange,
            Err(error) => return unavailable(&unreachable(&told(&error))),
        };
        let code = exchange.answer.status();
        if let Some(upgrade) = upgrade.filter(|_| code == StatusCode::SWITCHING_PROTOCOLS) {
            return Ok(exchange.join(upgrade));
        }
        if code.is_redirection() && exchange.answer.headers().contains_key(header::LOCATION) {
            // Clients would follow with their credentials.
            let why = "the backend attempted to redirect this request, which is not permitted";
            let mut answer = Answer::new(body::full(why));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            return Ok(answer);
        }
        let mut answer = answered(exchange);
        drop_rights(answer.headers_mut());
        Ok(answer)
    }
}

/// The request that goes on.
fn outgoing(
    parts: &Parts,
    user: &User,
    host: &str,
    body: ResponseBody,
) -> Result<Request<ResponseBody>, http::Error> {
    let mut headers = exchange::outgoing(&parts.headers);
    let host = HeaderValue::from_str(host)?;
    headers.insert("x-forwarded-uri", HeaderValue::from_str(parts.uri.path())?);
    headers.insert("x-forwarded-host", host.clone());
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert(header::HOST, host);
    forward_for(parts, &mut headers)?;
    introduce(&mut headers, user)?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    if let Some(target) = parts.uri.path_and_query() {
        *request.uri_mut() = target.clone().into();
    }
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_a_request_is_about() {
        for (path, method, expected) in [
            ("/apis/g/v1/flunders", "GET", "list g flunders//// "),
            ("/apis/g/v1/flunders?watch=1", "GET", "watch g flunders//// "),
            ("/apis/g/v1/namespaces/n/flunders", "POST", "create g flunders//n// "),
            ("/apis/g/v1/namespaces/n/flunders/a", "HEAD", "get g flunders//n/a/ "),
            ("/apis/g/v1/namespaces/n/flunders/a/status", "PATCH", "patch g flunders/status/n/a/ "),
            ("/apis/g/v1/namespaces/n/flunders/a/proxy/x/y", "PUT", "update g flunders/proxy/n/a/ "),
            ("/apis/g/v1/fl%75nders/a", "DELETE", "delete g flunders///a/ "),
            ("/apis/g/v1/flunders", "DELETE", "deletecollection g flunders//// "),
            (
                "/apis/g/v1/flunders?fieldSelector=metadata.name%3Da",
                "GET",
                "list g flunders///a/ metadata.name=a",
            ),
            ("/apis/g/v1/namespaces/n", "GET", "get g namespaces//n/n/ "),
            ("/apis/g/v1/namespaces/n/finalize", "PUT", "update g namespaces/finalize/n/n/ "),
            ("/apis/g/v1", "GET", ""),
            ("/openapi/v3/apis/g/v1", "GET", ""),
        ] {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let found = Target::read(path, Query::parse(query)).map(|target| {
                let asked = target.attributes(&method.parse().unwrap());
                format!(
                    "{} {} {}/{}/{}/{}/ {}",
                    asked.verb,
                    asked.group,
                    asked.resource,
                    asked.subresource,
                    asked.namespace,
                    asked.name,
                    asked.fields
                )
            });
            assert_eq!(found.unwrap_or_default(), expected, "{path}");
        }
    }

    #[test]
    fn who_asks_is_told() {
        let mut user = User::authenticated("jane", ["a".to_owned(), "b".to_owned()]);
        user.uid = "42".to_owned();
        user.extra.insert("example.com/Scopes".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let mut headers = HeaderMap::new();
        introduce(&mut headers, &user).unwrap();
        let all = |name: &str| {
            let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(",")
        };
        assert_eq!(all("x-remote-user"), "jane");
        assert_eq!(all("x-remote-uid"), "42");
        assert_eq!(all("x-remote-group"), "a,b,system:authenticated");
        assert_eq!(all("x-remote-extra-example.com%2fscopes"), "x,y");
        let liar = User { name: "a\r\nx-remote-group: system:masters".to_owned(), ..User::default() };
        assert!(introduce(&mut headers, &liar).is_err());
    }
}
