//! Pods that a Job kept until they were counted, when no Job will count them any more: they are let go.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::Client;

use super::pod::TRACKING;
use super::{finished, is_ours, status};
use crate::error::Result;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many pods are looked at at the same time.
const WIDTH: usize = 16;

/// Lets go what no Job counts.
pub(crate) struct Orphans {
    client: Client,
    jobs: Arc<Informer<Job>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Orphans {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, jobs: Arc<Informer<Job>>, pods: Arc<Informer<Pod>>) -> Orphans {
        let queue = Queue::new("job pods");
        pods.on_change({
            let (queue, jobs) = (queue.clone(), jobs.clone());
            move |change| {
                let pod = change.object();
                if !matches!(change, Change::Deleted(_)) && is_orphan(&jobs, pod) {
                    queue.add(ObjectKey::of(&**pod));
                }
            }
        });
        jobs.on_change({
            let (queue, pods) = (queue.clone(), pods.clone());
            move |change| {
                let job = change.object();
                if matches!(change, Change::Deleted(_)) || finished(job).is_some() {
                    let kept = pods.owned_by(owner::uid(&**job));
                    for pod in kept.iter().filter(|pod| pod.has_finalizer(TRACKING)) {
                        queue.add(ObjectKey::of(&**pod));
                    }
                }
            }
        });
        Orphans { client, jobs, pods, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.jobs.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        if let Some(pod) = self.pods.get(&key).filter(|pod| is_orphan(&self.jobs, pod)) {
            status::lift(self.client.clone(), &pod).await?;
        }
        Ok(None)
    }
}

/// Whether a pod is kept for a Job that is not, or has ended.
fn is_orphan(jobs: &Informer<Job>, pod: &Pod) -> bool {
    if !pod.has_finalizer(TRACKING) {
        return false;
    }
    let Some(owner) = owner::controller(pod).filter(|owner| owner.kind == "Job") else { return true };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let job = jobs.get(&ObjectKey::new(namespace, owner.name.clone()));
    job.filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid))
        .is_none_or(|job| finished(&job).is_some() && job.spec.as_ref().is_some_and(is_ours))
}
