//! `get`: rows as the server prints them, objects as they are, and both as they change.

use std::collections::VecDeque;
use std::path::PathBuf;

use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use super::Session;
use super::client::{JSON, TABLE, encode};
use super::output::{Output, list, say};
use super::resources::{Resource, text};
use super::targets::{self, Target};
use crate::text::complain;
use crate::{Error, Result};

/// Between two columns.
const GAP: usize = 3;

/// Options of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetOptions {
    /// json, yaml, name, wide or jsonpath=TEMPLATE.
    #[arg(short, long)]
    output: Option<String>,
    /// Objects with these labels only.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Objects with these fields only.
    #[arg(long, default_value = "")]
    field_selector: String,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on with what changes.
    #[arg(short, long)]
    watch: bool,
    /// No head.
    #[arg(long)]
    no_headers: bool,
    /// Show the labels.
    #[arg(long)]
    show_labels: bool,
    /// No error when an object is not there.
    #[arg(long)]
    ignore_not_found: bool,
    /// The objects of these files.
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    /// Kinds and names: `pods`, `pod x`, `deploy/x svc/y`.
    targets: Vec<String>,
}

/// Rows of one kind, with widths that stay the same while they are watched.
struct Rows {
    wide: bool,
    head: bool,
    labels: bool,
    namespaces: bool,
    /// Put before names, where several kinds are shown.
    prefix: String,
    /// Places and names of the columns: a watch tells them with its first event only.
    columns: Vec<(usize, String)>,
    widths: Vec<usize>,
}

impl Rows {
    /// Prints the rows of a table of the server's.
    fn print(&mut self, table: &Value) -> Result<()> {
        let told = table["columnDefinitions"].as_array().into_iter().flatten().enumerate();
        let told: Vec<(usize, String)> = told
            .filter(|(_, column)| self.wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(place, column)| (place, text(column, "name").to_owned()))
            .collect();
        if !told.is_empty() {
            self.columns = told;
        }
        let columns = &self.columns;
        let mut lines: Vec<Vec<String>> = Vec::new();
        if self.head && !columns.is_empty() {
            let mut head: Vec<String> = columns.iter().map(|(_, name)| name.to_uppercase()).collect();
            if self.namespaces {
                head.insert(0, "NAMESPACE".to_owned());
            }
            if self.labels {
                head.push("LABELS".to_owned());
            }
            lines.push(head);
            self.head = false;
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let metadata = &row["object"]["metadata"];
            let mut cells: Vec<String> =
                columns.iter().map(|(place, _)| cell(&row["cells"][*place])).collect();
            if let Some(name) = cells.first_mut() {
                name.insert_str(0, &self.prefix);
            }
            if self.namespaces {
                cells.insert(0, text(metadata, "namespace").to_owned());
            }
            if self.labels {
                let labels = metadata["labels"].as_object().into_iter().flatten();
                let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={}", cell(value))).collect();
                cells.push(if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") });
            }
            lines.push(cells);
        }
        for line in &lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count() + GAP);
            }
        }
        let mut out = String::new();
        for line in &lines {
            let cells: String =
                line.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            out.push_str(cells.trim_end());
            out.push('\n');
        }
        say(&out)
    }
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A watch's events, one JSON object a line.
pub(super) struct Events {
    body: Incoming,
    pending: Vec<u8>,
    ready: VecDeque<Value>,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, pending: Vec::new(), ready: VecDeque::new() }
    }

    /// The next event; none when the server has ended the watch.
    pub(super) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if text(&event, "type") == "ERROR" {
                    return Err(Error::Failed { message: text(&event["object"], "message").to_owned() });
                }
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|source| Error::Connection { source })?;
            self.pending.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
            if let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') {
                let lines: Vec<u8> = self.pending.drain(..=end).collect();
                for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                    let event = serde_json::from_slice(line).map_err(|source| Error::Answer { source })?;
                    self.ready.push_back(event);
                }
            }
        }
    }
}

pub(super) async fn run(session: &Session, options: &GetOptions) -> Result<u8> {
    let output = Output::parse(options.output.as_deref())?;
    let files;
    let targets = if options.filename.is_empty() {
        targets::parse(session, &options.targets)?
    } else {
        files = targets::read(&options.filename)?;
        let target = |object: &Value| {
            let names = vec![text(&object["metadata"], "name").to_owned()];
            session.resources.of(object).map(|resource| Target { resource, names })
        };
        files.iter().map(target).collect::<Result<_>>()?
    };
    match &output {
        Output::Table { wide } => tables(session, options, &targets, *wide).await,
        _ => objects(session, options, &targets, &output).await,
    }
}

