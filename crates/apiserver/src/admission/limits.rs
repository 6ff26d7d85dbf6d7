//! LimitRanger: containers get the limits of their namespace where they name none, and nothing goes beyond them.

use dray_machinery::{Status, object, quantity::Quantity};
use serde_json::{Map, Value, json};

use super::{Admission, Operation};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The limits of a type in a namespace, each an item of a LimitRange.
fn limits(admission: &Admission<'_>, of: &str) -> Result<Vec<Value>, Status> {
    let ranges = admission.all("core/limitranges", &admission.request().namespace)?;
    let items = ranges
        .iter()
        .flat_map(|range| object::at(range, &["spec", "limits"]).as_array().into_iter().flatten());
    Ok(items.filter(|item| item["type"] == of).cloned().collect())
}

pub(super) fn set_defaults(admission: &Admission<'_>, pod: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "pods") {
        return Ok(());
    }
    let items = limits(admission, "Container")?;
    if items.is_empty() {
        return Ok(());
    }
    let mut told = Vec::new();
    for (containers, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in object::items_mut(&mut pod["spec"], containers) {
            let name = object::text(container, &["name"]).to_owned();
            for (field, default, word) in
                [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
            {
                let set = fill(container, field, items.iter().filter_map(|item| item[default].as_object()));
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        object::child(&mut pod["metadata"], "annotations").insert(ANNOTATION.to_owned(), json!(text));
    }
    Ok(())
}

/// Sets what a container does not say, and tells what that was.
fn fill<'a>(
    container: &mut Value,
    field: &str,
    defaults: impl Iterator<Item = &'a Map<String, Value>>,
) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, amount) in defaults.flatten() {
        if !object::at(container, &["resources", field, resource]).is_null() {
            continue;
        }
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        object::child(&mut container["resources"], field).insert(resource.clone(), amount.clone());
        set.push(resource.clone());
    }
    set.sort();
    set
}

