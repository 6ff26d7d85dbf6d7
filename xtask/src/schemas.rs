//! Makes crates/machinery/data/schemas.json.gz: the schemas of the kinds, read from the sources of two crates.
//!
//! `k8s-openapi` has the definitions with their texts; `k8s-pb` has, in the comments of its messages, the markers
//! that say how lists and maps are merged. The result is a map of OpenAPI definitions with the extensions that the
//! reference has. Must not know the network: the sources are where cargo unpacked them.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::Write as _,
    path::Path,
};

use serde_json::{Map, Value, json};

/// Objects that clients send and get beside the stable kinds, which are kept with all that they mention.
const OTHERS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

/// The parts of `k8s-pb`: their folders, and how definitions name them.
const PARTS: &[(&str, &str)] = &[
    ("api", "api"),
    ("apiextensions_apiserver", "apiextensions-apiserver"),
    ("apimachinery", "apimachinery"),
    ("kube_aggregator", "kube-aggregator"),
];

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Reads the two crates' sources and writes the file.
///
/// # Errors
/// Sources that are not there or not as expected.
pub(crate) fn generate(openapi: &Path, messages: &Path, output: &Path) -> Result<(), Failure> {
    let mut definitions = BTreeMap::new();
    visit(&openapi.join("src/v1_36"), &mut |text| read_definition(text, &mut definitions))?;
    let mut markers = BTreeMap::new();
    for (folder, part) in PARTS {
        let root = messages.join("src").join(folder);
        visit_named(&root, &root, part, &mut |module, text| {
            read_markers(module, text, &mut markers);
            Ok(())
        })?;
    }
    for (name, definition) in &mut definitions {
        mark(name, definition, &markers);
    }
    let mut wanted = BTreeSet::new();
    let kinds = definitions.iter().filter(|(name, definition)| is_stable_kind(name, definition));
    for root in kinds.map(|(name, _)| name.as_str()).chain(OTHERS.iter().copied()) {
        reach(root, &definitions, &mut wanted)?;
    }
    definitions.retain(|name, _| wanted.contains(name));
    let text = serde_json::to_vec(&definitions)?;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&text)?;
    fs::write(output, encoder.finish()?)?;
    Ok(())
}

/// Whether a definition is of a kind of objects in a version that is there to stay.
fn is_stable_kind(name: &str, definition: &Value) -> bool {
    let version = name.rsplit('.').nth(1).unwrap_or_default();
    let stable =
        version.strip_prefix('v').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let properties = &definition["properties"];
    let metadata = properties["metadata"]["$ref"].as_str().unwrap_or_default();
    stable && properties["kind"].is_object() && metadata.ends_with(".meta.v1.ObjectMeta")
}

fn visit(directory: &Path, each: &mut dyn FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, each)?;
        } else {
            each(&fs::read_to_string(&path)?)?;
        }
    }
    Ok(())
}

fn visit_named(
    root: &Path,
    directory: &Path,
    prefix: &str,
    each: &mut dyn FnMut(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            visit_named(root, &path, prefix, each)?;
        } else if path.file_name().is_some_and(|name| name == "mod.rs") {
            let inside =
                path.parent().and_then(|parent| parent.strip_prefix(root).ok()).unwrap_or(Path::new(""));
            let module = format!("io.k8s.{prefix}.{}", inside.to_string_lossy().replace('/', "."));
            each(&module, &fs::read_to_string(&path)?)?;
        }
    }
    Ok(())
}

/// The definition in the macro of a file: nearly JSON, but for references and commas.
fn read_definition(text: &str, definitions: &mut BTreeMap<String, Value>) -> Result<(), Failure> {
    let Some(start) = text.find("schemars::json_schema!(") else { return Ok(()) };
    let Some(at) = text.find("fn schema_name()") else { return Ok(()) };
    let name = text[at..].split('"').nth(1).ok_or("a schema without a name")?.to_owned();
    let mut json = String::new();
    let mut reference: Option<String> = None;
    for line in text[start..].lines().skip(1) {
        let line = line.trim();
        if line == "})" {
            json.push('}');
            break;
        }
        if let Some(at) = line.find("__gen.subschema_for::<") {
            let rest = &line[at + "__gen.subschema_for::<".len()..];
            let path = rest.split(">()").next().unwrap_or_default();
            let target = format!("#/definitions/{}", definition_name(path));
            if line.starts_with("let mut") {
                reference = Some(target);
            } else {
                let head = line[..at].trim_end_matches('(');
                json.push_str(&format!("{head}{{\"$ref\":{target:?}}},\n"));
            }
        } else if line.ends_with("({") {
            json.push_str(line.trim_end_matches("({"));
        } else if let Some(rest) =
            line.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), ")
        {
            let description = rest.trim_end_matches(".into());");
            let target = reference.take().ok_or("a description without a reference")?;
            json.push_str(&format!("{{\"$ref\":{target:?},\"description\":{description}}}"));
        } else if line == "schema_obj" {
            if let Some(target) = reference.take() {
                json.push_str(&format!("{{\"$ref\":{target:?}}}"));
            }
        } else if line == "})," {
            json.push(',');
        } else {
            json.push_str(line);
        }
        json.push('\n');
    }
    let json = format!("{{{}", without_trailing_commas(&json));
    let mut value: Value = serde_json::from_str(&json).map_err(|error| format!("{name}: {error}\n{json}"))?;
    if let Some(fields) = value.as_object_mut() {
        // Version 2 of OpenAPI has no word for alternatives: they are ours.
        if let Some(alternatives) = fields.remove("oneOf") {
            fields.insert("x-one-of".into(), alternatives);
        }
        // Any value is one of these.
        if name.ends_with(".apiextensions.v1.JSON") {
            fields.remove("type");
        }
    }
    definitions.insert(name, value);
    Ok(())
}

