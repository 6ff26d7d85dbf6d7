//! The document of version 2: one for everything, in JSON and in protobuf. It is large, and older clients ask for it at
//! every command, so each form is made when somebody asks for it first, beside the requests, and kept compressed until the
//! kinds change. It must not know what the document says.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

use bytes::Bytes;
use dray_machinery::Status;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use tokio::{sync::Mutex, task::spawn_blocking};

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
#[derive(Default)]
struct Kept {
    fingerprint: String,
    forms: BTreeMap<Form, Bytes>,
}

/// The document as it was last asked for.
#[derive(Default)]
pub(crate) struct Document(Mutex<Kept>);

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

/// The tag of a form: forms of one document are not the same bytes.
fn tag(form: Form, fingerprint: &str) -> String {
    format!("\"{fingerprint}{}\"", if form == Form::Json { "" } else { "-P" })
}

fn make(form: Form, document: &Value) -> Result<Bytes, Status> {
    match form {
        // Values are made of JSON: writing them cannot fail.
        Form::Json => compress(&serde_json::to_vec(document).unwrap_or_default()),
        Form::Protobuf => compress(&gnostic::encode(document)),
    }
}

impl Document {
    /// A form, compressed, and the fingerprint of what it shows.
    async fn packed<M>(&self, form: Form, now: impl Fn() -> (String, M)) -> Result<(Bytes, String), Status>
    where
        M: FnOnce() -> Value + Send + 'static,
    {
        // Whoever comes while it is made waits for it: it is made once, of what is served then.
        let mut kept = self.0.lock().await;
        let (fingerprint, document) = now();
        if kept.fingerprint != fingerprint {
            *kept = Kept { fingerprint: fingerprint.clone(), forms: BTreeMap::new() };
        }
        if let Some(packed) = kept.forms.get(&form) {
            return Ok((packed.clone(), fingerprint));
        }
        let packed = spawn_blocking(move || make(form, &document())).await.map_err(Status::internal)??;
        kept.forms.insert(form, packed.clone());
        Ok((packed, fingerprint))
    }
}

/// Whether one of the tags that a client knows is this one.
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).map(str::trim).any(|known| {
        // Comparison is weak, as RFC 9110 has it for this header.
        known == "*" || known.trim_start_matches("W/") == tag
    })
}

/// Answers with the document. `now` gives what is to be shown at the moment: its fingerprint, which changes whenever it does,
/// and what makes it.
pub(super) async fn answer<M>(
    headers: &HeaderMap,
    kept: &Document,
    now: impl Fn() -> (String, M),
) -> Result<Answer, Status>
where
    M: FnOnce() -> Value + Send + 'static,
{
    let form = form(headers).ok_or_else(|| Status::not_acceptable(&[JSON, PROTOBUF, OLD_PROTOBUF]))?;
    let newest = tag(form, &now().0);
    let (mut answer, tag) = if knows(headers, &newest) {
        let mut answer = respond::text(StatusCode::NOT_MODIFIED, "");
        answer.headers_mut().remove(header::CONTENT_TYPE);
        (answer, newest)
    } else {
        let (packed, fingerprint) = kept.packed(form, now).await?;
        let answer = if negotiate::takes_gzip(headers) {
            let mut answer = respond::with_type(StatusCode::OK, form.media(), body::full(packed));
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            answer
        } else {
            let plain = spawn_blocking(move || {
                let mut plain = Vec::new();
                GzDecoder::new(&*packed).read_to_end(&mut plain).map(|_| plain)
            });
            let plain = plain.await.map_err(Status::internal)?.map_err(Status::internal)?;
            respond::with_type(StatusCode::OK, form.media(), body::full(plain))
        };
        (answer, tag(form, &fingerprint))
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
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use futures_util::future::join_all;
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

    fn panics() -> Value {
        panic!("it is not made again")
    }

    #[tokio::test]
    async fn a_document_is_made_once_and_again_when_the_kinds_change() {
        let kept = Document::default();
        let one = |make: fn() -> Value| move || ("ONE".to_owned(), make);
        let two = || ("TWO".to_owned(), || json!({ "swagger": "2.1" }));
        let asked = headers(&[(header::ACCEPT, PROTOBUF), (header::ACCEPT_ENCODING, "gzip")]);
        // Of many who ask at once, one has it made.
        let made = Arc::new(AtomicUsize::new(0));
        let counting = || {
            let made = made.clone();
            ("ONE".to_owned(), move || {
                made.fetch_add(1, Ordering::SeqCst);
                json!({ "swagger": "2.0" })
            })
        };
        let all = join_all((0..4).map(|_| answer(&asked, &kept, counting))).await;
        assert_eq!(made.load(Ordering::SeqCst), 1);
        let first = all.into_iter().next().unwrap().unwrap();
        assert_eq!(first.headers()[header::CONTENT_TYPE], PROTOBUF);
        assert_eq!(first.headers()[header::CONTENT_ENCODING], "gzip");
        let tag = first.headers()[header::ETAG].clone();
        let bytes = first.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, b"\x0a\x032.0");
        let again = answer(&headers(&[(header::ACCEPT, PROTOBUF)]), &kept, one(panics)).await.unwrap();
        assert!(!again.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(again.into_body().collect().await.unwrap().to_bytes(), plain);
        let mut known = asked.clone();
        known.insert(header::IF_NONE_MATCH, tag.clone());
        let unchanged = answer(&known, &kept, one(panics)).await.unwrap();
        assert_eq!(
            (unchanged.status(), &unchanged.headers()[header::ETAG]),
            (StatusCode::NOT_MODIFIED, &tag)
        );
        let other = answer(&known, &kept, two).await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
        assert_ne!(other.headers()[header::ETAG], tag);
        let refused = answer(&headers(&[(header::ACCEPT, "text/html")]), &kept, two).await;
        assert_eq!(refused.unwrap_err().code, 406);
    }
}
