//! Volumes.

use std::collections::BTreeMap;

use dray_engine::VolumeRecord;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::version::Version;

pub(crate) fn document(volume: &VolumeRecord) -> Value {
    json!({
        "CreatedAt": volume.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
        "Scope": "local",
    })
}

fn is_used(api: &Api, name: &str) -> bool {
    api.engine.containers().iter().any(|record| record.volumes.iter().any(|used| used.name == name))
}

pub(crate) fn list(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["dangling", "driver", "label", "label!", "name"])?;
    let listed: Vec<Value> = api
        .engine
        .volumes()
        .iter()
        .filter(|volume| {
            filters.any("name", |name| volume.name.contains(name))
                && filters.any("driver", |driver| driver == "local")
                && filters.labels(&volume.labels)
                && filters.flag("dangling").is_none_or(|dangling| dangling != is_used(api, &volume.name))
        })
        .map(document)
        .collect();
    body::json(StatusCode::OK, &json!({ "Volumes": listed, "Warnings": null }))
}

pub(crate) fn inspect(api: &Api, name: &str) -> Result<Response<Body>> {
    body::json(StatusCode::OK, &document(&api.engine.volume(name)?))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateVolume {
    name: String,
    driver: String,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Refuses the drivers that there are not.
pub(crate) fn check_driver(driver: &str) -> Result<()> {
    if ["", "local"].contains(&driver) {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    )))
}

pub(crate) async fn create(api: &Api, incoming: Incoming) -> Result<Response<Body>> {
    let request: CreateVolume = body::read_json(incoming).await?;
    check_driver(&request.driver)
        .map_err(|error| ApiError::not_found(format!("create {}: {}", request.name, error.message)))?;
    let name = Some(request.name).filter(|name| !name.is_empty());
    let volume = api
        .engine
        .create_volume(name, request.labels.unwrap_or_default(), request.driver_opts.unwrap_or_default())
        .await?;
    body::json(StatusCode::CREATED, &document(&volume))
}

pub(crate) async fn remove(api: &Api, name: &str, query: &Query) -> Result<Response<Body>> {
    api.engine.remove_volume(name, query.flag("force")).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// Anonymous volumes that nobody uses, or with the filter `all` every one.
pub(crate) async fn prune(api: &Api, query: &Query, version: Version) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["all", "label", "label!"])?;
    // Up to 1.41 it took named ones as well.
    let all = filters.flag("all").unwrap_or(version < Version::new(1, 42));
    let (mut deleted, mut freed) = (Vec::new(), 0);
    for volume in api.engine.volumes() {
        let wanted = (all || volume.anonymous) && filters.labels(&volume.labels);
        if !wanted || is_used(api, &volume.name) {
            continue;
        }
        let size = {
            let (engine, name) = (api.engine.clone(), volume.name.clone());
            tokio::task::spawn_blocking(move || engine.volume_size(&name).unwrap_or(0)).await.unwrap_or(0)
        };
        if api.engine.remove_volume(&volume.name, false).await.is_ok() {
            deleted.push(volume.name);
            freed += size;
        }
    }
    body::json(StatusCode::OK, &json!({ "VolumesDeleted": deleted, "SpaceReclaimed": freed }))
}
