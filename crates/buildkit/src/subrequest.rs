//! What a Dockerfile says without building it: `--call`, in JSON for programs and in words for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use dray_build::{CheckReport, Outline, TargetDescription};
use serde_json::{Value, json};

use crate::failure;
use crate::frontend::Attributes;
use crate::grpc::{Code, Status};
use crate::jobs::Job;
use crate::kit::Connection;
use crate::proto::google::Any;
use crate::proto::ops::Definition;

/// What a result says beside its files.
type Metadata = BTreeMap<String, Vec<u8>>;

/// The questions, with what they are about.
const QUESTIONS: [(&str, &str, &str); 4] = [
    ("frontend.outline", "1.0.0", "List all parameters current build target supports"),
    ("frontend.targets", "1.0.0", "List all targets current build supports"),
    ("frontend.lint", "1.0.0", "Lint a Dockerfile"),
    ("frontend.subrequests.describe", "1.0.0", "List available subrequest types"),
];

fn metadata(value: &Value, words: String) -> Metadata {
    [
        ("result.json".to_owned(), value.to_string().into_bytes()),
        ("result.txt".to_owned(), words.into_bytes()),
        ("version".to_owned(), b"1.0.0".to_vec()),
    ]
    .into()
}

/// Answers a question about a Dockerfile.
pub(crate) async fn answer(
    connection: &Arc<Connection>,
    job: &Job,
    what: &str,
    attributes: Attributes,
    inputs: BTreeMap<String, Definition>,
) -> Result<Metadata, Status> {
    match what {
        "frontend.subrequests.describe" => Ok(describe()),
        "frontend.outline" => {
            let asked = connection.ask(job, attributes, inputs, |asking| async move {
                asking.builder.outline(asking.request, asking.client, asking.events).await
            });
            asked.await.map(|outline| outline_of(&outline))
        }
        "frontend.targets" => {
            let asked = connection.ask(job, attributes, inputs, |asking| async move {
                asking.builder.targets(asking.request, asking.client, asking.events).await
            });
            asked.await.map(|targets| targets_of(&targets))
        }
        "frontend.lint" => {
            let asked = connection.ask(job, attributes, inputs, |asking| async move {
                asking.builder.check(asking.request, asking.client, asking.events).await
            });
            asked.await.map(|report| lint_of(&report))
        }
        other => {
            let detail = Any {
                type_url: "github.com/moby/buildkit/errdefs.Subrequest+json".to_owned(),
                value: json!({ "name": other }).to_string().into_bytes(),
            };
            let message = format!("unsupported request {other}");
            Err(failure::plain(Status { code: Code::Unimplemented, message, details: vec![detail] }))
        }
    }
}

fn describe() -> Metadata {
    let list: Vec<Value> = QUESTIONS
        .iter()
        .map(|(name, version, description)| {
            json!({
                "name": name, "version": version, "type": "rpc", "description": description,
                "opts": [], "metadata": [{ "name": "result.json" }, { "name": "result.txt" }], "refs": null,
            })
        })
        .collect();
    let mut words = String::from("NAME                           VERSION DESCRIPTION\n");
    for (name, version, description) in QUESTIONS {
        let _ = writeln!(words, "{name:30} {version:7} {description}");
    }
    metadata(&json!(list), words)
}

fn outline_of(outline: &Outline) -> Metadata {
    let arguments: Vec<Value> = outline
        .arguments
        .iter()
        .map(|(name, value, description)| json!({ "name": name, "description": description, "value": value }))
        .collect();
    let needed = |list: &[(String, bool)]| -> Vec<Value> {
        list.iter().map(|(name, required)| json!({ "name": name, "required": required })).collect()
    };
    let value = json!({
        "name": outline.name,
        "description": outline.description,
        "args": arguments,
        "secrets": needed(&outline.secrets),
        "ssh": needed(&outline.ssh),
        "cache": outline.caches.iter().map(|id| json!({ "ID": id })).collect::<Vec<_>>(),
        "sources": [],
    });
    let mut words = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let _ = writeln!(words, "TARGET:      {}", outline.name);
        let _ = writeln!(words, "DESCRIPTION: {}\n", outline.description);
    }
    if !outline.arguments.is_empty() {
        let _ = writeln!(words, "{:20} {:20} DESCRIPTION", "BUILD ARG", "VALUE");
        for (name, value, description) in &outline.arguments {
            let _ = writeln!(words, "{name:20} {:20} {description}", value.as_deref().unwrap_or_default());
        }
        words.push('\n');
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let _ = writeln!(words, "{title:20} REQUIRED");
            for (name, required) in list {
                let _ = writeln!(words, "{name:20} {}", if *required { "true" } else { "" });
            }
            words.push('\n');
        }
    }
    if !outline.caches.is_empty() {
        let _ = writeln!(words, "CACHE MOUNT");
        for id in &outline.caches {
            let _ = writeln!(words, "{id}");
        }
    }
    metadata(&value, words)
}

fn targets_of(targets: &[TargetDescription]) -> Metadata {
    let list: Vec<Value> = targets
        .iter()
        .map(|target| {
            json!({
                "name": target.name, "default": target.is_default, "description": target.description,
                "base": target.base, "platform": target.platform,
            })
        })
        .collect();
    let mut words = format!("{:20} DESCRIPTION\n", "TARGET");
    for target in targets {
        let mut name = target.name.clone();
        if target.is_default {
            name = if name.is_empty() { "(default)".to_owned() } else { format!("{name} (default)") };
        }
        if !name.is_empty() {
            let _ = writeln!(words, "{name:20} {}", target.description);
        }
    }
    metadata(&json!({ "targets": list, "sources": [] }), words)
}

fn lint_of(report: &CheckReport) -> Metadata {
    let mut sources: Vec<Value> = Vec::new();
    let mut words = String::new();
    let warnings: Vec<Value> = report
        .warnings
        .iter()
        .map(|warning| {
            use base64::Engine as _;
            if sources.is_empty() {
                let data = base64::engine::general_purpose::STANDARD.encode(&warning.source);
                sources.push(json!({ "filename": warning.file, "language": "Dockerfile", "data": data }));
            }
            let range = warning.range;
            let _ = writeln!(words, "\nWARNING: {} - {}", warning.rule, warning.url);
            let _ = writeln!(words, "{}\n{}:{}", warning.detail, warning.file, range.start_line);
            json!({
                "ruleName": warning.rule, "description": warning.detail, "url": warning.url, "detail": warning.short,
                "location": {
                    "sourceIndex": 0,
                    "ranges": [{
                        "start": { "line": range.start_line, "character": range.start_column.saturating_sub(1) },
                        "end": { "line": range.end_line, "character": range.end_column.saturating_sub(1) },
                    }],
                },
            })
        })
        .collect();
    let mut value = json!({ "warnings": warnings, "sources": sources });
    if !report.error.is_empty() {
        value["buildError"] = json!({ "message": report.error });
        let _ = writeln!(words, "{}", report.error);
    }
    let mut metadata = metadata(&value, words);
    let code = if report.is_failure { "1" } else { "0" };
    metadata.insert("result.statuscode".to_owned(), code.as_bytes().to_vec());
    metadata
}
