//! Images from and to registries: the streams of JSON lines that Docker's command line draws, and dockerd's words.

use bytes::Bytes;
use dray_image::{Error as ImageError, Reference};
use dray_registry::{
    Credentials, Error as RegistryError, Event, Events, Platform, PullRequest, PushRequest, Step,
};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;

/// Events that a slow client may be behind.
const AHEAD: usize = 64;
const AUTH: &str = "x-registry-auth";

fn line(value: &Value) -> Bytes {
    format!("{value}\r\n").into()
}

fn failure(message: &str) -> Bytes {
    line(&json!({ "errorDetail": { "message": message }, "error": message }))
}

fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>> {
    let Some(header) = headers.get(AUTH) else { return Ok(None) };
    let text = header.to_str().map_err(|_| ApiError::bad_request("invalid X-Registry-Auth header"))?;
    // dockerd too goes on as nobody when it cannot read who asks.
    Ok(Credentials::of_header(text).unwrap_or_default())
}

/// The one platform of a request, as users write it.
pub(crate) fn platform(query: &Query) -> Result<Option<Platform>> {
    let parsed = query.non_empty("platform").map(|text| {
        Platform::parse(text).map_err(|_| {
            ApiError::bad_request(format!(
                "{text:?} is an invalid OS component or platform: use OS/ARCHITECTURE"
            ))
        })
    });
    parsed.transpose()
}

/// The platforms of a request that may name several by a parameter, each as the OCI's JSON.
pub(crate) fn platforms(query: &Query, parameter: &str) -> Result<Vec<Platform>> {
    let parse = |text: &str| {
        let wrong = || ApiError::bad_request(format!("failed to parse platform: {text}"));
        let given: Platform = serde_json::from_str(text).map_err(|_| wrong())?;
        // Processors have several names.
        Platform::parse(&given.to_string()).map_err(|_| wrong())
    };
    query.all(parameter).into_iter().filter(|text| !text.is_empty()).map(parse).collect()
}

/// dockerd's words for a failed pull, and its status when nothing was answered yet.
pub(crate) fn pull_error(error: &RegistryError, reference: &Reference) -> ApiError {
    let name = reference.familiar_name();
    let login =
        || format!("pull access denied for {name}, repository does not exist or may require 'docker login'");
    let (status, message) = match error {
        RegistryError::Denied { message } => {
            (StatusCode::NOT_FOUND, format!("{}: denied: {message}", login()))
        }
        RegistryError::Unauthorized { message, .. } => {
            (StatusCode::NOT_FOUND, format!("{}: unauthorized: {message}", login()))
        }
        RegistryError::NotFound { code, message } if code == "name unknown" => {
            (StatusCode::NOT_FOUND, format!("repository {name} not found: {code}: {message}"))
        }
        RegistryError::NotFound { code, message } => (
            StatusCode::NOT_FOUND,
            format!("manifest for {} not found: {code}: {message}", reference.familiar()),
        ),
        RegistryError::NoPlatform { .. } | RegistryError::OtherPlatform { .. } => {
            (StatusCode::NOT_FOUND, error.chain())
        }
        other => return other_error(other),
    };
    ApiError::new(status, message)
}

fn other_error(error: &RegistryError) -> ApiError {
    let status = match error {
        RegistryError::Store(ImageError::NotFound { .. } | ImageError::OtherPlatform { .. })
        | RegistryError::NotFound { .. } => StatusCode::NOT_FOUND,
        RegistryError::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
        RegistryError::Denied { .. } => StatusCode::FORBIDDEN,
        RegistryError::Setting { .. } => StatusCode::BAD_REQUEST,
        RegistryError::Incomplete { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let message = match error {
        RegistryError::Connect { url, source } => format!("Get {url:?}: {source}"),
        error => error.chain(),
    };
    ApiError::new(status, message)
}

/// A step of a layer, as a line.
fn step_line(id: &str, step: &Step) -> Bytes {
    let (status, detail) = match step {
        Step::Needed => ("Pulling fs layer".to_owned(), json!({})),
        Step::Waiting => ("Waiting".to_owned(), json!({})),
        Step::Exists => ("Already exists".to_owned(), json!({})),
        Step::Downloading(at, of) => ("Downloading".to_owned(), json!({ "current": at, "total": of })),
        Step::Retrying(seconds) => {
            let ending = if *seconds == 1 { "" } else { "s" };
            (format!("Retrying in {seconds} second{ending}"), json!({}))
        }
        Step::Verifying => ("Verifying Checksum".to_owned(), json!({})),
        Step::Downloaded => ("Download complete".to_owned(), json!({})),
        Step::Extracting(at, of) => ("Extracting".to_owned(), json!({ "current": at, "total": of })),
        Step::Pulled => ("Pull complete".to_owned(), json!({})),
        Step::Preparing => ("Preparing".to_owned(), json!({})),
        Step::Pushing(at, of) => ("Pushing".to_owned(), json!({ "current": at, "total": of })),
        Step::Pushed => ("Pushed".to_owned(), json!({})),
        Step::PushExists => ("Layer already exists".to_owned(), json!({})),
        Step::Mounted(from) => (format!("Mounted from {from}"), json!({})),
    };
    line(&json!({ "status": status, "progressDetail": detail, "id": id }))
}

fn event_line(event: &Event) -> Bytes {
    match event {
        Event::Pulling { what, repository } => {
            line(&json!({ "status": format!("Pulling from {repository}"), "id": what }))
        }
        Event::Layer { id, step } => step_line(id, step),
        Event::Digest(digest) => line(&json!({ "status": format!("Digest: {digest}") })),
    }
}

/// Hands events on as lines until there are no more; whether somebody still takes them.
async fn forward(sender: &mpsc::Sender<Bytes>, mut events: mpsc::Receiver<Event>) -> bool {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // The transfer hears of it when the receiver is dropped.
            () = sender.closed() => return false,
        };
        let Some(event) = event else { return true };
        if sender.send(event_line(&event)).await.is_err() {
            return false;
        }
    }
}

