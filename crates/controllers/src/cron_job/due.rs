//! Which time of a schedule is due, and which is the next. It does no I/O.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;

use super::schedule::Schedule;

/// More missed times than this are worth a word.
const MANY: i64 = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The last time that has come and was not seen to.
    pub(super) time: Option<Timestamp>,
    /// The first that has not come yet.
    pub(super) next: Option<Timestamp>,
    /// Whether suspiciously many were missed.
    pub(super) too_many: bool,
}

/// What is due of a CronJob.
pub(super) fn due(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Due {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let since = last.or(cron.metadata.creation_timestamp.as_ref()).map_or(now, |time| time.0);
    let allowed = cron.spec.starting_deadline_seconds;
    let earliest = allowed.and_then(|allowed| now.checked_sub(SignedDuration::from_secs(allowed)).ok());
    let from = earliest.map_or(since, |earliest| earliest.max(since));
    let time = schedule.last_between(from, now);
    // A schedule of spans goes on from where it was.
    let next =
        schedule.after(time.unwrap_or(from)).filter(|next| *next > now).or_else(|| schedule.after(now));
    Due { time, next, too_many: time.is_some() && missed(schedule, from, now) > MANY }
}

/// About how many times have come, by the distance of the first two, as the reference reckons.
fn missed(schedule: &Schedule, from: Timestamp, now: Timestamp) -> i64 {
    let Some(first) = schedule.after(from) else { return 0 };
    let Some(second) = schedule.after(first).filter(|second| *second <= now) else { return 1 };
    now.duration_since(first).as_secs() / second.duration_since(first).as_secs().max(1) + 1
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn of_what_was_missed_only_the_last_is_due() {
        let none = json!({});
        for (schedule, spec, status, now, time, next, too_many) in [
            ("0 * * * *", json!({}), &none, "00:30", None, "01:00", false),
            ("0 * * * *", json!({}), &none, "01:00", Some("01:00"), "02:00", false),
            ("0 * * * *", json!({}), &none, "05:30", Some("05:00"), "06:00", false),
            ("* * * * *", json!({}), &none, "01:40", Some("01:40"), "01:41", false),
            ("* * * * *", json!({}), &none, "01:41", Some("01:41"), "01:42", true),
            (
                "* * * * *",
                json!({ "startingDeadlineSeconds": 600 }),
                &none,
                "09:41",
                Some("09:41"),
                "09:42",
                false,
            ),
            ("0 * * * *", json!({ "startingDeadlineSeconds": 600 }), &none, "05:30", None, "06:00", false),
            (
                "0 * * * *",
                json!({}),
                &json!({ "lastScheduleTime": "2026-01-01T05:00:00Z" }),
                "05:30",
                None,
                "06:00",
                false,
            ),
            ("@every 20m", json!({}), &none, "00:50", Some("00:40"), "01:00", false),
        ] {
            let at = |text: &str| -> Timestamp { format!("2026-01-01T{text}:00Z").parse().unwrap() };
            let mut spec = spec;
            spec["schedule"] = json!(schedule);
            spec["jobTemplate"] = json!({});
            let cron: CronJob = serde_json::from_value(json!({
                "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": spec, "status": status,
            }))
            .unwrap();
            let parsed = Schedule::parse(schedule, TimeZone::UTC).unwrap();
            let expected = Due { time: time.map(at), next: Some(at(next)), too_many };
            assert_eq!(due(&cron, &parsed, at(now)), expected, "{schedule} {now}");
        }
    }
}
