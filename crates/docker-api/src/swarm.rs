//! Swarm mode: `/swarm`, `/nodes`, `/services`, `/tasks`, `/secrets` and `/configs`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use dray_engine::ContainerSpec;
use dray_image::Reference;
use dray_registry::{Client, Events, PullRequest};
use dray_swarm::{Error as SwarmError, Fetch, Kind, Rotation, Swarm, TaskContainer};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::{Api, create, logs};

/// How tasks become containers: by the words of this API, of images that its client for registries gets.
pub(crate) struct ByRequest {
    pub(crate) registries: Client,
}

impl TaskContainer for ByRequest {
    fn specification(&self, body: Value) -> std::result::Result<ContainerSpec, String> {
        create::from_body(body).map_err(|error| error.message)
    }

    fn decoded(&self, text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()
    }

    fn fetch(&self, image: String) -> Fetch {
        let registries = self.registries.clone();
        Box::pin(async move {
            let reference = Reference::parse(&image).map_err(|error| error.to_string())?;
            let request = PullRequest { reference, platform: None, credentials: None };
            let pulled = registries.pull(&request, &Events::ignored()).await;
            // Why it did not come is not what services show: it may as well have been meant to be here.
            pulled.map(drop).map_err(|error| {
                tracing::warn!(%image, error = %error.chain(), "the image of a service cannot be pulled");
                format!("No such image: {}", request.reference.familiar())
            })
        })
    }
}

