//! What is done to containers that exist.

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

pub(crate) async fn attach(
    api: &Api,
    id: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let record = container.record();
    if matches!(record.state.status, Status::Removing | Status::Dead) {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("container {} is being removed", record.id)));
    }
    let options = AttachOptions {
        stdin: query.flag("stdin") && record.spec.open_stdin,
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !record.spec.tty,
    };
    let keys = DetachKeys::parse(query.non_empty("detachKeys"))?;
    let before = query.flag("logs").then(|| crate::logs::past(api, &container, options)).transpose()?;
    let keys = (options.stdin && record.spec.tty).then_some(keys);
    if !query.flag("stream") {
        // Only the past was asked for.
        let session = Session { before, process: None, framing: Framing::AsIs };
        return Ok(hijack::answer(
            request,
            record.spec.tty,
            None,
            std::future::ready(Some(session)),
            std::future::ready(()),
        ));
    }
    let receiver = api.engine.attach(&container, options).await?;
    let connect = async move {
        match receiver.await {
            Ok(Ok(stream)) => Some(Session { before, ..Session::with(stream) }),
            Ok(Err(error)) => {
                tracing::warn!(error = %error.chain(), "cannot join a container");
                None
            }
            // The container was not started after all.
            Err(_) => None,
        }
    };
    Ok(hijack::answer(request, record.spec.tty, keys, connect, std::future::ready(())))
}
