//! `POST /build`: the classic builder's parameters, and its stream of JSON lines.

use std::collections::BTreeMap;

use bytes::Bytes;
use dray_build::{BuildRequest, Built, ContextSource, DockerfileSource, Error as BuildError, Event, NoCache};
use dray_engine::{NetworkMode, Resources, Ulimit};
use dray_image::{Digest, Reference};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::Api;
use crate::body::{self, Body};
use crate::build_images::ClassicClient;
use crate::create::UlimitRequest;
use crate::endpoints;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;

/// What clients are told that speak BuildKit as it was before buildx.
pub(crate) const NO_BUILDKIT: &str =
    "this endpoint is the classic builder's: use the buildx plugin for BuildKit, or set DOCKER_BUILDKIT=0";
/// Messages that a slow client may be behind.
const AHEAD: usize = 64;
/// Output that a quiet build keeps in case it fails, in bytes.
const QUIET_LIMIT: usize = 1 << 20;

/// A parameter that is JSON; absent and `null` are the default.
fn parameter<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.non_empty(name) else { return Ok(T::default()) };
    let parsed: Option<T> = serde_json::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("error reading {name}: {error}")))?;
    Ok(parsed.unwrap_or_default())
}

fn build_request(query: &Query) -> Result<(BuildRequest, Vec<Reference>)> {
    if query.get("version") == Some("2") || query.get("remote") == Some("client-session") {
        return Err(ApiError::bad_request(NO_BUILDKIT));
    }
    if query.flag("squash") {
        return Err(ApiError::bad_request("squash is not supported"));
    }
    let tags = query.all("t").into_iter().filter(|tag| !tag.is_empty());
    let tags = tags.map(Reference::parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(tag) = tags.iter().find(|tag| tag.digest().is_some()) {
        return Err(ApiError::bad_request(format!(
            "refusing to create a tag with a digest reference: {}",
            tag.familiar()
        )));
    }
    let number =
        |name| -> Result<Option<i64>> { Ok(query.number(name)?.filter(|number: &i64| *number != 0)) };
    let limits: Vec<UlimitRequest> = parameter(query, "ulimits")?;
    let resources = Resources {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: query.number("cpushares")?.filter(|number| *number != 0),
        cpu_period: query.number("cpuperiod")?.filter(|number| *number != 0),
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: query.non_empty("cpusetcpus").map(str::to_owned),
        cpuset_mems: query.non_empty("cpusetmems").map(str::to_owned),
        ..Resources::default()
    };
    let request = BuildRequest {
        dockerfile: DockerfileSource::Context(query.get("dockerfile").unwrap_or_default().to_owned()),
        build_args: parameter::<BTreeMap<String, Option<String>>>(query, "buildargs")?,
        labels: parameter(query, "labels")?,
        target: query.get("target").unwrap_or_default().to_owned(),
        no_cache: if query.flag("nocache") { NoCache::All } else { NoCache::Never },
        only_cache_of: parameter(query, "cachefrom")?,
        pull: query.flag("pull"),
        network: match query.get("networkmode").unwrap_or_default() {
            "" | "default" | "bridge" => NetworkMode::Default,
            other => endpoints::network_mode(other),
        },
        resources,
        ulimits: limits.into_iter().map(Ulimit::from).collect(),
        extra_hosts: query
            .all("extrahosts")
            .into_iter()
            .flat_map(|hosts| hosts.split(','))
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect(),
        shm_size: query.number("shmsize")?.filter(|size| *size != 0),
        cgroup_parent: query.non_empty("cgroupparent").map(str::to_owned),
        classic: true,
        ..BuildRequest::default()
    };
    Ok((request, tags))
}

fn line(value: &Value) -> Bytes {
    format!("{value}\r\n").into()
}

fn text(text: &str) -> Bytes {
    line(&json!({ "stream": text }))
}

/// How a failure looks once the answer has begun.
fn failure(error: &BuildError) -> Bytes {
    let message = error.chain();
    let detail = match error.inner() {
        // The code is the client's own, if it takes it.
        BuildError::Run { code, .. } => json!({ "code": code, "message": message }),
        _ => json!({ "message": message }),
    };
    line(&json!({ "errorDetail": detail, "error": message }))
}

impl From<BuildError> for ApiError {
    fn from(error: BuildError) -> Self {
        let status = match error.inner() {
            BuildError::Engine(_) => {
                let BuildError::Engine(error) = error.into_inner() else {
                    return Self::internal("the build failed");
                };
                return error.into();
            }
            BuildError::NoImage { .. } => StatusCode::NOT_FOUND,
            BuildError::Io { .. } | BuildError::Run { .. } | BuildError::Cancelled => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.chain())
    }
}

/// Builds an image. What is wrong before the first step is a status code; what fails later, and all that the build
/// tells, are lines of the answer.
pub(crate) async fn build(api: &Api, query: &Query, request: Request<Incoming>) -> Result<Response<Body>> {
    let client = Arc::new(ClassicClient::of(request.headers())?);
    let context = body::reader(request.into_body());
    let (mut request, tags) = build_request(query)?;
    request.context = match query.non_empty("remote") {
        Some(address) => ContextSource::Remote(address.to_owned()),
        None => ContextSource::archive(context),
    };
    let quiet = query.flag("q");
    let (progress, mut events) = mpsc::channel(AHEAD);
    let builder = api.builder.clone();
    // When the client goes, the events are no longer taken, and that ends the build.
    let building = tokio::spawn(async move {
        let built = builder.build(request, client, progress.clone()).await?;
        record(&built, &tags, &progress).await
    });
    let Some(first) = events.recv().await else {
        let result = building.await.map_err(|_| ApiError::internal("the build ended unexpectedly"))?;
        return match result {
            Ok(_) => Err(ApiError::internal("the build ended without a word")),
            Err(error) => Err(error.into()),
        };
    };
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let mut next = Some(first);
        while let Some(event) = next {
            let bytes = match event {
                Event::Text(words) => text(&words),
                Event::Image(id) => line(&json!({ "aux": { "ID": id.as_str() } })),
                // What there is to draw of these is for other clients.
                Event::Vertex(_) | Event::Status(_) | Event::Log(_) | Event::Warning(_) => Bytes::new(),
            };
            if quiet {
                // Listened to all the same: a client that goes ends a quiet build, too.
                if sender.is_closed() {
                    return;
                }
                if kept.len() + bytes.len() <= QUIET_LIMIT {
                    kept.extend_from_slice(&bytes);
                }
            } else if sender.send(bytes).await.is_err() {
                return;
            }
            next = tokio::select! {
                event = events.recv() => event,
                () = sender.closed() => return,
            };
        }
        finish(&sender, building, quiet, kept).await;
    });
    Ok(response)
}

