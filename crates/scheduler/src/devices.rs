//! Devices that pods claim: what there is, whose it is, and what a claim would get on a node. It must not know how a
//! claim is written.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use crate::ask::Ask;
use crate::device_selectors::{DeviceSelector, Facts};
use crate::node::NodeFacts;
use crate::selector::{NodeTerm, Tolerance};
use crate::volumes::ClaimKey;

/// An allocation is sought in so many steps: what is harder counts as impossible.
const STEPS: usize = 20_000;
/// More devices are not sought at one time.
const DEPTH: usize = 1024;
/// So many pods may use one claim at the same time.
const CONSUMERS: usize = 256;

/// Which device is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceName {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) device: String,
}

/// From which nodes devices can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    Node(String),
    Terms(Vec<NodeTerm>),
    Everywhere,
}

impl Reach {
    pub(crate) fn takes(&self, node: &NodeFacts) -> bool {
        match self {
            Reach::Node(name) => *name == node.name,
            Reach::Terms(terms) => terms.iter().any(|term| term.takes(&node.labels, &node.name)),
            Reach::Everywhere => true,
        }
    }
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: DeviceName,
    pub(crate) facts: Facts,
    pub(crate) reach: Reach,
    /// Key, value and effect of those taints that keep pods away.
    pub(crate) taints: Vec<(String, String, String)>,
}

/// What a driver says of one pool, or of a part of it.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) generation: i64,
    /// How many of them there are of the pool.
    pub(crate) parts: i64,
    pub(crate) devices: Vec<Device>,
}

/// A class of devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceClass {
    pub(crate) selectors: Vec<DeviceSelector>,
    pub(crate) configurations: Vec<Json>,
}

/// One way in which a request can be fulfilled.
#[derive(Debug)]
pub(crate) struct Alternative {
    /// The name under which its devices are told.
    pub(crate) name: String,
    pub(crate) class: String,
    pub(crate) selectors: Vec<DeviceSelector>,
    /// So many devices; nothing for all that there are.
    pub(crate) count: Option<usize>,
    /// Whether it is for looking after devices that others use.
    pub(crate) admin: bool,
    pub(crate) tolerances: Vec<Tolerance>,
    /// Least amounts of the device's capacities.
    pub(crate) least: Vec<(String, String)>,
}

/// What devices of several requests have to have in common, or must not.
#[derive(Debug, Clone)]
pub(crate) struct Constraint {
    pub(crate) attribute: String,
    /// Names of requests; none for all.
    pub(crate) requests: Vec<String>,
    pub(crate) distinct: bool,
}

/// A claim of devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceClaim {
    pub(crate) version: String,
    pub(crate) finalizers: Vec<String>,
    pub(crate) deleted: bool,
    /// The uid of the pod for which it was made.
    pub(crate) owner: Option<String>,
    /// By request, the ways in their order.
    pub(crate) requests: Vec<(String, Vec<Alternative>)>,
    pub(crate) constraints: Vec<Constraint>,
    pub(crate) configurations: Vec<Json>,
    pub(crate) allocation: Option<Held>,
    /// The pods that use it, as they are written, and their uids.
    pub(crate) consumers: Vec<Json>,
    pub(crate) users: Vec<String>,
}

/// What a claim holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Without those that are only looked after.
    pub(crate) devices: Vec<DeviceName>,
    /// The nodes where it is of use; nothing for all.
    pub(crate) nodes: Option<Vec<NodeTerm>>,
}

/// A device that a claim gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) request: String,
    pub(crate) device: DeviceName,
    pub(crate) admin: bool,
}

/// What claims get on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) claims: Vec<(ClaimKey, Vec<Given>)>,
    /// Claims that have their devices already, and get one more pod.
    pub(crate) shared: Vec<ClaimKey>,
    /// Whether it is of use on this node only.
    pub(crate) local: bool,
}

impl Allocation {
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.shared.is_empty()
    }
}

/// What a pod needs of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceNeeds {
    held: Vec<ClaimKey>,
    open: Vec<ClaimKey>,
}

impl DeviceNeeds {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.open.is_empty()
    }
}

/// Why a node is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    Elsewhere,
    NotEnough,
}

