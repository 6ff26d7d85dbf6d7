//! PodSecurity: the pod security standards that a namespace's labels ask for
//! (<https://kubernetes.io/docs/concepts/security/pod-security-admission/>).

use dray_machinery::{FieldErrors, Status, Subresource, object};
use serde_json::Value;

use super::{Admission, Operation, security_checks};

/// How much pods may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

const LABEL: &str = "pod-security.kubernetes.io/";
const LEVELS: &[(&str, Level)] =
    &[("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];
/// Existing pods that are looked at when a namespace becomes stricter.
const LOOKED_AT: usize = 3000;

/// Where the template of a pod is in what makes pods.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
];

/// The level that a namespace asks for in a mode ("enforce", "warn"), and how it says so. What cannot be read is the
/// strictest, as in the reference.
fn level(namespace: &Value, mode: &str) -> (Level, String) {
    let labels = object::meta_map(namespace, "labels");
    let text = |label: String| labels.and_then(|all| all[&label].as_str()).unwrap_or_default();
    let labels =
        |label: String| if labels.is_some_and(|all| all.contains_key(&label)) { text(label) } else { "" };
    let given = labels(format!("{LABEL}{mode}"));
    let version = labels(format!("{LABEL}{mode}-version"));
    let version = if version.is_empty() { "latest" } else { version };
    let level = match given {
        "" => Level::Privileged,
        given => {
            LEVELS.iter().find(|(name, _)| *name == given).map_or(Level::Restricted, |(_, level)| *level)
        }
    };
    let name = LEVELS.iter().find(|(_, one)| *one == level).map_or("", |(name, _)| name);
    (level, format!("{name}:{version}"))
}

/// What of a pod is beyond a level, in words; none when nothing is.
fn violations(level: Level, metadata: &Value, spec: &Value) -> Option<String> {
    let found = security_checks::run(level, metadata, spec);
    (!found.is_empty()).then(|| found.join(", "))
}

pub(super) fn check(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    if admission.operation == Operation::Delete {
        return Ok(());
    }
    if admission.is("", "namespaces") {
        return check_namespace(admission, new);
    }
    let request = admission.request();
    let template = TEMPLATES.iter().find(|(group, plural, _)| admission.is(group, plural));
    let pod = admission.creates("", "pods")
        || admission.is_part("", "pods", Some(Subresource::EphemeralContainers));
    if template.is_none() && !pod {
        return Ok(());
    }
    let Some(namespace) = admission.stored("core/namespaces", &request.namespace)? else { return Ok(()) };
    let of = template.map_or(new, |(.., path)| object::at(new, path));
    let beyond = |mode: &str| {
        let (level, said) = level(&namespace, mode);
        violations(level, &of["metadata"], &of["spec"]).map(|why| (said, why))
    };
    if pod && let Some((said, why)) = beyond("enforce") {
        return Err(admission.forbidden(format!("violates PodSecurity {said:?}: {why}")));
    }
    if let Some((said, why)) = beyond("warn") {
        admission.warn(format!("would violate PodSecurity {said:?}: {why}"));
    }
    Ok(())
}

fn check_namespace(admission: &Admission<'_>, namespace: &Value) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    for mode in ["enforce", "audit", "warn"] {
        for (label, is_version) in
            [(format!("{LABEL}{mode}"), false), (format!("{LABEL}{mode}-version"), true)]
        {
            let Some(given) = object::meta_map(namespace, "labels").and_then(|all| all.get(&label)?.as_str())
            else {
                continue;
            };
            if is_version {
                let numbered = given.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u16>().is_ok());
                if given != "latest" && !numbered {
                    errors.invalid(
                        format!("metadata.labels[{label}]"),
                        given,
                        r#"must be "latest" or "v1.x""#,
                    );
                }
            } else if !LEVELS.iter().any(|(name, _)| *name == given) {
                let levels = "must be one of privileged, baseline, restricted";
                errors.invalid(format!("metadata.labels[{label}]"), given, levels);
            }
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Namespace", admission.name, errors.as_slice()));
    }
    let ((before, _), (after, said)) = (level(admission.old, "enforce"), level(namespace, "enforce"));
    if admission.operation != Operation::Update || after <= before {
        return Ok(());
    }
    let mut beyond = Vec::new();
    for pod in admission.all("core/pods", admission.name)?.iter().take(LOOKED_AT) {
        if let Some(why) = violations(after, &pod["metadata"], &pod["spec"]) {
            beyond.push(format!("{}: {why}", object::name(pod)));
        }
    }
    if !beyond.is_empty() {
        admission.warn(format!(
            "existing pods in namespace {:?} violate the new PodSecurity enforce level {said:?}",
            admission.name
        ));
        beyond.into_iter().for_each(|text| admission.warn(text));
    }
    Ok(())
}
