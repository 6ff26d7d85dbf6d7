//! Tokens of another authority: what they grant, and what is no token.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use common::{Liar, Sample, client, pull, registry, request, store};
use dray_image::Reference;
use dray_registry::server::{Options, TokenAuthority};
use dray_registry::{Credentials, Error, Events, PullRequest, PushRequest};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

fn claims(actions: &[&str]) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "iss": "authority", "aud": "registry", "sub": "someone", "exp": now + 300, "nbf": now - 5, "iat": now,
        "access": [{ "type": "repository", "name": "a/b", "actions": actions }],
    })
}

fn by_token(token: String) -> Option<Credentials> {
    Some(Credentials { registry_token: token, ..Credentials::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_grants_what_it_says_and_no_more() {
    let (directory, shelf) = store();
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, pair.public_key_pem()).unwrap();
    let authority = TokenAuthority {
        realm: "http://127.0.0.1:1/token".to_owned(),
        service: "registry".to_owned(),
        issuer: "authority".to_owned(),
        key,
    };
    let options = Options { authority: Some(authority), ..Options::default() };
    let address = registry(&shelf, &options).await;
    let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let sign = |claims: &Value| encode(&Header::new(Algorithm::ES256), claims, &private).unwrap();

    let sample = Sample::new(10_000);
    let liar = Liar::start(move |asked| sample.answer(asked));
    let (_source, source) = store();
    let id = pull(&source, &liar).await.unwrap().image.id;
    let name = |repository: &str| Reference::parse(&format!("{address}/{repository}:1")).unwrap();
    let push = async |repository: &str, token: String| {
        source.tag(&id, &name(repository)).unwrap();
        let request =
            PushRequest { reference: name(repository), platform: None, credentials: by_token(token) };
        client(&source).push(&request, &Events::ignored()).await
    };
    push("a/b", sign(&claims(&["pull", "push"]))).await.unwrap();

    let mut expired = claims(&["pull", "push"]);
    expired["exp"] = json!(jiff::Timestamp::now().as_second() - 3600);
    let mut issuer = claims(&["pull", "push"]);
    issuer["iss"] = json!("another");
    let mut audience = claims(&["pull", "push"]);
    audience["aud"] = json!("another");
    // Whoever has the public key signs with it as if it were a shared secret.
    let confused = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
    let good = claims(&["pull", "push"]);
    let stranger = rcgen::KeyPair::generate().unwrap();
    let stranger = EncodingKey::from_ec_pem(stranger.serialize_pem().as_bytes()).unwrap();
    let unsigned = {
        use base64::Engine as _;
        let part = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(&good))
    };
    for (what, repository, token) in [
        ("only to pull", "a/b", sign(&claims(&["pull"]))),
        ("for another repository", "a/c", sign(&good)),
        ("expired", "a/b", sign(&expired)),
        ("of another issuer", "a/b", sign(&issuer)),
        ("for another service", "a/b", sign(&audience)),
        (
            "signed with the public key",
            "a/b",
            encode(&Header::new(Algorithm::HS256), &good, &confused).unwrap(),
        ),
        ("signed by a stranger", "a/b", encode(&Header::new(Algorithm::ES256), &good, &stranger).unwrap()),
        ("not signed", "a/b", unsigned),
    ] {
        // The authority itself is not there: who is sent to it finds nobody.
        let refused = push(repository, token).await;
        assert!(
            matches!(refused, Err(Error::Connect { .. } | Error::Unauthorized { .. })),
            "{what}: {refused:?}"
        );
    }
    let (_target, target) = store();
    let request = PullRequest { credentials: by_token(sign(&claims(&["pull"]))), ..request(name("a/b")) };
    client(&target).pull(&request, &Events::ignored()).await.unwrap();
}
