//! A webhook: an HTTPS server whose answers a test decides.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::peer::{self, Body, full};

/// What a webhook says.
pub enum Answer {
    /// The response of a review; its uid is that of the request where it has none.
    Response(Value),
    /// An answer as it is.
    Plain(u16, Vec<u8>),
    /// So many bytes, and never an end.
    Endless,
    /// Nothing.
    Silence,
}

pub struct Hook {
    pub address: SocketAddr,
    /// The certificate to be trusted, as a `caBundle` has it.
    pub bundle: String,
    /// The reviews that came, and their paths.
    pub seen: Arc<Mutex<Vec<(String, Value)>>>,
}

async fn respond(answer: Answer, review: &Value) -> Response<Body> {
    let (code, body) = match answer {
        Answer::Response(mut response) => {
            if response.get("uid").is_none() {
                response["uid"] = review["request"]["uid"].clone();
            }
            let review = json!({ "kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response });
            (200, full(review.to_string()))
        }
        Answer::Plain(code, text) => (code, full(text)),
        Answer::Endless => {
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            let endless = futures_util::stream::repeat(chunk).map(|chunk| Ok(Frame::data(chunk)));
            (200, StreamBody::new(endless).boxed_unsync())
        }
        Answer::Silence => std::future::pending().await,
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// Starts a webhook whose certificate is for the address and for these names.
pub async fn hook(names: &[&str], answer: impl Fn(&Value) -> Answer + Send + Sync + 'static) -> Hook {
    let tls = peer::tls(&[names, &["127.0.0.1"]].concat(), None);
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (answer, kept) = (Arc::new(answer), seen.clone());
    let answer = move |request: Request<Incoming>| {
        let (answer, kept) = (answer.clone(), kept.clone());
        async move {
            let target = request.uri().to_string();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review: Value = serde_json::from_slice(&body).unwrap();
            kept.lock().unwrap().push((target, review.clone()));
            respond(answer(&review), &review).await
        }
    };
    let address = peer::serve(Some(&tls), answer).await;
    Hook { address, bundle: tls.bundle, seen }
}

impl Hook {
    /// How a configuration names it.
    pub fn client_config(&self) -> Value {
        json!({ "url": format!("https://{}/review", self.address), "caBundle": self.bundle })
    }

    /// The requests of the reviews that came.
    pub fn requests(&self) -> Vec<Value> {
        self.seen.lock().unwrap().iter().map(|(_, review)| review["request"].clone()).collect()
    }
}

/// A patch as a response has it.
pub fn patch(operations: &Value) -> Answer {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    Answer::Response(json!({ "allowed": true, "patchType": "JSONPatch", "patch": patch }))
}

pub fn allow() -> Answer {
    Answer::Response(json!({ "allowed": true }))
}
