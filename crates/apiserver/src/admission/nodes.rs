//! TaintNodesByCondition: a new node takes no pods until it has said that it is ready.

use dray_machinery::Status;
use serde_json::{Value, json};

use super::Admission;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn taint(admission: &Admission<'_>, node: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "nodes") {
        return Ok(());
    }
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    let taints = &mut node["spec"]["taints"];
    if taints.is_null() {
        *taints = json!([]);
    }
    let Some(taints) = taints.as_array_mut() else { return Ok(()) };
    let tainted = taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule");
    if !tainted {
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
    }
    Ok(())
}