/// Names the image, and says so.
async fn record(
    built: &Built,
    tags: &[Reference],
    progress: &mpsc::Sender<Event>,
) -> Result<Digest, BuildError> {
    let id = built.record(tags).await?;
    let built = format!("Successfully built {}\n", id.short());
    let tagged = tags.iter().map(|tag| format!("Successfully tagged {}\n", tag.familiar()));
    // Each a message of its own: clients look for the identifier at the end of one.
    for text in std::iter::once(built).chain(tagged) {
        progress.send(Event::Text(text)).await.map_err(|_| BuildError::Cancelled)?;
    }
    Ok(id)
}

async fn finish(
    sender: &mpsc::Sender<Bytes>,
    building: tokio::task::JoinHandle<Result<Digest, BuildError>>,
    quiet: bool,
    kept: Vec<u8>,
) {
    let last = match building.await {
        Ok(Ok(id)) if quiet => text(&format!("{id}\n")),
        Ok(Ok(_)) => return,
        Ok(Err(error)) => {
            if quiet && sender.send(kept.into()).await.is_err() {
                return;
            }
            failure(&error)
        }
        Err(_) => line(
            &json!({ "errorDetail": { "message": "the build ended unexpectedly" }, "error": "the build ended unexpectedly" }),
        ),
    };
    let _ = sender.send(last).await;
}

pub(crate) async fn prune(api: &Api, query: &Query) -> Result<Response<Body>> {
    let known = ["until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private"];
    let filters = Filters::parse(query, &known)?;
    let until = filters.until()?;
    let chosen = move |step: &dray_build::CachedStep| {
        until.is_none_or(|until| step.used < until)
            && filters.any("id", |id| step.key.starts_with(id))
            && filters.any("type", |kind| step.kind == kind)
            && filters.any("description", |text| step.description.contains(text))
    };
    let pruned = api.builder.prune(chosen).await?;
    let gone: Vec<String> = pruned.entries.into_iter().map(|step| step.key).collect();
    body::json(StatusCode::OK, &json!({ "CachesDeleted": gone, "SpaceReclaimed": pruned.bytes }))
}
