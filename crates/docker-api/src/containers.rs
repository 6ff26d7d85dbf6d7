//! What is done to containers that exist.

use std::future::Future;
use std::time::Duration;

use dray_engine::{AttachOptions, Status, WaitCondition};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::hijack::{self, DetachKeys, Framing, Session};
use crate::query::Query;
use crate::version::Version;
use crate::websocket::{self, Kind};

pub(crate) async fn start(api: &Api, id: &str) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.start(&container).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// `t` in seconds; a negative one waits for ever.
fn timeout(query: &Query) -> Result<Option<Duration>> {
    let seconds: Option<i64> = query.number("t")?;
    Ok(seconds
        .map(|t| u64::try_from(t).map_or(Duration::from_secs(u64::from(u32::MAX)), Duration::from_secs)))
}

pub(crate) async fn stop(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.stop(&container, query.non_empty("signal"), timeout(query)?).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn restart(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.restart(&container, query.non_empty("signal"), timeout(query)?).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn kill(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.kill(&container, query.non_empty("signal").unwrap_or("KILL")).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// The header goes out at once: clients wait for it before they start the container.
pub(crate) fn wait(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let condition = match query.get("condition").unwrap_or_default() {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::bad_request(format!("invalid condition: {other:?}"))),
    };
    let (sender, response) = body::stream("application/json");
    // Subscribed before the answer goes out, so that an end right after it is not missed.
    let mut waiting = Box::pin(async move { container.wait(condition).await });
    let first = futures_util::FutureExt::now_or_never(&mut waiting);
    tokio::spawn(async move {
        let result = match first {
            Some(result) => result,
            None => tokio::select! {
                result = waiting => result,
                () = sender.closed() => return,
            },
        };
        let answer = json!({ "StatusCode": result.exit_code });
        let _ = sender.send(format!("{answer}\n").into()).await;
    });
    Ok(response)
}

pub(crate) async fn rename(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let name = query.non_empty("name");
    let name = name.ok_or_else(|| ApiError::bad_request("Neither old nor new names may be empty"))?;
    api.engine.rename(&container, name).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// The size of a terminal: `w` and `h`.
pub(crate) fn size(query: &Query) -> Result<(u16, u16)> {
    let number = |name| {
        query
            .number(name)?
            .ok_or_else(|| ApiError::bad_request(format!("invalid resize {name}: it is missing")))
    };
    Ok((number("w")?, number("h")?))
}

pub(crate) async fn resize(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let (width, height) = size(query)?;
    let container = api.engine.container(id)?;
    api.engine.resize(&container, width, height).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn remove(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.remove(&container, query.flag("force"), query.flag("v")).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// `docker rm --link`: one container no longer knows another by a name of its own.
pub(crate) async fn remove_link(api: &Api, id: &str, alias: &str) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    api.engine.remove_link(&container, alias).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn prune(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let (mut deleted, mut freed) = (Vec::new(), 0);
    for record in api.engine.containers() {
        let ended = matches!(record.state.status, Status::Created | Status::Exited | Status::Dead);
        let old = until.is_none_or(|until| record.created < until);
        if !ended || !old || !filters.labels(&record.spec.labels) {
            continue;
        }
        let Ok(container) = api.engine.container(record.id.as_str()) else { continue };
        // One that was started or removed meanwhile stays or is gone.
        let written = {
            let (engine, record) = (api.engine.clone(), record.clone());
            tokio::task::spawn_blocking(move || engine.written_size(&record)).await.unwrap_or(0)
        };
        if api.engine.remove(&container, false, false).await.is_ok() {
            deleted.push(record.id.to_string());
            freed += written;
        }
    }
    body::json(StatusCode::OK, &json!({ "ContainersDeleted": deleted, "SpaceReclaimed": freed }))
}

/// What a request to attach comes to.
struct Attached<F> {
    tty: bool,
    /// Only when they can be typed.
    keys: Option<DetachKeys>,
    /// What the client is joined with, once it is there.
    connect: F,
}

/// Makes ready what a client will be joined with, in this framing when the container has no terminal.
async fn attached(
    api: &Api,
    id: &str,
    query: &Query,
    streams: AttachOptions,
    framing: Framing,
) -> Result<Attached<impl Future<Output = Option<Session>> + Send + use<>>> {
    let container = api.engine.container(id)?;
    let record = container.record();
    if matches!(record.state.status, Status::Removing | Status::Dead) {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("container {} is being removed", record.id)));
    }
    let remedy = match record.state.status {
        Status::Running if record.state.paused => Some("paused, unpause the container before attach"),
        Status::Restarting => Some("restarting, wait until the container is running"),
        _ => None,
    };
    if let Some(remedy) = remedy {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("container {id} is {remedy}")));
    }
    let tty = record.spec.tty;
    let options = AttachOptions {
        stdin: streams.stdin && record.spec.open_stdin,
        stdout: streams.stdout,
        stderr: streams.stderr && !tty,
    };
    let keys = DetachKeys::parse(query.non_empty("detachKeys"))?;
    let before = query.flag("logs").then(|| crate::logs::past(api, &container, options)).transpose()?;
    // Without it, only the past was asked for.
    let receiver = match query.flag("stream") {
        true => Some(api.engine.attach(&container, options).await?),
        false => None,
    };
    let connect = async move {
        let process = match receiver {
            None => None,
            Some(receiver) => match receiver.await {
                Ok(Ok(stream)) => Some(stream),
                Ok(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "cannot join a container");
                    return None;
                }
                // The container was not started after all.
                Err(_) => return None,
            },
        };
        Some(Session { before, process, framing: if tty { Framing::AsIs } else { framing } })
    };
    Ok(Attached { tty, keys: (options.stdin && tty).then_some(keys), connect })
}

/// The streams that a query names.
fn named_streams(query: &Query) -> AttachOptions {
    AttachOptions { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") }
}

pub(crate) async fn attach(
    api: &Api,
    id: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let Attached { tty, keys, connect } =
        attached(api, id, query, named_streams(query), Framing::AsIs).await?;
    Ok(hijack::answer(request, tty, keys, connect, std::future::ready(())))
}

pub(crate) async fn attach_websocket(
    api: &Api,
    id: &str,
    query: &Query,
    version: Version,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    // Before it could be chosen, a client had all of them.
    let streams = match version >= Version::new(1, 42) {
        true => named_streams(query),
        false => AttachOptions { stdin: true, stdout: true, stderr: true },
    };
    let accepted = websocket::accept(request.headers())?;
    let Attached { keys, connect, .. } = attached(api, id, query, streams, Framing::Unframed).await?;
    let kind = if version >= Version::new(1, 28) { Kind::Binary } else { Kind::Text };
    websocket::serve(request, kind, keys, connect);
    Ok(accepted)
}
