//! The objects that every cluster has from its start.

use std::net::Ipv4Addr;

use bytes::Bytes;
use dray_access::{Rule, User, missing};
use dray_machinery::{Status, kinds, object};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    ApiServer, Error,
    flow::bootstrap,
    negotiate::{Accept, Encoding, Shape},
    pki::FRONT_PROXY_CLIENT,
    query::Query,
    request::ResourceRequest,
    respond,
    write::{Change, Retry},
};

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

impl ApiServer {
    pub(crate) async fn bootstrap(&self, service_address: Ipv4Addr) -> Result<(), Error> {
        let made = NAMESPACES
            .iter()
            .map(|name| self.ensure("", "Namespace", json!({ "metadata": { "name": name } }), &[]));
        futures_util::future::try_join_all(made).await?;
        // The controller would make these, too, but a pod may come before it.
        let accounts = NAMESPACES.iter().map(|namespace| {
            let account = json!({ "metadata": { "name": "default", "namespace": namespace } });
            self.ensure("", "ServiceAccount", account, &[])
        });
        futures_util::future::try_join_all(accounts).await?;
        tokio::try_join!(
            self.bootstrap_access(),
            self.bootstrap_flow(),
            self.bootstrap_services(),
            self.bootstrap_trust(),
        )?;
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

    /// Says by what servers of others know this one, and its clients.
    async fn bootstrap_trust(&self) -> Result<(), Error> {
        let pki = &self.inner.pki;
        // Lists are JSON here, whatever reads them.
        let list = |one: &str| json!([one]).to_string();
        let map = json!({
            "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": {
                "client-ca-file": pki.authority(),
                "requestheader-client-ca-file": pki.front_proxy_authority(),
                "requestheader-allowed-names": list(FRONT_PROXY_CLIENT),
                "requestheader-username-headers": list("X-Remote-User"),
                "requestheader-uid-headers": list("X-Remote-Uid"),
                "requestheader-group-headers": list("X-Remote-Group"),
                "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
            },
        });
        self.ensure("", "ConfigMap", map, &[&["data"]]).await
    }

    /// Makes the roles and bindings that every cluster has. What one lacks that was changed meanwhile comes back to it,
    /// unless it says otherwise.
    async fn bootstrap_access(&self) -> Result<(), Error> {
        let made = dray_access::bootstrap_objects().into_iter().map(|wanted| async move {
            let kind = object::text(&wanted, &["kind"]).to_owned();
            self.ensure_with(GROUP, &kind, wanted, |old, wanted| {
                let mut new = old.clone();
                if old["metadata"]["annotations"][AUTOUPDATE] != "true" {
                    return new;
                }
                let lacking: Vec<Value> = match kind.as_str() {
                    "ClusterRole" | "Role" => {
                        let lacking = missing(&Rule::all_of(old), &Rule::all_of(wanted));
                        lacking.iter().map(Rule::to_value).collect()
                    }
                    _ => {
                        let had = old["subjects"].as_array().map_or(&[][..], Vec::as_slice);
                        let subjects = wanted["subjects"].as_array().into_iter().flatten();
                        subjects.filter(|subject| !had.contains(subject)).cloned().collect()
                    }
                };
                let field = if kind.ends_with("Binding") { "subjects" } else { "rules" };
                if !lacking.is_empty() {
                    let mut all = old[field].as_array().cloned().unwrap_or_default();
                    all.extend(lacking);
                    new[field] = json!(all);
                }
                new
            })
            .await
        });
        futures_util::future::try_join_all(made).await?;
        Ok(())
    }

    /// Makes the schemas and levels by which requests share the server. One that says so follows what is wanted.
    async fn bootstrap_flow(&self) -> Result<(), Error> {
        let wanted = bootstrap::mandatory().into_iter().chain(bootstrap::suggested());
        let made = wanted.map(|wanted| async move {
            let kind = object::text(&wanted, &["kind"]).to_owned();
            self.ensure_with("flowcontrol.apiserver.k8s.io", &kind, wanted, |old, wanted| {
                let mut new = old.clone();
                if old["metadata"]["annotations"][bootstrap::AUTOUPDATE] == "true" {
                    new["spec"] = wanted["spec"].clone();
                }
                new
            })
            .await
        });
        futures_util::future::try_join_all(made).await.map(drop)
    }

    /// Makes an object when it is not there; sets fields of one that is there to what they must be.
    async fn ensure(&self, group: &str, kind: &str, wanted: Value, fields: &[&[&str]]) -> Result<(), Error> {
        self.ensure_with(group, kind, wanted, |old, wanted| {
            let mut new = old.clone();
            for path in fields {
                let value = object::at(wanted, path).clone();
                match path {
                    [field] => new[*field] = value,
                    [parent, field] => {
                        object::child(&mut new, parent).insert((*field).into(), value);
                    }
                    _ => {}
                }
            }
            new
        })
        .await
    }

    /// Makes an object when it is not there; where it is, `mend` makes of it, and of what is wanted, what it must be.
    pub(crate) async fn ensure_with(
        &self,
        group: &str,
        kind: &str,
        mut wanted: Value,
        mend: impl Fn(&Value, &Value) -> Value,
    ) -> Result<(), Error> {
        let name = object::name(&wanted).to_owned();
        let failed = |source: Status| Error::Bootstrap { object: format!("{kind} {name}"), source };
        let row = kinds::find_kind(group, kind).ok_or_else(|| failed(Status::no_such_resource()))?;
        wanted["kind"] = json!(row.kind);
        wanted["apiVersion"] = json!(row.api_version());
        let mut request = ResourceRequest {
            kind: row,
            custom: None,
            namespace: object::namespace(&wanted).to_owned(),
            name: String::new(),
            subresource: None,
            below: String::new(),
            query: Query::default(),
        };
        let headers = HeaderMap::new();
        let body = Bytes::new();
        let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
        let manager = "kube-apiserver".to_owned();
        let user = User::component("system:apiserver");
        let Some(entry) = self.inner.store.get(&self.inner.key(&request, &name)) else {
            let change = Change::new(&request, &user, &headers, &body, accept, manager);
            self.inner.create_object(&change, wanted).await.map_err(failed)?;
            return Ok(());
        };
        let old = respond::parse_as(row, entry.json()).map_err(failed)?;
        if mend(&old, &wanted) == old {
            return Ok(());
        }
        request.name.clone_from(&name);
        let change = Change::new(&request, &user, &headers, &body, accept, manager);
        let mended = self.inner.modify(&change, Retry::Newer, |old| Ok(mend(old, &wanted))).await;
        mended.map(drop).map_err(failed)
    }
}