fn definition_name(path: &str) -> String {
    path.trim_start_matches("crate::")
        .replace("::", ".")
        .replace("apiextensions_apiserver", "apiextensions-apiserver")
        .replace("kube_aggregator", "kube-aggregator")
        .split('.')
        .fold("io.k8s".to_owned(), |name, part| format!("{name}.{part}"))
}

fn without_trailing_commas(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for letter in text.chars() {
        if quoted {
            plain.push(letter);
            quoted = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            continue;
        }
        match letter {
            '"' => quoted = true,
            '}' | ']' => {
                let kept = plain.trim_end().len();
                if plain[..kept].ends_with(',') {
                    plain.truncate(kept - 1);
                }
            }
            _ => {}
        }
        plain.push(letter);
    }
    plain
}

/// The number of a field on the wire, and the message that it holds: kept among its markers.
const TAG: &str = "#tag";
const TYPE: &str = "#type";

/// Markers of a message ("") and of its fields, all names without case and underscores.
type Markers = BTreeMap<String, BTreeMap<String, Vec<(String, String)>>>;

fn read_markers(module: &str, text: &str, markers: &mut Markers) {
    let mut pending: Vec<(String, String)> = Vec::new();
    let mut message = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("///") {
            if let Some(marker) = comment.trim().strip_prefix('+') {
                let (key, value) = marker.split_once('=').unwrap_or((marker, ""));
                pending.push((key.to_owned(), value.to_owned()));
            }
        } else if line.starts_with("#[prost(") {
            if let Some((_, rest)) = line.split_once("tag = \"") {
                pending.push((TAG.to_owned(), rest.split('"').next().unwrap_or_default().to_owned()));
            }
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap_or_default();
            message = format!("{module}.{}", plain(name));
            markers.entry(message.clone()).or_default().insert(String::new(), std::mem::take(&mut pending));
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            let kind = kind.trim_end_matches(['>', ',']).rsplit(['<', ':']).next().unwrap_or_default();
            pending.push((TYPE.to_owned(), kind.trim().to_owned()));
            let field = plain(name.trim_start_matches("r#"));
            markers.entry(message.clone()).or_default().insert(field, std::mem::take(&mut pending));
        } else if line.is_empty() || line.starts_with('}') {
            pending.clear();
        }
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

fn mark(name: &str, definition: &mut Value, markers: &Markers) {
    let Some((module, short)) = name.rsplit_once('.') else { return };
    let Some(fields) = markers.get(&format!("{module}.{}", plain(short))) else { return };
    if fields.get("").into_iter().flatten().any(|(key, value)| key == "structType" && value == "atomic") {
        definition["x-kubernetes-map-type"] = json!("atomic");
    }
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let known: BTreeSet<String> = properties.keys().map(|field| plain(field)).collect();
    for (field, schema) in properties {
        let Some(schema) = schema.as_object_mut() else { continue };
        if let Some(path) = wire_path(module, fields, &known, &plain(field), markers) {
            schema.insert("x-wire".into(), json!(path));
        }
        for (key, value) in fields.get(&plain(field)).into_iter().flatten() {
            apply_marker(schema, key, value);
        }
    }
}

fn marker<'a>(markers: &'a [(String, String)], key: &str) -> Option<&'a str> {
    markers.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The numbers that lead to a field on the wire: two where the JSON form leaves out the message in between.
fn wire_path(
    module: &str,
    fields: &BTreeMap<String, Vec<(String, String)>>,
    known: &BTreeSet<String>,
    field: &str,
    markers: &Markers,
) -> Option<Vec<u32>> {
    if let Some(tag) = fields.get(field).and_then(|markers| marker(markers, TAG)) {
        return Some(vec![tag.parse().ok()?]);
    }
    for (_, own) in fields.iter().filter(|(name, _)| !name.is_empty() && !known.contains(*name)) {
        let (Some(tag), Some(kind)) = (marker(own, TAG), marker(own, TYPE)) else { continue };
        let inner = markers.get(&format!("{module}.{}", plain(kind))).and_then(|inner| inner.get(field));
        if let Some(inner) = inner.and_then(|inner| marker(inner, TAG)) {
            return Some(vec![tag.parse().ok()?, inner.parse().ok()?]);
        }
    }
    None
}

fn apply_marker(schema: &mut Map<String, Value>, key: &str, value: &str) {
    match key {
        "listType" => {
            schema.insert("x-kubernetes-list-type".into(), json!(value));
        }
        "mapType" | "structType" => {
            schema.insert("x-kubernetes-map-type".into(), json!(value));
        }
        "patchStrategy" => {
            schema.insert("x-kubernetes-patch-strategy".into(), json!(value));
        }
        "patchMergeKey" => {
            schema.insert("x-kubernetes-patch-merge-key".into(), json!(value));
        }
        "listMapKey" => {
            let keys = schema.entry("x-kubernetes-list-map-keys").or_insert_with(|| json!([]));
            if let Some(keys) = keys.as_array_mut() {
                keys.push(json!(value));
            }
        }
        "default" => {
            if let Ok(value) = serde_json::from_str::<Value>(value) {
                schema.insert("default".into(), value);
            }
        }
        _ => {}
    }
}

fn reach(
    name: &str,
    definitions: &BTreeMap<String, Value>,
    wanted: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    if !wanted.insert(name.to_owned()) {
        return Ok(());
    }
    let definition = definitions.get(name).ok_or_else(|| format!("no definition of {name}"))?;
    let mut stack = vec![definition];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    reach(target.trim_start_matches("#/definitions/"), definitions, wanted)?;
                }
                stack.extend(fields.values());
            }
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
    Ok(())
}
