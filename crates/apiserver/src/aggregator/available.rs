//! Whether the servers of others are there: each is looked at when something changes about it, and from time to time, and
//! its APIService says in its condition `Available` what was seen.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use dray_access::{MASTERS, User};
use dray_machinery::{Status, Subresource, kinds, object, pick};
use dray_store::{Event, EventKind, Key, Watcher};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    GROUP, KIND, Registered, SERVICES,
    directory::{Behind, Place, Remote},
    discovered::{self, Discovered},
    remote::introduce,
};
use crate::{
    body,
    custom::set_condition,
    negotiate::{Accept, Encoding, Shape},
    passage::{
        dial::{self, Tls, Trust, authority},
        exchange,
        proxy::told,
    },
    query::Query,
    request::ResourceRequest,
    respond,
    server::{Inner, NodeStream},
    write::{Change, Retry},
};

/// How long a server may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a server is looked at when nothing is heard of it.
const AGAIN: Duration = Duration::from_secs(30);
/// The first pause after a server did not answer; each is twice as long as the one before, up to the usual one.
const SOON: Duration = Duration::from_millis(5);
/// At how many endpoints a server is looked for.
const ENDPOINTS: usize = 5;
/// The longest list of resources that is read, in bytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// The reason of what this server serves itself.
const LOCAL: &str = "Local";

/// What was seen: the status of the condition, its reason and its message.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Seen {
    /// What this server serves itself is there.
    fn own() -> Seen {
        let message = "Local APIServices are always available".to_owned();
        Seen { status: "True", reason: LOCAL, message }
    }

    fn missing(reason: &'static str, message: String) -> Seen {
        Seen { status: "False", reason, message }
    }
}

