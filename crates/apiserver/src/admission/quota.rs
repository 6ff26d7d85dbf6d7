//! ResourceQuota: nothing is made that a quota of its namespace does not allow, and what is made is written down in the
//! quota's status before it is.
//!
//! Requests of one namespace that come at the same time are judged one after the other and written down together, by
//! whichever of them came first. What is written down and then not made after all stays so until the controller of
//! quotas counts anew.

use std::collections::{BTreeMap, BTreeSet};

use dray_machinery::{
    Status, kinds, object,
    quota::{Amounts, Counted},
};
use dray_store::{Error, Key, Snapshot, Store};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot::{self, error::RecvError};

use super::{Admission, Operation};
use crate::{
    respond,
    write::{draft, store_failure},
};

const RESOURCE: &str = "core/resourcequotas";
/// How often it is tried again to write down what is used when somebody else did meanwhile.
const ATTEMPTS: usize = 8;

/// The requests that wait to be charged, by namespace. A namespace that is named has somebody at work for it.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<BTreeMap<String, Vec<Waiter>>>);

struct Waiter {
    asked: Asked,
    answer: oneshot::Sender<Result<(), Status>>,
}

/// What is asked of the quotas of a namespace.
#[derive(Clone)]
struct Asked {
    group: &'static str,
    plural: &'static str,
    name: String,
    object: Value,
    /// What it uses beyond what it used.
    more: Amounts,
    /// The quotas in which that is written down already.
    charged: BTreeSet<String>,
}

/// A quota as it is stored, and what of it is used.
struct Quota {
    name: String,
    revision: u64,
    object: Value,
    hard: Amounts,
    used: Amounts,
}

impl Asked {
    fn counted(&self) -> Counted<'_> {
        Counted { group: self.group, plural: self.plural }
    }

    fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(self.group, self.plural, &self.name, why)
    }

    /// Whether the quotas allow it; if so it is counted in them.
    fn charge(&mut self, quotas: &mut [Quota]) -> Result<(), Status> {
        let counted = Counted { group: self.group, plural: self.plural };
        let mut concerned: Vec<&mut Quota> = Vec::new();
        for quota in quotas {
            if self.charged.contains(&quota.name)
                || !counted.is_within(&quota.object, &quota.hard, &self.object)
            {
                continue;
            }
            let counting = || quota.hard.names().filter(|name| counted.is_counted_by(name));
            if let Some(missing) = counted.unspecified(counting(), &self.object) {
                return Err(self.forbidden(format!("failed quota: {}: {missing}", quota.name)));
            }
            if counting().any(|name| quota.used.get(name).is_none()) {
                let names = counting().collect::<Vec<_>>().join(",");
                let why = format!("status unknown for quota: {}, resources: {names}", quota.name);
                return Err(self.forbidden(why));
            }
            concerned.push(quota);
        }
        let uses = |quota: &Quota| {
            let asked = self.more.only(|name| quota.hard.get(name).is_some());
            let mut used = quota.used.clone();
            used.add(&asked);
            (asked, used)
        };
        for quota in &concerned {
            let (asked, used) = uses(quota);
            let beyond = used.only(|name| asked.get(name).is_some()).beyond(&quota.hard);
            if beyond.is_empty() {
                continue;
            }
            let of = |amounts: &Amounts| amounts.only(|name| beyond.iter().any(|other| other == name));
            return Err(self.forbidden(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name,
                of(&asked),
                of(&quota.used),
                of(&quota.hard)
            )));
        }
        for quota in concerned {
            quota.used = uses(quota).1;
            self.charged.insert(quota.name.clone());
        }
        Ok(())
    }
}

fn read(snapshot: &Snapshot, namespace: &str) -> Result<Vec<Quota>, Status> {
    let prefix = format!("{namespace}/");
    let stored = snapshot.range(RESOURCE, &prefix, None);
    let quotas = stored.map(|(_, entry)| {
        let object = respond::parse(entry.json())?;
        Ok(Quota {
            name: object::name(&object).to_owned(),
            revision: entry.revision(),
            hard: Amounts::read(&object["status"]["hard"]),
            used: Amounts::read(&object["status"]["used"]),
            object,
        })
    });
    quotas.collect()
}

