//! `describe`: an object as an indented text, and what happened to it.

use clap::Args;
use serde_json::Value;

use super::Session;
use super::client::encode;
use super::output::say;
use super::resources::{Resource, text};
use super::targets;
use crate::Result;
use crate::table::duration;

/// Options of `describe`.
#[derive(Clone, Debug, Args)]
pub struct DescribeOptions {
    /// Objects with these labels only.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Kinds and names.
    targets: Vec<String>,
}

pub(super) async fn run(session: &Session, options: &DescribeOptions) -> Result<u8> {
    let mut shown = 0;
    for target in targets::parse(session, &options.targets)? {
        let mut objects = Vec::new();
        if target.names.is_empty() {
            let query = targets::selectors(&options.selector, "");
            let path = format!("{}?{query}", target.resource.collection(Some(&session.namespace)));
            let list = session.client.get(&path).await?;
            objects.extend(list["items"].as_array().into_iter().flatten().cloned());
        }
        for name in &target.names {
            objects.push(session.client.get(&target.resource.object(&session.namespace, name)).await?);
        }
        for object in &objects {
            if shown > 0 {
                say("\n\n")?;
            }
            shown += 1;
            say(&described(object))?;
            events(session, target.resource, object).await?;
        }
    }
    Ok(0)
}

/// The parts that users look for first, and then the rest.
fn described(object: &Value) -> String {
    let metadata = &object["metadata"];
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        out.push_str(&format!("{:<14}{value}\n", format!("{name}:")));
    };
    line("Name", text(metadata, "name"));
    if metadata["namespace"].is_string() {
        line("Namespace", text(metadata, "namespace"));
    }
    line("Labels", &pairs(&metadata["labels"]));
    line("Annotations", &pairs(&metadata["annotations"]));
    line("Created", text(metadata, "creationTimestamp"));
    if let Some(owner) = metadata["ownerReferences"].as_array().and_then(|owners| owners.first()) {
        line("Controlled By", &format!("{}/{}", text(owner, "kind"), text(owner, "name")));
    }
    let secret = text(object, "kind") == "Secret";
    for (name, value) in object.as_object().into_iter().flatten() {
        if ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        out.push_str(&format!("{}:\n", title(name)));
        if secret && name == "data" {
            // What is secret is told by its length.
            for (key, value) in value.as_object().into_iter().flatten() {
                let length = value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
                out.push_str(&format!("  {key}:  {length} bytes\n"));
            }
        } else {
            write_value(&mut out, value, 2);
        }
    }
    out
}

fn pairs(value: &Value) -> String {
    let pairs: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(&format!("\n{:14}", "")) }
}

/// `readinessProbe` as `Readiness Probe`.
fn title(name: &str) -> String {
    let mut out = String::new();
    for (place, character) in name.chars().enumerate() {
        if place == 0 {
            out.extend(character.to_uppercase());
            continue;
        }
        let after_small = name.chars().nth(place - 1).is_some_and(char::is_lowercase);
        if character.is_uppercase() && after_small {
            out.push(' ');
        }
        out.push(character);
    }
    out
}

fn write_value(out: &mut String, value: &Value, indent: usize) {
    let blank = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push_str(&format!("{blank}{}:\n", title(name)));
                        write_value(out, value, indent + 2);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        out.push_str(&format!("{blank}{}:\n", title(name)));
                        write_value(out, value, indent + 2);
                    }
                    value => out.push_str(&format!("{blank}{}:  {}\n", title(name), plain(value))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                write_value(&mut inner, item, indent + 2);
                // The first field of an item stands after a dash.
                if inner.len() > indent + 2 {
                    inner.replace_range(indent..=indent, "-");
                }
                out.push_str(&inner);
            }
        }
        value => out.push_str(&format!("{blank}{}\n", plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(_) => "{}".to_owned(),
        value => value.to_string(),
    }
}

async fn events(session: &Session, resource: &Resource, object: &Value) -> Result<()> {
    let metadata = &object["metadata"];
    let fields =
        format!("involvedObject.kind={},involvedObject.name={}", resource.kind, text(metadata, "name"));
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let path = format!("/api/v1/namespaces/{}/events?fieldSelector={}", encode(namespace), encode(&fields));
    let list = session.client.get(&path).await?;
    let mut rows: Vec<[String; 5]> = Vec::new();
    for event in list["items"].as_array().into_iter().flatten() {
        let seen = [&event["lastTimestamp"], &event["eventTime"], &metadata["creationTimestamp"]];
        let seen =
            seen.into_iter().find_map(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let now = jiff::Timestamp::now();
        let age = seen.map_or(0, |seen| now.as_second() - seen.as_second());
        let source = match text(&event["source"], "component") {
            "" => text(event, "reportingComponent"),
            component => component,
        };
        rows.push([
            text(event, "type").to_owned(),
            text(event, "reason").to_owned(),
            duration(age),
            source.to_owned(),
            text(event, "message").trim().to_owned(),
        ]);
    }
    if rows.is_empty() {
        return say("Events:  <none>\n");
    }
    let head = ["Type", "Reason", "Age", "From", "Message"].map(str::to_owned);
    let rule = ["----", "------", "----", "----", "-------"].map(str::to_owned);
    rows.splice(0..0, [head, rule]);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 2;
    let widths = [width(0), width(1), width(2), width(3), 0];
    let mut out = "Events:\n".to_owned();
    for row in &rows {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(&format!("  {}\n", cells.trim_end()));
    }
    say(&out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_becomes_an_indented_text() {
        let object = json!({
            "kind": "Pod",
            "metadata": { "name": "web", "namespace": "default", "labels": { "a": "b" } },
            "spec": { "containers": [{ "image": "x", "name": "c" }], "hostNetwork": true },
        });
        let text = described(&object);
        assert!(text.starts_with("Name:         web\nNamespace:    default\nLabels:       a=b\n"), "{text}");
        assert!(
            text.contains("Spec:\n  Containers:\n    - Image:  x\n      Name:  c\n  Host Network:  true\n"),
            "{text}"
        );
    }

    #[test]
    fn secrets_stay_secret() {
        let object = json!({ "kind": "Secret", "metadata": { "name": "s" }, "data": { "key": "aGVsbG8=" } });
        let text = described(&object);
        assert!(text.contains("  key:  5 bytes") && !text.contains("aGVsbG8"), "{text}");
    }
}
