//! Who may do what, at the newest revision: the roles and bindings of the store, and for node agents what is on their
//! nodes. What has changed is taken in when somebody asks, so that an answer never lags behind what was stored.

use dray_access::{Attributes, MASTERS, NodeGraph, Policy, PolicyKind, Rule, User, node_of};
use dray_machinery::Status;
use dray_store::{EventKind, Store, Watcher};
use parking_lot::Mutex;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";
const NODE_ROLE: &str = "system:node";

/// What a decision is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// Why, in words; empty where no rule speaks of it.
    pub(crate) reason: String,
}

/// Something that is made of stored objects and follows them.
pub(crate) trait Follows: Default {
    type Kind: Copy;

    /// The resources that it is made of.
    fn resources() -> Vec<(String, Self::Kind)>;
    fn set(&mut self, kind: Self::Kind, namespace: &str, name: &str, object: &Value);
    fn remove(&mut self, kind: Self::Kind, namespace: &str, name: &str);
}

impl Follows for Policy {
    type Kind = PolicyKind;

    fn resources() -> Vec<(String, PolicyKind)> {
        PolicyKind::ALL.map(|kind| (format!("{GROUP}/{}", kind.plural()), kind)).to_vec()
    }

    fn set(&mut self, kind: PolicyKind, namespace: &str, name: &str, object: &Value) {
        Policy::set(self, kind, namespace, name, object);
    }

    fn remove(&mut self, kind: PolicyKind, namespace: &str, name: &str) {
        Policy::remove(self, kind, namespace, name);
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum OnNode {
    Pod,
    Volume,
    Attachment,
}

impl Follows for NodeGraph {
    type Kind = OnNode;

    fn resources() -> Vec<(String, OnNode)> {
        vec![
            ("core/pods".to_owned(), OnNode::Pod),
            ("core/persistentvolumes".to_owned(), OnNode::Volume),
            ("storage.k8s.io/volumeattachments".to_owned(), OnNode::Attachment),
        ]
    }

    fn set(&mut self, kind: OnNode, namespace: &str, name: &str, object: &Value) {
        match kind {
            OnNode::Pod => self.set_pod(namespace, name, object),
            OnNode::Volume => self.set_volume(name, object),
            OnNode::Attachment => self.set_attachment(name, object),
        }
    }

    fn remove(&mut self, kind: OnNode, namespace: &str, name: &str) {
        match kind {
            OnNode::Pod => self.remove_pod(namespace, name),
            OnNode::Volume => self.remove_volume(name),
            OnNode::Attachment => self.remove_attachment(name),
        }
    }
}

/// A picture of stored objects, and where it has got to.
pub(crate) struct Followed<T: Follows> {
    picture: T,
    watchers: Vec<(T::Kind, Watcher)>,
}

fn place(stored: &str) -> (&str, &str) {
    stored.split_once('/').unwrap_or(("", stored))
}

impl<T: Follows> Followed<T> {
    fn open(store: &Store) -> Result<Self, Status> {
        let mut followed = Followed { picture: T::default(), watchers: Vec::new() };
        for (resource, kind) in T::resources() {
            let (snapshot, watcher) = store.snapshot_and_watch(&resource, "").map_err(Status::internal)?;
            for (stored, entry) in snapshot.range(&resource, "", None) {
                let (namespace, name) = place(stored);
                followed.picture.set(kind, namespace, name, &crate::respond::parse(entry.json())?);
            }
            followed.watchers.push((kind, watcher));
        }
        Ok(followed)
    }

    /// Takes in what has changed.
    fn catch_up(&mut self, store: &Store) -> Result<(), Status> {
        for (kind, watcher) in &mut self.watchers {
            loop {
                let Ok(events) = watcher.pending() else {
                    // More has happened than is remembered.
                    *self = Followed::open(store)?;
                    return Ok(());
                };
                if events.is_empty() {
                    break;
                }
                for event in events {
                    let (namespace, name) = place(&event.name);
                    if event.kind == EventKind::Deleted {
                        self.picture.remove(*kind, namespace, name);
                    } else {
                        let object = crate::respond::parse(event.entry.json())?;
                        self.picture.set(*kind, namespace, name, &object);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The rules of access over a store.
pub(crate) struct Access {
    policy: Mutex<Option<Followed<Policy>>>,
    /// Made when the first agent of another machine asks.
    nodes: Mutex<Option<Followed<NodeGraph>>>,
}

/// Lets somebody look at the newest picture.
pub(crate) fn with<T: Follows, R>(
    followed: &Mutex<Option<Followed<T>>>,
    store: &Store,
    work: impl FnOnce(&T) -> R,
) -> Result<R, Status> {
    let mut followed = followed.lock();
    match followed.as_mut().map(|followed| followed.catch_up(store)) {
        Some(Ok(())) => {}
        // What was taken in by halves is no picture: the next who asks begins again.
        Some(Err(status)) => {
            *followed = None;
            return Err(status);
        }
        None => *followed = Some(Followed::open(store)?),
    }
    match followed.as_ref() {
        Some(followed) => Ok(work(&followed.picture)),
        None => Err(Status::internal("the rules of access cannot be read")),
    }
}

impl Access {
    pub(crate) fn new() -> Access {
        Access { policy: Mutex::default(), nodes: Mutex::default() }
    }

    /// Asks the roles and bindings.
    pub(crate) fn policy<R>(&self, store: &Store, work: impl FnOnce(&Policy) -> R) -> Result<R, Status> {
        with(&self.policy, store, work)
    }

    /// Whether a user may do what he asks for.
    pub(crate) fn decide(
        &self,
        store: &Store,
        user: &User,
        asked: &Attributes<'_>,
    ) -> Result<Decision, Status> {
        if user.is_in(MASTERS) {
            return Ok(Decision { allowed: true, reason: String::new() });
        }
        let mut reason = String::new();
        if let Some(node) = node_of(user) {
            let role = serde_json::json!({ "kind": "ClusterRole", "name": NODE_ROLE });
            let rules: Vec<Rule> =
                self.policy(store, |policy| policy.referred(&role, "").unwrap_or_default().to_vec())?;
            match with(&self.nodes, store, |graph| graph.decide(node, &rules, asked))? {
                Ok(()) => return Ok(Decision { allowed: true, reason }),
                Err(why) => reason = why,
            }
        }
        let granted = self.policy(store, |policy| policy.grants(user, asked))?;
        Ok(match granted {
            Some(reason) => Decision { allowed: true, reason },
            None => Decision { allowed: false, reason },
        })
    }

    /// The refusal where a user may not do what he asks for.
    pub(crate) fn check(&self, store: &Store, user: &User, asked: &Attributes<'_>) -> Result<(), Status> {
        self.grant(store, user, asked).map(drop)
    }

    /// Why a user may do what he asks for, or the refusal.
    pub(crate) fn grant(&self, store: &Store, user: &User, asked: &Attributes<'_>) -> Result<String, Status> {
        let decision = self.decide(store, user, asked)?;
        if decision.allowed {
            return Ok(decision.reason);
        }
        let mut why = format!("User {:?} cannot {asked}", user.name);
        if !decision.reason.is_empty() {
            why = format!("{why}: {}", decision.reason);
        }
        Err(Status::forbidden(asked.group, asked.resource, asked.name, why))
    }
}
