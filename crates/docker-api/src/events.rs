//! `GET /events`.

use dray_engine::{Event, EventFilter};
use http::{HeaderMap, Response, header};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::logs::time;
use crate::query::Query;
use crate::version::Version;

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "type",
    "volume",
];

/// How events stand one after the other.
#[derive(Clone, Copy)]
struct Format {
    content_type: &'static str,
    /// With the fields that API 1.22 took away and 1.52 leaves out.
    with_old_fields: bool,
}

const SEQUENCE: &str = "application/json-seq";

impl Format {
    /// What a client of this version asks for. A type that is not known is passed over.
    fn of(version: Version, headers: &HeaderMap) -> Self {
        let with_old_fields = version < Version::new(1, 52);
        let usual = if with_old_fields { "application/json" } else { "application/jsonl" };
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let asked = accepted
            .flat_map(|value| value.split(','))
            .filter_map(|entry| entry.split(';').next())
            .find_map(|entry| {
                let known = ["application/jsonl", "application/x-ndjson", SEQUENCE];
                known.into_iter().find(|known| entry.trim().eq_ignore_ascii_case(known))
            });
        Self { content_type: asked.unwrap_or(usual), with_old_fields }
    }
}

pub(crate) fn stream(
    api: &Api,
    query: &Query,
    version: Version,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let format = Format::of(version, headers);
    let filters = Filters::parse(query, FILTERS)?;
    let range = EventFilter { since: time(query, "since")?, until: time(query, "until")? };
    if let (Some(since), Some(until)) = (range.since, range.until)
        && until < since
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            query.get("since").unwrap_or_default(),
            query.get("until").unwrap_or_default()
        )));
    }
    let (past, mut receiver) = api.engine.events(range);
    let (sender, response) = body::stream(format.content_type);
    tokio::spawn(async move {
        for event in past.iter().filter(|event| suits(event, &filters)) {
            if sender.send(line(event, format).into()).await.is_err() {
                return;
            }
        }
        let end = async {
            match range.until {
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    let left = std::time::Duration::try_from(left).unwrap_or_default();
                    tokio::time::sleep(left).await;
                }
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        loop {
            let event = tokio::select! {
                event = receiver.recv() => event,
                () = &mut end => return,
                () = sender.closed() => return,
            };
            match event {
                Ok(event) if suits(&event, &filters) => {
                    if sender.send(line(&event, format).into()).await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(response)
}

fn suits(event: &Event, filters: &Filters) -> bool {
    let kind = event.kind.as_str();
    let is = |value: &str| {
        event.actor == value
            || (value.len() >= 4 && event.actor.starts_with(value))
            || event.attributes.get("name").is_some_and(|name| name == value)
    };
    let action = event.action.split(':').next().unwrap_or_default();
    filters.any("type", |wanted| wanted == kind)
        && filters.any("event", |wanted| wanted == action || wanted == event.action)
        && filters.any("container", |wanted| kind == "container" && is(wanted))
        && filters.any("network", |wanted| kind == "network" && is(wanted))
        && filters.any("volume", |wanted| kind == "volume" && is(wanted))
        && filters.any("image", |wanted| {
            kind == "image" && is(wanted)
                || event.attributes.get("image").is_some_and(|image| image == wanted)
        })
        && filters.any("scope", |scope| scope == "local")
        && filters.labels(&event.attributes)
}

fn line(event: &Event, format: Format) -> String {
    let nanoseconds = i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX);
    let mut value = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": { "ID": event.actor, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": nanoseconds,
    });
    if format.with_old_fields && event.kind == dray_engine::EventKind::Container {
        value["status"] = json!(event.action);
        value["id"] = json!(event.actor);
        value["from"] = json!(event.attributes.get("image"));
    }
    // RFC 7464 has a record separator before each text.
    let separator = if format.content_type == SEQUENCE { "\u{1e}" } else { "" };
    format!("{separator}{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_how_events_are_parted() {
        let format = |minor: u32, accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Format::of(Version::new(1, minor), &headers).content_type
        };
        assert_eq!(format(51, "*/*"), "application/json");
        assert_eq!(format(52, "*/*"), "application/jsonl");
        assert_eq!(format(53, "text/html, application/x-ndjson;q=0.9"), "application/x-ndjson");
        assert_eq!(format(53, "Application/JSON-Seq"), SEQUENCE);
    }
}
