use dray_machinery::Subresource::Status;
use serde_json::json;

use super::case;

const JOB: &str = "
spec:
  template:
    metadata: {labels: {app: work}}
    spec: {restartPolicy: Never, containers: [{name: work, image: 'work:1'}]}
";

#[test]
fn jobs() {
    let job = case("batch/v1 Job", JOB);
    job.defaults(
        "{}",
        "
metadata: {labels: {app: work, job-name: test, batch.kubernetes.io/job-name: test}}
spec: {completions: 1, parallelism: 1, backoffLimit: 6, completionMode: NonIndexed, suspend: false,
  manualSelector: false, podReplacementPolicy: TerminatingOrFailed}
",
    );
    job.defaults("spec: {parallelism: 3}", "spec: {parallelism: 3}");
    job.defaults(
        "spec: {completionMode: Indexed, completions: 2, backoffLimitPerIndex: 1}",
        "spec: {backoffLimit: 2147483647}",
    );
    let uid = job.made("{}")["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"].clone();
    assert_eq!(uid.as_str().unwrap().len(), 36);
    job.refuses(&[
        ("spec: {parallelism: -1}", &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"]),
        (
            "spec: {template: {spec: {restartPolicy: Always}}}",
            &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        ),
        (
            "spec: {completionMode: Indexed, completions: null, parallelism: 1}",
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            "spec: {completionMode: Some}",
            &["spec.completionMode: Unsupported value: \"Some\": supported values: \"NonIndexed\", \"Indexed\""],
        ),
        (
            "spec: {completionMode: Indexed, completions: 2, parallelism: 100001}",
            &["spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"],
        ),
        (
            "spec: {maxFailedIndexes: 1}",
            &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
            ],
        ),
        (
            "spec: {managedBy: me}",
            &["spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
        ),
        (
            "spec: {podReplacementPolicy: Never}",
            &["spec.podReplacementPolicy: Unsupported value: \"Never\": supported values: \"Failed\", \"TerminatingOrFailed\""],
        ),
        (
            "spec: {podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [0, 0]}}]}}",
            &[
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value: 0",
            ],
        ),
        (
            "spec: {podFailurePolicy: {rules: [{action: Ignore}, {action: Stop, onExitCodes: {containerName: x, operator: In, values: [3, 2]}}]}}",
            &[
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "spec.podFailurePolicy.rules[1].action: Unsupported value: \"Stop\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[1].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [3,2]: must be ordered",
            ],
        ),
        (
            "spec: {successPolicy: {rules: [{succeededCount: 1}]}}",
            &["spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode"],
        ),
        (
            "spec: {completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: '2,1'}, {}, {succeededCount: 4}]}}",
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"2,1\": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1",
                "spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                "spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)",
            ],
        ),
        (
            "{metadata: {name: a.b}, spec: {completionMode: Indexed, completions: 1}}",
            &["metadata.name: Invalid value: \"a.b\": will not able to create pod with invalid DNS label: a.b-0"],
        ),
        ("spec: {manualSelector: true}", &["spec.selector: Required value", "spec.template.metadata.labels: Invalid value…"]),
    ]);
    job.refuses_updates(&[
        ("spec: {suspend: true, parallelism: 2}", &[]),
        ("spec: {completions: 2}", &["spec.completions: Invalid value: 2: field is immutable"]),
        (
            "spec: {template: {spec: {containers: [{name: work, image: 'x:1'}]}}}",
            &["spec.template: Invalid value…"],
        ),
        (
            "spec: {completionMode: Indexed}",
            &["spec.completionMode: Invalid value: \"Indexed\": field is immutable"],
        ),
    ]);
    let plain = "{metadata: {uid: u}, spec: {selector: {matchLabels: {a: b, batch.kubernetes.io/controller-uid: null}}}, status: {succeeded: 1, conditions: [{type: Complete, status: 'True'}]}}";
    job.shows(plain, json!(["test", "Complete", "1/1", "", "100s", "work", "work:1", "a=b"]));
}

#[test]
fn suspended_jobs_may_move() {
    let job = case("batch/v1 Job", &format!("{JOB}  suspend: true\n"));
    job.refuses_updates(&[
        ("spec: {template: {spec: {nodeSelector: {a: b}, tolerations: [{operator: Exists}]}}}", &[]),
        ("spec: {template: {spec: {hostNetwork: true}}}", &["spec.template: Invalid value…"]),
    ]);
}

#[test]
fn the_status_of_jobs() {
    let job = case("batch/v1 Job", JOB);
    job.refuses_parts(
        Status,
        "status: {startTime: '2026-01-01T00:00:00Z', failed: 1}",
        &[
            (
                "status: {completionTime: '2026-01-01T00:00:01Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]}",
                &[],
            ),
            ("status: {failed: 0}", &["status.failed: Invalid value: 0: cannot decrease the failed counter"]),
            ("status: {active: -1}", &["status.active: Invalid value: -1: must be greater than or equal to 0"]),
            (
                "status: {conditions: [{type: Failed, status: 'True'}]}",
                &["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"],
            ),
            (
                "status: {completionTime: '2026-01-01T00:00:01Z'}",
                &["status.completionTime: Invalid value: \"2026-01-01T00:00:01Z\": cannot set completionTime when there is no Complete=True condition"],
            ),
            (
                "status: {completedIndexes: '1'}",
                &[
                    "status.completedIndexes: Invalid value: \"1\": error parsing completedIndexes: too large index: \"1\"",
                    "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode",
                ],
            ),
            ("status: {ready: 1}", &["status.ready: Invalid value: 1: cannot set more ready pods than active"]),
            ("status: {startTime: null}", &["status.startTime: Required value: startTime cannot be removed for unsuspended job"]),
        ],
    );
}

#[test]
fn cron_jobs() {
    let job = case(
        "batch/v1 CronJob",
        "spec: {schedule: '*/5 * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}",
    );
    job.defaults(
        "{}",
        "spec: {concurrencyPolicy: Allow, suspend: false, successfulJobsHistoryLimit: 3, failedJobsHistoryLimit: 1}",
    );
    job.refuses(&[
        ("spec: {schedule: ''}", &["spec.schedule: Required value"]),
        (
            "spec: {schedule: 'a b'}",
            &["spec.schedule: Invalid value: \"a b\": expected exactly 5 fields, found 2: [a b]"],
        ),
        (
            "spec: {schedule: 'TZ=UTC * * * * *'}",
            &["spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"],
        ),
        ("spec: {timeZone: ''}", &["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"]),
        ("spec: {timeZone: ../x}", &["spec.timeZone: Invalid value: \"../x\": unknown time zone ../x"]),
        (
            "spec: {concurrencyPolicy: Some}",
            &["spec.concurrencyPolicy: Unsupported value: \"Some\": supported values: \"Allow\", \"Forbid\", \"Replace\""],
        ),
        (
            "spec: {jobTemplate: {spec: {manualSelector: true, selector: {}}}}",
            &[
                "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
            ],
        ),
        (
            "spec: {startingDeadlineSeconds: -1}",
            &["spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "metadata: {name: abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyza}",
            &["metadata.name: Invalid value: \"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyza\": must be no more than 52 characters"],
        ),
    ]);
    job.shows(
        "status: {active: [{name: a}]}",
        json!(["test", "*/5 * * * *", "<none>", "False", 1, "<none>", "100s", "a", "b", "<none>"]),
    );
}
