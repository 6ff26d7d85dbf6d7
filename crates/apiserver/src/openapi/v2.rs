//! The document of version 2: one for everything, in JSON and in protobuf. It is large, and older clients ask for it at
//! every command, so each form is made when somebody asks for it first and kept compressed until the kinds change.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

use bytes::Bytes;
use dray_machinery::Status;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::Value;

use super::gnostic;
use crate::{
    body, negotiate,
    respond::{self, Answer},
};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// As the first clients called it; the answer has the other name.
const OLD_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    fn media(self) -> &'static str {
        match self {
            Form::Json => JSON,
            Form::Protobuf => PROTOBUF,
        }
    }
}

/// The forms that have been asked for, of the kinds that a fingerprint stands for.
struct Kept {
    fingerprint: String,
    forms: BTreeMap<Form, Bytes>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { fingerprint: String::new(), forms: BTreeMap::new() });

/// The form that a client prefers; none where it wants something else.
fn form(headers: &HeaderMap) -> Option<Form> {
    let ranges = negotiate::ranges(headers);
    if ranges.is_empty() {
        return Some(Form::Json);
    }
    ranges.iter().find_map(|range| match range.media {
        JSON | "*/*" | "application/*" => Some(Form::Json),
        PROTOBUF | OLD_PROTOBUF => Some(Form::Protobuf),
        _ => None,
    })
}

fn compress(plain: &[u8]) -> Result<Bytes, Status> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let packed = encoder.write_all(plain).and_then(|()| encoder.finish());
    packed.map(Bytes::from).map_err(Status::internal)
}

/// A form, compressed.
fn packed(form: Form, fingerprint: &str, document: impl FnOnce() -> Value) -> Result<Bytes, Status> {
    // Whoever comes while it is made waits for it: it is made once.
    let mut kept = KEPT.lock();
    if kept.fingerprint != fingerprint {
        *kept = Kept { fingerprint: fingerprint.to_owned(), forms: BTreeMap::new() };
    }
    if let Some(packed) = kept.forms.get(&form) {
        return Ok(packed.clone());
    }
    let document = document();
    let packed = match form {
        // Values are made of JSON: writing them cannot fail.
        Form::Json => compress(&serde_json::to_vec(&document).unwrap_or_default())?,
        Form::Protobuf => compress(&gnostic::encode(&document))?,
    };
    kept.forms.insert(form, packed.clone());
    Ok(packed)
}

/// Whether one of the tags that a client knows is this one.
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).map(str::trim).any(|known| {
        // Comparison is weak, as RFC 9110 has it for this header.
        known == "*" || known.trim_start_matches("W/") == tag
    })
}

/// Answers with the document. `fingerprint` changes whenever `document` would give another one.
pub(super) fn answer(
    headers: &HeaderMap,
    fingerprint: &str,
    document: impl FnOnce() -> Value,
) -> Result<Answer, Status> {
    let form = form(headers).ok_or_else(|| Status::not_acceptable(&[JSON, PROTOBUF, OLD_PROTOBUF]))?;
    // Forms of one document are not the same bytes.
    let tag = format!("\"{fingerprint}{}\"", if form == Form::Json { "" } else { "-P" });
    let mut answer = if knows(headers, &tag) {
        let mut answer = respond::text(StatusCode::NOT_MODIFIED, "");
        answer.headers_mut().remove(header::CONTENT_TYPE);
        answer
    } else {
        let packed = packed(form, fingerprint, document)?;
        if negotiate::takes_gzip(headers) {
            let mut answer = respond::with_type(StatusCode::OK, form.media(), body::full(packed));
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            answer
        } else {
            let mut plain = Vec::new();
            GzDecoder::new(&*packed).read_to_end(&mut plain).map_err(Status::internal)?;
            respond::with_type(StatusCode::OK, form.media(), body::full(plain))
        }
    };
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::json;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn forms_are_chosen_by_what_is_accepted() {
        for (accept, expected) in [
            ("application/json", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            (PROTOBUF, Some(Form::Protobuf)),
            (OLD_PROTOBUF, Some(Form::Protobuf)),
            (
                "application/json;q=0.5,application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                Some(Form::Protobuf),
            ),
            ("text/html, */*;q=0.1", Some(Form::Json)),
            ("text/html", None),
        ] {
            assert_eq!(form(&headers(&[(header::ACCEPT, accept)])), expected, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()), Some(Form::Json));
    }

    #[tokio::test]
    async fn a_document_is_made_once_and_again_when_the_kinds_change() {
        let asked = headers(&[(header::ACCEPT, PROTOBUF), (header::ACCEPT_ENCODING, "gzip")]);
        let first = answer(&asked, "ONE", || json!({ "swagger": "2.0" })).unwrap();
        assert_eq!(first.headers()[header::CONTENT_TYPE], PROTOBUF);
        assert_eq!(first.headers()[header::CONTENT_ENCODING], "gzip");
        let tag = first.headers()[header::ETAG].clone();
        let bytes = first.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, b"\x0a\x032.0");
        let again = answer(&headers(&[(header::ACCEPT, PROTOBUF)]), "ONE", || panic!("it is kept")).unwrap();
        assert!(!again.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(again.into_body().collect().await.unwrap().to_bytes(), plain);
        let mut known = asked.clone();
        known.insert(header::IF_NONE_MATCH, tag.clone());
        let unchanged = answer(&known, "ONE", || panic!("it is known")).unwrap();
        assert_eq!(
            (unchanged.status(), &unchanged.headers()[header::ETAG]),
            (StatusCode::NOT_MODIFIED, &tag)
        );
        let other = answer(&known, "TWO", || json!({ "swagger": "2.1" })).unwrap();
        assert_eq!(other.status(), StatusCode::OK);
        let refused = answer(&headers(&[(header::ACCEPT, "text/html")]), "TWO", || json!({}));
        assert_eq!(refused.unwrap_err().code, 406);
    }
}