/// Looks at a server until somebody ends this.
pub(super) async fn keep(inner: Weak<Inner>, registered: Arc<Registered>) {
    let Some(remote) = &registered.remote else { return };
    let behind = match &remote.place {
        Place::Service(behind) => behind,
        Place::Here(_) => {
            // It has always the same; only at the start it may not be there yet.
            let mut pause = SOON;
            while let Some(alive) = inner.upgrade() {
                let Err(why) = alive.discover(&registered, remote).await else { return };
                tracing::debug!(
                    name = registered.name,
                    why,
                    "a server in this process does not say what it has"
                );
                drop(alive);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN);
            }
            return;
        }
    };
    let mut pause = SOON;
    loop {
        let Some(alive) = inner.upgrade() else { return };
        // What happens after the look is seen here.
        let Some((mut service, mut slices)) = watchers(&alive, behind) else { return };
        let seen = alive.look(&registered, remote, behind).await;
        let wait = if seen.reason == "FailedDiscoveryCheck" {
            let wait = pause;
            pause = (pause * 2).min(AGAIN);
            wait
        } else {
            pause = SOON;
            AGAIN
        };
        if let Err(error) = alive.write_seen(&registered.name, &seen).await {
            tracing::warn!(name = registered.name, %error, "the state of an APIService is not written");
        }
        drop(alive);
        tokio::select! {
            _ = service.next() => pause = SOON,
            () = changed(&mut slices, &behind.service) => pause = SOON,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn watchers(inner: &Inner, behind: &Behind) -> Option<(Watcher, Watcher)> {
    let place = format!("{}/{}", behind.namespace, behind.service);
    let (_, service) = inner.store.snapshot_and_watch("core/services", &place).ok()?;
    let slices = format!("{}/", behind.namespace);
    let (_, slices) = inner.store.snapshot_and_watch("discovery.k8s.io/endpointslices", &slices).ok()?;
    Some((service, slices))
}

/// Whether a slice is of a Service.
fn is_of(slice: &[u8], service: &str) -> bool {
    let labels = pick::pick(slice, &[&["metadata", "labels"]]);
    labels["metadata"]["labels"]["kubernetes.io/service-name"] == service
}

/// Waits until something changes about the endpoints of a Service.
async fn changed(slices: &mut Watcher, service: &str) {
    while let Ok(events) = slices.next().await {
        let concerns = |event: &Event| event.kind == EventKind::Deleted || is_of(event.entry.json(), service);
        if events.iter().any(|event| concerns(event)) {
            return;
        }
    }
}

impl Inner {
    /// Says of what this server serves itself that it is there, where something else was said before.
    pub(super) async fn write_own(&self) -> Result<(), Status> {
        let directory = self.aggregator.directory();
        let own = directory.all().filter(|one| !one.is_elsewhere() && one.reason != LOCAL);
        for registered in own {
            self.write_seen(&registered.name, &Seen::own()).await?;
        }
        Ok(())
    }

    /// Looks at a server, and keeps what it says that it has.
    async fn look(&self, registered: &Registered, remote: &Remote, behind: &Behind) -> Seen {
        if let Some(missing) = self.missing(behind) {
            return missing;
        }
        match self.discover(registered, remote).await {
            Ok(()) => Seen { status: "True", reason: "Passed", message: "all checks passed".to_owned() },
            Err(why) => Seen::missing("FailedDiscoveryCheck", why),
        }
    }

    /// Asks a server what it has.
    async fn discover(&self, registered: &Registered, remote: &Remote) -> Result<(), String> {
        let Registered { name, group, version, .. } = registered;
        let list = self.ask(remote, &format!("/apis/{group}/{version}")).await?;
        let parsed = |text: &Bytes| serde_json::from_slice::<Value>(text).unwrap_or_default();
        let before = self.aggregator.discovered(name);
        let before = before.as_deref().cloned().unwrap_or_default();
        let resources = discovered::resources(&parsed(&list), group, version);
        let index = self.ask(remote, "/openapi/v3").await.ok();
        let now = Discovered {
            resources: resources.unwrap_or(before.resources),
            document: index.and_then(|index| discovered::document(&parsed(&index), group, version)),
        };
        self.aggregator.discovered.write().insert(name.clone(), Arc::new(now));
        Ok(())
    }

    /// What a server lacks to be looked at.
    fn missing(&self, behind: &Behind) -> Option<Seen> {
        let Behind { namespace, service: name, port, .. } = behind;
        let Some(service) = self.object("core/services", format!("{namespace}/{name}")) else {
            let message = format!("service/{name} in {namespace:?} is not present");
            return Some(Seen::missing("ServiceNotFound", message));
        };
        let spec = &service["spec"];
        if !matches!(object::text(spec, &["type"]), "" | "ClusterIP") {
            return None;
        }
        let mut ports = spec["ports"].as_array().into_iter().flatten();
        let Some(found) = ports.find(|one| one["port"] == *port) else {
            let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
            return Some(Seen::missing("ServicePortError", message));
        };
        let port = object::text(found, &["name"]);
        if !self.endpoints(namespace, name, port).is_empty() {
            return None;
        }
        let snapshot = self.store.snapshot();
        let prefix = format!("{namespace}/");
        let mut slices = snapshot.range("discovery.k8s.io/endpointslices", &prefix, None);
        if slices.any(|(_, entry)| is_of(entry.json(), name)) {
            let message = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}"
            );
            return Some(Seen::missing("MissingEndpoints", message));
        }
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        Some(Seen::missing("EndpointsNotFound", message))
    }

    /// Asks a server for a list, at one of its endpoints after the other.
    async fn ask(&self, remote: &Remote, path: &str) -> Result<Bytes, String> {
        let behind = match &remote.place {
            Place::Service(behind) => behind,
            Place::Here(extension) => {
                return timeout(PATIENCE, list(extension.connect(), "localhost", path, path))
                    .await
                    .unwrap_or_else(|_| Err("it does not answer".to_owned()));
            }
        };
        let addresses = self.addresses(&behind.namespace, &behind.service, behind.port)?;
        // Who it is matters to those who send requests there, not to whether it is there.
        let config = dial::config(Trust::Anybody, Some(self.pki.front_proxy()))?;
        let mut failure = String::new();
        for address in addresses.iter().take(ENDPOINTS) {
            let tls = Tls { name: address.0.clone(), config: config.clone() };
            let host = authority(&address.0, address.1);
            let url = format!("https://{host}{path}");
            let asked = async {
                let stream = dial::connect(std::slice::from_ref(address), Some(&tls)).await;
                let stream = stream.map_err(|why| format!("Get {url:?}: {why}"))?;
                list(stream, &host, path, &url).await
            };
            let why = match timeout(PATIENCE, asked).await {
                Ok(Ok(list)) => return Ok(list),
                Ok(Err(why)) => why,
                Err(_) => format!("Get {url:?}: context deadline exceeded"),
            };
            failure = format!("failing or missing response from {url}: {why}");
        }
        Err(failure)
    }

    /// Writes what was seen, when that is new.
    async fn write_seen(&self, name: &str, seen: &Seen) -> Result<(), Status> {
        let Some(entry) = self.store.get(&Key::new(SERVICES, name)) else { return Ok(()) };
        let tell = |service: &Value| {
            let mut new = service.clone();
            set_condition(&mut new, "Available", seen.status, seen.reason, &seen.message);
            new
        };
        let old = respond::parse(entry.json())?;
        let of = |service: &Value| service["status"]["conditions"].clone();
        if of(&tell(&old)) == of(&old) {
            return Ok(());
        }
        let request = ResourceRequest {
            kind: kinds::find_kind(GROUP, KIND).ok_or_else(Status::no_such_resource)?,
            custom: None,
            namespace: String::new(),
            name: name.to_owned(),
            subresource: Some(Subresource::Status),
            below: String::new(),
            query: Query::default(),
        };
        let user = User::component("system:apiserver");
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
        let change = Change::new(&request, &user, &headers, &body, accept, "kube-apiserver".to_owned());
        match self.modify(&change, Retry::Newer, |old| Ok(tell(old))).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// Asks for a list over a connection; `url` is what is told of it.
async fn list(stream: Box<dyn NodeStream>, host: &str, path: &str, url: &str) -> Result<Bytes, String> {
    let failed = |why: String| format!("Get {url:?}: {why}");
    let mut request = Request::new(body::full(""));
    *request.uri_mut() = path.parse().map_err(|_| failed("it is no path".to_owned()))?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let (name, groups) = ("system:kube-aggregator".to_owned(), vec![MASTERS.to_owned()]);
    introduce(headers, &User { name, groups, ..User::default() })
        .map_err(|error| failed(error.to_string()))?;
    let exchange = exchange::send(stream, request).await.map_err(|error| failed(told(&error)))?;
    let code = exchange.answer.status();
    if !code.is_success() {
        return Err(format!("bad status from {url}: {}", code.as_u16()));
    }
    // It is there, whatever it says that it has.
    let text = Limited::new(exchange.answer.into_body(), LONGEST).collect().await;
    Ok(text.map(http_body_util::Collected::to_bytes).unwrap_or_default())
}
