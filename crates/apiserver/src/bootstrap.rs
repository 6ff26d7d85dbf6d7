//! The objects that every cluster has from its start.

use std::net::Ipv4Addr;

use bytes::Bytes;
use dray_machinery::{Status, kinds, object};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    ApiServer, Error,
    negotiate::{Accept, Encoding, Shape},
    query::Query,
    request::ResourceRequest,
    write::{Change, Retry},
};

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

impl ApiServer {
    pub(crate) async fn bootstrap(&self, service_address: Ipv4Addr) -> Result<(), Error> {
        let made = NAMESPACES
            .iter()
            .map(|name| self.ensure("", "Namespace", json!({ "metadata": { "name": name } }), &[]));
        futures_util::future::try_join_all(made).await?;
        let address = self.inner.config.advertise_address;
        let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
        let ports = json!([{ "name": "https", "port": address.port(), "protocol": "TCP" }]);
        let service = json!({
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels },
            "spec": {
                "type": "ClusterIP", "clusterIP": service_address.to_string(), "sessionAffinity": "None",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port() }],
            },
        });
        let endpoints = json!({
            "metadata": { "name": "kubernetes", "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
            "subsets": [{ "addresses": [{ "ip": address.ip().to_string() }], "ports": ports }],
        });
        let slice = json!({
            "metadata": { "name": "kubernetes", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": { "ready": true } }],
            "ports": ports,
        });
        self.ensure("", "Service", service, &[&["spec", "ports"]]).await?;
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            // It would lead pods to themselves.
            tracing::warn!(%address, "the service of the API has no endpoints: pods cannot reach its address");
            return Ok(());
        }
        let (one, two) = tokio::join!(
            self.ensure("", "Endpoints", endpoints, &[&["subsets"]]),
            self.ensure("discovery.k8s.io", "EndpointSlice", slice, &[&["endpoints"], &["ports"]]),
        );
        one.and(two)
    }

    /// Makes an object when it is not there; sets fields of one that is there to what they must be.
    async fn ensure(
        &self,
        group: &str,
        kind: &str,
        mut wanted: Value,
        fields: &[&[&str]],
    ) -> Result<(), Error> {
        let name = object::name(&wanted).to_owned();
        let failed = |source: Status| Error::Bootstrap { object: format!("{kind} {name}"), source };
        let row = kinds::find_kind(group, kind).ok_or_else(|| failed(Status::no_such_resource()))?;
        wanted["kind"] = json!(row.kind);
        wanted["apiVersion"] = json!(row.api_version());
        let mut request = ResourceRequest {
            kind: row,
            namespace: object::namespace(&wanted).to_owned(),
            name: String::new(),
            subresource: None,
            query: Query::default(),
        };
        let headers = HeaderMap::new();
        let body = Bytes::new();
        let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
        let manager = "kube-apiserver".to_owned();
        if self.inner.store.get(&self.inner.key(&request, &name)).is_none() {
            let change = Change::new(&request, &headers, &body, accept, manager);
            self.inner.create_object(&change, wanted).await.map_err(failed)?;
            return Ok(());
        }
        if fields.is_empty() {
            return Ok(());
        }
        request.name.clone_from(&name);
        let change = Change::new(&request, &headers, &body, accept, manager);
        self.inner
            .modify(&change, Retry::Newer, |old| {
                let mut new = old.clone();
                for path in fields {
                    let value = object::at(&wanted, path).clone();
                    match path {
                        [field] => new[*field] = value,
                        [parent, field] => {
                            object::child(&mut new, parent).insert((*field).into(), value);
                        }
                        _ => {}
                    }
                }
                Ok(new)
            })
            .await
            .map_err(failed)?;
        Ok(())
    }
}
