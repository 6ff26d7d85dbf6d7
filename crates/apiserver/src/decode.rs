//! Bodies of requests: JSON or YAML texts become objects.

use dray_machinery::Status;
use http::{HeaderMap, header};
use serde_json::Value;

/// The longest body, in bytes (the reference's bound).
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

const ACCEPTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The media type of a body, without parameters.
pub(crate) fn media(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or("", |text| text.split(';').next().unwrap_or_default().trim())
}

/// Reads a body as an object.
pub(crate) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    match media(headers) {
        "" | "application/json" => json(body),
        "application/yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            dray_machinery::wire::decode(body).map_err(|error| Status::bad_request(error.to_string()))
        }
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// Reads JSON.
pub(crate) fn json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))
}

/// The most nodes that a YAML text may become: aliases must not blow up a small text.
const YAML_NODES: usize = 500_000;

/// Reads YAML, of which JSON is a part.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, Status> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(value);
    }
    let value: Value = serde_yaml_ng::from_slice(body)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if nodes(&value) > YAML_NODES {
        return Err(Status::too_large(YAML_NODES));
    }
    Ok(value)
}

fn nodes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nodes).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(nodes).sum::<usize>(),
        _ => 1,
    }
}
