//! What each namespace has from its beginning: the ServiceAccount `default` and the ConfigMap with the certificate
//! of the cluster's authority.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

pub(crate) const ACCOUNT: &str = "default";
pub(crate) const AUTHORITY: &str = "kube-root-ca.crt";
const AUTHORITY_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                    such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                    distributions of Kubernetes clusters.";
/// So many namespaces are looked at at the same time.
const WIDTH: usize = 8;

/// The controller of what namespaces begin with.
pub(crate) struct Defaults {
    client: Client,
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
    /// Only those with the certificate.
    maps: Arc<Informer<ConfigMap>>,
    authority: Option<String>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Defaults {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        namespaces: Arc<Informer<Namespace>>,
        accounts: Arc<Informer<ServiceAccount>>,
        maps: Arc<Informer<ConfigMap>>,
        authority: Option<String>,
    ) -> Defaults {
        let queue = Queue::new("namespace defaults");
        let of_namespace =
            |namespace: Option<&String>| ObjectKey::new("", namespace.cloned().unwrap_or_default());
        namespaces.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        accounts.on_change({
            let queue = queue.clone();
            move |change| {
                let account = &change.object().metadata;
                if account.name.as_deref() == Some(ACCOUNT) {
                    queue.add(of_namespace(account.namespace.as_ref()));
                }
            }
        });
        maps.on_change({
            let queue = queue.clone();
            move |change| queue.add(of_namespace(change.object().metadata.namespace.as_ref()))
        });
        Defaults { client, namespaces, accounts, maps, authority, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.namespaces.wait_complete().await;
        self.accounts.wait_complete().await;
        self.maps.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(None) };
        if owner::is_terminating(&*namespace) {
            return Ok(None);
        }
        let results = tokio::join!(self.ensure_account(&key.name), self.ensure_map(&key.name));
        match results.0.and(results.1) {
            Err(error)
                if error.is_namespace_terminating() || error.is_already_exists() || error.is_not_found() =>
            {
                Ok(None)
            }
            other => other.map(|()| None),
        }
    }

    async fn ensure_account(&self, namespace: &str) -> Result<()> {
        let key = ObjectKey::new(namespace, ACCOUNT);
        if self.accounts.get(&key).is_some() {
            return Ok(());
        }
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(ACCOUNT.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let made = api.create(&PostParams::default(), &account).await;
        made.map(drop).map_err(Error::request("create", "ServiceAccount", key))
    }

    async fn ensure_map(&self, namespace: &str) -> Result<()> {
        let Some(authority) = &self.authority else { return Ok(()) };
        let key = ObjectKey::new(namespace, AUTHORITY);
        let data = Some([(AUTHORITY_KEY.to_owned(), authority.clone())].into());
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        match self.maps.get(&key) {
            Some(known) if known.data == data => Ok(()),
            Some(known) => {
                let mut map = (*known).clone();
                map.data = data;
                let written = api.replace(AUTHORITY, &PostParams::default(), &map).await;
                written.map(drop).map_err(Error::request("write", "ConfigMap", key))
            }
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(AUTHORITY.to_owned()),
                        annotations: Some([(DESCRIPTION.to_owned(), TEXT.to_owned())].into()),
                        ..ObjectMeta::default()
                    },
                    data,
                    ..ConfigMap::default()
                };
                let made = api.create(&PostParams::default(), &map).await;
                made.map(drop).map_err(Error::request("create", "ConfigMap", key))
            }
        }
    }
}
