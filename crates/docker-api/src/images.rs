//! Images.

use std::collections::BTreeSet;
use std::sync::Arc;

use dray_build::Pattern;
use dray_engine::{ContainerRecord, Engine};
use dray_image::{Deletion, Digest, Image, LoadOptions, Platform, Reference, User};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::commit;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::manifests;
use crate::query::Query;
use crate::transfer;
use crate::version::Version;

/// Runs work of the image store where it may block.
async fn blocking<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
) -> Result<T> {
    let engine = api.engine.clone();
    let joined = tokio::task::spawn_blocking(move || work(&engine)).await;
    joined.map_err(|_| ApiError::internal("an operation on images ended unexpectedly"))?
}

/// When an image was made.
fn made(image: &Image) -> Timestamp {
    image.config.created.as_deref().and_then(|time| time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The platform of a request, where its version knows of it.
fn platform(query: &Query, version: Version, since: Version) -> Result<Option<Platform>> {
    if version < since {
        return Ok(None);
    }
    Ok(transfer::platforms(query, "platform")?.into_iter().next())
}

fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
}

fn names(image: &Image) -> Vec<String> {
    image.references.iter().filter(|reference| reference.tag().is_some()).map(Reference::familiar).collect()
}

/// The names by which registries know an image.
fn digests(image: &Image) -> Vec<String> {
    image.references.iter().filter(|reference| reference.tag().is_none()).map(Reference::familiar).collect()
}

fn is_dangling(image: &Image) -> bool {
    image.references.iter().all(|reference| reference.tag().is_none())
}

/// An image as lists show it.
pub(crate) fn summary(image: &Image, containers: &[Arc<ContainerRecord>], version: Version) -> Value {
    let mut document = json!({
        "Id": image.id.as_str(),
        "ParentId": "",
        "RepoTags": names(image),
        "RepoDigests": digests(image),
        "Created": seconds(image.config.created.as_deref()),
        "Size": image.size(),
        "SharedSize": -1,
        "Labels": image.config.config.labels,
        "Containers": containers.iter().filter(|container| container.image == image.id).count(),
    });
    if version < Version::new(1, 44) {
        document["VirtualSize"] = document["Size"].clone();
    }
    document
}

/// The layers that several images have.
fn shared_layers(images: &[Image]) -> BTreeSet<&Digest> {
    let mut seen = BTreeSet::new();
    let chains = images.iter().flat_map(|image| image.layers.iter().map(|layer| &layer.chain_id));
    chains.filter(|chain| !seen.insert(*chain)).collect()
}

pub(crate) async fn list(api: &Api, query: &Query, version: Version) -> Result<Response<Body>> {
    let filters =
        Filters::parse(query, &["dangling", "label", "label!", "reference", "before", "since", "until"])?;
    let until = filters.until()?;
    let (with_shared, with_manifests) = (query.flag("shared-size"), query.flag("manifests"));
    let pattern = |text: &String| {
        let invalid = || ApiError::bad_request(format!("invalid filter 'reference={text}'"));
        Pattern::parse(text).ok_or_else(invalid)
    };
    let patterns = filters.values("reference").iter().map(pattern).collect::<Result<Vec<_>>>()?;
    let listed = blocking(api, move |engine| {
        let containers = engine.containers();
        let mut images = engine.images().list()?;
        // Those of other platforms are told of with the image that stands for all.
        let inner = engine.images().inner_images();
        images.retain(|image| !inner.contains(&image.id));
        images.sort_by_key(|image| std::cmp::Reverse(seconds(image.config.created.as_deref())));
        let named = |name: &str| -> Result<Option<Timestamp>> {
            filters.values(name).first().map(|image| Ok(made(&engine.images().resolve(image)?))).transpose()
        };
        let (before, since) = (named("before")?, named("since")?);
        let named_as = |reference: &Reference| {
            let names = [reference.familiar(), reference.familiar_name()];
            patterns.iter().any(|pattern| names.iter().any(|name| pattern.fits(name)))
        };
        let suits = |image: &Image| {
            filters.labels(&image.config.config.labels)
                && filters.flag("dangling").is_none_or(|dangling| dangling == is_dangling(image))
                && (patterns.is_empty() || image.references.iter().any(named_as))
                && before.is_none_or(|time| made(image) < time)
                && since.is_none_or(|time| made(image) > time)
                && until.is_none_or(|time| made(image) < time)
        };
        let shared = with_shared.then(|| shared_layers(&images));
        let summaries = images.iter().filter(|image| suits(image)).map(|image| {
            let mut summary = summary(image, &containers, version);
            if let Some(shared) = &shared {
                let layers = image.layers.iter().filter(|layer| shared.contains(&layer.chain_id));
                summary["SharedSize"] = json!(layers.map(|layer| layer.size).sum::<u64>());
            }
            let index = manifests::index_of(engine.images(), image, None);
            if version >= Version::new(1, 48)
                && let Some(target) = manifests::target(engine.images(), image, index.as_deref())
            {
                summary["Descriptor"] = target;
            }
            if with_manifests && version >= Version::new(1, 47) {
                summary["Manifests"] =
                    json!(manifests::summaries(engine, image, index.as_deref(), &containers));
            }
            summary
        });
        Ok(summaries.collect::<Vec<Value>>())
    })
    .await?;
    body::json(StatusCode::OK, &listed)
}

pub(crate) async fn inspect(
    api: &Api,
    name: &str,
    query: &Query,
    version: Version,
) -> Result<Response<Body>> {
    let name = name.to_owned();
    let with_manifests = query.flag("manifests") && version >= Version::new(1, 48);
    let platform = platform(query, version, Version::new(1, 49))?;
    if with_manifests && platform.is_some() {
        return Err(ApiError::bad_request(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let mut document = blocking(api, move |engine| {
        let image = engine.images().resolve_for(&name, platform.as_ref())?;
        let layers: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let comment = image.config.history.last().and_then(|step| step.comment.clone()).unwrap_or_default();
        let mut document = json!({
            "Id": image.id.as_str(),
            "RepoTags": names(&image),
            "RepoDigests": digests(&image),
            "Parent": image.config.other.get("parent").and_then(Value::as_str).unwrap_or_default(),
            "Comment": comment,
            "Created": image.config.created,
            "DockerVersion": "",
            "Author": image.config.author.clone().unwrap_or_default(),
            "Config": container_config(&image.config.config),
            "Architecture": image.config.architecture,
            "Os": image.config.os,
            "Size": image.size(),
            "GraphDriver": { "Name": "overlay2", "Data": null },
            "RootFS": { "Type": "layers", "Layers": layers },
            "Metadata": { "LastTagTime": image.added },
        });
        if let Some(variant) = image.config.other.get("variant") {
            document["Variant"] = variant.clone();
        }
        let index = manifests::index_of(engine.images(), &image, Some(&name));
        if version >= Version::new(1, 48)
            && let Some(target) = manifests::target(engine.images(), &image, index.as_deref())
        {
            document["Descriptor"] = target;
        }
        if with_manifests {
            document["Manifests"] =
                json!(manifests::summaries(engine, &image, index.as_deref(), &engine.containers()));
        }
        Ok(document)
    })
    .await?;
    // Gone from the newest versions, and harmless there: Debian's build of Compose's first version speaks the newest
    // and cannot make a container anew without it.
    document["ContainerConfig"] = document["Config"].clone();
    if version < Version::new(1, 44) {
        document["VirtualSize"] = document["Size"].clone();
    }
    // What has no value is told to older clients all the same.
    let without = |document: &mut Value, names: &[&str]| {
        if let Some(fields) = document.as_object_mut() {
            fields.retain(|name, value| !(names.contains(&name.as_str()) && is_empty(value)));
        }
    };
    if version >= Version::new(1, 50) {
        without(&mut document["Config"], CONTAINERS_OWN);
    }
    if version >= Version::new(1, 52) {
        without(&mut document["Config"], OPTIONAL);
        without(&mut document, &["Parent", "Comment", "DockerVersion", "Author"]);
    }
    body::json(StatusCode::OK, &document)
}

/// Fields of a container's configuration that an image does not have.
const CONTAINERS_OWN: &[&str] = &[
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Image",
];
/// Fields of an image's configuration that it may have.
const OPTIONAL: &[&str] = &["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// How containers of an image start, with every field that clients read.
fn container_config(config: &dray_image::ContainerDefaults) -> Value {
    let mut value = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": null,
        "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    if let (Some(all), Ok(Value::Object(given))) = (value.as_object_mut(), serde_json::to_value(config)) {
        all.extend(given);
    }
    value
}

pub(crate) async fn history(
    api: &Api,
    name: &str,
    query: &Query,
    version: Version,
) -> Result<Response<Body>> {
    let name = name.to_owned();
    let platform = platform(query, version, Version::new(1, 48))?;
    let steps = blocking(api, move |engine| {
        let image = engine.images().resolve_for(&name, platform.as_ref())?;
        let mut sizes = image.layers.iter().map(|layer| layer.size);
        let mut steps: Vec<Value> = Vec::new();
        for step in &image.config.history {
            let size = if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
            steps.push(json!({
                "Id": "<missing>",
                "Created": seconds(step.created.as_deref()),
                "CreatedBy": step.created_by.clone().unwrap_or_default(),
                "Tags": null,
                "Size": size,
                "Comment": step.comment.clone().unwrap_or_default(),
            }));
        }
        if let Some(last) = steps.last_mut() {
            last["Id"] = json!(image.id.as_str());
            last["Tags"] = json!(names(&image));
        }
        steps.reverse();
        Ok(steps)
    })
    .await?;
    body::json(StatusCode::OK, &steps)
}

pub(crate) async fn tag(api: &Api, name: &str, query: &Query) -> Result<Response<Body>> {
    let repository =
        query.non_empty("repo").ok_or_else(|| ApiError::bad_request("repo must not be empty"))?;
    let target = match query.non_empty("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let name = name.to_owned();
    blocking(api, move |engine| {
        let reference = Reference::parse(&target)?;
        let image = engine.images().tag_as(&name, &reference)?;
        engine.image_event("tag", &image.id, &reference.familiar());
        Ok(())
    })
    .await?;
    Ok(body::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(api: &Api, name: &str, query: &Query) -> Result<Response<Body>> {
    let (name, force) = (name.to_owned(), query.flag("force"));
    let platforms = transfer::platforms(query, "platforms")?;
    let deleted = blocking(api, move |engine| {
        let containers = engine.containers();
        let deletions = engine.images().remove_platforms(&name, &platforms, force, |id| {
            let using = containers.iter().filter(|container| container.uses_image(id));
            using
                .map(|container| User {
                    id: container.id.short().to_owned(),
                    running: container.state.process.is_some(),
                })
                .collect()
        })?;
        let lines = deletions.into_iter().map(|deletion| match deletion {
            Deletion::Untagged(name) => json!({ "Untagged": name }),
            Deletion::Deleted(id) => {
                engine.image_event("delete", &id, &name);
                json!({ "Deleted": id.as_str() })
            }
        });
        Ok(lines.collect::<Vec<Value>>())
    })
    .await?;
    body::json(StatusCode::OK, &deleted)
}

pub(crate) async fn load(api: &Api, query: &Query, incoming: Incoming) -> Result<Response<Body>> {
    let options =
        LoadOptions { platforms: transfer::platforms(query, "platform")?, ..LoadOptions::default() };
    let reader = body::reader(incoming);
    let lines = blocking(api, move |engine| {
        let loaded = engine.images().load_with(reader, &options)?;
        let mut lines = String::new();
        for image in loaded {
            engine.image_event("load", &image.id, image.id.as_str());
            if image.references.is_empty() {
                lines.push_str(&format!(
                    "{}\n",
                    json!({ "stream": format!("Loaded image ID: {}\n", image.id) })
                ));
            }
            for reference in image.references {
                let text = format!("Loaded image: {}\n", reference.familiar());
                lines.push_str(&format!("{}\n", json!({ "stream": text })));
            }
        }
        Ok(lines)
    })
    .await;
    let lines = lines.unwrap_or_else(|error| {
        // Docker's answer has begun by then, and tells of it in its body.
        format!("{}\n", json!({ "errorDetail": { "message": error.message }, "error": error.message }))
    });
    let mut response = body::text(StatusCode::OK, lines);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(crate) fn save(api: &Api, names: &[&str], query: &Query) -> Result<Response<Body>> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    if names.is_empty() {
        return Err(ApiError::bad_request("no image specified"));
    }
    let platforms = transfer::platforms(query, "platform")?;
    for name in &names {
        api.engine.images().resolve_for(name, platforms.first())?;
    }
    let images = Arc::clone(api.engine.images());
    Ok(body::written_by("application/x-tar", move |writer| images.save(&names, &platforms, writer)))
}

/// `docker import`, and `docker pull`.
pub(crate) async fn create(api: &Api, query: &Query, request: Request<Incoming>) -> Result<Response<Body>> {
    match query.non_empty("fromImage") {
        Some(name) => transfer::pull(api, name, query, request).await,
        None => commit::import(api, query, request.into_body()).await,
    }
}

pub(crate) async fn prune(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, &["dangling", "label", "label!", "until"])?;
    let until = filters.until()?;
    let (deleted, freed) = blocking(api, move |engine| {
        let containers = engine.containers();
        let only_dangling = filters.flag("dangling").unwrap_or(true);
        let mut deleted = Vec::new();
        let before = engine.images().usage()?;
        let inner = engine.images().inner_images();
        // Those of other platforms go with the image that stands for all, and keep it when they are used.
        let uses = |image: &Image| {
            let family = engine.images().family(image);
            containers.iter().any(|container| family.iter().any(|id| container.uses_image(id)))
        };
        for image in engine.images().list()? {
            let wanted = !inner.contains(&image.id)
                && (!only_dangling || is_dangling(&image))
                && filters.labels(&image.config.config.labels)
                && until.is_none_or(|until| made(&image) < until)
                && !uses(&image);
            if !wanted {
                continue;
            }
            let Ok(deletions) = engine.images().remove(image.id.as_str(), true, |_| Vec::new()) else {
                continue;
            };
            deleted.extend(deletions.into_iter().map(|deletion| match deletion {
                Deletion::Untagged(name) => json!({ "Untagged": name }),
                Deletion::Deleted(id) => {
                    engine.image_event("delete", &id, id.as_str());
                    json!({ "Deleted": id.as_str() })
                }
            }));
        }
        let after = engine.images().usage()?;
        Ok((deleted, (before.layers + before.blobs).saturating_sub(after.layers + after.blobs)))
    })
    .await?;
    body::json(StatusCode::OK, &json!({ "ImagesDeleted": deleted, "SpaceReclaimed": freed }))
}
