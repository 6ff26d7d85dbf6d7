//! Requests and answers over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bytes::Bytes;
use dray_machinery::Status;
use dray_machinery::selector::{FieldSelector, LabelSelector};
use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::sampler::Pair;
use crate::{GROUP, MetricsServer, VERSION, objects};

/// Serves one connection to its end.
pub(crate) async fn serve<S>(server: MetricsServer, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(&server, &request).await) }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the metrics of the cluster broke");
    }
}

async fn answer(server: &MetricsServer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (code, body) = match route(server, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(status) => {
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (code, status.to_value())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The selectors of a list.
struct Wanted {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Wanted {
    fn read(query: Option<&str>) -> Result<Wanted, Status> {
        let parameter = |name: &str| {
            let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(key, _)| *key == name);
            found.next().map_or(Ok(String::new()), |(_, value)| decoded(value))
        };
        Ok(Wanted {
            labels: LabelSelector::parse(&parameter("labelSelector")?).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(&parameter("fieldSelector")?).map_err(Status::bad_request)?,
        })
    }

    fn fits(&self, metadata: &kube::core::ObjectMeta) -> bool {
        let labels = metadata.labels.as_ref();
        self.labels.matches(|key| labels?.get(key).map(String::as_str))
            && self.fields.matches(|field| match field {
                "metadata.name" => metadata.name.clone().unwrap_or_default(),
                "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
                _ => String::new(),
            })
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, Status> {
    let wrong = || Status::bad_request("the query is not encoded as URLs are");
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().ok_or_else(wrong)?, bytes.next().ok_or_else(wrong)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
                u8::from_str_radix(digits, 16).map_err(|_| wrong())?
            }
            other => other,
        });
    }
    String::from_utf8(plain).map_err(|_| wrong())
}

async fn route(server: &MetricsServer, request: &Request<Incoming>) -> Result<Value, Status> {
    let prefix = format!("/apis/{GROUP}/{VERSION}");
    let path = request.uri().path().strip_prefix(&prefix).ok_or_else(Status::no_such_resource)?;
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let wanted = Wanted::read(request.uri().query())?;
    match words[..] {
        [] => Ok(objects::resources()),
        ["nodes"] => {
            let found = nodes(server, &wanted).await?;
            Ok(objects::list("NodeMetrics", &found))
        }
        ["nodes", name] => {
            let wanted = Wanted { fields: named(name)?, ..wanted };
            let found = nodes(server, &wanted).await?.pop();
            found.ok_or_else(|| Status::not_found(GROUP, "nodes", name))
        }
        ["pods"] => Ok(objects::list("PodMetrics", &pods(server, None, &wanted).await?)),
        ["namespaces", namespace, "pods"] => {
            Ok(objects::list("PodMetrics", &pods(server, Some(namespace), &wanted).await?))
        }
        ["namespaces", namespace, "pods", name] => {
            let wanted = Wanted { fields: named(name)?, ..wanted };
            let found = pods(server, Some(namespace), &wanted).await?.pop();
            found.ok_or_else(|| Status::not_found(GROUP, "pods", &format!("{namespace}/{name}")))
        }
        _ => Err(Status::no_such_resource()),
    }
}

fn named(name: &str) -> Result<FieldSelector, Status> {
    FieldSelector::parse(&format!("metadata.name={name}")).map_err(Status::bad_request)
}

fn failed(error: kube::Error) -> Status {
    Status::internal(format!("cannot read the cluster: {error}"))
}

async fn nodes(server: &MetricsServer, wanted: &Wanted) -> Result<Vec<Value>, Status> {
    let all =
        Api::<Node>::all(server.client.clone()).list(&ListParams::default()).await.map_err(failed)?.items;
    let names: BTreeSet<&str> = all.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    server.samplers.keep_only(|node| names.contains(node));
    let meant: Vec<&Node> = all.iter().filter(|node| wanted.fits(&node.metadata)).collect();
    let pairs = pairs(server, meant.iter().filter_map(|node| node.metadata.name.as_deref())).await;
    let of = |node: &&Node| objects::of_node(node, pairs.get(node.metadata.name.as_deref()?)?);
    Ok(meant.iter().filter_map(of).collect())
}

async fn pods(
    server: &MetricsServer,
    namespace: Option<&str>,
    wanted: &Wanted,
) -> Result<Vec<Value>, Status> {
    let api = match namespace {
        Some(namespace) => Api::<Pod>::namespaced(server.client.clone(), namespace),
        None => Api::all(server.client.clone()),
    };
    let parameters = ListParams::default().fields("status.phase=Running");
    let mut all = api.list(&parameters).await.map_err(failed)?.items;
    all.retain(|pod| wanted.fits(&pod.metadata));
    let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let names: BTreeSet<String> = all.iter().filter_map(on).collect();
    let pairs = pairs(server, names.iter().map(String::as_str)).await;
    Ok(all.iter().filter_map(|pod| objects::of_pod(pod, &pairs)).collect())
}

/// What nodes used lately. Those that do not say it are left out.
async fn pairs<'a>(server: &MetricsServer, nodes: impl Iterator<Item = &'a str>) -> BTreeMap<String, Pair> {
    let looks = nodes.map(|node| async move {
        match server.samplers.pair(&server.client, node).await {
            Ok(pair) => Some((node.to_owned(), pair)),
            Err(why) => {
                tracing::warn!(node, why, "what a node uses is not known");
                None
            }
        }
    });
    join_all(looks).await.into_iter().flatten().collect()
}
