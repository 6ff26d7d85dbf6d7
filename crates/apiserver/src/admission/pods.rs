//! Priority and DefaultTolerationSeconds: what every pod says in the end of how important it is and how long it stays on
//! a node that is gone.

use dray_machinery::{Status, object};
use serde_json::{Value, json};

use super::Admission;

/// For how long a pod stays on a node that is not ready or not reachable, in seconds.
const TOLERATION_SECONDS: u64 = 300;
/// Classes that need no object.
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn set_priority(admission: &Admission<'_>, pod: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "pods") {
        return Ok(());
    }
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    let name = object::text(spec, &["priorityClassName"]).to_owned();
    let stored = admission.stored("scheduling.k8s.io/priorityclasses", &name)?;
    let system = SYSTEM_CLASSES.iter().find(|(class, _)| *class == name);
    let (priority, policy) = match (stored, system) {
        (Some(class), _) => of_class(&class),
        (None, Some((_, priority))) => (*priority, None),
        (None, None) if !name.is_empty() => {
            return Err(admission.forbidden(format!("no PriorityClass with name {name} was found")));
        }
        (None, None) => {
            let classes = admission.all("scheduling.k8s.io/priorityclasses", "")?;
            let defaults = classes.iter().filter(|class| class["globalDefault"] == true);
            // Of several, the least important.
            match defaults.min_by_key(|class| class["value"].as_i64()) {
                Some(class) => {
                    spec["priorityClassName"] = json!(object::name(class));
                    of_class(class)
                }
                None => (0, None),
            }
        }
    };
    if spec["priority"].as_i64().is_some_and(|given| given != priority) {
        return Err(admission.forbidden(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name",
            spec["priority"]
        )));
    }
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    let given = object::text(spec, &["preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        return Err(admission.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    spec["priority"] = json!(priority);
    spec["preemptionPolicy"] = json!(policy);
    Ok(())
}

fn of_class(class: &Value) -> (i64, Option<String>) {
    (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str().map(str::to_owned))
}

pub(super) fn add_tolerations(admission: &Admission<'_>, pod: &mut Value) -> Result<(), Status> {
    if !admission.is("", "pods") {
        return Ok(());
    }
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    if spec["tolerations"].is_null() {
        spec["tolerations"] = json!([]);
    }
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return Ok(()) };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    Ok(())
}
