//! The documents that describe the API, as clients ask for them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use bytes::Bytes;
use dray_apiserver::{ApiServer, Config, User};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use support::cluster;
use tower_service::Service as _;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const OLD_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

async fn get(server: &ApiServer, headers: &[(header::HeaderName, &str)]) -> Response<Bytes> {
    let mut request = Request::get("/openapi/v2").body(Full::new(Bytes::new())).unwrap();
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
    *request.headers_mut() = headers;
    let (head, body) = server.service(User::component("test")).call(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_document_of_version_2_comes_in_the_forms_that_kubectl_has_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: "192.0.2.1:6443".parse().unwrap(),
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    };
    let server = ApiServer::open(config).await.unwrap();
    for asked in [PROTOBUF, OLD_PROTOBUF] {
        let answer = get(&server, &[(header::ACCEPT, asked), (header::ACCEPT_ENCODING, "gzip")]).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], PROTOBUF);
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        assert!(answer.body().starts_with(&[0x1f, 0x8b]));
        let plain = get(&server, &[(header::ACCEPT, asked)]).await;
        assert!(plain.body().starts_with(b"\x0a\x032.0"));
        assert!(plain.body().len() > 2 * answer.body().len());
        let tag = answer.headers()[header::ETAG].to_str().unwrap().to_owned();
        let again = get(&server, &[(header::ACCEPT, asked), (header::IF_NONE_MATCH, &tag)]).await;
        assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
        let json = get(&server, &[(header::IF_NONE_MATCH, &tag)]).await;
        assert_eq!(json.headers()[header::CONTENT_TYPE], "application/json");
        let document: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"][0], "name");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    }
    assert_eq!(get(&server, &[(header::ACCEPT, "text/html")]).await.status(), StatusCode::NOT_ACCEPTABLE);
    server.close().await;
}

#[test]
fn kubectl_checks_what_no_server_checks_by_the_document_of_version_2() {
    let cluster = cluster();
    let review = |field: &str| {
        format!(
            "{{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectAccessReview, spec: {{{field}: {{verb: get, \
             resource: pods}}}}}}"
        )
    };
    let allowed =
        cluster.ok(&["create", "-f", "-", "-o", "jsonpath={.status.allowed}"], &review("resourceAttributes"));
    assert_eq!(allowed, "true");
    // These have no PATCH, by which a server shows that it checks fields: the command reads the schema itself.
    let refused = cluster.refused(&["create", "-f", "-"], &review("resourceAttribute"));
    assert!(refused.contains("unknown field \"resourceAttribute\""), "{refused}");
}