/// Pulls one image; the last line when it is here.
async fn pull_one(
    api: &Api,
    request: PullRequest,
    sender: mpsc::Sender<Event>,
) -> std::result::Result<Bytes, RegistryError> {
    let pulled = api.registries.pull(&request, &Events::to(sender)).await?;
    let name = request.reference.familiar();
    api.engine.image_event("pull", &pulled.image.id, &name);
    let words = if pulled.is_new { "Downloaded newer image for" } else { "Image is up to date for" };
    Ok(line(&json!({ "status": format!("Status: {words} {name}") })))
}

/// `POST /images/create?fromImage=`: a failure is a status until the first line, and a line from then on.
pub(crate) async fn pull(
    api: &Api,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (name, all) = match query.non_empty("tag") {
        Some(tag) if tag.starts_with("sha256:") => (format!("{name}@{tag}"), false),
        Some(tag) => (format!("{name}:{tag}"), false),
        None => {
            let last = name.rsplit('/').next().unwrap_or_default();
            (name.to_owned(), !last.contains([':', '@']))
        }
    };
    let reference = Reference::parse(&name)?;
    let platform = platform(query)?;
    let credentials = credentials(request.headers())?;
    let mut wanted = vec![reference.clone()];
    if all {
        let tags = api.registries.tags(&reference, credentials.as_ref()).await;
        let tags = tags.map_err(|error| pull_error(&error, &reference))?;
        let named = tags.iter().map(|tag| Reference::parse(&format!("{}:{tag}", reference.familiar_name())));
        wanted = named.filter_map(std::result::Result::ok).collect();
    }
    let mut wanted = wanted.into_iter();
    let Some(first) = wanted.next() else {
        return Err(ApiError::not_found(format!("repository {} has no tags", reference.familiar_name())));
    };
    let of = move |reference| PullRequest {
        reference,
        platform: platform.clone(),
        credentials: credentials.clone(),
    };
    let (events, mut receiver) = mpsc::channel(AHEAD);
    let (pulling, request) = (api.clone(), of(first.clone()));
    let task = tokio::spawn(async move { pull_one(&pulling, request, events).await });
    let Some(event) = receiver.recv().await else {
        return match task.await {
            Ok(Err(error)) => Err(pull_error(&error, &first)),
            _ => Err(ApiError::internal("the pull ended unexpectedly")),
        };
    };
    let (sender, response) = body::stream("application/json");
    let api = api.clone();
    tokio::spawn(async move {
        let begun = event_line(&event);
        if sender.send(begun).await.is_err() || !forward(&sender, receiver).await {
            return;
        }
        let mut done = end_of_pull(task, &first).await;
        for reference in wanted {
            let is_good = done.is_ok();
            let last = done.unwrap_or_else(|error| failure(&error.message));
            if sender.send(last).await.is_err() || !is_good {
                return;
            }
            let (events, receiver) = mpsc::channel(AHEAD);
            let (pulling, request) = (api.clone(), of(reference.clone()));
            let task = tokio::spawn(async move { pull_one(&pulling, request, events).await });
            if !forward(&sender, receiver).await {
                return;
            }
            done = end_of_pull(task, &reference).await;
        }
        let _ = sender.send(done.unwrap_or_else(|error| failure(&error.message))).await;
    });
    Ok(response)
}

async fn end_of_pull(
    task: tokio::task::JoinHandle<std::result::Result<Bytes, RegistryError>>,
    reference: &Reference,
) -> Result<Bytes> {
    match task.await {
        Ok(done) => done.map_err(|error| pull_error(&error, reference)),
        Err(_) => Err(ApiError::internal("the pull ended unexpectedly")),
    }
}

