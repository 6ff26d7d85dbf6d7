//! `apply`, `create`, `delete` and `scale`.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use super::client::JSON;
use super::get::{Events, watch_path};
use super::output::{Output, say};
use super::resources::{Resource, text};
use super::targets;
use crate::text::complain;
use crate::{Error, Result};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
/// The name under which this client owns the fields that it applies.
const MANAGER: &str = "dray-kubectl";

/// Options of `apply` and `create`.
#[derive(Clone, Debug, Args)]
pub struct ApplyOptions {
    /// Files, directories, or - for standard input.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    /// Take fields over that others own.
    #[arg(long)]
    force_conflicts: bool,
    /// none or server: say what would be done.
    #[arg(long, default_value = "none")]
    dry_run: String,
    /// How to print the objects.
    #[arg(short, long)]
    output: Option<String>,
    /// The server always merges; taken for the sake of scripts.
    #[arg(long)]
    server_side: bool,
}

/// Options of `delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteOptions {
    /// The objects of these files.
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    /// All objects with these labels.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// All objects of the kind.
    #[arg(long)]
    all: bool,
    /// Seconds that they have to end.
    #[arg(long)]
    grace_period: Option<i64>,
    /// Without waiting for their end.
    #[arg(long)]
    force: bool,
    /// As soon as possible.
    #[arg(long)]
    now: bool,
    /// Wait until they are gone.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// background, foreground or orphan.
    #[arg(long, default_value = "background")]
    cascade: String,
    /// No error when an object is not there.
    #[arg(long)]
    ignore_not_found: bool,
    /// Kinds and names.
    targets: Vec<String>,
}

/// Options of `scale`.
#[derive(Clone, Debug, Args)]
pub struct ScaleOptions {
    /// How many.
    #[arg(long)]
    replicas: u32,
    /// Only when there are so many now.
    #[arg(long)]
    current_replicas: Option<i64>,
    /// What: deployment/NAME.
    #[arg(required = true)]
    target: Vec<String>,
}

/// The name of an object, which it must have.
fn name(object: &Value) -> Result<&str> {
    match text(&object["metadata"], "name") {
        "" => Err(Error::Failed { message: "error: resource name may not be empty".to_owned() }),
        name => Ok(name),
    }
}

/// The object's own namespace, or the command's.
fn namespace<'a>(session: &'a Session, object: &'a Value) -> &'a str {
    match text(&object["metadata"], "namespace") {
        "" => &session.namespace,
        namespace => namespace,
    }
}

impl ApplyOptions {
    fn dry(&self) -> Result<&str> {
        match self.dry_run.as_str() {
            "none" => Ok(""),
            "server" => Ok("&dryRun=All"),
            other => Err(Error::invalid("--dry-run", format!("{other:?} is neither none nor server"))),
        }
    }

    fn report(&self, resource: &Resource, object: &Value, what: &str) -> Result<()> {
        let dry = if self.dry_run == "server" { " (server dry run)" } else { "" };
        match &self.output {
            Some(output) => Output::parse(Some(output))?.print(object, &resource.label()),
            None => say(&format!("{}/{} {what}{dry}\n", resource.label(), name(object)?)),
        }
    }
}

/// What users want of an object, without what the server and controllers note in it.
fn wanted(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for noted in ["resourceVersion", "managedFields", "generation"] {
            metadata.remove(noted);
        }
    }
    object
}

pub(super) async fn apply(session: &Session, options: &ApplyOptions) -> Result<u8> {
    let dry = options.dry()?;
    for object in targets::read(&options.filename)? {
        let resource = session.resources.of(&object)?;
        let path = resource.object(namespace(session, &object), name(&object)?);
        let before = match session.client.get(&path).await {
            Ok(before) => before,
            Err(Error::Server { status: 404, .. }) => Value::Null,
            Err(error) => return Err(error),
        };
        let query =
            format!("fieldManager={MANAGER}&force={}&fieldValidation=Strict{dry}", options.force_conflicts);
        let sent = session
            .client
            .send(Method::PATCH, &format!("{path}?{query}"), JSON, APPLY, object.to_string())
            .await;
        let (status, stored) = sent?;
        let what = match (status, wanted(&stored) == wanted(&before)) {
            (201, _) => "created",
            (_, true) => "unchanged",
            (_, false) => "configured",
        };
        options.report(resource, &stored, what)?;
    }
    Ok(0)
}

pub(super) async fn create(session: &Session, options: &ApplyOptions) -> Result<u8> {
    let dry = options.dry()?;
    for object in targets::read(&options.filename)? {
        let resource = session.resources.of(&object)?;
        let collection = resource.collection(Some(namespace(session, &object)));
        let path = format!("{collection}?fieldManager={MANAGER}&fieldValidation=Strict{dry}");
        let sent = session.client.send(Method::POST, &path, JSON, JSON, object.to_string());
        options.report(resource, &sent.await?.1, "created")?;
    }
    Ok(0)
}