pub(super) async fn charge(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    let request = admission.request();
    let namespace = request.namespace.as_str();
    let counted = Counted { group: request.kind.group, plural: request.kind.plural };
    let old = (admission.operation == Operation::Update).then_some(admission.old);
    if namespace.is_empty()
        || admission.operation == Operation::Delete
        || !counted.is_charged(old, new, request.subresource)
        || admission.snapshot.range(RESOURCE, &format!("{namespace}/"), None).next().is_none()
    {
        return Ok(());
    }
    let mut more = counted.usage(new);
    let negative = more.negative();
    if !negative.is_empty() {
        return Err(
            admission.forbidden(format!("quota usage is negative for resource(s): {}", negative.join(",")))
        );
    }
    if let Some(old) = old {
        more.subtract(&counted.usage(old));
    }
    let mut asked = Asked {
        group: request.kind.group,
        plural: request.kind.plural,
        name: admission.name.to_owned(),
        object: new.clone(),
        more: more.without_zeros(),
        charged: BTreeSet::new(),
    };
    if asked.more.is_empty() || request.dry_run()? {
        return asked.charge(&mut read(&admission.snapshot, namespace)?);
    }
    let inner = admission.inner;
    inner.quotas.charge(&inner.store, namespace, asked).await
}

/// Whoever works for a namespace stops doing so, whatever becomes of the work.
struct Leader<'a> {
    waiting: &'a Waiting,
    namespace: &'a str,
    /// Nobody waited any more: whoever came since leads himself.
    has_ended: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.waiting.0.lock().remove(self.namespace);
        }
    }
}

impl Waiting {
    async fn charge(&self, store: &Store, namespace: &str, asked: Asked) -> Result<(), Status> {
        loop {
            // Nobody answers when whoever worked for the namespace was cut off.
            if let Ok(result) = self.try_charge(store, namespace, asked.clone()).await {
                return result;
            }
        }
    }

    async fn try_charge(
        &self,
        store: &Store,
        namespace: &str,
        asked: Asked,
    ) -> Result<Result<(), Status>, RecvError> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { asked, answer };
        let leads = {
            let mut waiting = self.0.lock();
            match waiting.get_mut(namespace) {
                Some(waiters) => {
                    waiters.push(waiter);
                    false
                }
                None => {
                    waiting.insert(namespace.to_owned(), vec![waiter]);
                    true
                }
            }
        };
        if leads {
            let mut leader = Leader { waiting: self, namespace, has_ended: false };
            while let Some(waiters) = leader.take() {
                serve(store, namespace, waiters).await;
            }
        }
        answered.await
    }
}

impl Leader<'_> {
    /// Those who have come meanwhile; none when nobody has, and then the next who comes leads.
    fn take(&mut self) -> Option<Vec<Waiter>> {
        let mut waiting = self.waiting.0.lock();
        let waiters = std::mem::take(waiting.get_mut(self.namespace)?);
        if waiters.is_empty() {
            waiting.remove(self.namespace);
            self.has_ended = true;
            return None;
        }
        Some(waiters)
    }
}

/// Judges requests, and answers each once what it uses is written down.
async fn serve(store: &Store, namespace: &str, mut waiters: Vec<Waiter>) {
    for _ in 0..ATTEMPTS {
        let mut quotas = match read(&store.snapshot(), namespace) {
            Ok(quotas) => quotas,
            Err(status) => return answer(waiters, &Err(status)),
        };
        let before: Vec<Amounts> = quotas.iter().map(|quota| quota.used.clone()).collect();
        let mut allowed = Vec::new();
        for mut waiter in waiters {
            match waiter.asked.charge(&mut quotas) {
                Ok(()) => allowed.push(waiter),
                Err(status) => drop(waiter.answer.send(Err(status))),
            }
        }
        let mut stale = BTreeSet::new();
        for (quota, before) in quotas.iter().zip(before) {
            if quota.used == before {
                continue;
            }
            match write(store, namespace, quota).await {
                Ok(()) => {}
                // Another came first, or the quota is gone: those whom it concerns are judged again.
                Err(Error::Conflict { .. } | Error::NotFound { .. }) => {
                    stale.insert(quota.name.clone());
                }
                Err(error) => {
                    let failure = kinds::find("", "v1", "resourcequotas").map_or_else(
                        || Status::internal("no kind"),
                        |kind| store_failure(kind, &quota.name, error),
                    );
                    return answer(allowed, &Err(failure));
                }
            }
        }
        let (again, done): (Vec<_>, Vec<_>) =
            allowed.into_iter().partition(|waiter| !waiter.asked.charged.is_disjoint(&stale));
        answer(done, &Ok(()));
        if again.is_empty() {
            return;
        }
        waiters = again;
        for waiter in &mut waiters {
            waiter.asked.charged.retain(|name| !stale.contains(name));
        }
    }
    for waiter in waiters {
        let names = waiter.asked.counted().plural;
        let status = Status::conflict(
            "",
            "resourcequotas",
            namespace,
            format!("the quotas of the namespace change too often to count {names}; please try again"),
        );
        let _ = waiter.answer.send(Err(status));
    }
}

