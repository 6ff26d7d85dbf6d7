//! `GET /system/df`: what takes room on the disk, and how much of it nobody needs.

use std::collections::BTreeMap;

use dray_engine::{ContainerRecord, Engine};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::version::Version;
use crate::{Api, images, list, volumes};

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// One kind of object: all of them, and what they take in bytes.
#[derive(Default)]
struct Usage {
    items: Vec<Value>,
    active: usize,
    size: u64,
    reclaimable: u64,
}

impl Usage {
    fn add(&mut self, item: Value, size: u64, is_active: bool) {
        self.items.push(item);
        self.active += usize::from(is_active);
        self.size += size;
        self.reclaimable += if is_active { 0 } else { size };
    }

    /// As API 1.52 has it, where noughts are left out.
    fn document(&self, verbose: bool) -> Value {
        let mut value = Map::new();
        for (name, number) in [
            ("ActiveCount", self.active as u64),
            ("TotalCount", self.items.len() as u64),
            ("Reclaimable", self.reclaimable),
            ("TotalSize", self.size),
        ] {
            if number > 0 {
                value.insert(name.to_owned(), json!(number));
            }
        }
        if verbose && !self.items.is_empty() {
            value.insert("Items".to_owned(), json!(self.items));
        }
        Value::Object(value)
    }
}

/// What `docker system df` counts.
pub(crate) async fn disk_usage(api: &Api, query: &Query, version: Version) -> Result<Response<Body>> {
    let wanted: Vec<String> = query.all("type").into_iter().map(str::to_owned).collect();
    if let Some(unknown) = wanted.iter().find(|kind| !TYPES.contains(&kind.as_str())) {
        return Err(ApiError::bad_request(format!("unknown object type: {unknown}")));
    }
    let is_new = version >= Version::new(1, 52);
    let verbose = is_new && query.flag("verbose");
    let (engine, builder) = (api.engine.clone(), api.builder.clone());
    let counted = tokio::task::spawn_blocking(move || {
        let wants = |kind: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == kind);
        let mut counted = Map::new();
        for (kind, old, new) in [
            ("image", "Images", "ImageUsage"),
            ("container", "Containers", "ContainerUsage"),
            ("volume", "Volumes", "VolumeUsage"),
            ("build-cache", "BuildCache", "BuildCacheUsage"),
        ] {
            let usage = match kind {
                _ if !wants(kind) => None,
                "image" => Some(of_images(&engine, version)?),
                "container" => Some(of_containers(&engine, version)),
                "volume" => Some(of_volumes(&engine)),
                _ => Some(of_build_cache(&builder.cached())),
            };
            if is_new && let Some(usage) = &usage {
                counted.insert(new.to_owned(), usage.document(verbose));
            }
            if !verbose {
                counted.insert(old.to_owned(), usage.map_or(Value::Null, |usage| json!(usage.items)));
            }
        }
        if !verbose {
            counted.insert("LayersSize".to_owned(), json!(engine.images().usage()?.layers));
        }
        Ok::<_, ApiError>(counted)
    });
    let counted = counted.await.map_err(|_| ApiError::internal("counting ended unexpectedly"))??;
    body::json(StatusCode::OK, &counted)
}

fn of_images(engine: &Engine, version: Version) -> Result<Usage> {
    let containers = engine.containers();
    let mut usage = Usage { size: engine.images().usage()?.layers, ..Usage::default() };
    // Images share layers: what stays is each layer of an image with a container, once.
    let mut needed = BTreeMap::new();
    let inner = engine.images().inner_images();
    for image in engine.images().list()? {
        if inner.contains(&image.id) {
            if containers.iter().any(|container| container.uses_image(&image.id)) {
                needed.extend(image.layers.iter().map(|layer| (layer.chain_id.clone(), layer.size)));
            }
            continue;
        }
        usage.items.push(images::summary(&image, &containers, version));
        if containers.iter().any(|container| container.uses_image(&image.id)) {
            usage.active += 1;
            needed.extend(image.layers.iter().map(|layer| (layer.chain_id.clone(), layer.size)));
        }
    }
    usage.reclaimable = usage.size.saturating_sub(needed.values().sum());
    Ok(usage)
}

fn of_containers(engine: &Engine, version: Version) -> Usage {
    let mut usage = Usage::default();
    for container in engine.containers() {
        let is_active = |container: &ContainerRecord| {
            ["running", "paused", "restarting"].contains(&container.state.as_str())
        };
        let summary = list::summary(engine, &container, true, version);
        let size = summary["SizeRw"].as_u64().unwrap_or(0);
        usage.add(summary, size, is_active(&container));
    }
    usage
}

fn of_volumes(engine: &Engine) -> Usage {
    let containers = engine.containers();
    let mut usage = Usage::default();
    for volume in engine.volumes() {
        let users = containers.iter().flat_map(|container| &container.volumes);
        let count = users.filter(|used| used.name == volume.name).count();
        let size = engine.volume_size(&volume.name).unwrap_or(0);
        let mut value = volumes::document(&volume);
        value["UsageData"] = json!({ "Size": size, "RefCount": count });
        usage.add(value, size, count > 0);
    }
    usage
}

fn of_build_cache(entries: &[dray_build::CachedStep]) -> Usage {
    let mut usage = Usage::default();
    for entry in entries {
        let value = json!({
            "ID": entry.key, "Type": entry.kind, "Description": entry.description, "InUse": entry.in_use,
            "Shared": false, "Size": entry.size, "CreatedAt": entry.made.to_string(),
            "LastUsedAt": entry.used.to_string(), "UsageCount": 1,
        });
        usage.add(value, entry.size, entry.in_use);
    }
    usage
}
