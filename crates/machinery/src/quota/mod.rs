//! What objects use of a namespace's quota: which resources of a ResourceQuota count an object, and how much.
//!
//! Arithmetic only: both who admits objects and who counts them anew ask here, and neither is known.

mod amounts;
mod pods;
mod usage;

use serde_json::{Value, json};

use crate::{kinds::Subresource, object, selector::LabelSelector, status::qualified};

pub use amounts::Amounts;

/// What a pod asks for under the resources' own names: of its containers together or of one init container where that is more,
/// with sidecars and overhead; what is said for the pod as a whole counts instead.
pub fn pod_requests(pod: &Value) -> Amounts {
    pods::requests(pod)
}

/// The resource that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// Its group.
    pub group: &'a str,
    /// Its name in the plural.
    pub plural: &'a str,
}

/// How a kind is counted beyond the number of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Pod,
    Service,
    Claim,
    DeviceClaim,
    /// By the number alone.
    Number,
}

/// What is never counted.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// What is also counted under its own name.
const NAMED: &[&str] = &["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const BY_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";

impl Counted<'_> {
    fn rules(self) -> Rules {
        match (self.group, self.plural) {
            ("", "pods") => Rules::Pod,
            ("", "services") => Rules::Service,
            ("", "persistentvolumeclaims") => Rules::Claim,
            ("resource.k8s.io", "resourceclaims") => Rules::DeviceClaim,
            _ => Rules::Number,
        }
    }

    /// "count/pods", "count/deployments.apps".
    fn number(self) -> String {
        format!("count/{}", qualified(self.group, self.plural))
    }

    /// Whether making an object, or changing one (`old`), may use more of a quota.
    pub fn is_charged(self, old: Option<&Value>, new: &Value, subresource: Option<Subresource>) -> bool {
        if IGNORED.contains(&(self.group, self.plural)) {
            return false;
        }
        match (self.rules(), subresource) {
            (Rules::Pod, Some(Subresource::Resize)) => old.is_some(),
            (Rules::Claim, Some(Subresource::Status)) => old.is_some_and(|old| {
                let told = |claim: &Value| {
                    let status = &claim["status"];
                    (
                        status["allocatedResources"]["storage"].clone(),
                        status["currentVolumeAttributesClassName"].clone(),
                        status["modifyVolumeStatus"]["targetVolumeAttributesClassName"].clone(),
                    )
                };
                told(old) != told(new)
            }),
            (_, Some(_)) => false,
            (Rules::Service | Rules::Claim | Rules::DeviceClaim, None) => true,
            (Rules::Pod | Rules::Number, None) => old.is_none(),
        }
    }

    /// Whether a resource of a quota counts such objects.
    pub fn is_counted_by(self, resource: &str) -> bool {
        if IGNORED.contains(&(self.group, self.plural)) {
            return false;
        }
        if let Some(number) = resource.strip_prefix("count/") {
            return number == qualified(self.group, self.plural);
        }
        match self.rules() {
            Rules::Pod => pods::is_counted_by(resource),
            Rules::Service => {
                matches!(resource, "services" | "services.nodeports" | "services.loadbalancers")
            }
            Rules::Claim => {
                let bare = resource.split_once(BY_CLASS).map_or(resource, |(_, rest)| rest);
                matches!(bare, "persistentvolumeclaims" | "requests.storage")
            }
            Rules::DeviceClaim => resource.ends_with(BY_DEVICE_CLASS),
            Rules::Number => self.group.is_empty() && self.plural == resource && NAMED.contains(&resource),
        }
    }

    /// What an object uses.
    pub fn usage(self, object: &Value) -> Amounts {
        let mut amounts = match self.rules() {
            Rules::Pod => pods::usage(object),
            Rules::Service => usage::of_service(object),
            Rules::Claim => usage::of_claim(object),
            Rules::DeviceClaim => usage::of_device_claim(object),
            Rules::Number if self.group.is_empty() && NAMED.contains(&self.plural) => {
                Amounts::of_one(self.plural)
            }
            Rules::Number => Amounts::default(),
        };
        amounts.count(&self.number(), 1);
        amounts
    }

    /// What an object has to say and does not, as "must specify limits.cpu for: web"; `resources` are those of the quota.
    pub fn unspecified<'r>(self, resources: impl Iterator<Item = &'r str>, object: &Value) -> Option<String> {
        match self.rules() {
            Rules::Pod => pods::unspecified(resources, object),
            _ => None,
        }
    }

    /// Whether a quota is about an object: its scopes hold, and `hard` has a resource that counts it.
    pub fn is_within(self, quota: &Value, hard: &Amounts, object: &Value) -> bool {
        hard.names().any(|resource| self.is_counted_by(resource)) && self.is_in_scope(quota, object)
    }

    /// Whether the scopes of a quota hold for an object.
    pub fn is_in_scope(self, quota: &Value, object: &Value) -> bool {
        let spec = &quota["spec"];
        let scopes = spec["scopes"].as_array().into_iter().flatten();
        let plain = scopes.map(|scope| json!({ "scopeName": scope, "operator": "Exists" }));
        let selected =
            object::at(spec, &["scopeSelector", "matchExpressions"]).as_array().into_iter().flatten();
        plain.chain(selected.cloned()).all(|requirement| self.holds(&requirement, object))
    }

    fn holds(self, requirement: &Value, object: &Value) -> bool {
        let scope = object::text(requirement, &["scopeName"]);
        match (self.rules(), scope) {
            (Rules::Pod, "PriorityClass") => {
                let class = object::text(object, &["spec", "priorityClassName"]);
                holds_for(requirement, &[class])
            }
            (Rules::Pod, scope) => pods::is_in_scope(scope, object),
            (Rules::Claim, "VolumeAttributesClass") => {
                let classes = [
                    object::text(object, &["spec", "volumeAttributesClassName"]),
                    object::text(object, &["status", "currentVolumeAttributesClassName"]),
                    object::text(
                        object,
                        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
                    ),
                ];
                holds_for(requirement, &classes)
            }
            _ => false,
        }
    }
}

