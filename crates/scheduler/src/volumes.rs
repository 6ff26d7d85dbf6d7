//! What claims and volumes say about nodes: where the volumes of a pod are, which could be its, and where some could be
//! made for it. It must not know how a claim is bound.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::ask::{Ask, Occupant};
use crate::node::{NodeFacts, Usage};
use crate::selector::{Labels, NodeTerm, Selector};

/// The namespace and name of a claim.
pub(crate) type ClaimKey = (String, String);

/// A claim.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim {
    pub(crate) uid: String,
    pub(crate) version: String,
    /// The uid of the pod for which it was made.
    pub(crate) owner: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) lost: bool,
    /// Whether it and its volume know each other.
    pub(crate) bound: bool,
    pub(crate) volume: String,
    pub(crate) class: String,
    /// The node for which a volume is being made.
    pub(crate) node: Option<String>,
    /// In bytes.
    pub(crate) size: i64,
    pub(crate) modes: Vec<String>,
    pub(crate) block: bool,
    pub(crate) selector: Option<Selector>,
}

/// A volume.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volume {
    pub(crate) version: String,
    pub(crate) labels: Labels,
    /// One of these must take a node; none at all says nothing.
    pub(crate) nodes: Option<Vec<NodeTerm>>,
    /// Whose it is: the claim, and its uid if it is settled.
    pub(crate) claim: Option<(ClaimKey, String)>,
    pub(crate) class: String,
    pub(crate) size: i64,
    pub(crate) modes: Vec<String>,
    pub(crate) block: bool,
    pub(crate) available: bool,
    /// The driver and its name for the volume.
    pub(crate) driver: Option<(String, String)>,
}

/// A class of volumes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Class {
    pub(crate) provisioner: String,
    /// Whether a claim waits until a pod of it has a node.
    pub(crate) waits: bool,
    /// Where volumes can be made: one of these has to hold, all of its labels; nowhere said, everywhere.
    pub(crate) topologies: Vec<Vec<(String, Vec<String>)>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) claims: HashMap<ClaimKey, Claim>,
    pub(crate) volumes: HashMap<String, Volume>,
    pub(crate) classes: HashMap<String, Class>,
    /// By node and driver, how many volumes may be attached.
    pub(crate) limits: HashMap<String, BTreeMap<String, i64>>,
    /// Volumes that are about to be a claim's.
    pub(crate) promised: HashMap<String, ClaimKey>,
    /// By volume claim, the pods that have a node and use it.
    users: HashMap<ClaimKey, HashSet<String>>,
}

/// What a pod needs of volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Volumes that it has already, by name.
    bound: Vec<String>,
    /// Whether one of them is not there.
    missing: bool,
    /// Claims that wait for a node.
    open: Vec<ClaimKey>,
    /// Claims that only one pod may use.
    alone: Vec<ClaimKey>,
    /// How many other pods use those.
    conflicts: usize,
    /// Claims by key that use a driver: the driver, and what it calls the volume.
    attached: Vec<(String, String)>,
}

/// What is to be done before a pod can have a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Volumes and the claims whose they become.
    pub(crate) found: Vec<(String, ClaimKey)>,
    /// Claims for which volumes are made.
    pub(crate) made: Vec<ClaimKey>,
}

impl Promise {
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.made.is_empty()
    }

    /// The claims that it is about.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &ClaimKey> {
        self.found.iter().map(|(_, claim)| claim).chain(&self.made)
    }
}

/// Why a node is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misplaced {
    NoVolume,
    Elsewhere,
    NothingToBind,
}

const ONE_POD: &str = "ReadWriteOncePod";
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

