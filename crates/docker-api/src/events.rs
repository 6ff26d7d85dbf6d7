//! `GET /events`.

use dray_engine::{Event, EventFilter};
use http::Response;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::Api;
use crate::body::{self, Body};
use crate::error::Result;
use crate::filters::Filters;
use crate::logs::time;
use crate::query::Query;

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

pub(crate) fn stream(api: &Api, query: &Query) -> Result<Response<Body>> {
    let filters = Filters::parse(query, FILTERS)?;
    let range = EventFilter { since: time(query, "since")?, until: time(query, "until")? };
    let (past, mut receiver) = api.engine.events(range);
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        for event in past.iter().filter(|event| suits(event, &filters)) {
            if sender.send(line(event).into()).await.is_err() {
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
                    if sender.send(line(&event).into()).await.is_err() {
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

fn line(event: &Event) -> String {
    let nanoseconds = i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX);
    let mut value = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": { "ID": event.actor, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": nanoseconds,
    });
    if event.kind == dray_engine::EventKind::Container {
        value["status"] = json!(event.action);
        value["id"] = json!(event.actor);
        value["from"] = json!(event.attributes.get("image"));
    }
    format!("{value}\n")
}
