//! Who decides where several schedulers run: the one that holds the Lease `kube-scheduler`. It must not know what is
//! decided.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-scheduler";
/// A holder that has not been heard of for so long has lost it.
const LASTS: Duration = Duration::from_secs(15);
/// Who cannot renew it for so long gives up.
const RENEWED_WITHIN: Duration = Duration::from_secs(10);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(2);

/// The lease as one of several sees it.
pub(crate) struct Election {
    leases: Api<Lease>,
    identity: String,
    /// What was seen last of another holder, and when that was new.
    seen: Option<(Option<String>, Option<MicroTime>, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, identity: String) -> Election {
        Election { leases: Api::namespaced(client, NAMESPACE), identity, seen: None }
    }

    /// Waits until this one holds the lease.
    pub(crate) async fn win(&mut self) {
        while !self.attempt().await {
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(identity = self.identity, "this scheduler decides");
    }

    /// Renews the lease until that cannot be done any more.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEWED_WITHIN {
            tokio::time::sleep(PAUSE).await;
            let attempt = tokio::time::timeout_at(renewed + RENEWED_WITHIN, self.attempt());
            if attempt.await.unwrap_or(false) {
                renewed = Instant::now();
            }
        }
        tracing::warn!(identity = self.identity, "another scheduler may decide");
    }

    /// Gives the lease up, so that another need not wait.
    pub(crate) async fn release(&mut self) {
        let Ok(mut lease) = self.leases.get(NAME).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Err(error) = self.leases.replace(NAME, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "the lease was not given up");
        }
    }

    /// Takes or renews the lease; tells whether this one holds it now.
    async fn attempt(&mut self) -> bool {
        match self.try_attempt().await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(%error, "the lease was not taken");
                false
            }
        }
    }

    async fn try_attempt(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let spec = self.spec(now, 0);
            let lease = Lease { metadata, spec: Some(spec) };
            self.leases.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let old = lease.spec.take().unwrap_or_default();
        let holder = old.holder_identity.clone().filter(|holder| !holder.is_empty());
        let transitions = old.lease_transitions.unwrap_or(0);
        let spec = if holder.as_ref() == Some(&self.identity) {
            LeaseSpec { acquire_time: old.acquire_time, ..self.spec(now, transitions) }
        } else {
            if holder.is_some() && !self.has_run_out(&old) {
                return Ok(false);
            }
            self.spec(now, transitions.saturating_add(1))
        };
        // Its version is that which was read: who was faster wins.
        lease.spec = Some(spec);
        self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// Whether nothing new has been seen of the holder for long enough, by this machine's clock.
    fn has_run_out(&mut self, lease: &LeaseSpec) -> bool {
        let (holder, renewed) = (&lease.holder_identity, &lease.renew_time);
        match &self.seen {
            Some((old_holder, old_renewed, since)) if old_holder == holder && old_renewed == renewed => {
                since.elapsed() >= LASTS
            }
            _ => {
                self.seen = Some((holder.clone(), renewed.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
