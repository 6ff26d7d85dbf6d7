//! The signers of the cluster: requests for certificates (`CertificateSigningRequest`) that somebody has approved are
//! signed by the cluster's authority, whose key never leaves this process; those of node agents are approved by rules of
//! access. One task follows the stored requests.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use base64::Engine as _;
use dray_access::{Attributes, MASTERS, NODES, User};
use dray_machinery::{Status, kinds, object, time};
use dray_store::{Error, Key, Watcher};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{pki::Pki, respond, server::Inner, write::draft};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificates.k8s.io/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const AGENT_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const AGENT_SERVER: &str = "kubernetes.io/kubelet-serving";
/// How the names of node agents begin.
const AGENT: &str = "system:node:";
const DIGITAL_SIGNATURE: &str = "digital signature";
const KEY_ENCIPHERMENT: &str = "key encipherment";
const CLIENT_AUTH: &str = "client auth";
const SERVER_AUTH: &str = "server auth";
/// How long a certificate holds unless less is asked for, and the least that can be, in seconds.
const SECONDS: i64 = 365 * 86_400;
const LEAST: i64 = 600;
/// The largest request that is read, in bytes.
const LARGEST: usize = 64 * 1024;

/// A request as it was read.
struct Asked {
    request: CertificateSigningRequestParams,
    name: String,
    groups: Vec<String>,
}

impl Asked {
    fn read(object: &Value) -> Result<Asked, String> {
        let text = object::text(object, &["spec", "request"]);
        if text.len() > LARGEST {
            return Err("the request is too large".to_owned());
        }
        let pem = base64::engine::general_purpose::STANDARD.decode(text).ok();
        let pem = pem.and_then(|pem| String::from_utf8(pem).ok()).ok_or("the request is not PEM")?;
        let request = CertificateSigningRequestParams::from_pem(&pem).map_err(|error| error.to_string())?;
        let subject = &request.params.distinguished_name;
        let of = |kind: &DnType| -> Vec<String> {
            subject.iter().filter(|(found, _)| *found == kind).filter_map(|(_, value)| words(value)).collect()
        };
        let (names, groups) = (of(&DnType::CommonName), of(&DnType::OrganizationName));
        let name = names.into_iter().next().unwrap_or_default();
        Ok(Asked { request, name, groups })
    }

    fn has_names(&self) -> bool {
        !self.request.params.subject_alt_names.is_empty()
    }

    /// Whether it is of a node's agent.
    fn is_agent(&self) -> bool {
        let node = self.name.strip_prefix(AGENT).unwrap_or_default();
        self.groups == [NODES] && !node.is_empty()
    }
}

/// The text of a part of a subject.
fn words(value: &rcgen::DnValue) -> Option<String> {
    match value {
        rcgen::DnValue::Utf8String(text) => Some(text.clone()),
        rcgen::DnValue::PrintableString(text) => Some(text.as_str().to_owned()),
        rcgen::DnValue::Ia5String(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn usages(object: &Value) -> BTreeSet<&str> {
    let usages = object::at(object, &["spec", "usages"]).as_array();
    usages.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether usages are these, of which that of encipherment may be missing.
fn are_usages(usages: &BTreeSet<&str>, purpose: &str) -> bool {
    let mut rest = usages.clone();
    rest.remove(KEY_ENCIPHERMENT);
    rest == BTreeSet::from([DIGITAL_SIGNATURE, purpose])
}

/// Why a signer does not sign what is asked for.
fn refuse(signer: &str, asked: &Asked, usages: &BTreeSet<&str>) -> Option<&'static str> {
    let checks: &[(bool, &str)] = match signer {
        CLIENT => {
            let known = [DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, CLIENT_AUTH];
            &[
                (asked.groups.iter().any(|group| group == MASTERS), "system:masters is never signed"),
                (!usages.contains(CLIENT_AUTH), "the usages lack \"client auth\""),
                (
                    usages.iter().any(|usage| !known.contains(usage)),
                    "the usages are not only \"client auth\", \"digital signature\" and \"key encipherment\"",
                ),
            ]
        }
        AGENT_CLIENT => &[
            (!asked.is_agent(), "subject must be of system:nodes and begin with system:node:"),
            (asked.has_names(), "subject alternative names are not allowed"),
            (!are_usages(usages, CLIENT_AUTH), "usages did not match those of node clients"),
        ],
        _ => {
            let names = &asked.request.params.subject_alt_names;
            let of_host = |name: &SanType| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_));
            &[
                (!asked.is_agent(), "subject must be of system:nodes and begin with system:node:"),
                (names.is_empty(), "at least one DNS or IP subject alternative name is needed"),
                (!names.iter().all(of_host), "only DNS and IP subject alternative names are allowed"),
                (!are_usages(usages, SERVER_AUTH), "usages did not match those of node servers"),
            ]
        }
    };
    checks.iter().find(|(holds, _)| *holds).map(|(_, why)| *why)
}

fn sign(pki: &Pki, asked: Asked, usages: &BTreeSet<&str>, seconds: i64) -> Result<String, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = asked.request.params.distinguished_name;
    params.subject_alt_names = asked.request.params.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    for usage in usages {
        match *usage {
            DIGITAL_SIGNATURE => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
            KEY_ENCIPHERMENT => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
            CLIENT_AUTH => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
            SERVER_AUTH => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            _ => {}
        }
    }
    let mut serial = *uuid::Uuid::new_v4().as_bytes();
    // A number is never negative.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    let request = CertificateSigningRequestParams { params, public_key: asked.request.public_key };
    pki.sign(request, seconds).map_err(|error| error.to_string())
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object::at(object, &["status", "conditions"]).as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == kind)
}

