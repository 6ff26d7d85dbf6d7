//! `GET /containers/json`.

use dray_engine::{ContainerRecord, Engine, HealthStatus, Status};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::duration;
use crate::endpoints;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::inspect;
use crate::query::Query;
use crate::version::Version;

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "since",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "status",
    "volume",
];

pub(crate) fn containers(api: &Api, query: &Query, version: Version) -> Result<Response<Body>> {
    let filters = Filters::parse(query, FILTERS)?;
    let limit: Option<i64> = query.number("limit")?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    // A filter on the state speaks of all containers, and so does a limit.
    let all = query.flag("all")
        || limit.is_some()
        || !filters.values("status").is_empty()
        || !filters.values("exited").is_empty();
    for status in filters.values("status") {
        const KNOWN: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];
        if !KNOWN.contains(&status.as_str()) {
            return Err(ApiError::bad_request(format!("invalid filter 'status={status}'")));
        }
    }
    let created = |name: &str| -> Result<Option<jiff::Timestamp>> {
        filters.values(name).first().map(|id| Ok(api.engine.container(id)?.record().created)).transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let listed: Vec<Value> = api
        .engine
        .containers()
        .iter()
        .filter(|record| all || matches!(record.state.status, Status::Running | Status::Restarting))
        .filter(|record| {
            before.is_none_or(|t| record.created < t) && since.is_none_or(|t| record.created > t)
        })
        .filter(|record| suits(&api.engine, record, &filters))
        .take(limit.unwrap_or(usize::MAX))
        .map(|record| summary(&api.engine, record, query.flag("size"), version))
        .collect();
    body::json(StatusCode::OK, &listed)
}

fn suits(engine: &Engine, record: &ContainerRecord, filters: &Filters) -> bool {
    let networks = || record.endpoints.iter().map(|e| (e.network_name.as_str(), e.network.as_str()));
    filters.any("id", |id| record.id.as_str().starts_with(id))
        && filters.any("name", |name| {
            let anchored = name.trim_start_matches('^');
            let plain = anchored.trim_start_matches('/').trim_end_matches('$');
            match (name.starts_with('^'), name.ends_with('$')) {
                (true, true) => record.name == plain,
                (true, false) => record.name.starts_with(plain),
                (false, true) => record.name.ends_with(plain),
                (false, false) => record.name.contains(plain),
            }
        })
        && filters.labels(&record.spec.labels)
        && filters.any("status", |status| record.state.as_str() == status)
        && filters.any("exited", |code| {
            record.state.status == Status::Exited && code == record.state.exit_code.to_string()
        })
        && filters.any("ancestor", |image| {
            engine.images().resolve(image).is_ok_and(|image| image.id == record.image)
        })
        && filters.any("network", |network| {
            inspect::network_mode(record) == network
                || networks().any(|(name, id)| name == network || id.starts_with(network))
        })
        && filters.any("volume", |volume| {
            record.volumes.iter().any(|used| used.name == volume || used.target == volume)
                || record.spec.mounts.iter().any(|mount| mount.target == volume)
        })
        && filters.any("publish", |port| {
            let number = port.split('/').next().unwrap_or_default();
            record.ports.iter().any(|published| published.host_port.to_string() == number)
        })
        && filters.any("health", |health| {
            health == record.state.health.as_ref().map_or("none", |known| known.status.as_str())
        })
        && filters.any("is-task", |task| task == "false" || task == "0")
        && filters.any("expose", |port| {
            let exposed = record.spec.exposed.iter().any(|exposed| same_port(exposed, port));
            let port = |published: &dray_engine::PortBinding| {
                same_port(&format!("{}/{}", published.container_port, published.protocol.name()), port)
            };
            exposed || record.ports.iter().any(port)
        })
}

pub(crate) fn summary(engine: &Engine, record: &ContainerRecord, size: bool, version: Version) -> Value {
    let networks: Map<String, Value> = record
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.network_name.clone(), endpoints::document(record, endpoint, version)))
        .collect();
    let mut value = json!({
        "Id": record.id.as_str(),
        "Names": [format!("/{}", record.name)],
        "Image": record.spec.image,
        "ImageID": record.image.as_str(),
        "Command": command(&record.args),
        "Created": record.created.as_second(),
        "Ports": ports(record),
        "Labels": record.spec.labels,
        "State": record.state.as_str(),
        "Status": status(record),
        "HostConfig": { "NetworkMode": inspect::network_mode(record) },
        "NetworkSettings": { "Networks": networks },
        "Mounts": inspect::mounts(engine, record),
    });
    let annotations = &record.spec.api["HostConfig"]["Annotations"];
    if !annotations.is_null() {
        value["HostConfig"]["Annotations"] = annotations.clone();
    }
    if version >= Version::new(1, 52)
        && let Some(health) = &record.state.health
    {
        value["Health"] = json!({ "Status": health.status.as_str(), "FailingStreak": health.failing_streak });
    }
    if size {
        let written = engine.written_size(record);
        value["SizeRw"] = json!(written);
        value["SizeRootFs"] = json!(written + record.layers.iter().map(|layer| layer.size).sum::<u64>());
    }
    value
}

/// Whether a port is the one that a filter names; without a protocol it is TCP's.
fn same_port(port: &str, wanted: &str) -> bool {
    let parts = |text: &'_ str| -> (String, String) {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        (number.to_owned(), protocol.to_owned())
    };
    parts(port) == parts(wanted)
}

/// The command as one line; words with blanks are quoted.
fn command(args: &[String]) -> String {
    let quoted = args.iter().enumerate().map(|(index, arg)| {
        if index > 0 && arg.contains(' ') { format!("'{}'", arg.replace('\'', "\\'")) } else { arg.clone() }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The published ports, and those that a running container only says that it has.
fn ports(record: &ContainerRecord) -> Vec<Value> {
    let published = record.ports.iter().map(|port| {
        json!({
            "IP": port.host_address.to_string(), "PrivatePort": port.container_port,
            "PublicPort": port.host_port, "Type": port.protocol.name(),
        })
    });
    let is_published = |name: &str| {
        record
            .ports
            .iter()
            .any(|port| same_port(&format!("{}/{}", port.container_port, port.protocol.name()), name))
    };
    let exposed = record.spec.exposed.iter().filter(|_| record.state.status == Status::Running);
    let exposed = exposed.filter(|name| !is_published(name)).filter_map(|name| {
        let (number, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
        Some(json!({ "PrivatePort": number.parse::<u16>().ok()?, "Type": protocol }))
    });
    published.chain(exposed).collect()
}

/// The state in words, as `docker ps` shows it.
fn status(record: &ContainerRecord) -> String {
    let state = &record.state;
    let since = |time: Option<jiff::Timestamp>| time.map(duration::since).unwrap_or_default();
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running if state.paused => format!("Up {} (Paused)", since(state.started)),
        Status::Running => match &state.health {
            Some(health) if health.status == HealthStatus::Starting => {
                format!("Up {} (health: starting)", since(state.started))
            }
            Some(health) => format!("Up {} ({})", since(state.started), health.status.as_str()),
            None => format!("Up {}", since(state.started)),
        },
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
    }
}
