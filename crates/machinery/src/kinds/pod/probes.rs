//! Probes and hooks of containers.

use serde_json::{Value, json};

use super::super::fill::{default_text, default_value};
use crate::{FieldErrors, kinds::field::Field, names};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];

pub(super) fn defaults(container: &mut Value) {
    for name in PROBES {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            if probe[field].as_i64().unwrap_or(0) == 0 {
                probe[field] = json!(value);
            }
        }
        default_handler(probe);
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        lifecycle.values_mut().for_each(default_handler);
    }
}

fn default_handler(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc") {
        default_value(grpc, "service", json!(""));
    }
}

/// Checks probes and hooks. `grace` is how long the pod has to end.
pub(super) fn validate(container: &Field<'_>, grace: Option<i64>, errors: &mut FieldErrors) {
    for hook in HOOKS {
        let hook = container.get("lifecycle").get(hook);
        if hook.is_set() {
            handler(&hook, true, grace, errors);
        }
    }
    let signal = container.at(&["lifecycle", "stopSignal"]);
    if signal.is_set() && !signal.text().starts_with("SIG") {
        signal.unsupported(
            &["SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"],
            errors,
        );
    }
    for name in PROBES {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, false, grace, errors);
        probe.none_negative(
            &[
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ],
            errors,
        );
        let seconds = probe.get("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            if seconds.is_set() {
                seconds.invalid("must not be set for readinessProbes", errors);
            }
            continue;
        }
        if seconds.number().is_some_and(|seconds| seconds <= 0) {
            seconds.invalid("must be greater than 0", errors);
        }
        let successes = probe.get("successThreshold");
        if successes.number().is_some_and(|count| count != 1) {
            successes.invalid("must be 1", errors);
        }
    }
}

/// Nothing of this is for containers that only run before the others.
pub(super) fn forbid(container: &Field<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "may not be set for init containers without restartPolicy=Always";
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(name).is_set() {
            container.get(name).forbidden(WHY, errors);
        }
    }
}

fn handler(handler: &Field<'_>, hook: bool, grace: Option<i64>, errors: &mut FieldErrors) {
    let kinds: &[&str] = if hook {
        &["exec", "httpGet", "tcpSocket", "sleep"]
    } else {
        &["exec", "httpGet", "tcpSocket", "grpc"]
    };
    let mut present = 0;
    for kind in kinds {
        let action = handler.get(kind);
        if !action.is_set() {
            continue;
        }
        present += 1;
        if present > 1 {
            action.forbidden("may not specify more than 1 handler type", errors);
            continue;
        }
        match *kind {
            "exec" => action.get("command").needed(errors),
            "httpGet" => http_get(&action, errors),
            "tcpSocket" => action.get("port").port_or_name(errors),
            "grpc" => action.get("port").port(errors),
            _ => {
                let seconds = action.get("seconds");
                let most = grace.unwrap_or(30);
                if seconds.number().is_none_or(|seconds| !(0..=most).contains(&seconds)) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({most}). Enable \
                         AllowPodLifecycleSleepActionZeroValue feature gate for zero sleep."
                    );
                    seconds.invalid(detail, errors);
                }
            }
        }
    }
    if present == 0 {
        handler.required("must specify a handler type", errors);
    }
}

fn http_get(action: &Field<'_>, errors: &mut FieldErrors) {
    action.get("path").needed(errors);
    action.get("port").port_or_name(errors);
    action.get("scheme").one_of(&["HTTP", "HTTPS"], errors);
    for header in action.get("httpHeaders").items() {
        header.get("name").ruled(names::header, errors);
    }
}