impl From<SwarmError> for ApiError {
    fn from(error: SwarmError) -> Self {
        let status = match &error {
            SwarmError::NotManager | SwarmError::NotMember | SwarmError::Member | SwarmError::LastManager => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            SwarmError::NotFound { .. } => StatusCode::NOT_FOUND,
            SwarmError::Exists { .. } => StatusCode::CONFLICT,
            SwarmError::Invalid { .. } | SwarmError::Precondition { .. } => StatusCode::BAD_REQUEST,
            SwarmError::OneNode => StatusCode::NOT_IMPLEMENTED,
            SwarmError::Engine { .. } => match error {
                SwarmError::Engine { source } => return source.into(),
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self { status, message }
    }
}

/// Answers everything below these paths.
pub(crate) async fn handle(
    api: &Api,
    method: &str,
    segments: &[&str],
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let swarm = &api.swarm;
    // Before anything is refused: a client that is still writing would not see why.
    let body = read(request).await?;
    match (method, segments) {
        ("POST", ["swarm", "init"]) => {
            let id = swarm.init(&body).await?;
            body::json(StatusCode::OK, &json!(id))
        }
        ("POST", ["swarm", "join"]) => done(swarm.join()),
        ("GET", ["swarm"]) => body::json(StatusCode::OK, &swarm.inspect()?),
        ("POST", ["swarm", "leave"]) => done(swarm.leave(query.flag("force")).await),
        ("POST", ["swarm", "update"]) => {
            let rotation = Rotation {
                worker: query.flag("rotateWorkerToken"),
                manager: query.flag("rotateManagerToken"),
                unlock_key: query.flag("rotateManagerUnlockKey"),
            };
            let version = version(query)?;
            done(swarm.update(version, &body, rotation))
        }
        ("GET", ["swarm", "unlockkey"]) => {
            body::json(StatusCode::OK, &json!({ "UnlockKey": swarm.unlock_key()? }))
        }
        ("POST", ["swarm", "unlock"]) => Err(ApiError::new(StatusCode::CONFLICT, "swarm is not locked")),

        ("GET", ["nodes"]) => {
            let known = ["id", "label", "membership", "name", "role"];
            let filters = Filters::parse(query, &known)?;
            let nodes: Vec<Value> = [swarm.node()?]
                .into_iter()
                .filter(|node| {
                    filters.any("id", |id| text(node, "/ID").starts_with(id))
                        && filters.any("name", |name| text(node, "/Description/Hostname").starts_with(name))
                        && filters.any("role", |role| text(node, "/Spec/Role") == role)
                        && filters.any("membership", |membership| membership == "accepted")
                        && labelled(&filters, node)
                })
                .collect();
            body::json(StatusCode::OK, &nodes)
        }
        ("GET", ["nodes", name]) => body::json(StatusCode::OK, &swarm.node_named(name)?),
        ("DELETE", ["nodes", name]) => done(swarm.remove_node(name)),
        ("POST", ["nodes", name, "update"]) => {
            let version = version(query)?;
            done(swarm.update_node(name, version, &body))
        }

        ("GET", ["services"]) => {
            let filters = Filters::parse(query, &["id", "label", "mode", "name", "runtime"])?;
            let mut services = swarm.list_services(query.flag("status"))?;
            services.retain(|service| {
                let mode = service["Spec"]["Mode"].as_object().and_then(|mode| mode.keys().next());
                let mode = mode.map(|mode| mode.to_ascii_lowercase().replace("job", "-job"));
                by_name(&filters, service)
                    && filters.any("mode", |wanted| mode.as_deref() == Some(wanted))
                    && filters.any("runtime", |runtime| runtime == "container")
            });
            body::json(StatusCode::OK, &services)
        }
        ("POST", ["services", "create"]) => {
            let id = swarm.create_service(&body)?;
            body::json(StatusCode::CREATED, &json!({ "ID": id }))
        }
        ("GET", ["services", name]) => {
            body::json(StatusCode::OK, &swarm.inspect_service(name, query.flag("insertDefaults"))?)
        }
        ("DELETE", ["services", name]) => done(swarm.remove_service(name)),
        ("POST", ["services", name, "update"]) => {
            let version = version(query)?;
            let is_back = query.get("rollback") == Some("previous");
            swarm.update_service(name, version, &body, is_back)?;
            body::json(StatusCode::OK, &json!({ "Warnings": null }))
        }
        ("GET", ["services" | "tasks", name, "logs"]) => {
            // The newest container speaks; one that has not been made yet has said nothing.
            match swarm.containers_of(name)?.iter().rev().find(|id| api.engine.container(id).is_ok()) {
                Some(id) => logs::stream(api, id, query),
                None => Ok(body::empty(StatusCode::OK)),
            }
        }

        ("GET", ["tasks"]) => {
            let known = ["desired-state", "id", "label", "name", "node", "service", "_up-to-date"];
            let filters = Filters::parse(query, &known)?;
            let mut tasks = swarm.list_tasks()?;
            tasks.retain(|task| {
                filters.any("id", |id| text(task, "/ID").starts_with(id))
                    && filters.any("name", |name| task_name(swarm, task).starts_with(name))
                    && filters.any("service", |service| {
                        text(task, "/ServiceID") == service
                            || swarm
                                .inspect_service(service, false)
                                .is_ok_and(|found| found["ID"] == task["ServiceID"])
                    })
                    && filters
                        .any("node", |node| text(task, "/NodeID") == node || swarm.node_named(node).is_ok())
                    && filters.any("_up-to-date", |wanted| {
                        let service = swarm.inspect_service(text(task, "/ServiceID"), false);
                        let is_so = service.is_ok_and(|found| found["Spec"]["TaskTemplate"] == task["Spec"]);
                        is_so == matches!(wanted, "1" | "true")
                    })
                    && filters.any("desired-state", |state| text(task, "/DesiredState") == state)
                    && labelled(&filters, task)
            });
            body::json(StatusCode::OK, &tasks)
        }
        ("GET", ["tasks", name]) => body::json(StatusCode::OK, &swarm.inspect_task(name)?),

        (_, ["secrets", rest @ ..]) => objects(api, Kind::Secret, method, rest, query, &body),
        (_, ["configs", rest @ ..]) => objects(api, Kind::Config, method, rest, query, &body),
        _ => Err(ApiError::not_found("page not found")),
    }
}

fn objects(
    api: &Api,
    kind: Kind,
    method: &str,
    segments: &[&str],
    query: &Query,
    body: &Value,
) -> Result<Response<Body>> {
    let swarm = &api.swarm;
    match (method, segments) {
        ("GET", []) => {
            let filters = Filters::parse(query, &["id", "label", "name", "names"])?;
            let mut objects = swarm.list_objects(kind)?;
            objects.retain(|object| {
                by_name(&filters, object) && filters.any("names", |name| text(object, "/Spec/Name") == name)
            });
            body::json(StatusCode::OK, &objects)
        }
        ("POST", ["create"]) => {
            let id = swarm.create_object(kind, body)?;
            body::json(StatusCode::CREATED, &json!({ "ID": id }))
        }
        ("GET", [name]) => body::json(StatusCode::OK, &swarm.inspect_object(kind, name)?),
        ("DELETE", [name]) => {
            swarm.remove_object(kind, name)?;
            Ok(body::empty(StatusCode::NO_CONTENT))
        }
        ("POST", [name, "update"]) => {
            let version = version(query)?;
            done(swarm.update_object(kind, name, version, body))
        }
        _ => Err(ApiError::not_found("page not found")),
    }
}

/// The version of an object that a change is meant for.
fn version(query: &Query) -> Result<u64> {
    query.number("version")?.ok_or_else(|| ApiError::bad_request("invalid swarm object version"))
}

fn done(outcome: dray_swarm::Result<()>) -> Result<Response<Body>> {
    outcome?;
    Ok(body::empty(StatusCode::OK))
}

/// The body, where none is an empty object.
async fn read(request: Request<Incoming>) -> Result<Value> {
    let bytes = body::read_all(request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    let mut value: Value = body::parse_json(&bytes)?;
    capitalise(&mut value);
    Ok(value)
}

/// Fields whose names are the user's own.
const MAPS: &[&str] = &["Labels", "Options", "DriverOpts", "Sysctls"];

/// Gives fields the names that they are read by: Docker does not look at the case of letters in JSON, and clients make use
/// of that.
fn capitalise(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(capitalise),
        Value::Object(object) => {
            for (name, mut value) in std::mem::take(object) {
                let mut letters = name.chars();
                let name = letters.next().map_or_else(String::new, |first| {
                    first.to_ascii_uppercase().to_string() + letters.as_str()
                });
                if !MAPS.contains(&name.as_str()) {
                    capitalise(&mut value);
                }
                object.insert(name, value);
            }
        }
        _ => {}
    }
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `SERVICE.SLOT`, by which clients know a task.
fn task_name(swarm: &Swarm, task: &Value) -> String {
    let service = swarm.inspect_service(text(task, "/ServiceID"), false).unwrap_or_default();
    format!("{}.{}", text(&service, "/Spec/Name"), task["Slot"])
}

fn by_name(filters: &Filters, object: &Value) -> bool {
    filters.any("id", |id| text(object, "/ID").starts_with(id))
        && filters.any("name", |name| text(object, "/Spec/Name").starts_with(name))
        && labelled(filters, object)
}

fn labelled(filters: &Filters, object: &Value) -> bool {
    let labels: BTreeMap<String, String> = object["Spec"]["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    filters.labels(&labels)
}