/// Whether a requirement holds for one of the values that an object names for its scope.
fn holds_for(requirement: &Value, values: &[&str]) -> bool {
    let scope = object::text(requirement, &["scopeName"]);
    let expression = json!({ "matchExpressions": [{
        "key": scope, "operator": requirement["operator"], "values": requirement["values"],
    }] });
    let Ok(selector) = LabelSelector::from_value(&expression) else { return false };
    let mut named = values.iter().filter(|value| !value.is_empty()).peekable();
    if named.peek().is_none() {
        return selector.matches(|_| None);
    }
    named.any(|value| selector.matches(|key| (key == scope).then_some(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Counted<'static> = Counted { group: "", plural: "pods" };

    fn claim(class: &str) -> Value {
        json!({ "spec": { "volumeAttributesClassName": class }})
    }

    #[test]
    fn resources_count_kinds() {
        let of = |group, plural| Counted { group, plural };
        for (counted, resource, expected) in [
            (POD, "pods", true),
            (POD, "count/pods", true),
            (POD, "limits.cpu", true),
            (POD, "requests.example.com/gpu", true),
            (POD, "example.com/gpu", false),
            (POD, "hugepages-2Mi", true),
            (POD, "requests.hugepages-2Mi", true),
            (POD, "requests.storage", false),
            (of("", "services"), "services.nodeports", true),
            (of("", "services"), "count/services", true),
            (of("", "configmaps"), "configmaps", true),
            (of("", "serviceaccounts"), "serviceaccounts", false),
            (of("", "serviceaccounts"), "count/serviceaccounts", true),
            (of("apps", "deployments"), "count/deployments.apps", true),
            (of("apps", "deployments"), "count/deployments", false),
            (of("", "persistentvolumeclaims"), "gold.storageclass.storage.k8s.io/requests.storage", true),
            (of("", "persistentvolumeclaims"), "gold.storageclass.storage.k8s.io/cpu", false),
            (of("", "events"), "count/events", false),
        ] {
            assert_eq!(counted.is_counted_by(resource), expected, "{counted:?} {resource}");
        }
    }

    #[test]
    fn scopes_choose_objects() {
        let pod = json!({ "spec": { "priorityClassName": "high", "containers": [{ "name": "c" }] } });
        let quota = |requirement: Value| json!({ "spec": { "scopeSelector": { "matchExpressions": [requirement] } } });
        let class = |operator: &str, values: Value| {
            quota(json!({ "scopeName": "PriorityClass", "operator": operator, "values": values }))
        };
        for (quota, expected) in [
            (class("In", json!(["high", "low"])), true),
            (class("In", json!(["low"])), false),
            (class("NotIn", json!(["low"])), true),
            (class("Exists", json!([])), true),
            (class("DoesNotExist", json!([])), false),
            (json!({ "spec": { "scopes": ["BestEffort", "NotTerminating"] } }), true),
            (json!({ "spec": { "scopes": ["BestEffort", "Terminating"] } }), false),
            (json!({ "spec": {} }), true),
        ] {
            assert_eq!(POD.is_in_scope(&quota, &pod), expected, "{quota}");
        }
        let claims = Counted { group: "", plural: "persistentvolumeclaims" };
        let gold =
            quota(json!({ "scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"] }));
        assert!(claims.is_in_scope(&gold, &claim("gold")));
        assert!(!claims.is_in_scope(&gold, &claim("")));
        assert!(!Counted { group: "", plural: "services" }.is_in_scope(&gold, &json!({})));
    }

    #[test]
    fn what_may_use_more_is_charged() {
        let services = Counted { group: "", plural: "services" };
        let (old, new) = (json!({ "spec": 1 }), json!({ "spec": 2 }));
        assert!(POD.is_charged(None, &new, None));
        assert!(!POD.is_charged(Some(&old), &new, None));
        assert!(POD.is_charged(Some(&old), &new, Some(Subresource::Resize)));
        assert!(services.is_charged(Some(&old), &new, None));
        assert!(!services.is_charged(Some(&old), &new, Some(Subresource::Status)));
        assert!(!Counted { group: "", plural: "events" }.is_charged(None, &new, None));
    }
}
