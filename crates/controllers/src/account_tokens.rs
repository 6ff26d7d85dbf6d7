//! Secrets of the type `kubernetes.io/service-account-token`: they are filled with a token of their account, and go with
//! it.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

/// The type of such Secrets.
pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const AUTHORITY: &str = "ca.crt";
const NAMESPACE: &str = "namespace";
/// Such tokens end with their Secret and not before: the longest time that can be asked for, in seconds.
const SECONDS: i64 = 1 << 32;
/// So many Secrets are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of such Secrets.
pub(crate) struct Tokens {
    client: Client,
    /// Only those with tokens of accounts.
    secrets: Arc<Informer<Secret>>,
    accounts: Arc<Informer<ServiceAccount>>,
    authority: Option<String>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Tokens {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        secrets: Arc<Informer<Secret>>,
        accounts: Arc<Informer<ServiceAccount>>,
        authority: Option<String>,
    ) -> Tokens {
        let queue = Queue::new("account tokens");
        secrets.on_change({
            let queue = queue.clone();
            move |change| {
                if !matches!(change, Change::Deleted(_)) {
                    queue.add(ObjectKey::of(&**change.object()));
                }
            }
        });
        accounts.on_change({
            let (queue, secrets) = (queue.clone(), secrets.clone());
            move |change| {
                if change.old().is_some() {
                    return;
                }
                let account = ObjectKey::of(&**change.object());
                let its = secrets.list(&account.namespace).into_iter();
                let its = its.filter(|secret| secret.annotations().get(ACCOUNT) == Some(&account.name));
                its.for_each(|secret| queue.add(ObjectKey::of(&*secret)));
            }
        });
        Tokens { client, secrets, accounts, authority, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.secrets.wait_complete().await;
        self.accounts.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(secret) = self.secrets.get(&key).filter(|secret| !owner::is_terminating(&**secret)) else {
            return Ok(None);
        };
        let Some(name) = secret.annotations().get(ACCOUNT) else { return Ok(None) };
        let done = match self.account(&ObjectKey::new(&key.namespace, name), &secret).await? {
            Some(uid) => self.fill(&key, &secret, name, &uid).await,
            None => self.delete(&key, &secret).await,
        };
        match done {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|()| None),
        }
    }

    /// The uid of a Secret's account; none if it is gone, or another has its name.
    async fn account(&self, key: &ObjectKey, secret: &Secret) -> Result<Option<String>> {
        let is_meant = |uid: &String| secret.annotations().get(ACCOUNT_UID).is_none_or(|meant| meant == uid);
        if let Some(uid) = self.accounts.get(key).and_then(|account| account.uid()).filter(is_meant) {
            return Ok(Some(uid));
        }
        // The watch may be behind.
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
        let found = api.get_metadata_opt(&key.name).await;
        let found = found.map_err(Error::request("read", "ServiceAccount", key))?;
        Ok(found.and_then(|account| account.metadata.uid).filter(is_meant))
    }

    async fn fill(&self, key: &ObjectKey, secret: &Secret, account: &str, uid: &str) -> Result<()> {
        let has = |name: &str| secret.data.as_ref().and_then(|data| data.get(name));
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = json!({});
        if let Some(authority) =
            self.authority.as_deref().map(bytes).filter(|ours| has(AUTHORITY) != Some(ours))
        {
            data[AUTHORITY] = json!(authority);
        }
        if has(NAMESPACE) != Some(&bytes(&key.namespace)) {
            data[NAMESPACE] = json!(bytes(&key.namespace));
        }
        if has(TOKEN).is_none_or(|token| token.0.is_empty()) {
            data[TOKEN] = json!(bytes(&self.token(key, secret, account).await?));
        }
        let mut change = json!({});
        if data != json!({}) {
            change["data"] = data;
        }
        if secret.annotations().get(ACCOUNT_UID).map(String::as_str) != Some(uid) {
            change["metadata"]["annotations"] = json!({ ACCOUNT_UID: uid });
        }
        if change == json!({}) {
            return Ok(());
        }
        change["metadata"]["resourceVersion"] = json!(secret.metadata.resource_version);
        let api = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge::<Value>(change)).await;
        written.map(drop).map_err(Error::request("fill", "Secret", key))
    }

    /// A token that holds as long as the Secret does.
    async fn token(&self, key: &ObjectKey, secret: &Secret, account: &str) -> Result<String> {
        let request = json!({ "spec": {
            "audiences": [], "expirationSeconds": SECONDS,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Secret", "name": key.name, "uid": secret.metadata.uid },
        } });
        let failed = |source| Error::request("request a token of", "ServiceAccount", account)(source);
        let request: TokenRequest =
            serde_json::from_value(request).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
        let made =
            api.create_token_request(account, &PostParams::default(), &request).await.map_err(failed)?;
        Ok(made.status.and_then(|status| status.token).unwrap_or_default())
    }

    async fn delete(&self, key: &ObjectKey, secret: &Secret) -> Result<()> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &key.namespace);
        api.delete(&key.name, &parameters).await.map(drop).map_err(Error::request("delete", "Secret", key))
    }
}
