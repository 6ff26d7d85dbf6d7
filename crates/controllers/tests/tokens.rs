//! Secrets with tokens, against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{AUTHORITY, Cluster, gone, when};

const SECRET: &str = "kubernetes.io/service-account-token";

async fn account(cluster: &Cluster, name: &str) -> ServiceAccount {
    cluster.create(json!({ "metadata": { "name": name } })).await
}

async fn secret(cluster: &Cluster, name: &str, account: &str) {
    let annotations = json!({ "kubernetes.io/service-account.name": account });
    let secret = json!({ "metadata": { "name": name, "annotations": annotations }, "type": SECRET });
    cluster.create::<Secret>(secret).await;
}

fn text(secret: &Secret, name: &str) -> String {
    let data = secret.data.as_ref().and_then(|data| data.get(name));
    data.map(|bytes| String::from_utf8(bytes.0.clone()).unwrap()).unwrap_or_default()
}

/// Who a token says one is; none if nobody.
async fn review(cluster: &Cluster, token: &str) -> Option<String> {
    let reviews: Api<TokenReview> = Api::all(cluster.client.clone());
    let review: Value = json!({ "metadata": {}, "spec": { "token": token } });
    let review = serde_json::from_value(review).unwrap();
    let review = reviews.create(&PostParams::default(), &review).await.unwrap();
    review.status.and_then(|status| status.user).and_then(|user| user.username)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_gets_a_token_of_its_account_and_goes_with_it() {
    let cluster = support::cluster().await;
    let robot = account(&cluster, "robot").await;
    secret(&cluster, "token", "robot").await;
    let secrets = cluster.api::<Secret>();
    let filled = when(&secrets, "token", "its token", |secret| !text(secret, "token").is_empty()).await;
    assert_eq!(
        (text(&filled, "namespace").as_str(), text(&filled, "ca.crt").as_str()),
        ("default", AUTHORITY)
    );
    assert_eq!(filled.annotations()["kubernetes.io/service-account.uid"], robot.uid().unwrap());
    let token = text(&filled, "token");
    let name = review(&cluster, &token).await;
    assert_eq!(name.as_deref(), Some("system:serviceaccount:default:robot"));
    cluster.api::<ServiceAccount>().delete("robot", &DeleteParams::default()).await.unwrap();
    gone(&secrets, "token").await;
    assert_eq!(review(&cluster, &token).await, None);
    // Of nobody there is no token.
    secret(&cluster, "early", "nobody").await;
    gone(&secrets, "early").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_by_which_nodes_join_end() {
    let cluster = support::cluster().await;
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), "kube-system");
    let now = Timestamp::now();
    for (id, seconds) in [("aaaaaa", 3600), ("bbbbbb", 1), ("cccccc", -60)] {
        let end = (now + SignedDuration::from_secs(seconds)).to_string();
        let secret = serde_json::from_value(json!({
            "metadata": { "name": format!("bootstrap-token-{id}") }, "type": "bootstrap.kubernetes.io/token",
            "stringData": { "token-id": id, "token-secret": "0123456789abcdef", "expiration": end },
        }));
        secrets.create(&PostParams::default(), &secret.unwrap()).await.unwrap();
    }
    gone(&secrets, "bootstrap-token-cccccc").await;
    gone(&secrets, "bootstrap-token-bbbbbb").await;
    assert!(secrets.get_opt("bootstrap-token-aaaaaa").await.unwrap().is_some());
}
