//! `explain` and `api-resources`: what the server serves.

use clap::Args;
use serde_json::Value;

use super::Session;
use super::output::say;
use super::resources::{Resource, text};
use crate::table::Table;
use crate::{Error, Result};

const WIDTH: usize = 80;

/// Options of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainOptions {
    /// The fields below as well.
    #[arg(long)]
    recursive: bool,
    /// A kind, or a field of it: deployment.spec.replicas.
    target: String,
}

pub(super) fn api_resources(session: &Session) -> Result<u8> {
    let mut table = Table::new(&["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    let mut all: Vec<&Resource> = session.resources.all().iter().collect();
    all.retain(|resource| resource.verbs.iter().any(|verb| verb == "list"));
    all.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
    for resource in all {
        table.row(vec![
            resource.plural.clone(),
            resource.short.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ]);
    }
    table.print(&mut std::io::stdout()).map_err(Error::io("write to", "the output"))?;
    Ok(0)
}

/// The schemas of a group.
struct Schemas {
    document: Value,
}

impl Schemas {
    fn named(&self, reference: &str) -> &Value {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        &self.document["components"]["schemas"][name]
    }

    fn of_kind(&self, resource: &Resource) -> Option<&Value> {
        let schemas = self.document["components"]["schemas"].as_object()?;
        schemas.values().find(|schema| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
            kinds.into_iter().any(|kind| {
                text(kind, "kind") == resource.kind
                    && text(kind, "group") == resource.group
                    && text(kind, "version") == resource.version
            })
        })
    }

    /// What a field leads to, through references and items.
    fn resolve<'a>(&'a self, field: &'a Value) -> &'a Value {
        let reference = field["$ref"].as_str().or_else(|| field["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            return self.named(reference);
        }
        if field["items"].is_object() {
            return self.resolve(&field["items"]);
        }
        if field["additionalProperties"].is_object() {
            return self.resolve(&field["additionalProperties"]);
        }
        field
    }

    /// The type as kubectl writes it: `<[]Container>`.
    fn type_of(&self, field: &Value) -> String {
        let reference = field["$ref"].as_str().or_else(|| field["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            return reference.rsplit(['/', '.']).next().unwrap_or("Object").to_owned();
        }
        match text(field, "type") {
            "array" => format!("[]{}", self.type_of(&field["items"])),
            "object" if field["additionalProperties"].is_object() => {
                format!("map[string]{}", self.type_of(&field["additionalProperties"]))
            }
            "object" | "" => "Object".to_owned(),
            other => other.to_owned(),
        }
    }
}

pub(super) async fn run(session: &Session, options: &ExplainOptions) -> Result<u8> {
    let mut path = options.target.split('.');
    let kind = path.next().unwrap_or_default();
    let resource = session.resources.find(kind)?;
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    let document = session.client.get(&format!("/openapi/v3/{root}/{}", resource.api_version())).await?;
    let schemas = Schemas { document };
    let missing = |what: &str| Error::Failed { message: format!("error: {what}") };
    let mut field = schemas
        .of_kind(resource)
        .ok_or_else(|| missing(&format!("the server has no schema of {}", resource.kind)))?;
    let mut name = "";
    for step in path {
        name = step;
        field = schemas
            .resolve(field)
            .get("properties")
            .and_then(|properties| properties.get(step))
            .ok_or_else(|| missing(&format!("field {step:?} does not exist")))?;
    }
    let mut out = String::new();
    if !resource.group.is_empty() {
        out.push_str(&format!("GROUP:      {}\n", resource.group));
    }
    out.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version));
    if !name.is_empty() {
        out.push_str(&format!("FIELD: {name} <{}>\n\n", schemas.type_of(field)));
    }
    let schema = schemas.resolve(field);
    out.push_str("DESCRIPTION:\n");
    let description = [text(field, "description"), text(schema, "description")];
    let description = description.into_iter().find(|text| !text.is_empty()).unwrap_or("<empty>");
    wrapped(&mut out, description, 4);
    if schema["properties"].is_object() {
        out.push_str("\nFIELDS:\n");
        fields(&mut out, &schemas, schema, 2, options.recursive, 0);
    }
    out.push('\n');
    say(&out)?;
    Ok(0)
}

fn fields(out: &mut String, schemas: &Schemas, schema: &Value, indent: usize, recursive: bool, depth: usize) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let must = if required.contains(&name.as_str()) { " -required-" } else { "" };
        out.push_str(&format!("{:indent$}{name}\t<{}>{must}\n", "", schemas.type_of(field)));
        if recursive {
            // A schema may contain itself.
            if depth < 12 {
                fields(out, schemas, schemas.resolve(field), indent + 2, recursive, depth + 1);
            }
        } else {
            wrapped(out, text(field, "description"), indent + 2);
            out.push('\n');
        }
    }
}

/// Breaks a text into lines.
fn wrapped(out: &mut String, text: &str, indent: usize) {
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.len() + word.len() >= WIDTH {
                out.push_str(&format!("{:indent$}{line}\n", ""));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(&format!("{:indent$}{line}\n", ""));
    }
}
