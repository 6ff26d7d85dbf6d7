//! Which path leads to which handler.

use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::metrics::Metrics;
use crate::query::{Query, decode};
use crate::version::Version;
use crate::{
    API_VERSION, Api, absent, archive, build, buildkit, commit, containers, create, disk_usage, events, exec,
    images, inspect, list, logs, metrics, networks, observe, swarm, system, top, transfer, volumes,
};

/// Answers one request.
pub(crate) async fn handle(api: &Api, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match route(api, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%method, path, status = error.status.as_u16(), error = error.message, "request refused");
            error.into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("api-version", API_VERSION),
        ("ostype", "linux"),
        ("docker-experimental", "false"),
        ("server", concat!("Dray/", env!("CARGO_PKG_VERSION"), " (linux)")),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}

async fn route(api: &Api, request: Request<Incoming>) -> Result<Response<Body>> {
    let (version, path) = Version::of(request.uri().path())?;
    let path = path.to_owned();
    let query = Query::parse(request.uri().query())?;
    let segments = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| decode(segment, false))
        .collect::<Result<Vec<_>>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method().clone();
    let method = method.as_str();
    let measured = Metrics::action(method, &segments).map(|action| (action, Instant::now()));
    let answer = answer(api, version, method, &segments, &query, request).await;
    if let (Some((action, begin)), Ok(_)) = (measured, &answer) {
        api.metrics.record(action, begin.elapsed());
    }
    answer
}