/// All devices and claims.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) claims: HashMap<ClaimKey, Box<DeviceClaim>>,
    pub(crate) classes: HashMap<String, DeviceClass>,
    /// By the name of the slice.
    pub(crate) slices: HashMap<String, Slice>,
    /// What claims are about to get.
    pub(crate) promised: HashMap<ClaimKey, Vec<Given>>,
}

impl Devices {
    /// What a pod needs.
    ///
    /// # Errors
    /// What is wrong whichever node it is, in the words of the reference.
    pub(crate) fn needs(&self, ask: &Ask) -> Result<DeviceNeeds, String> {
        let mut needs = DeviceNeeds::default();
        let pod = &ask.pod;
        for entry in &pod.spec.resource_claims {
            let made_for_it = entry.resource_claim_name.is_none();
            let statuses = &pod.status.resource_claim_statuses;
            let name = match (&entry.resource_claim_name, statuses.iter().find(|one| one.name == entry.name))
            {
                (Some(name), _) => name,
                (None, Some(status)) => match &status.resource_claim_name {
                    Some(name) => name,
                    // It needs none.
                    None => continue,
                },
                (None, None) => {
                    let (namespace, name) = (pod.namespace(), pod.name());
                    return Err(format!("pod \"{namespace}/{name}\": ResourceClaim not created yet"));
                }
            };
            let key = (ask.namespace().to_owned(), name.clone());
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("resourceclaim {name:?} not found"));
            };
            if claim.deleted {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            if made_for_it && claim.owner.as_deref() != Some(ask.uid()) {
                let (namespace, pod) = (pod.namespace(), pod.name());
                return Err(format!(
                    "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            if claim.allocation.is_some() {
                if claim.users.len() >= CONSUMERS && !claim.users.iter().any(|uid| uid == ask.uid()) {
                    return Err("resourceclaim in use".to_owned());
                }
                needs.held.push(key);
                continue;
            }
            if self.promised.contains_key(&key) {
                let (namespace, name) = &key;
                return Err(format!(
                    "resource claim {namespace}/{name} is in the process of being allocated"
                ));
            }
            for (request, alternatives) in &claim.requests {
                if let Some(missing) = alternatives.iter().find(|one| !self.classes.contains_key(&one.class))
                {
                    return Err(format!("request {request}: device class {} does not exist", missing.class));
                }
            }
            needs.open.push(key);
        }
        Ok(needs)
    }

    /// Why a node is not right for the claims of a pod.
    pub(crate) fn refuse(&self, needs: &DeviceNeeds, node: &NodeFacts) -> Option<Lacking> {
        let elsewhere = |key: &ClaimKey| {
            let held = self.claims.get(key).and_then(|claim| claim.allocation.as_ref());
            let terms = held.and_then(|held| held.nodes.as_ref());
            terms.is_some_and(|terms| !terms.iter().any(|term| term.takes(&node.labels, &node.name)))
        };
        if needs.held.iter().any(elsewhere) {
            return Some(Lacking::Elsewhere);
        }
        (!needs.open.is_empty() && self.allocate(needs, node).is_none()).then_some(Lacking::NotEnough)
    }

    /// What the claims of a pod get on a node; nothing if that is not all that they ask for.
    pub(crate) fn allocate(&self, needs: &DeviceNeeds, node: &NodeFacts) -> Option<Allocation> {
        let mut allocation = Allocation { shared: needs.held.clone(), ..Allocation::default() };
        if needs.open.is_empty() {
            return Some(allocation);
        }
        let devices = self.reachable(node);
        let claims: Option<Vec<(&ClaimKey, &DeviceClaim)>> =
            needs.open.iter().map(|key| Some((key, &**self.claims.get(key)?))).collect();
        let mut search =
            Search { all: self, devices: &devices, taken: self.taken(), steps: STEPS, given: Vec::new() };
        let claims = claims?;
        // Each device that is asked for is a step further down.
        let ways = claims.iter().flat_map(|(_, claim)| claim.requests.iter().flat_map(|(_, ways)| ways));
        let asked = ways.fold(0_usize, |sum, way| sum.saturating_add(way.count.unwrap_or(devices.len())));
        if asked > DEPTH || claims.len() > DEPTH {
            return None;
        }
        if !search.fill(&claims, 0, 0, None) {
            return None;
        }
        for (key, _) in &claims {
            let own = search.given.iter().filter(|(owner, _, _)| *owner == *key);
            allocation.claims.push(((*key).clone(), own.map(|(_, given, _)| given.clone()).collect()));
        }
        let local = |device: &&Device| device.reach != Reach::Everywhere;
        allocation.local = search.given.iter().any(|(_, _, device)| local(device));
        Some(allocation)
    }

    /// The devices that others have.
    fn taken(&self) -> HashSet<&DeviceName> {
        let held = self.claims.values().filter_map(|claim| claim.allocation.as_ref());
        let promised = self.promised.values().flatten().filter(|given| !given.admin);
        held.flat_map(|held| &held.devices).chain(promised.map(|given| &given.device)).collect()
    }

    /// The devices that can be reached from a node, of pools that are known as a whole, in their order.
    fn reachable(&self, node: &NodeFacts) -> Vec<&Device> {
        let mut pools: HashMap<(&str, &str), (i64, i64, i64)> = HashMap::new();
        for slice in self.slices.values() {
            let pool = pools.entry((&slice.driver, &slice.pool)).or_insert((slice.generation, 0, 0));
            if slice.generation > pool.0 {
                *pool = (slice.generation, 0, 0);
            }
            if slice.generation == pool.0 {
                (pool.1, pool.2) = (pool.1 + 1, slice.parts);
            }
        }
        let whole = |slice: &&Slice| {
            let pool = pools.get(&(slice.driver.as_str(), slice.pool.as_str()));
            pool.is_some_and(|(generation, seen, parts)| slice.generation == *generation && seen == parts)
        };
        let slices = self.slices.values().filter(whole);
        let mut devices: Vec<&Device> =
            slices.flat_map(|slice| &slice.devices).filter(|device| device.reach.takes(node)).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }
}

/// The search for devices: one after the other, and back where that leads nowhere.
struct Search<'a> {
    all: &'a Devices,
    devices: &'a [&'a Device],
    taken: HashSet<&'a DeviceName>,
    steps: usize,
    given: Vec<(&'a ClaimKey, Given, &'a Device)>,
}