/// An object that is to be deleted.
struct Doomed<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

async fn doomed<'a>(session: &'a Session, options: &DeleteOptions) -> Result<Vec<Doomed<'a>>> {
    let mut found = Vec::new();
    if !options.filename.is_empty() {
        for object in targets::read(&options.filename)? {
            let namespace = namespace(session, &object).to_owned();
            let name = name(&object)?.to_owned();
            found.push(Doomed { resource: session.resources.of(&object)?, namespace, name });
        }
        return Ok(found);
    }
    for target in targets::parse(session, &options.targets)? {
        let mut names = target.names;
        if names.is_empty() {
            if options.selector.is_empty() && !options.all {
                let message =
                    "error: resource(s) were provided, but no name was specified; use a name, -l or --all";
                return Err(Error::Failed { message: message.to_owned() });
            }
            let query = targets::selectors(&options.selector, "");
            let path = format!("{}?{query}", target.resource.collection(Some(&session.namespace)));
            let list = session.client.get(&path).await?;
            let items = list["items"].as_array().into_iter().flatten();
            names.extend(items.map(|item| text(&item["metadata"], "name").to_owned()));
        }
        let namespace = &session.namespace;
        let resource = target.resource;
        found.extend(names.into_iter().map(|name| Doomed { resource, namespace: namespace.clone(), name }));
    }
    Ok(found)
}

pub(super) async fn delete(session: &Session, options: &DeleteOptions) -> Result<u8> {
    let policy = match options.cascade.as_str() {
        "background" => "Background",
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        other => {
            return Err(Error::invalid(
                "--cascade",
                format!("{other:?} is none of background, foreground, orphan"),
            ));
        }
    };
    let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy });
    let grace = match (options.grace_period, options.force, options.now) {
        (Some(seconds), ..) => Some(seconds),
        (None, true, _) => Some(0),
        (None, false, true) => Some(1),
        _ => None,
    };
    if let Some(grace) = grace {
        body["gracePeriodSeconds"] = json!(grace);
    }
    let mut waiting = Vec::new();
    let mut code = 0;
    for doomed in doomed(session, options).await? {
        let path = doomed.resource.object(&doomed.namespace, &doomed.name);
        match session.client.send(Method::DELETE, &path, JSON, JSON, body.to_string()).await {
            Ok(_) => {
                say(&format!("{} \"{}\" deleted\n", doomed.resource.label(), doomed.name))?;
                waiting.push(doomed);
            }
            Err(Error::Server { status: 404, .. }) if options.ignore_not_found => {}
            Err(error @ Error::Server { .. }) => {
                complain(&error.to_string());
                code = 1;
            }
            Err(error) => return Err(error),
        }
    }
    if options.wait && !options.force {
        for doomed in &waiting {
            gone(session, doomed).await?;
        }
    }
    Ok(code)
}

/// Waits until an object is no more.
async fn gone(session: &Session, doomed: &Doomed<'_>) -> Result<()> {
    let fields = format!("metadata.name={}", doomed.name);
    loop {
        let path = doomed.resource.collection(Some(&doomed.namespace));
        let query = targets::selectors("", &fields);
        let list = session.client.get(&format!("{path}?{query}")).await?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let version = text(&list["metadata"], "resourceVersion");
        let path = watch_path(doomed.resource, Some(&doomed.namespace), "", &fields, version);
        let mut events = Events::new(session.client.stream(&path, JSON).await?);
        while let Some(event) = events.next().await? {
            if text(&event, "type") == "DELETED" {
                return Ok(());
            }
        }
    }
}

pub(super) async fn scale(session: &Session, options: &ScaleOptions) -> Result<u8> {
    let (resource, name) = targets::one(session, &options.target, "deployments")?;
    let path = format!("{}/scale", resource.object(&session.namespace, &name));
    if let Some(expected) = options.current_replicas {
        let now = session.client.get(&path).await?["spec"]["replicas"].as_i64().unwrap_or(0);
        if now != expected {
            return Err(Error::Failed {
                message: format!("error: Expected replicas to be {expected}, was {now}"),
            });
        }
    }
    let body = json!({ "spec": { "replicas": options.replicas } });
    let query = format!("{path}?fieldManager={MANAGER}");
    session.client.send(Method::PATCH, &query, JSON, MERGE, body.to_string()).await?;
    say(&format!("{}/{name} scaled\n", resource.label()))?;
    Ok(0)
}
