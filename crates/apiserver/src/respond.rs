//! Answers: stored bytes as they are, or the table, the metadata or the YAML that was asked for.

use bytes::Bytes;
use dray_machinery::{Kind, Status, object, pick};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    body::{self, ResponseBody},
    custom::Custom,
    negotiate::{Accept, Encoding, Shape},
    request::ResourceRequest,
};

pub(crate) type Answer = Response<ResponseBody>;

/// An answer of JSON text.
pub(crate) fn json_bytes(code: StatusCode, bytes: impl Into<Bytes>) -> Answer {
    with_type(code, "application/json", body::full(bytes))
}

/// An answer of plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Answer {
    with_type(code, "text/plain; charset=utf-8", body::full(text))
}

pub(crate) fn with_type(code: StatusCode, media: &'static str, body: ResponseBody) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// An answer of a value.
pub(crate) fn value(code: StatusCode, encoding: Encoding, value: &Value) -> Answer {
    match encoding {
        // Values are made of JSON: writing them cannot fail.
        Encoding::Json => json_bytes(code, serde_json::to_vec(value).unwrap_or_default()),
        Encoding::Yaml => with_type(
            code,
            "application/yaml",
            body::full(serde_yaml_ng::to_string(value).unwrap_or_default()),
        ),
    }
}

/// A failure.
pub(crate) fn failure(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = value(code, Encoding::Json, &status.to_value());
    if let Some(seconds) = status.retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    warn(&mut answer, &status.warnings);
    answer
}

/// Tells the client something beside an answer.
pub(crate) fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Reads a stored text.
pub(crate) fn parse(json: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::internal(format!("stored object is damaged: {error}")))
}

/// Reads a stored text in the form of a kind.
pub(crate) fn parse_as(kind: &Kind, json: &[u8]) -> Result<Value, Status> {
    let mut object = parse(json)?;
    if let Some(alias) = &kind.stored_as {
        (alias.from_stored)(&mut object);
    }
    Ok(object)
}

/// One object, from its stored text.
pub(crate) fn stored(
    code: StatusCode,
    request: &ResourceRequest,
    accept: Accept,
    json: &Bytes,
) -> Result<Answer, Status> {
    let kind = request.kind;
    if accept == (Accept { shape: Shape::Full, encoding: Encoding::Json }) && kind.stored_as.is_none() {
        return Ok(json_bytes(code, json.clone()));
    }
    if accept == (Accept { shape: Shape::Partial, encoding: Encoding::Json }) {
        let mut text = Vec::new();
        push_partial(&mut text, json)?;
        return Ok(json_bytes(code, text));
    }
    one(code, request, accept, parse_as(kind, json)?)
}

/// One object.
pub(crate) fn one(
    code: StatusCode,
    request: &ResourceRequest,
    accept: Accept,
    object: Value,
) -> Result<Answer, Status> {
    let shown = match accept.shape {
        Shape::Full => object,
        Shape::Partial => partial(&object),
        Shape::Table => {
            let include = include_object(&request.query)?;
            let version = object::meta(&object, "resourceVersion").to_owned();
            let metadata = json!({ "resourceVersion": version });
            table(request.kind, request.custom.as_ref(), &[object], metadata, include, true)
        }
    };
    Ok(value(code, accept.encoding, &shown))
}

/// Writes only the metadata of a stored text, as it stands there: all forms of a kind have the same.
pub(crate) fn push_partial(out: &mut Vec<u8>, json: &[u8]) -> Result<(), Status> {
    let metadata = pick::metadata(json).ok_or_else(|| Status::internal("stored object is damaged"))?;
    let head = r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;
    [head, metadata, "}"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    Ok(())
}

/// Only the metadata of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}

/// A table of objects. `include` is the parameter `includeObject`.
pub(crate) fn table(
    kind: &Kind,
    custom: Option<&Custom>,
    objects: &[Value],
    metadata: Value,
    include: &str,
    headings: bool,
) -> Value {
    let now = Timestamp::now();
    let cells = |object: &Value| match custom {
        Some(custom) => custom.columns.cells(object, now),
        None => (kind.cells)(object, now),
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({ "cells": cells(object) });
            match include {
                "None" => {}
                "Object" => row["object"] = object.clone(),
                _ => row["object"] = partial(object),
            }
            row
        })
        .collect();
    let mut table = json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": rows,
    });
    if headings {
        table["columnDefinitions"] = columns(kind, custom);
    }
    table
}

fn columns(kind: &Kind, custom: Option<&Custom>) -> Value {
    let mut columns = Vec::new();
    if kind.kind != "Event" {
        columns.push(json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace. Is required when creating resources, although some \
                resources may allow a client to request the generation of an appropriate name automatically. Name is \
                primarily intended for creation idempotence and configuration definition. Cannot be updated. More \
                info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        }));
    }
    columns.extend(kind.columns.iter().map(|column| {
        json!({
            "name": column.name, "type": column.kind, "priority": column.priority,
            "format": if column.name == "Name" { "name" } else { "" }, "description": column.description,
        })
    }));
    columns.extend(custom.into_iter().flat_map(|custom| custom.columns.headings()));
    Value::Array(columns)
}

/// The parameter `includeObject`, checked.
pub(crate) fn include_object(query: &crate::query::Query) -> Result<&str, Status> {
    match query.get("includeObject") {
        "" => Ok("Metadata"),
        known @ ("None" | "Metadata" | "Object") => Ok(known),
        other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
    }
}
