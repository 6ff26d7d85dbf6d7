//! Which container of the engine a request means.

use std::sync::Arc;

use dray_engine::{ContainerHandle, ContainerRecord, SandboxRecord};
use http::StatusCode;

use super::Refusal;
use crate::context::Context;
use crate::identity::Belonging;

/// The starts of a pod's container, newest first. Of pods that had the same name one after the other only the last.
fn starts(context: &Context, namespace: &str, pod: &str, container: &str) -> Vec<Arc<ContainerRecord>> {
    let uid = uid(context, namespace, pod);
    let mut found: Vec<(u32, Arc<ContainerRecord>)> = context
        .engine
        .containers()
        .into_iter()
        .filter_map(|record| {
            let belonging = Belonging::of(&record)?;
            let fits = Some(belonging.uid) == uid.as_deref() && belonging.container == container;
            let attempt = belonging.attempt;
            fits.then(|| (attempt, Arc::clone(&record)))
        })
        .collect();
    found.sort_by_key(|(attempt, _)| std::cmp::Reverse(*attempt));
    found.into_iter().map(|(_, record)| record).collect()
}

/// The uid of the newest pod of this name that has containers.
fn uid(context: &Context, namespace: &str, pod: &str) -> Option<String> {
    // The engine's list begins with the newest.
    context.engine.containers().iter().find_map(|record| {
        let belonging = Belonging::of(record)?;
        (belonging.namespace == namespace && belonging.pod == pod).then(|| belonging.uid.to_owned())
    })
}

/// The newest start of a container, or the one before it.
///
/// # Errors
/// 400 when it has not been started, as the kubelet says it.
pub(super) fn container(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<Arc<ContainerHandle>, Refusal> {
    let found = starts(context, namespace, pod, container);
    let record = found.get(usize::from(previous)).ok_or_else(|| {
        Refusal::bad_request(if previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating")
        })
    })?;
    context
        .engine
        .container(&record.name)
        .map_err(|error| Refusal::new(StatusCode::NOT_FOUND, error.to_string()))
}

/// The namespaces of a pod.
///
/// # Errors
/// 404 when the pod does not run here.
pub(super) fn sandbox(context: &Context, namespace: &str, pod: &str) -> Result<SandboxRecord, Refusal> {
    let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("pod {pod}_{namespace} does not run here"));
    let uid = uid(context, namespace, pod).ok_or_else(missing)?;
    context.engine.sandbox(&uid).map_err(|_| missing())
}
