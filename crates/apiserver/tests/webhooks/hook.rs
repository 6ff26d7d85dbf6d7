//! A webhook: an HTTPS server whose answers a test decides.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

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

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
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
    let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    names.push("127.0.0.1".to_owned());
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (answer, kept) = (Arc::new(answer), seen.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, answer, kept) = (acceptor.clone(), answer.clone(), kept.clone());
            tokio::spawn(async move {
                // Who does not trust the certificate goes away here.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (answer, kept) = (answer.clone(), kept.clone());
                    async move {
                        let target = request.uri().to_string();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        kept.lock().unwrap().push((target, review.clone()));
                        Ok::<_, Infallible>(respond(answer(&review), &review).await)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Hook { address, bundle: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()), seen }
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
