//! Looking at the counters of nodes: twice for each answer, as far apart as the last questions were.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use parking_lot::Mutex;

use crate::counters::{self, Counters, LONGEST, Told};

/// Younger counters are not looked at again.
const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// Older counters say nothing about now.
const OLD: SignedDuration = SignedDuration::from_mins(2);
/// How far apart two looks are at least.
const APART: Duration = Duration::from_secs(1);
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an agent told at two times.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) before: Arc<Told>,
    pub(crate) now: Arc<Told>,
}

/// What was used between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    /// Processors, as a mean.
    pub(crate) cpu: f64,
    /// Memory in bytes, at the end.
    pub(crate) memory: f64,
    pub(crate) end: Timestamp,
    pub(crate) window: Duration,
}

/// What came between two readings of the same counters; none where they are not of the same run.
pub(crate) fn between(before: &Counters, now: &Counters) -> Option<Used> {
    let window =
        Duration::try_from(now.read.duration_since(before.read)).ok().filter(|one| !one.is_zero())?;
    let restarted = before.started != now.started || now.cpu < before.cpu;
    (!restarted).then(|| Used {
        cpu: (now.cpu - before.cpu) / window.as_secs_f64(),
        memory: now.memory,
        end: now.read,
        window,
    })
}

/// What is remembered of one node. Who asks while somebody looks waits for what he sees.
#[derive(Default)]
struct Sampler(tokio::sync::Mutex<Option<Pair>>);

/// What is remembered of all nodes.
#[derive(Default)]
pub(crate) struct Samplers(Mutex<HashMap<String, Arc<Sampler>>>);

impl Samplers {
    /// What a node used lately; the error says why that is not known.
    pub(crate) async fn pair(&self, client: &Client, node: &str) -> Result<Pair, String> {
        let sampler = Arc::clone(self.0.lock().entry(node.to_owned()).or_default());
        let mut kept = sampler.0.lock().await;
        let age = |told: &Told| Timestamp::now().duration_since(told.node.read);
        if let Some(pair) = kept.as_ref().filter(|pair| age(&pair.now) < FRESH) {
            return Ok(pair.clone());
        }
        let before = match kept.take().map(|pair| pair.now).filter(|told| age(told) < OLD) {
            Some(before) => before,
            None => {
                let before = Arc::new(look(client, node).await?);
                tokio::time::sleep(APART).await;
                before
            }
        };
        let pair = Pair { before, now: Arc::new(look(client, node).await?) };
        *kept = Some(pair.clone());
        Ok(pair)
    }

    /// Forgets the nodes that are no more.
    pub(crate) fn keep_only(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|node, _| is_there(node));
    }
}

async fn look(client: &Client, node: &str) -> Result<Told, String> {
    let request = Request::get(format!("/api/v1/nodes/{node}/proxy/metrics/resource"));
    let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
    let asked = tokio::time::timeout(PATIENCE, client.request_text(request)).await;
    let text =
        asked.map_err(|_| "its agent does not answer".to_owned())?.map_err(|error| error.to_string())?;
    if text.len() > LONGEST {
        return Err(format!("its agent tells more than {LONGEST} bytes"));
    }
    Ok(counters::read(&text, Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_the_difference_over_the_time() {
        let at = |seconds: i64, cpu: f64, started: f64| Counters {
            cpu,
            read: Timestamp::from_second(seconds).unwrap(),
            memory: 5.0,
            started,
        };
        let used = between(&at(100, 2.0, 1.0), &at(104, 3.0, 1.0)).unwrap();
        assert_eq!((used.cpu, used.memory, used.window.as_secs()), (0.25, 5.0, 4));
        // Another run of it, counters that went back, no time between.
        assert!(between(&at(100, 2.0, 1.0), &at(104, 3.0, 2.0)).is_none());
        assert!(between(&at(100, 2.0, 1.0), &at(104, 1.0, 1.0)).is_none());
        assert!(between(&at(100, 2.0, 1.0), &at(100, 2.0, 1.0)).is_none());
    }
}