async fn answer(
    api: &Api,
    version: Version,
    method: &str,
    segments: &[&str],
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    match (method, segments) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping(api, method == "GET")),
        ("GET", ["version"]) => system::version(api),
        ("GET", ["info"]) => system::info(api).await,
        ("GET", ["events"]) => events::stream(api, query, version, request.headers()),
        ("GET", ["system", "df"]) => disk_usage::disk_usage(api, query, version).await,
        ("POST", ["auth"]) => transfer::login(api, request.into_body()).await,

        ("POST", ["commit"]) => commit::commit(api, query, request.into_body()).await,
        ("POST", ["build"]) => build::build(api, query, request).await,
        ("POST", ["build", "prune"]) => build::prune(api, query).await,
        ("POST", ["build", "cancel"]) => buildkit::cancel(api, query),
        ("POST", ["session"]) => buildkit::session(api, request).await,
        ("POST", ["grpc"]) => buildkit::calls(api, request).await,

        ("GET", ["containers", "json"]) => list::containers(api, query, version),
        ("POST", ["containers", "create"]) => {
            create::container(api, query, version, request.into_body()).await
        }
        ("POST", ["containers", "prune"]) => containers::prune(api, query).await,
        ("GET", ["containers", id, "json"]) => inspect::container(api, id, query, version),
        ("GET", ["containers", id, "logs"]) => logs::stream(api, id, query),
        ("POST", ["containers", id, "start"]) => containers::start(api, id).await,
        ("POST", ["containers", id, "stop"]) => containers::stop(api, id, query).await,
        ("POST", ["containers", id, "restart"]) => containers::restart(api, id, query).await,
        ("POST", ["containers", id, "kill"]) => containers::kill(api, id, query).await,
        ("POST", ["containers", id, "wait"]) => containers::wait(api, id, query),
        ("POST", ["containers", id, "rename"]) => containers::rename(api, id, query).await,
        ("POST", ["containers", id, "resize"]) => containers::resize(api, id, query).await,
        ("POST", ["containers", id, "attach"]) => containers::attach(api, id, query, request).await,
        ("GET", ["containers", id, "attach", "ws"]) => {
            containers::attach_websocket(api, id, query, version, request).await
        }
        ("POST", ["containers", id, "pause"]) => observe::pause(api, id).await,
        ("POST", ["containers", id, "unpause"]) => observe::unpause(api, id).await,
        ("POST", ["containers", id, "update"]) => create::update(api, id, request.into_body()).await,
        ("GET", ["containers", id, "top"]) => top::top(api, id, query).await,
        ("GET", ["containers", id, "stats"]) => observe::stats(api, id, query).await,
        ("HEAD", ["containers", id, "archive"]) => archive::stat(api, id, query).await,
        ("GET", ["containers", id, "archive"]) => archive::read(api, id, query).await,
        ("PUT", ["containers", id, "archive"]) => archive::write(api, id, query, request.into_body()).await,
        ("GET", ["containers", id, "changes"]) => archive::changes(api, id).await,
        ("GET", ["containers", id, "export"]) => archive::export(api, id).await,
        ("DELETE", ["containers", id]) => containers::remove(api, id, query).await,
        ("DELETE", ["containers", id, alias]) if query.flag("link") => {
            containers::remove_link(api, id, alias).await
        }
        ("POST", ["containers", id, "exec"]) => exec::create(api, id, request.into_body()).await,

        ("POST", ["exec", id, "start"]) => exec::start(api, id, request).await,
        ("POST", ["exec", id, "resize"]) => exec::resize(api, id, query).await,
        ("GET", ["exec", id, "json"]) => exec::inspect(api, id, version),

        ("GET", ["images", "json"]) => images::list(api, query, version).await,
        ("POST", ["images", "load"]) => images::load(api, query, request.into_body()).await,
        ("GET", ["images", "get"]) => images::save(api, &query.all("names"), query),
        ("POST", ["images", "create"]) => images::create(api, query, request).await,
        ("POST", ["images", "prune"]) => images::prune(api, query).await,
        ("GET", ["images", "search"]) => Err(absent::search()),
        ("POST", ["images", name @ .., "push"]) => transfer::push(api, &name.join("/"), query, request).await,
        // Names of images hold slashes.
        ("GET", ["images", name @ .., "json"]) => images::inspect(api, &name.join("/"), query, version).await,
        ("GET", ["images", name @ .., "history"]) => {
            images::history(api, &name.join("/"), query, version).await
        }
        ("GET", ["images", name @ .., "get"]) => images::save(api, &[&name.join("/")], query),
        ("POST", ["images", name @ .., "tag"]) => images::tag(api, &name.join("/"), query).await,
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            images::remove(api, &name.join("/"), query).await
        }

        ("GET", ["networks"]) => networks::list(api, query, version),
        ("POST", ["networks", "prune"]) => networks::prune(api, query).await,
        ("POST", ["networks", "create"]) => networks::create(api, request.into_body()).await,
        ("GET", ["networks", name]) => networks::inspect(api, name, query, version),
        ("POST", ["networks", name, "connect"]) => networks::connect(api, name, request.into_body()).await,
        ("POST", ["networks", name, "disconnect"]) => {
            networks::disconnect(api, name, request.into_body()).await
        }
        ("DELETE", ["networks", name]) => networks::remove(api, name).await,

        ("GET", ["volumes"]) => volumes::list(api, query),
        ("POST", ["volumes", "create"]) => volumes::create(api, request.into_body()).await,
        ("POST", ["volumes", "prune"]) => volumes::prune(api, query, version).await,
        ("GET", ["volumes", name]) => volumes::inspect(api, name),
        ("DELETE", ["volumes", name]) => volumes::remove(api, name, query).await,

        ("GET", ["plugins"]) => body::json(StatusCode::OK, &[(); 0]),
        (method, ["plugins", rest @ ..]) => {
            body::refuse(request.into_body(), absent::plugins(method, rest)).await
        }
        (method, rest @ ["swarm" | "services" | "nodes" | "tasks" | "secrets" | "configs", ..]) => {
            swarm::handle(api, method, rest, query, request).await
        }
        ("GET", ["distribution", name @ .., "json"]) => {
            transfer::inspect(api, &name.join("/"), request.headers()).await
        }
        ("GET", ["metrics"]) => Ok(metrics::metrics(api)),
        _ if request.method() == Method::OPTIONS => Ok(body::empty(StatusCode::OK)),
        _ => body::refuse(request.into_body(), ApiError::not_found("page not found")).await,
    }
}
