//! `docker commit` and `docker import`: images of containers and of archives.

use std::collections::BTreeMap;

use dray_engine::{CommitSpec, ContainerRecord};
use dray_image::{ContainerDefaults, ImageConfig, Reference};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;

/// `repo` and `tag`; none when the image gets no name.
fn reference(query: &Query) -> Result<Option<Reference>> {
    let Some(repository) = query.non_empty("repo") else { return Ok(None) };
    let name = match query.non_empty("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let reference = Reference::parse(&name)?;
    if reference.digest().is_some() {
        return Err(ApiError::bad_request("cannot use digest reference as an image name"));
    }
    Ok(Some(reference))
}

fn amend(config: ContainerDefaults, query: &Query) -> Result<ContainerDefaults> {
    let changes = query.all("changes");
    let amended = dray_build::amend(ImageConfig { config, ..ImageConfig::scratch() }, &changes);
    Ok(amended.map_err(|error| ApiError::bad_request(error.chain()))?.config)
}

/// What the request says over how the container starts: environment, labels, ports and volumes come together.
fn merged(mut base: ContainerDefaults, over: ContainerDefaults) -> ContainerDefaults {
    for entry in over.env {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
        base.env.retain(|old| old.split_once('=').map_or(old.as_str(), |(name, _)| name) != name);
        base.env.push(entry);
    }
    base.labels.extend(over.labels);
    base.exposed_ports.extend(over.exposed_ports);
    base.volumes.extend(over.volumes);
    if let Some(entrypoint) = over.entrypoint.filter(|words| !words.is_empty()) {
        base.entrypoint = Some(entrypoint);
        base.cmd = None;
    }
    base.cmd = over.cmd.filter(|words| !words.is_empty()).or(base.cmd);
    for (old, new) in [(&mut base.user, over.user), (&mut base.working_dir, over.working_dir)] {
        if !new.is_empty() {
            *old = new;
        }
    }
    base.stop_signal = over.stop_signal.filter(|signal| !signal.is_empty()).or(base.stop_signal);
    if let Some(check) = over.other.get("Healthcheck").filter(|check| !check.is_null()) {
        base.other.insert("Healthcheck".to_owned(), check.clone());
    }
    base
}

/// Ports and health check as the container was asked to have them.
fn asked(record: &ContainerRecord) -> ContainerDefaults {
    let config = &record.spec.api["Config"];
    let ports: BTreeMap<String, Value> =
        serde_json::from_value(config["ExposedPorts"].clone()).unwrap_or_default();
    let mut asked = ContainerDefaults { exposed_ports: ports, ..ContainerDefaults::default() };
    asked.other.insert("Healthcheck".to_owned(), config["Healthcheck"].clone());
    asked
}

pub(crate) async fn commit(api: &Api, query: &Query, incoming: Incoming) -> Result<Response<Body>> {
    let body: Option<ContainerDefaults> = body::read_json(incoming).await?;
    let container = api.engine.container(query.get("container").unwrap_or_default())?;
    let record = container.record();
    let config = merged(api.engine.commit_defaults(&record), asked(&record));
    let config = amend(merged(config, body.unwrap_or_default()), query)?;
    let text = |name| query.non_empty(name).map(str::to_owned);
    let spec = CommitSpec {
        pause: query.get("pause").is_none() || query.flag("pause"),
        config,
        author: text("author"),
        comment: text("comment"),
        reference: reference(query)?,
    };
    let image = api.engine.commit(&container, spec).await?;
    body::json(StatusCode::CREATED, &json!({ "Id": image.id.as_str() }))
}

pub(crate) async fn import(api: &Api, query: &Query, incoming: Incoming) -> Result<Response<Body>> {
    // What is left of the archive is taken when something is wrong.
    let archive = body::reader(incoming);
    match query.get("fromSrc") {
        Some("-") => {}
        Some(address) => {
            let message = format!("importing from {address} is not supported: send the archive");
            return Err(ApiError::bad_request(message));
        }
        None => return Err(ApiError::bad_request("neither fromImage nor fromSrc is given")),
    }
    let comment = query.non_empty("message").unwrap_or("Imported from -");
    let spec = CommitSpec {
        config: amend(ContainerDefaults::default(), query)?,
        comment: Some(comment.to_owned()),
        reference: reference(query)?,
        ..CommitSpec::default()
    };
    let image = api.engine.import(archive, spec).await?;
    let mut response = body::text(StatusCode::OK, format!("{}\r\n", json!({ "status": image.id.as_str() })));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    Ok(response)
}
