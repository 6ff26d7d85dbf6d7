//! What the agent reads from the cluster for a pod: configuration, secrets, tokens.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{Error, Result};

/// Values of a ConfigMap or Secret by key.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Which of the two kinds of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// The values of a ConfigMap or Secret; none when there is no such object.
pub(crate) async fn data(client: &Client, kind: Kind, namespace: &str, name: &str) -> Result<Option<Data>> {
    let failed = || Error::api("get", format!("{} {namespace}/{name}", kind.as_str()));
    match kind {
        Kind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let Some(map) = api.get_opt(name).await.map_err(failed())? else { return Ok(None) };
            let mut data: Data = map
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.into_bytes()))
                .collect();
            data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)));
            Ok(Some(data))
        }
        Kind::Secret => {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let secret = api.get_opt(name).await.map_err(failed())?;
            Ok(secret.map(|secret| {
                secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
            }))
        }
    }
}

/// A token by which a pod's programs are its service account.
pub(crate) struct TokenRequest<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) audience: Option<&'a str>,
    /// For how long it should hold, in seconds.
    pub(crate) seconds: i64,
    pub(crate) pod: &'a crate::identity::PodIdentity,
}

/// Has the API server make a token.
pub(crate) async fn token(client: &Client, wanted: &TokenRequest<'_>) -> Result<String> {
    let TokenRequest { namespace, account, audience, seconds, pod } = wanted;
    let failed = || Error::api("request a token for service account", format!("{namespace}/{account}"));
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {},
        "spec": {
            "audiences": audience.iter().collect::<Vec<_>>(),
            "expirationSeconds": seconds,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid },
        },
    });
    let request =
        http::Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|error| failed()(kube::Error::HttpError(error)))?;
    let answer: Value = client.request(request).await.map_err(failed())?;
    answer["status"]["token"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::pod(format!("the token for service account {namespace}/{account} has no text")))
}
