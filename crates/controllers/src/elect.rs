//! Which of several servers runs the controllers: whoever holds the Lease. It must not know what the leader does.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::error::{Error, Result};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-controller-manager";

/// How long leadership lasts.
#[derive(Debug, Clone, Copy)]
pub struct Term {
    /// A leader of whom nothing is heard for so long is none any more: 15 s unless something else is said.
    pub lease: Duration,
    /// A leader that cannot say for so long that it is one gives up: 10 s unless something else is said.
    pub deadline: Duration,
    /// How often the Lease is looked at: every 2 s unless something else is said.
    pub period: Duration,
}

impl Default for Term {
    fn default() -> Term {
        let seconds = Duration::from_secs;
        Term { lease: seconds(15), deadline: seconds(10), period: seconds(2) }
    }
}

/// Somebody who wants to lead.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// His name, which nobody else has.
    pub identity: String,
    /// His times.
    pub term: Term,
}

/// A candidate's view of the Lease.
pub(crate) struct Election {
    api: Api<Lease>,
    candidate: Candidate,
    /// The Lease as it was last seen to change, and when: only the clock of one's own is believed.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, candidate: Candidate) -> Election {
        Election { api: Api::namespaced(client, NAMESPACE), candidate, seen: None }
    }

    /// Waits until the candidate leads.
    pub(crate) async fn win(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => {
                    tracing::info!(identity = self.candidate.identity, "leads the controllers");
                    return;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "no election"),
            }
            tokio::time::sleep(self.candidate.term.period).await;
        }
    }

    /// Keeps leading; returns when the candidate leads no more.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.candidate.term.period).await;
            let left = self.candidate.term.deadline.saturating_sub(renewed.elapsed());
            let begun = Instant::now();
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot go on leading");
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= self.candidate.term.deadline {
                break;
            }
        }
        tracing::warn!(identity = self.candidate.identity, "leads the controllers no more");
    }

    /// Lets others lead at once.
    pub(crate) async fn resign(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.candidate.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        // Whoever was quicker is no loss.
        let _ = self.api.replace(NAME, &PostParams::default(), &lease).await;
    }

    /// Takes or renews the Lease, if it may; whether the candidate leads now.
    async fn attempt(&mut self) -> Result<bool> {
        let failed = |action| Error::request(action, "Lease", format!("{NAMESPACE}/{NAME}"));
        let found = self.api.get_opt(NAME).await.map_err(failed("read"))?;
        let now = MicroTime(Timestamp::now());
        let seconds = i32::try_from(self.candidate.term.lease.as_secs().max(1)).unwrap_or(i32::MAX);
        let mut spec = LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = found else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(error) => lost(failed("create")(error)),
            };
        };
        let known = lease.spec.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != known) {
            self.seen = Some((known.clone(), Instant::now()));
        }
        let holder = known.holder_identity.as_deref().unwrap_or_default();
        if holder == self.candidate.identity {
            spec.acquire_time = known.acquire_time;
            spec.lease_transitions = known.lease_transitions;
        } else {
            let age = self.seen.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
            if !holder.is_empty() && age < self.candidate.term.lease {
                return Ok(false);
            }
            spec.lease_transitions = Some(known.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        lease.spec = Some(spec);
        match self.api.replace(NAME, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) => lost(failed("write")(error)),
        }
    }
}

/// Whoever comes second has not won.
fn lost(error: Error) -> Result<bool> {
    if error.is_conflict() || error.is_already_exists() { Ok(false) } else { Err(error) }
}