fn add_condition(object: &mut Value, kind: &str, reason: &str, message: &str) {
    let now = time::now();
    let condition = json!({
        "type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now,
        "lastTransitionTime": now,
    });
    let conditions = object::child(object, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.push(condition);
    }
}

/// Who asked for a certificate.
fn requester(object: &Value) -> User {
    let spec = &object["spec"];
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec["extra"].as_object();
    User {
        name: object::text(spec, &["username"]).to_owned(),
        uid: object::text(spec, &["uid"]).to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.into_iter().flatten().map(|(key, list)| (key.clone(), texts(list))).collect(),
    }
}

impl Inner {
    /// Follows requests for certificates until the server shuts down.
    pub(crate) fn follow_requests(self: &Arc<Self>) -> Result<(), Error> {
        let (_, watcher) = self.store.snapshot_and_watch(REQUESTS, "")?;
        let mut shutdown = self.shutdown.subscribe();
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::select! {
                () = follow(inner, watcher) => {}
                _ = shutdown.wait_for(|down| *down) => {}
            }
        });
        Ok(())
    }

    async fn see_to(self: &Arc<Self>, name: &str) -> Result<(), Status> {
        let Some(entry) = self.store.snapshot().get(REQUESTS, name).cloned() else { return Ok(()) };
        let old = respond::parse(entry.json())?;
        let signer = object::text(&old, &["spec", "signerName"]);
        let is_done = ["Denied", "Failed"].iter().any(|kind| has_condition(&old, kind))
            || !object::text(&old, &["status", "certificate"]).is_empty()
            || object::is_terminating(&old);
        if is_done || ![CLIENT, AGENT_CLIENT, AGENT_SERVER].contains(&signer) {
            return Ok(());
        }
        let new = if has_condition(&old, "Approved") {
            let (inner, old) = (self.clone(), old.clone());
            // To make a signature takes a while.
            spawn_blocking(move || signed(&inner.pki, &old)).await.map_err(Status::internal)?
        } else {
            match self.approved(&old)? {
                Some(new) => new,
                None => return Ok(()),
            }
        };
        let kind =
            kinds::find_kind(GROUP, "CertificateSigningRequest").ok_or_else(Status::no_such_resource)?;
        // Where another change came first, its event brings us back.
        match self.store.update(Key::new(REQUESTS, name), draft(kind, &new)?, entry.revision()).await {
            Ok(_) | Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Status::internal(error)),
        }
    }

    /// A request of a node's agent as approved, if whoever asks may have it.
    fn approved(&self, old: &Value) -> Result<Option<Value>, Status> {
        let signer = object::text(old, &["spec", "signerName"]);
        let Ok(asked) = Asked::read(old) else { return Ok(None) };
        if signer != AGENT_CLIENT || refuse(signer, &asked, &usages(old)).is_some() {
            return Ok(None);
        }
        let user = requester(old);
        let own = user.name == asked.name;
        let rules: &[(&str, &str)] = if own {
            &[("selfnodeclient", "self kubelet client"), ("nodeclient", "kubelet client")]
        } else {
            &[("nodeclient", "kubelet client")]
        };
        for (subresource, what) in rules {
            let wanted = Attributes {
                verb: "create",
                group: GROUP,
                resource: "certificatesigningrequests",
                subresource,
                ..Attributes::default()
            };
            if self.access.decide(&self.store, &user, &wanted)?.allowed {
                let mut new = old.clone();
                let message = format!("Auto approving {what} certificate after SubjectAccessReview.");
                add_condition(&mut new, "Approved", "AutoApproved", &message);
                return Ok(Some(new));
            }
        }
        Ok(None)
    }
}

/// A request with its certificate, or with word that there will be none.
fn signed(pki: &Pki, old: &Value) -> Value {
    let signer = object::text(old, &["spec", "signerName"]);
    let usages = usages(old);
    let seconds = object::at(old, &["spec", "expirationSeconds"]).as_i64().unwrap_or(SECONDS);
    let made = Asked::read(old).and_then(|asked| match refuse(signer, &asked, &usages) {
        Some(why) => Err(why.to_owned()),
        None => sign(pki, asked, &usages, seconds.clamp(LEAST, SECONDS)),
    });
    let mut new = old.clone();
    match made {
        Ok(pem) => {
            let text = base64::engine::general_purpose::STANDARD.encode(pem);
            object::child(&mut new, "status").insert("certificate".into(), json!(text));
        }
        Err(why) => add_condition(&mut new, "Failed", "SignerValidationFailure", &why),
    }
    new
}

fn all(inner: &Inner) -> BTreeSet<String> {
    inner.store.snapshot().range(REQUESTS, "", None).map(|(name, _)| name.to_string()).collect()
}

async fn follow(inner: Weak<Inner>, mut watcher: Watcher) {
    let Some(alive) = inner.upgrade() else { return };
    let mut names = all(&alive);
    drop(alive);
    loop {
        let Some(alive) = inner.upgrade() else { return };
        for name in &names {
            if let Err(status) = alive.see_to(name).await {
                tracing::warn!(%name, %status, "a request for a certificate is not seen to");
            }
        }
        drop(alive);
        let next = watcher.next().await;
        let Some(alive) = inner.upgrade() else { return };
        names = match next {
            Ok(events) => events.iter().map(|event| event.name.to_string()).collect(),
            // More has happened than is remembered: everything is looked at again.
            Err(Error::Expired { .. }) => match alive.store.snapshot_and_watch(REQUESTS, "") {
                Ok((_, again)) => {
                    watcher = again;
                    all(&alive)
                }
                Err(error) => {
                    tracing::error!(%error, "requests for certificates are no longer followed");
                    return;
                }
            },
            Err(error) => {
                tracing::error!(%error, "requests for certificates are no longer followed");
                return;
            }
        };
    }
}