/// A request that is being fulfilled: which way, how many devices are missing, and where to go on.
#[derive(Clone, Copy)]
struct Open<'a> {
    way: &'a Alternative,
    missing: usize,
    from: usize,
}

impl<'a> Search<'a> {
    fn fill(
        &mut self,
        claims: &[(&'a ClaimKey, &'a DeviceClaim)],
        claim: usize,
        request: usize,
        open: Option<Open<'a>>,
    ) -> bool {
        let Some((key, wanted)) = claims.get(claim) else { return true };
        let Some((_, ways)) = wanted.requests.get(request) else {
            return self.fill(claims, claim + 1, 0, None);
        };
        let Some(open) = open else {
            return ways.iter().any(|way| {
                let all = way
                    .count
                    .is_none()
                    .then(|| self.devices.iter().filter(|one| self.matches(way, one)).count());
                let missing = way.count.or(all).unwrap_or(0);
                // Of all there has to be one.
                missing > 0 && self.fill(claims, claim, request, Some(Open { way, missing, from: 0 }))
            });
        };
        if open.missing == 0 {
            return self.fill(claims, claim, request + 1, None);
        }
        for (at, device) in self.devices.iter().copied().enumerate().skip(open.from) {
            if self.steps == 0 {
                return false;
            }
            self.steps -= 1;
            let way = open.way;
            let free = way.admin || !self.taken.contains(&device.name);
            if !self.matches(way, device) {
                continue;
            }
            if !free || !self.agrees(key, wanted, way, device) {
                if way.count.is_none() {
                    return false;
                }
                continue;
            }
            let given = Given { request: way.name.clone(), device: device.name.clone(), admin: way.admin };
            self.given.push((key, given, device));
            let newly = !way.admin && self.taken.insert(&device.name);
            if self.fill(claims, claim, request, Some(Open { way, missing: open.missing - 1, from: at + 1 }))
            {
                return true;
            }
            self.given.pop();
            if newly {
                self.taken.remove(&device.name);
            }
            if way.count.is_none() {
                return false;
            }
        }
        false
    }

