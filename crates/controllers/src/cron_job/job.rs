//! The Jobs that a CronJob makes.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};

use crate::owner;

/// Says for which time a Job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The name of the Job of a time: one time has one Job, whoever makes it.
pub(super) fn name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), time.as_second() / 60)
}

/// The Job of a time.
pub(super) fn new(cron: &CronJob, spec: &CronJobSpec, time: Timestamp) -> Job {
    let given = spec.job_template.metadata.clone().unwrap_or_default();
    let zone = spec.time_zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    let shown = time.to_zoned(zone);
    let form = if shown.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), shown.strftime(form).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name(cron, time)),
            namespace: cron.namespace(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// How a CronJob's status names a Job.
pub(super) fn reference(job: &Job) -> ObjectReference {
    let mut reference = job.object_ref(&());
    reference.resource_version = job.metadata.resource_version.clone();
    reference
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_tells_its_time_where_the_schedule_is() {
        for (zone, expected) in [
            (json!(null), "2026-07-01T12:30:00Z"),
            (json!("Europe/Zurich"), "2026-07-01T14:30:00+02:00"),
            (json!("America/New_York"), "2026-07-01T08:30:00-04:00"),
        ] {
            let cron: CronJob = serde_json::from_value(json!({
                "metadata": { "name": "tick", "namespace": "n", "uid": "u" },
                "spec": { "schedule": "* * * * *", "timeZone": zone, "jobTemplate": {
                    "metadata": { "labels": { "a": "b" }, "annotations": { "c": "d" } },
                    "spec": { "parallelism": 2, "template": {} },
                } },
            }))
            .unwrap();
            let time = "2026-07-01T12:30:00Z".parse().unwrap();
            let job = new(&cron, &cron.spec, time);
            assert_eq!(job.name_any(), "tick-29715150");
            assert_eq!(job.annotations()[SCHEDULED], expected);
            assert_eq!((job.labels()["a"].as_str(), job.annotations()["c"].as_str()), ("b", "d"));
            assert_eq!(job.owner_references()[0].uid, "u");
            assert_eq!(job.spec.unwrap().parallelism, Some(2));
        }
    }
}