/// `POST /images/{name}/push`: one tag, or without `tag` all of the repository.
pub(crate) async fn push(
    api: &Api,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let credentials = credentials(request.headers())?;
    let platform = platforms(query, "platform")?.into_iter().next();
    let tagged = match query.non_empty("tag") {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let reference = Reference::parse(&tagged)?;
    if reference.digest().is_some() {
        return Err(ApiError::bad_request("cannot push a digest reference"));
    }
    let has_tag =
        query.non_empty("tag").is_some() || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let mut wanted = vec![reference.clone()];
    if !has_tag {
        let listed = api.engine.images().list()?;
        let names = listed.into_iter().flat_map(|image| image.references);
        wanted = names.filter(|known| known.tag().is_some() && known.same_repository(&reference)).collect();
        wanted.sort_unstable();
    }
    let (sender, response) = body::stream("application/json");
    let api = api.clone();
    tokio::spawn(async move {
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let begin = line(&json!({ "status": format!("The push refers to repository [{repository}]") }));
        if sender.send(begin).await.is_err() {
            return;
        }
        if wanted.is_empty() {
            let message =
                format!("An image does not exist locally with the tag: {}", reference.familiar_name());
            let _ = sender.send(failure(&message)).await;
            return;
        }
        for reference in wanted {
            let request =
                PushRequest { reference, platform: platform.clone(), credentials: credentials.clone() };
            if !push_one(&api, request, &sender).await {
                return;
            }
        }
    });
    Ok(response)
}

/// Pushes one tag, and tells of it; whether to go on.
async fn push_one(api: &Api, request: PushRequest, sender: &mpsc::Sender<Bytes>) -> bool {
    let (events, receiver) = mpsc::channel(AHEAD);
    let reference = request.reference.clone();
    let registries = api.registries.clone();
    let task = tokio::spawn(async move { registries.push(&request, &Events::to(events)).await });
    if !forward(sender, receiver).await {
        return false;
    }
    let lines = match task.await {
        Ok(Ok(pushed)) => {
            let tag = reference.tag().unwrap_or("latest");
            let (digest, size) = (pushed.digest.to_string(), pushed.size);
            if let Some(id) = api.engine.images().named(&reference) {
                api.engine.image_event("push", &id, &reference.familiar());
            }
            // Clients say that it is not all that the name leads to.
            if let Some(index) = &pushed.instead_of {
                let aux = line(&json!({ "progressDetail": {}, "aux": {
                    "manifestPushedInsteadOfIndex": true,
                    "originalIndex": {
                        "mediaType": index.media_type, "digest": index.digest.as_str(), "size": index.size,
                    },
                    "selectedManifest": { "mediaType": pushed.media_type, "digest": digest, "size": size },
                } }));
                if sender.send(aux).await.is_err() {
                    return false;
                }
            }
            let told = line(&json!({ "status": format!("{tag}: digest: {digest} size: {size}") }));
            let aux = json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } });
            return sender.send(told).await.is_ok() && sender.send(line(&aux)).await.is_ok();
        }
        Ok(Err(RegistryError::Store(ImageError::NotFound { .. }))) => {
            failure(&format!("An image does not exist locally with the tag: {}", reference.familiar_name()))
        }
        Ok(Err(error)) => failure(&other_error(&error).message),
        Err(_) => failure("the push ended unexpectedly"),
    };
    let _ = sender.send(lines).await;
    false
}

/// `GET /distribution/{name}/json`.
pub(crate) async fn inspect(api: &Api, name: &str, headers: &HeaderMap) -> Result<Response<Body>> {
    let reference = Reference::parse(name)?;
    let credentials = credentials(headers)?;
    let inspected = api.registries.inspect(&reference, credentials.as_ref()).await;
    let inspected = inspected.map_err(|error| match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => other_error(&error),
        error => pull_error(&error, &reference),
    })?;
    let descriptor = json!({
        "mediaType": inspected.descriptor.media_type,
        "digest": inspected.descriptor.digest.as_str(),
        "size": inspected.descriptor.size,
    });
    body::json(StatusCode::OK, &json!({ "Descriptor": descriptor, "Platforms": inspected.platforms }))
}

/// `POST /auth`: whether a registry takes these credentials.
pub(crate) async fn login(api: &Api, incoming: Incoming) -> Result<Response<Body>> {
    let bytes = body::read_all(incoming).await?;
    let request: Value = body::parse_json(&bytes)?;
    let credentials = Credentials::of_json(&bytes)
        .map_err(|error| ApiError::bad_request(format!("invalid credentials: {error}")))?
        .unwrap_or_default();
    let address = request["serveraddress"].as_str().unwrap_or_default();
    let login = api.registries.login(address, credentials).await.map_err(|error| match &error {
        // The sentence by which scripts tell a wrong password.
        RegistryError::Unauthorized { registry, message } => ApiError::new(
            StatusCode::UNAUTHORIZED,
            format!("Get \"https://{registry}/v2/\": unauthorized: {message}"),
        ),
        error => other_error(error),
    })?;
    let answer = json!({ "Status": "Login Succeeded", "IdentityToken": login.identity_token });
    body::json(StatusCode::OK, &answer)
}