impl GetOptions {
    fn namespace<'a>(&self, session: &'a Session) -> Option<&'a str> {
        (!self.all_namespaces).then_some(session.namespace.as_str())
    }

    /// The paths that answer a target.
    fn paths(&self, session: &Session, target: &Target<'_>) -> Vec<String> {
        if !target.names.is_empty() {
            let path = |name: &String| target.resource.object(&session.namespace, name);
            return target.names.iter().map(path).collect();
        }
        let query = targets::selectors(&self.selector, &self.field_selector);
        vec![format!("{}?{query}", target.resource.collection(self.namespace(session)))]
    }

    /// The answer of a path, or nothing where nothing is no error.
    async fn ask(&self, session: &Session, path: &str, accept: &str) -> Result<Option<Value>> {
        match session.client.send(Method::GET, path, accept, "", "").await {
            Ok((_, value)) => Ok(Some(value)),
            Err(Error::Server { status: 404, .. }) if self.ignore_not_found => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn tables(session: &Session, options: &GetOptions, targets: &[Target<'_>], wide: bool) -> Result<u8> {
    let several = targets.len() > 1;
    let mut shown = 0;
    let mut code = 0;
    for target in targets {
        let namespaces = options.all_namespaces && target.resource.namespaced;
        let mut rows = Rows {
            wide,
            head: !options.no_headers,
            labels: options.show_labels,
            namespaces,
            prefix: if several { format!("{}/", target.resource.label()) } else { String::new() },
            columns: Vec::new(),
            widths: Vec::new(),
        };
        let mut version = String::new();
        for path in options.paths(session, target) {
            match options.ask(session, &path, TABLE).await {
                Ok(Some(table)) => {
                    version = text(&table["metadata"], "resourceVersion").to_owned();
                    if table["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
                        if shown > 0 && rows.head && several {
                            say("\n")?;
                        }
                        shown += 1;
                        rows.print(&table)?;
                    }
                }
                Ok(None) => {}
                Err(error @ Error::Server { .. }) if target.names.len() > 1 => {
                    complain(&error.to_string());
                    code = 1;
                }
                Err(error) => return Err(error),
            }
        }
        if options.watch {
            let name = target.names.first().map_or("", String::as_str);
            return watch(session, options, target.resource, name, &version, rows).await;
        }
    }
    if shown == 0 && code == 0 && !options.ignore_not_found {
        let spaces = targets.iter().any(|target| target.resource.namespaced) && !options.all_namespaces;
        let place = if spaces { format!(" in {} namespace", session.namespace) } else { String::new() };
        complain(&format!("No resources found{place}."));
    }
    Ok(code)
}

/// The path of a watch that begins after a version.
pub(super) fn watch_path(
    resource: &Resource,
    namespace: Option<&str>,
    labels: &str,
    fields: &str,
    version: &str,
) -> String {
    let selectors = targets::selectors(labels, fields);
    let version = encode(version);
    format!("{}?watch=1&resourceVersion={version}&{selectors}", resource.collection(namespace))
}

async fn watch(
    session: &Session,
    options: &GetOptions,
    resource: &Resource,
    name: &str,
    version: &str,
    mut rows: Rows,
) -> Result<u8> {
    let fields = match name {
        "" => options.field_selector.clone(),
        name => format!("metadata.name={name}"),
    };
    let path = watch_path(resource, options.namespace(session), &options.selector, &fields, version);
    let mut events = Events::new(session.client.stream(&path, TABLE).await?);
    while let Some(event) = events.next().await? {
        if text(&event, "type") != "BOOKMARK" {
            rows.print(&event["object"])?;
        }
    }
    Ok(0)
}

async fn objects(
    session: &Session,
    options: &GetOptions,
    targets: &[Target<'_>],
    output: &Output,
) -> Result<u8> {
    let single = targets.len() == 1 && targets[0].names.len() == 1;
    let mut items = Vec::new();
    for target in targets {
        for path in options.paths(session, target) {
            let Some(mut value) = options.ask(session, &path, JSON).await? else { continue };
            if !target.names.is_empty() {
                items.push((value, target.resource));
                continue;
            }
            for mut item in value["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                item["apiVersion"] = target.resource.api_version().into();
                item["kind"] = target.resource.kind.as_str().into();
                items.push((item, target.resource));
            }
        }
    }
    if single || *output == Output::Name {
        for (item, resource) in &items {
            output.print(item, &resource.label())?;
        }
    } else {
        output.print(&list(items.into_iter().map(|(item, _)| item).collect()), "list")?;
    }
    Ok(0)
}
