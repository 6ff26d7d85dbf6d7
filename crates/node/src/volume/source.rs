//! What the files of configMap, secret, downwardAPI and projected volumes hold.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::payload::{File, Payload};
use crate::api::{self, Data, Kind, TokenRequest};
use crate::context::Context;
use crate::identity::PodIdentity;
use crate::spec::environment::{self, Addresses};
use crate::{Error, Result};

/// Permission bits of files without a word about them.
const DEFAULT_MODE: i32 = 0o644;
/// For how long a token holds without a word about it, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Whether the volume is made of files that the agent writes.
pub(crate) fn has_payload(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The volume's kind as a directory's name, and whether what it holds is secret.
pub(crate) fn kind(volume: &Volume) -> (&'static str, bool) {
    if volume.secret.is_some() {
        ("secret", true)
    } else if volume.projected.is_some() {
        ("projected", true)
    } else if volume.downward_api.is_some() {
        ("downward-api", false)
    } else {
        ("configmap", false)
    }
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// The files of a volume.
pub(crate) async fn payload(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    addresses: &Addresses,
) -> Result<Payload> {
    let mut collector = Collector { context, pod, addresses, payload: Payload::new() };
    if let Some(map) = &volume.config_map {
        let wanted = Wanted {
            kind: Kind::ConfigMap,
            name: &map.name,
            items: map.items.as_deref(),
            optional: map.optional == Some(true),
            mode: map.default_mode,
        };
        collector.configuration(&wanted).await?;
    } else if let Some(secret) = &volume.secret {
        let wanted = Wanted {
            kind: Kind::Secret,
            name: secret.secret_name.as_deref().unwrap_or_default(),
            items: secret.items.as_deref(),
            optional: secret.optional == Some(true),
            mode: secret.default_mode,
        };
        collector.configuration(&wanted).await?;
    } else if let Some(downward) = &volume.downward_api {
        collector.downward(downward.items.as_deref(), downward.default_mode)?;
    } else if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            collector.projection(source, projected.default_mode).await?;
        }
    }
    Ok(collector.payload)
}

struct Wanted<'a> {
    kind: Kind,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: Option<i32>,
}

struct Collector<'a> {
    context: &'a Context,
    pod: &'a Pod,
    addresses: &'a Addresses,
    payload: Payload,
}

impl Collector<'_> {
    async fn configuration(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let data = api::data(&self.context.client, wanted.kind, namespace, wanted.name).await?;
        let Some(data) = data else {
            if wanted.optional {
                return Ok(());
            }
            return Err(Error::pod(format!("{} {:?} not found", wanted.kind.as_str(), wanted.name)));
        };
        self.add(data, wanted)
    }

    fn add(&mut self, data: Data, wanted: &Wanted<'_>) -> Result<()> {
        let Some(items) = wanted.items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                self.payload.insert(key, File { bytes, mode: mode(None, wanted.mode) });
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => {
                    let file = File { bytes: bytes.clone(), mode: mode(item.mode, wanted.mode) };
                    self.payload.insert(item.path.clone(), file);
                }
                None if wanted.optional => {}
                None => {
                    return Err(Error::pod(format!(
                        "references non-existent {} key: {}",
                        if wanted.kind == Kind::Secret { "secret" } else { "config" },
                        item.key
                    )));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>, default: Option<i32>) -> Result<()> {
        for item in items.into_iter().flatten() {
            let text = if let Some(field) = &item.field_ref {
                environment::field(self.pod, &field.field_path, self.addresses, self.context)?
            } else if let Some(resource) = &item.resource_field_ref {
                environment::resource(self.pod, &Container::default(), resource, self.context)?
            } else {
                continue;
            };
            let file = File { bytes: text.into_bytes(), mode: mode(item.mode, default) };
            self.payload.insert(item.path.clone(), file);
        }
        Ok(())
    }

    async fn projection(&mut self, source: &VolumeProjection, default: Option<i32>) -> Result<()> {
        if let Some(map) = &source.config_map {
            let wanted = Wanted {
                kind: Kind::ConfigMap,
                name: &map.name,
                items: map.items.as_deref(),
                optional: map.optional == Some(true),
                mode: default,
            };
            self.configuration(&wanted).await
        } else if let Some(secret) = &source.secret {
            let wanted = Wanted {
                kind: Kind::Secret,
                name: &secret.name,
                items: secret.items.as_deref(),
                optional: secret.optional == Some(true),
                mode: default,
            };
            self.configuration(&wanted).await
        } else if let Some(downward) = &source.downward_api {
            self.downward(downward.items.as_deref(), default)
        } else if let Some(token) = &source.service_account_token {
            self.token(token, default).await
        } else {
            Err(Error::pod("this kind of projected source is not supported"))
        }
    }

    async fn token(&mut self, wanted: &ServiceAccountTokenProjection, default: Option<i32>) -> Result<()> {
        let identity = PodIdentity::of(self.pod);
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            namespace: &identity.namespace,
            account,
            audience: wanted.audience.as_deref().filter(|audience| !audience.is_empty()),
            seconds: wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS),
            pod: &identity,
        };
        match api::token(&self.context.client, &request).await {
            Ok(token) => {
                let file = File { bytes: token.into_bytes(), mode: mode(None, default) };
                self.payload.insert(wanted.path.clone(), file);
            }
            // A server that makes no tokens: the pod runs without one, and says so.
            Err(error) => self.context.recorder.pod(
                &identity,
                None,
                crate::recorder::Severity::Warning,
                "FailedMount",
                format!("no service account token in the volume: {}", error.chain()),
            ),
        }
        Ok(())
    }
}