/// Tells all of them the same. Whoever has gone away hears nothing.
fn answer(waiters: Vec<Waiter>, what: &Result<(), Status>) {
    for waiter in waiters {
        let _ = waiter.answer.send(what.clone());
    }
}

async fn write(store: &Store, namespace: &str, quota: &Quota) -> Result<(), Error> {
    let mut object = quota.object.clone();
    object::child(&mut object, "status").insert("used".into(), quota.used.to_value());
    let name = format!("{namespace}/{}", quota.name);
    let Some(Ok(draft)) = kinds::find("", "v1", "resourcequotas").map(|kind| draft(kind, &object)) else {
        return Err(Error::NotFound { key: name });
    };
    let key = Key::new(RESOURCE, name);
    store.update(key, draft, quota.revision).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_store::Limits;
    use serde_json::json;

    fn quota(name: &str, spec: Value, hard: Value, used: Value) -> Quota {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        Quota {
            name: name.into(),
            revision: 1,
            object,
            hard: Amounts::read(&hard),
            used: Amounts::read(&used),
        }
    }

    fn pod(cpu: &str) -> Asked {
        let resources = if cpu.is_empty() { json!({}) } else { json!({ "requests": { "cpu": cpu } }) };
        let object = json!({ "spec": { "containers": [{ "name": "c", "resources": resources }] } });
        let counted = Counted { group: "", plural: "pods" };
        Asked {
            group: "",
            plural: "pods",
            name: "p".into(),
            more: counted.usage(&object),
            object,
            charged: BTreeSet::new(),
        }
    }

    #[track_caller]
    fn check(mut asked: Asked, quotas: &mut [Quota], expected: Result<&str, &str>) {
        let result = asked
            .charge(quotas)
            .map(|()| quotas.iter().map(|quota| quota.used.to_string()).collect::<Vec<_>>().join(" "));
        match (result, expected) {
            (Ok(used), Ok(expected)) => assert_eq!(used, expected),
            (Err(status), Err(expected)) => {
                assert_eq!(status.message, format!("pods \"p\" is forbidden: {expected}"));
                assert_eq!(status.code, 403);
            }
            (result, expected) => panic!("{result:?}, not {expected:?}"),
        }
    }

    #[test]
    fn quotas_are_used_up_to_what_they_are() {
        let hard = json!({ "pods": "2", "requests.cpu": "1", "secrets": "9" });
        let mut quotas = [
            quota("a", json!({}), hard, json!({ "pods": "1", "requests.cpu": "500m", "secrets": "1" })),
            quota("b", json!({ "scopes": ["BestEffort"] }), json!({ "pods": "1" }), json!({ "pods": "0" })),
        ];
        check(
            pod("600m"),
            &mut quotas,
            Err(
                "exceeded quota: a, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1",
            ),
        );
        check(pod(""), &mut quotas, Err("failed quota: a: must specify requests.cpu for: c"));
        check(pod("500m"), &mut quotas, Ok("pods=2,requests.cpu=1,secrets=1 pods=0"));
        check(
            pod("1m"),
            &mut quotas,
            Err(
                "exceeded quota: a, requested: pods=1,requests.cpu=1m, used: pods=2,requests.cpu=1, limited: pods=2,requests.cpu=1",
            ),
        );
    }

    #[test]
    fn a_quota_that_was_never_counted_allows_nothing() {
        let mut quotas = [quota("a", json!({}), json!({ "pods": "1" }), json!({}))];
        check(pod(""), &mut quotas, Err("status unknown for quota: a, resources: pods"));
        // One whose bounds nobody has taken in yet bounds nothing.
        check(pod(""), &mut [quota("a", json!({}), json!({}), json!({}))], Ok(""));
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_the_one_at_work_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let waiting = Waiting::default();
        waiting.0.lock().insert("a".to_owned(), Vec::new());
        let leader = Leader { waiting: &waiting, namespace: "a", has_ended: false };
        let cut = async {
            assert_eq!(waiting.0.lock()["a"].len(), 1, "it waits");
            drop(leader);
        };
        let (result, ()) = tokio::join!(biased; waiting.charge(&store, "a", pod("1")), cut);
        result.unwrap();
        assert!(waiting.0.lock().is_empty());
    }

    #[test]
    fn who_has_ended_takes_nothing_from_the_next() {
        let waiting = Waiting::default();
        waiting.0.lock().insert("a".to_owned(), Vec::new());
        let mut leader = Leader { waiting: &waiting, namespace: "a", has_ended: false };
        assert!(leader.take().is_none());
        waiting.0.lock().insert("a".to_owned(), Vec::new());
        drop(leader);
        assert!(waiting.0.lock().contains_key("a"), "another leads");
    }
}
