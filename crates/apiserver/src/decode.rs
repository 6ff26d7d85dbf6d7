//! Bodies of requests: JSON or YAML texts become objects.

use std::cell::Cell;

use dray_machinery::Status;
use http::{HeaderMap, header};
use serde::de::DeserializeSeed as _;
use serde_json::Value;

use crate::bounded::Bounded;

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

/// The most that a YAML text may become, as [`Bounded`] counts it: more than any text without aliases that is not too long.
const YAML_LIMIT: usize = 32 * 1024 * 1024;

/// The most steps of the scanner for one text: seconds, at the worst.
const SCANNING_LIMIT: usize = 2_000_000_000;

/// What the scanner may take for a text: with each token it looks at every bracket that is open. Which of them are brackets
/// only a scanner knows, so all are counted.
fn scanning(text: &[u8]) -> usize {
    let brackets = text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    let tokens = text.iter().filter(|byte| b"[]{},:?-\n".contains(byte)).count();
    brackets.saturating_mul(tokens)
}

/// Reads YAML, of which JSON is a part.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, Status> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(value);
    }
    if scanning(body) > SCANNING_LIMIT {
        return Err(Status::bad_request("error decoding YAML: too many brackets to be read: send JSON"));
    }
    let left = Cell::new(YAML_LIMIT);
    let reader = serde_yaml_ng::Deserializer::from_slice(body);
    Bounded::new(&left).deserialize(reader).map_err(|error| match left.get() {
        0 => Status::too_large(YAML_LIMIT),
        _ => Status::bad_request(format!("error decoding YAML: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2019_11253_aliases_do_not_blow_up() {
        let value = yaml(b"a: &x [1, two, 3.5, null, true]\nb: *x\n").unwrap();
        let list = serde_json::json!([1, "two", 3.5, null, true]);
        assert_eq!(value, serde_json::json!({ "a": list, "b": list }));
        // Aliases of aliases, many aliases of a long list, and of a long text.
        let mut nested = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            nested.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
        }
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(20_000), "*a, ".repeat(20_000));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(20_000));
        let keys = format!("a: &a {{{}}}\nb: [{}]\n", "? x\u{e9}, ".repeat(1000), "*a, ".repeat(20_000));
        for text in [nested, wide, long, keys] {
            assert!(text.len() < BODY_LIMIT);
            let status = yaml(text.as_bytes()).unwrap_err();
            assert!(matches!(status.code, 413 | 400), "{}", status.message);
            assert!(peak() < 1 << 20, "{} KiB", peak());
        }
        let plain = format!("a: [{}]\n", "x,".repeat(50_000));
        assert_eq!(yaml(plain.as_bytes()).unwrap()["a"].as_array().map(Vec::len), Some(50_000));
    }

    #[test]
    fn cve_2019_11253_depth_is_bounded() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("- ", ""), ("? ", "")] {
            for depth in [200, 100_000] {
                let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                assert_eq!(json(text.as_bytes()).unwrap_err().code, 400, "{open}");
                assert_eq!(yaml(text.as_bytes()).unwrap_err().code, 400, "{open}");
            }
        }
        // Texts with many brackets are read as long as they are not nested without end.
        let script = format!("a: |\n{}", "  if [ -d x ]; then y={z}; fi\n".repeat(5_000));
        assert_eq!(yaml(script.as_bytes()).unwrap()["a"].as_str().map(str::len), Some(140_000));
    }

    /// The most memory that this process has had, in KiB.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