pub(super) fn check(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    let mut wrong = Vec::new();
    if admission.creates("", "pods") {
        let containers = limits(admission, "Container")?;
        let pods = limits(admission, "Pod")?;
        if containers.is_empty() && pods.is_empty() {
            return Ok(());
        }
        let spec = &new["spec"];
        let all = |field: &str| {
            spec[field].as_array().into_iter().flatten().map(|container| &container["resources"])
        };
        for resources in all("containers").chain(all("initContainers")) {
            containers.iter().for_each(|item| compare(item, "Container", resources, &mut wrong));
        }
        let total = total(all("containers").collect(), all("initContainers").collect());
        pods.iter().for_each(|item| compare(item, "Pod", &total, &mut wrong));
    } else if admission.is("", "persistentvolumeclaims") && admission.operation != Operation::Delete {
        let resources = &new["spec"]["resources"];
        for item in limits(admission, "PersistentVolumeClaim")? {
            compare(&item, "PersistentVolumeClaim", resources, &mut wrong);
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(admission.forbidden(one)),
        many => Err(admission.forbidden(format!("[{}]", many.join(", ")))),
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// What a pod asks for in all: its containers together, or the largest of those that run before them.
fn total(containers: Vec<&Value>, before: Vec<&Value>) -> Value {
    let mut total = json!({});
    for field in ["requests", "limits"] {
        let mut sums: Map<String, Value> = Map::new();
        let resources = containers.iter().chain(&before).filter_map(|one| one[field].as_object());
        for resource in resources.flat_map(Map::keys) {
            let millis = |one: &&Value| amount(&one[field][resource]).map(|amount| amount.millis());
            // A pod is limited only where all of its containers are.
            if field == "limits" && !containers.iter().all(|one| millis(one).is_some()) {
                continue;
            }
            let sum: i64 = containers.iter().filter_map(millis).fold(0, i64::saturating_add);
            let largest = before.iter().filter_map(millis).max().unwrap_or(0);
            sums.insert(resource.clone(), json!(format!("{}m", sum.max(largest))));
        }
        total[field] = Value::Object(sums);
    }
    total
}

/// Compares what is asked for with an item of a LimitRange.
fn compare(item: &Value, of: &str, resources: &Value, wrong: &mut Vec<String>) {
    let (requests, limits) = (&resources["requests"], &resources["limits"]);
    let bounds = |field: &str| {
        let all = item[field].as_object().cloned().unwrap_or_default();
        all.into_iter().filter_map(|(resource, bound)| Some((resource, amount(&bound)?))).collect::<Vec<_>>()
    };
    for (resource, least) in bounds("min") {
        let says = format!("minimum {resource} usage per {of} is {least}");
        match (amount(&requests[&resource]), amount(&limits[&resource])) {
            (None, _) => wrong.push(format!("{says}.  No request is specified")),
            (Some(request), _) if request < least => wrong.push(format!("{says}, but request is {request}")),
            (_, Some(limit)) if limit < least => wrong.push(format!("{says}, but limit is {limit}")),
            _ => {}
        }
    }
    for (resource, most) in bounds("max") {
        let says = format!("maximum {resource} usage per {of} is {most}");
        match (amount(&requests[&resource]), amount(&limits[&resource])) {
            // A claim has no limits: what it asks for is what it gets.
            (Some(request), _) if of == "PersistentVolumeClaim" && request <= most => {}
            (_, Some(limit)) if limit > most => wrong.push(format!("{says}, but limit is {limit}")),
            (Some(request), _) if request > most => wrong.push(format!("{says}, but request is {request}")),
            (_, None) => wrong.push(format!("{says}.  No limit is specified")),
            _ => {}
        }
    }
    for (resource, ratio) in bounds("maxLimitRequestRatio") {
        let says = format!("{resource} max limit to request ratio per {of} is {ratio}");
        let given = |value: &Value| amount(value).map(|amount| amount.millis()).filter(|millis| *millis > 0);
        match (given(&requests[&resource]), given(&limits[&resource])) {
            (None, _) => wrong.push(format!("{says}, but no request is specified or request is 0")),
            (_, None) => wrong.push(format!("{says}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                #[allow(clippy::cast_precision_loss, reason = "it is for people")]
                let actual = limit as f64 / request as f64;
                if i128::from(limit) * 1000 > i128::from(request) * i128::from(ratio.millis()) {
                    wrong.push(format!("{says}, but provided ratio is {actual:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(item: &Value, resources: &Value, expected: &[&str]) {
        let mut wrong = Vec::new();
        compare(item, "Container", resources, &mut wrong);
        assert_eq!(wrong, expected, "{item} {resources}");
    }

    #[test]
    fn what_is_beyond_is_told() {
        let min = json!({ "min": { "cpu": "100m" } });
        check(&min, &json!({}), &["minimum cpu usage per Container is 100m.  No request is specified"]);
        let small = json!({ "requests": { "cpu": "50m" } });
        check(&min, &small, &["minimum cpu usage per Container is 100m, but request is 50m"]);
        check(&min, &json!({ "requests": { "cpu": "0.1" } }), &[]);
        let max = json!({ "max": { "memory": "1Gi" } });
        check(&max, &json!({}), &["maximum memory usage per Container is 1Gi.  No limit is specified"]);
        let large = json!({ "limits": { "memory": "2Gi" } });
        check(&max, &large, &["maximum memory usage per Container is 1Gi, but limit is 2Gi"]);
        let ratio = json!({ "maxLimitRequestRatio": { "cpu": "2" } });
        let steep = json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "300m" } });
        let told = "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000";
        check(&ratio, &steep, &[told]);
        check(&ratio, &json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "200m" } }), &[]);
    }

    #[test]
    fn a_pod_is_its_containers_together_or_the_largest_before_them() {
        let (one, two) = (json!({ "requests": { "cpu": "100m" } }), json!({ "requests": { "cpu": "1" } }));
        assert_eq!(total(vec![&one, &one], vec![&two])["requests"]["cpu"], "1000m");
        assert_eq!(total(vec![&one, &two], vec![&two])["requests"]["cpu"], "1100m");
        // One container without a limit, and the pod has none.
        let limited = json!({ "limits": { "cpu": "1" } });
        assert_eq!(total(vec![&one, &limited], vec![])["limits"], json!({}));
    }
}
