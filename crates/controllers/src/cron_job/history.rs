//! Which ended Jobs of a CronJob are more than it keeps.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJobSpec, Job};

use crate::job::finished;

/// The Jobs to delete: the oldest of those that ended well, and of those that did not.
pub(super) fn surplus(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let of = |(end, limit): (&str, Option<i32>)| {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
        let ended = |job: &&Arc<Job>| finished(job).is_some_and(|condition| condition.type_ == end);
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(ended).cloned().collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            // One that never began is the youngest.
            (start.is_none(), start, job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        ended
    };
    limits.into_iter().flat_map(of).filter(|job| job.metadata.deletion_timestamp.is_none()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_go() {
        let job = |name: &str, start: Option<&str>, end: &str| -> Arc<Job> {
            let job = json!({
                "metadata": { "name": name },
                "status": { "startTime": start, "conditions": [{ "type": end, "status": "True" }] },
            });
            Arc::new(serde_json::from_value(job).unwrap())
        };
        let jobs = [
            job("c", Some("2026-01-03T00:00:00Z"), "Complete"),
            job("a", Some("2026-01-01T00:00:00Z"), "Complete"),
            job("b", Some("2026-01-02T00:00:00Z"), "Complete"),
            job("x", None, "Failed"),
            job("y", Some("2026-01-02T00:00:00Z"), "Failed"),
            job("going", None, "Suspended"),
        ];
        for (well, badly, expected) in [
            (Some(2), Some(1), vec!["a", "y"]),
            (Some(0), None, vec!["a", "b", "c"]),
            (None, Some(5), vec![]),
        ] {
            let spec = CronJobSpec {
                successful_jobs_history_limit: well,
                failed_jobs_history_limit: badly,
                ..CronJobSpec::default()
            };
            let names: Vec<_> =
                surplus(&spec, &jobs).iter().filter_map(|job| job.metadata.name.clone()).collect();
            assert_eq!(names, expected);
        }
    }
}