    fn matches(&self, way: &Alternative, device: &Device) -> bool {
        let Some(class) = self.all.classes.get(&way.class) else { return false };
        let tolerated = |(key, value, effect): &(String, String, String)| {
            way.tolerances.iter().any(|one| one.takes(key, value, effect))
        };
        device.taints.iter().all(tolerated)
            && device.facts.has_at_least(&way.least)
            && class.selectors.iter().chain(&way.selectors).all(|selector| selector.takes(&device.facts))
    }

    /// Whether a device goes with those that the claim has got.
    fn agrees(&self, key: &ClaimKey, claim: &DeviceClaim, way: &Alternative, device: &Device) -> bool {
        let concerned = |constraint: &Constraint, request: &str| {
            let main = request.split('/').next().unwrap_or_default();
            let mut named = constraint.requests.iter();
            constraint.requests.is_empty() || named.any(|name| name == request || name == main)
        };
        claim.constraints.iter().filter(|constraint| concerned(constraint, &way.name)).all(|constraint| {
            let Some(own) = device.facts.attribute(&constraint.attribute) else { return false };
            let others = self
                .given
                .iter()
                .filter(|(owner, given, _)| *owner == key && concerned(constraint, &given.request));
            others.into_iter().all(|(_, _, other)| {
                let same = other.facts.attribute(&constraint.attribute) == Some(own);
                same != constraint.distinct
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::device_objects;
    use crate::objects::Fact;

    fn devices(count: usize) -> Devices {
        let mut all = Devices::default();
        let made: Vec<_> = (0..count)
            .map(|number| {
                json!({ "name": format!("d{number}"), "attributes": {
                    "model": { "string": if number % 2 == 0 { "even" } else { "odd" } },
                    "bus": { "int": number / 2 } } })
            })
            .collect();
        slice(
            &mut all,
            "s",
            json!({ "driver": "gpu.example.com", "nodeName": "n1",
            "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 }, "devices": made }),
        );
        let class = serde_json::from_value(json!({ "metadata": {}, "spec": { "selectors": [
            { "cel": { "expression": "device.driver == 'gpu.example.com'" } }] } }));
        let Fact::DeviceClass(class) = device_objects::class(class.unwrap()) else { unreachable!() };
        all.classes.insert("gpu".to_owned(), class);
        all
    }

    fn slice(all: &mut Devices, name: &str, spec: Json) {
        let object = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let Fact::DeviceSlice(slice) = device_objects::slice(object) else { unreachable!() };
        all.slices.insert(name.to_owned(), *slice);
    }

    fn claim(all: &mut Devices, name: &str, spec: Json, status: Json) {
        let object = json!({ "metadata": { "name": name, "uid": name }, "spec": { "devices": spec }, "status": status });
        let Fact::DeviceClaim(claim) = device_objects::claim(serde_json::from_value(object).unwrap()) else {
            unreachable!()
        };
        all.claims.insert(("default".to_owned(), name.to_owned()), claim);
    }

    fn needs(all: &Devices, claims: &[&str]) -> Result<DeviceNeeds, String> {
        let entries: Vec<_> =
            claims.iter().map(|name| json!({ "name": name, "resourceClaimName": name })).collect();
        let pod = json!({ "metadata": { "name": "p", "uid": "p", "namespace": "default" },
            "spec": { "containers": [{}], "resourceClaims": entries } });
        all.needs(&Ask::new(serde_json::from_value(pod).unwrap(), Arc::default()))
    }

    fn node(name: &str) -> NodeFacts {
        NodeFacts { name: name.to_owned(), ..NodeFacts::default() }
    }

    /// The devices that a claim gets on the node that has them, by name.
    fn given(all: &mut Devices, spec: Json) -> Option<Vec<String>> {
        claim(all, "c", spec, json!({}));
        let allocation = all.allocate(&needs(all, &["c"]).unwrap(), &node("n1"))?;
        Some(allocation.claims[0].1.iter().map(|given| given.device.device.clone()).collect())
    }

    #[test]
    fn claims_get_devices_that_are_free_and_right() {
        let exactly = |more: Json| {
            let mut request = json!({ "deviceClassName": "gpu" });
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "name": "r", "exactly": request })
        };
        let one = |more: Json| json!({ "requests": [exactly(more)] });
        let odd = json!([{ "cel": { "expression": "device.attributes['gpu.example.com'].model == 'odd'" } }]);
        let all = &mut devices(4);
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(given(all, one(json!({}))), names(&["d0"]));
        assert_eq!(given(all, one(json!({ "count": 2, "selectors": odd }))), names(&["d1", "d3"]));
        assert_eq!(given(all, one(json!({ "count": 3, "selectors": odd }))), None);
        assert_eq!(
            given(all, one(json!({ "allocationMode": "All", "selectors": odd }))),
            names(&["d1", "d3"])
        );
        // Of one bus there are two; the first device alone would lead nowhere for three.
        let same = |count: usize| {
            json!({ "requests": [exactly(json!({ "count": count }))],
                "constraints": [{ "matchAttribute": "gpu.example.com/bus" }] })
        };
        assert_eq!(given(all, same(2)), names(&["d0", "d1"]));
        assert_eq!(given(all, same(3)), None);
        let apart = json!({ "requests": [exactly(json!({ "count": 2 }))],
            "constraints": [{ "distinctAttribute": "gpu.example.com/bus" }] });
        assert_eq!(given(all, apart), names(&["d0", "d2"]));
        let taken = json!({ "allocation": { "devices": { "results": [
            { "request": "r", "driver": "gpu.example.com", "pool": "p", "device": "d0" }] } } });
        claim(all, "other", one(json!({})), taken);
        assert_eq!(given(all, one(json!({}))), names(&["d1"]));
        assert_eq!(given(all, one(json!({ "allocationMode": "All" }))), None);
        assert_eq!(given(all, one(json!({ "adminAccess": true }))), names(&["d0"]));
        assert_eq!(
            given(all, same(2)),
            names(&["d2", "d3"]),
            "it goes back where the first choice leads nowhere"
        );
        let way =
            |name: &str, count: usize| json!({ "name": name, "deviceClassName": "gpu", "count": count });
        let either =
            json!({ "requests": [{ "name": "r", "firstAvailable": [way("many", 9), way("few", 1)] }] });
        assert_eq!(given(all, either), names(&["d1"]));
        let needs = needs(all, &["c"]).unwrap();
        assert_eq!(all.allocate(&needs, &node("n1")).unwrap().claims[0].1[0].request, "r/few");
        assert_eq!(all.refuse(&needs, &node("n2")), Some(Lacking::NotEnough));
    }

    #[test]
    fn only_whole_pools_of_the_newest_generation_count() {
        let all = &mut devices(1);
        let spec = json!({ "requests": [{ "name": "r", "exactly": { "deviceClassName": "gpu" } }] });
        let part = |name: &str| {
            json!({ "driver": "gpu.example.com", "allNodes": true,
                "pool": { "name": "p", "generation": 2, "resourceSliceCount": 2 }, "devices": [{ "name": name }] })
        };
        slice(all, "t", part("e0"));
        assert_eq!(given(all, spec.clone()), None);
        slice(all, "u", part("e1"));
        assert_eq!(given(all, spec), Some(vec!["e0".to_owned()]));
    }

    #[test]
    fn what_is_wrong_with_claims_is_told() {
        let all = &mut devices(1);
        let spec = json!({ "requests": [{ "name": "r", "exactly": { "deviceClassName": "none" } }] });
        claim(all, "c", spec, json!({}));
        assert_eq!(needs(all, &["d"]), Err("resourceclaim \"d\" not found".to_owned()));
        assert_eq!(needs(all, &["c"]), Err("request r: device class none does not exist".to_owned()));
        let held = json!({ "allocation": { "nodeSelector": { "nodeSelectorTerms": [{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": ["n1"] }] }] } } });
        claim(all, "c", json!({}), held);
        let needs = needs(all, &["c"]).unwrap();
        assert_eq!(all.refuse(&needs, &node("n1")), None);
        assert_eq!(all.refuse(&needs, &node("n2")), Some(Lacking::Elsewhere));
    }
}