impl Volumes {
    /// Notes that a pod has a node, or has it no more.
    pub(crate) fn change(&mut self, pod: &Occupant, more: bool) {
        for name in &pod.claims {
            let key = (pod.namespace.clone(), name.clone());
            if more {
                self.users.entry(key).or_default().insert(pod.uid.to_string());
            } else if let Some(users) = self.users.get_mut(&key) {
                users.remove(&*pod.uid);
                if users.is_empty() {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// What a pod needs.
    ///
    /// # Errors
    /// What is wrong whichever node it is, in the words of the reference.
    pub(crate) fn needs(&self, ask: &Ask) -> Result<Needs, String> {
        let mut needs = Needs::default();
        let mut immediate = false;
        for (name, made_for_it) in ask.claims() {
            let key = (ask.namespace().to_owned(), name.clone());
            let Some(claim) = self.claims.get(&key) else {
                return Err(if made_for_it {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if claim.lost {
                let volume = &claim.volume;
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.deleted {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if made_for_it && claim.owner.as_deref() != Some(ask.uid()) {
                let (namespace, pod) = (ask.namespace(), ask.pod.name());
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            needs.attached.extend(self.attachment(&key, claim));
            if claim.modes.iter().any(|mode| mode == ONE_POD) {
                let users = self.users.get(&key);
                needs.conflicts +=
                    users.map_or(0, |users| users.iter().filter(|uid| **uid != *ask.uid()).count());
                needs.alone.push(key.clone());
            }
            if claim.bound && !claim.volume.is_empty() {
                needs.missing |= !self.volumes.contains_key(&claim.volume);
                needs.bound.push(claim.volume.clone());
            } else if claim.volume.is_empty()
                && self.classes.get(&claim.class).is_some_and(|class| class.waits)
            {
                needs.open.push(key);
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        needs.attached.sort_unstable();
        needs.attached.dedup();
        Ok(needs)
    }

    /// The driver of a claim's volume, and what it calls it; the claim's own name while there is no volume.
    fn attachment(&self, key: &ClaimKey, claim: &Claim) -> Option<(String, String)> {
        match self.volumes.get(&claim.volume) {
            Some(volume) => volume.driver.clone(),
            None => {
                let class = self.classes.get(&claim.class)?;
                Some((class.provisioner.clone(), format!("{}/{}", key.0, key.1)))
            }
        }
    }

    /// Whether a driver would have more volumes on a node than it can.
    pub(crate) fn exceeds(&self, needs: &Needs, node: &NodeFacts, usage: &Usage) -> bool {
        let Some(limits) = self.limits.get(&node.name) else { return false };
        let limited = |(driver, _): &&(String, String)| limits.contains_key(driver);
        let new: Vec<&(String, String)> = needs.attached.iter().filter(limited).collect();
        if new.is_empty() {
            return false;
        }
        let mut there = HashSet::new();
        for pod in &usage.pods {
            for name in &pod.claims {
                let key = (pod.namespace.clone(), name.clone());
                there.extend(self.claims.get(&key).and_then(|claim| self.attachment(&key, claim)));
            }
        }
        limits.iter().any(|(driver, limit)| {
            let is_of = |one: &&(String, String)| one.0 == *driver;
            let more = new.iter().filter(|one| is_of(one) && !there.contains(**one)).count();
            more > 0 && (there.iter().filter(is_of).count() + more) as i64 > *limit
        })
    }

    /// Why a node is not right for the volumes of a pod.
    pub(crate) fn refuse(&self, needs: &Needs, node: &NodeFacts) -> Option<Misplaced> {
        if needs.missing {
            return Some(Misplaced::NoVolume);
        }
        let mut bound = needs.bound.iter().filter_map(|name| self.volumes.get(name));
        if bound.any(|volume| !is_on(volume, node)) {
            return Some(Misplaced::Elsewhere);
        }
        self.promise(needs, node).is_none().then_some(Misplaced::NothingToBind)
    }

    /// Whether a node is in another zone than a volume of a pod.
    pub(crate) fn is_in_other_zone(&self, needs: &Needs, node: &NodeFacts) -> bool {
        if !ZONES.iter().any(|key| node.labels.contains_key(*key)) {
            return false;
        }
        needs.bound.iter().filter_map(|name| self.volumes.get(name)).any(|volume| {
            ZONES.iter().any(|key| {
                let Some(zones) = volume.labels.get(*key) else { return false };
                let own = node.labels.get(*key);
                own.is_none_or(|own| !zones.split("__").any(|zone| zone == own))
            })
        })
    }

    /// What is to be done so that a pod can be on a node; nothing if that cannot be.
    pub(crate) fn promise(&self, needs: &Needs, node: &NodeFacts) -> Option<Promise> {
        let mut promise = Promise::default();
        let mut open = Vec::new();
        for key in &needs.open {
            let claim = self.claims.get(key)?;
            match &claim.node {
                Some(selected) if *selected != node.name => return None,
                Some(_) => promise.made.push(key.clone()),
                None => open.push((claim, key)),
            }
        }
        // Small claims first, so that they do not take large volumes.
        open.sort_by_key(|(claim, _)| claim.size);
        let mut taken: HashSet<&str> = HashSet::new();
        for (claim, key) in open {
            let matching = self.volumes.iter().filter(|(name, volume)| {
                !taken.contains(name.as_str()) && self.suits(name, volume, key, claim) && is_on(volume, node)
            });
            // One that is meant for it comes first, then the smallest.
            let best =
                matching.min_by_key(|(name, volume)| (volume.claim.is_none(), volume.size, name.as_str()));
            match best {
                Some((name, _)) => {
                    taken.insert(name);
                    promise.found.push((name.clone(), key.clone()));
                }
                None if self.can_be_made(claim, node) => promise.made.push(key.clone()),
                None => return None,
            }
        }
        Some(promise)
    }

    fn suits(&self, name: &str, volume: &Volume, key: &ClaimKey, claim: &Claim) -> bool {
        let free = match &volume.claim {
            Some((owner, uid)) => owner == key && (uid.is_empty() || *uid == claim.uid),
            None => volume.available && claim.selector.as_ref().is_none_or(|one| one.takes(&volume.labels)),
        };
        free && self.promised.get(name).is_none_or(|owner| owner == key)
            && volume.class == claim.class
            && volume.block == claim.block
            && volume.size >= claim.size
            && claim.modes.iter().all(|mode| volume.modes.contains(mode))
    }

    fn can_be_made(&self, claim: &Claim, node: &NodeFacts) -> bool {
        let Some(class) = self.classes.get(&claim.class) else { return false };
        let made = !matches!(class.provisioner.as_str(), "" | "kubernetes.io/no-provisioner");
        let holds = |all: &Vec<(String, Vec<String>)>| {
            all.iter().all(|(key, values)| node.labels.get(key).is_some_and(|own| values.contains(own)))
        };
        made && claim.selector.is_none()
            && (class.topologies.is_empty() || class.topologies.iter().any(holds))
    }
}

fn is_on(volume: &Volume, node: &NodeFacts) -> bool {
    let takes = |terms: &Vec<NodeTerm>| terms.iter().any(|term| term.takes(&node.labels, &node.name));
    volume.nodes.as_ref().is_none_or(takes)
}

impl Needs {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Needs::default()
    }

    /// Whether another pod uses what only one may.
    pub(crate) fn conflicts(&self) -> bool {
        self.conflicts > 0
    }

    /// Whether a driver has something to attach.
    pub(crate) fn attaches(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Supposes that a pod came to a node, or left it.
    pub(crate) fn suppose(&mut self, pod: &Occupant, more: bool) {
        let uses = |key: &&ClaimKey| key.0 == pod.namespace && pod.claims.contains(&key.1);
        let common = self.alone.iter().filter(uses).count();
        self.conflicts = if more { self.conflicts + common } else { self.conflicts.saturating_sub(common) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn ask(volumes: Value) -> Ask {
        let pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "uid": "p", "namespace": "default" },
            "spec": { "containers": [{}], "volumes": volumes },
        }));
        Ask::new(pod.unwrap(), Arc::default())
    }

    fn claimed(name: &str) -> Ask {
        ask(json!([{ "name": "v", "persistentVolumeClaim": { "claimName": name } }]))
    }

    fn node(name: &str, zone: &str) -> NodeFacts {
        let labels = [("topology.kubernetes.io/zone".to_owned(), zone.to_owned())];
        NodeFacts { name: name.to_owned(), labels: labels.into(), ..NodeFacts::default() }
    }

    fn claim(class: &str, size: i64) -> Claim {
        Claim { class: class.to_owned(), size, modes: vec!["ReadWriteOnce".to_owned()], ..Claim::default() }
    }

    fn volume(class: &str, size: i64, node: &str) -> Volume {
        let term = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] });
        Volume {
            class: class.to_owned(),
            size,
            available: true,
            modes: vec!["ReadWriteOnce".to_owned()],
            nodes: Some(vec![NodeTerm::new(&serde_json::from_value(term).unwrap())]),
            ..Volume::default()
        }
    }

    fn volumes(claims: &[(&str, Claim)], volumes: &[(&str, Volume)]) -> Volumes {
        let mut result = Volumes::default();
        let class = |provisioner: &str, waits| Class {
            provisioner: provisioner.to_owned(),
            waits,
            ..Class::default()
        };
        result.classes.insert("late".to_owned(), class("kubernetes.io/no-provisioner", true));
        result.classes.insert("made".to_owned(), class("example.com/disk", true));
        result.classes.insert("now".to_owned(), class("example.com/disk", false));
        for (name, claim) in claims {
            result.claims.insert(("default".to_owned(), (*name).to_owned()), claim.clone());
        }
        result.volumes.extend(volumes.iter().map(|(name, volume)| ((*name).to_owned(), volume.clone())));
        result
    }

    #[test]
    fn what_is_wrong_with_claims_is_told_as_in_the_reference() {
        let bound = Claim { bound: true, volume: "v".to_owned(), ..claim("now", 1) };
        let all = volumes(
            &[
                ("unbound", claim("now", 1)),
                ("lost", Claim { lost: true, ..bound.clone() }),
                ("deleted", Claim { deleted: true, ..bound.clone() }),
                ("p-v", bound),
            ],
            &[],
        );
        let check = |ask: &Ask, expected: &str| assert_eq!(all.needs(ask), Err(expected.to_owned()));
        check(&claimed("none"), "persistentvolumeclaim \"none\" not found");
        check(&claimed("unbound"), "pod has unbound immediate PersistentVolumeClaims");
        check(
            &claimed("lost"),
            "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"v\"",
        );
        check(&claimed("deleted"), "persistentvolumeclaim \"deleted\" is being deleted");
        let own = |name: &str| ask(json!([{ "name": name, "ephemeral": {} }]));
        check(
            &own("w"),
            "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-w\"",
        );
        check(&own("v"), "PVC default/p-v was not created for pod default/p (pod is not owner)");
        let needs = all.needs(&claimed("p-v")).unwrap();
        assert_eq!(all.refuse(&needs, &node("n1", "a")), Some(Misplaced::NoVolume));
    }

    #[test]
    fn volumes_hold_pods_where_they_are() {
        let bound = Claim { bound: true, volume: "v".to_owned(), ..claim("now", 1) };
        let mut all = volumes(&[("c", bound)], &[("v", volume("now", 1, "n1"))]);
        let needs = all.needs(&claimed("c")).unwrap();
        assert_eq!(all.refuse(&needs, &node("n1", "a")), None);
        assert_eq!(all.refuse(&needs, &node("n2", "a")), Some(Misplaced::Elsewhere));
        let zones = [("topology.kubernetes.io/zone".to_owned(), "b__c".to_owned())];
        all.volumes.get_mut("v").unwrap().labels = zones.into();
        assert!(all.is_in_other_zone(&needs, &node("n1", "a")));
        assert!(!all.is_in_other_zone(&needs, &node("n1", "c")));
        assert!(!all.is_in_other_zone(&needs, &NodeFacts::default()), "it has no zone at all");
    }

    #[test]
    fn claims_that_wait_take_the_smallest_volume_that_suits_or_have_one_made() {
        let mut all = volumes(
            &[("c", claim("late", 2)), ("d", claim("late", 3)), ("m", claim("made", 1))],
            &[
                ("small", volume("late", 1, "n1")),
                ("fits", volume("late", 3, "n1")),
                ("big", volume("late", 9, "n1")),
            ],
        );
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let both = ask(json!([
            { "name": "w", "persistentVolumeClaim": { "claimName": "d" } },
            { "name": "v", "persistentVolumeClaim": { "claimName": "c" } },
        ]));
        let needs = all.needs(&both).unwrap();
        let promise = all.promise(&needs, &node("n1", "a")).unwrap();
        assert_eq!(promise.found, [("fits".to_owned(), key("c")), ("big".to_owned(), key("d"))]);
        assert_eq!(all.refuse(&needs, &node("n2", "a")), Some(Misplaced::NothingToBind));
        all.promised.insert("fits".to_owned(), key("other"));
        assert_eq!(all.refuse(&needs, &node("n1", "a")), Some(Misplaced::NothingToBind));
        let needs = all.needs(&claimed("m")).unwrap();
        assert_eq!(all.promise(&needs, &node("n2", "a")).unwrap().made, [key("m")]);
        // Once a volume is being made somewhere, the pod goes there.
        all.claims.get_mut(&key("m")).unwrap().node = Some("n1".to_owned());
        assert_eq!(all.refuse(&needs, &node("n2", "a")), Some(Misplaced::NothingToBind));
        assert_eq!(all.refuse(&needs, &node("n1", "a")), None);
        all.claims.get_mut(&key("m")).unwrap().node = None;
        let here = vec![vec![("topology.kubernetes.io/zone".to_owned(), vec!["a".to_owned()])]];
        all.classes.get_mut("made").unwrap().topologies = here;
        assert_eq!(all.refuse(&needs, &node("n1", "a")), None);
        assert_eq!(all.refuse(&needs, &node("n1", "b")), Some(Misplaced::NothingToBind));
    }

    #[test]
    fn what_one_pod_may_use_is_not_given_to_two() {
        let only =
            Claim { bound: true, volume: "v".to_owned(), modes: vec![ONE_POD.to_owned()], ..claim("now", 1) };
        let mut all = volumes(&[("c", only)], &[("v", volume("now", 1, "n1"))]);
        let pod = claimed("c");
        let other = Occupant { uid: "other".into(), ..(*pod.occupant).clone() };
        assert!(!all.needs(&pod).unwrap().conflicts());
        all.change(&other, true);
        let mut needs = all.needs(&pod).unwrap();
        assert!(needs.conflicts());
        needs.suppose(&other, false);
        assert!(!needs.conflicts());
        all.change(&other, false);
        assert!(!all.needs(&pod).unwrap().conflicts());
    }

    #[test]
    fn drivers_attach_only_so_many() {
        let bound = |volume: &str| Claim { bound: true, volume: volume.to_owned(), ..claim("now", 1) };
        let driven = |handle: &str| Volume {
            driver: Some(("example.com/disk".to_owned(), handle.to_owned())),
            nodes: None,
            ..volume("now", 1, "")
        };
        let mut all = volumes(
            &[("a", bound("va")), ("b", bound("vb")), ("same", bound("va"))],
            &[("va", driven("1")), ("vb", driven("2"))],
        );
        all.limits.insert("n1".to_owned(), [("example.com/disk".to_owned(), 1)].into());
        let mut usage = Usage::default();
        usage.add(claimed("a").occupant);
        let exceeds = |name: &str, node_name: &str| {
            all.exceeds(&all.needs(&claimed(name)).unwrap(), &node(node_name, "a"), &usage)
        };
        assert!(exceeds("b", "n1"));
        assert!(!exceeds("same", "n1"), "it is attached already");
        assert!(!exceeds("b", "n2"), "nothing is said about it");
    }
}
