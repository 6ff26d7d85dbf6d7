//! Priority and fairness: who asks for much does not keep others from being answered
//! (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
//!
//! A request belongs to a flow, by what it is and who sends it, and a flow to a priority level, which has a share of the
//! server's seats. It must not know what a request does.

pub(crate) mod bootstrap;
mod level;
mod plan;

use std::time::Duration;

use dray_machinery::{Reason, Status, Subresource};
use dray_store::Store;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::{
    access::{self, Followed},
    request::ResourceRequest,
};
use level::{Entry, Seat};
pub(crate) use plan::Digest;
use plan::Plan;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// How long a request may wait for a seat.
const PATIENCE: Duration = Duration::from_secs(15);
/// A list of so many objects takes a seat, one of more takes more.
const OBJECTS_PER_SEAT: u64 = 100;
const WIDEST: u64 = 10;

/// The seats of the server.
#[derive(Default)]
pub(crate) struct Flow(Mutex<Option<Followed<Plan>>>);

/// That a request is worked on; as long as it is kept, it takes its seats.
pub(crate) struct Admitted(#[expect(dead_code, reason = "its end gives the seats back")] Option<Seat>);

/// To which schema and level a request belongs, which clients are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    schema: String,
    level: String,
}

impl Marks {
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA, &self.schema), (LEVEL, &self.level)] {
            if let Some(value) = HeaderValue::from_str(uid).ok().filter(|_| !uid.is_empty()) {
                headers.insert(name, value);
            }
        }
    }
}

/// Whether a request goes on for as long as its client likes, and is no watch: it takes no seat.
pub(crate) fn is_endless(request: &ResourceRequest) -> bool {
    use Subresource::{Attach, Exec, Log, PortForward};
    let part = request.subresource;
    matches!(part, Some(Attach | Exec | Log | PortForward)) || part.is_some_and(Subresource::is_proxy)
}

/// How many seats a request takes.
pub(crate) fn width(store: &Store, verb: &str, request: Option<&ResourceRequest>) -> u32 {
    let Some(request) = request.filter(|_| verb == "list") else { return 1 };
    let stored = store.snapshot().count(&request.kind.storage()) as u64;
    let objects = match request.query.number("limit") {
        Ok(Some(limit)) if limit > 0 => stored.min(limit),
        _ => stored,
    };
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, WIDEST)).unwrap_or(1)
}

impl Flow {
    /// Waits until a request may be worked on, which takes so many seats.
    pub(crate) async fn admit(
        &self,
        store: &Store,
        digest: &Digest<'_>,
        seats: u32,
        marks: &mut Marks,
    ) -> Result<Admitted, Status> {
        let Some(place) = access::with(&self.0, store, |plan| plan.classify(digest))? else {
            return Ok(Admitted(None));
        };
        *marks = Marks { schema: place.schema_uid, level: place.level.uid.clone() };
        let mut hash = Sha256::new();
        // No name of a schema has a zero byte.
        for part in [place.schema.as_bytes(), &[0], place.distinguisher.as_bytes()] {
            hash.update(part);
        }
        let flow = hash.finalize().iter().take(8).fold(0, |flow, byte| flow << 8 | u64::from(*byte));
        match place.level.enter(flow, seats) {
            Entry::Seated(seat) => Ok(Admitted(seat)),
            Entry::Waiting(given) => match timeout(PATIENCE, given).await {
                Ok(Ok(seat)) => Ok(Admitted(Some(seat))),
                _ => Err(refusal()),
            },
            Entry::Full => Err(refusal()),
        }
    }
}

fn refusal() -> Status {
    let message = "Too many requests, please try again later.";
    let mut status = Status::new(429, Reason::TooManyRequests, message);
    status.retry_after = Some(1);
    status
}
