//! The rows of what makes pods, scales them and keeps them from being disturbed.

use super::{SCALED, STATUS};
use crate::kinds::{Kind, StoredAs, apps, autoscaling, batch, carry_status, columns, drop_status, policy};

pub(super) const APPS: &[Kind] = &[
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        schema: "io.k8s.api.apps.v1.ControllerRevision",
        validate: apps::validate_controller_revision,
        validate_update: apps::validate_controller_revision_update,
        columns: columns::CONTROLLER_REVISION,
        cells: columns::controller_revision,
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.DaemonSet",
        generation: true,
        subresources: STATUS,
        defaults: apps::default_daemon_set,
        prepare_create: apps::prepare_daemon_set,
        prepare_update: apps::prepare_daemon_set_update,
        validate: apps::validate_daemon_set,
        validate_update: apps::validate_selector_unchanged,
        validate_part: apps::validate_daemon_set_part,
        columns: columns::DAEMON_SET,
        cells: columns::daemon_set,
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.Deployment",
        generation: true,
        subresources: SCALED,
        defaults: apps::default_deployment,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: apps::validate_deployment,
        validate_update: apps::validate_selector_unchanged,
        validate_part: apps::validate_replicas_part,
        columns: columns::DEPLOYMENT,
        cells: columns::deployment,
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        generation: true,
        subresources: SCALED,
        fields: &[("status.replicas", &["status", "replicas"])],
        defaults: apps::default_replica_set,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: apps::validate_replica_set,
        validate_update: apps::validate_selector_unchanged,
        validate_part: apps::validate_replicas_part,
        columns: columns::REPLICA_SET,
        cells: columns::replica_set,
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.StatefulSet",
        generation: true,
        subresources: SCALED,
        defaults: apps::default_stateful_set,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: apps::validate_stateful_set,
        validate_update: apps::validate_stateful_set_update,
        validate_part: apps::validate_replicas_part,
        columns: columns::STATEFUL_SET,
        cells: columns::stateful_set,
        ..Kind::BASE
    },
];

const HORIZONTAL_POD_AUTOSCALER: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: STATUS,
    prepare_create: drop_status,
    prepare_update: carry_status,
    columns: columns::HORIZONTAL_POD_AUTOSCALER,
    ..Kind::BASE
};

pub(super) const AUTOSCALING: &[Kind] = &[
    Kind {
        version: "v2",
        schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        defaults: autoscaling::defaults,
        validate: autoscaling::validate,
        validate_part: autoscaling::validate_part,
        cells: columns::horizontal_pod_autoscaler,
        ..HORIZONTAL_POD_AUTOSCALER
    },
    Kind {
        version: "v1",
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        defaults: autoscaling::defaults_v1,
        validate: autoscaling::validate_v1,
        validate_part: autoscaling::validate_part,
        cells: columns::horizontal_pod_autoscaler_v1,
        stored_as: Some(StoredAs {
            resource: "autoscaling/horizontalpodautoscalers",
            to_stored: autoscaling::to_v2,
            from_stored: autoscaling::to_v1,
        }),
        ..HORIZONTAL_POD_AUTOSCALER
    },
];

pub(super) const BATCH: &[Kind] = &[
    Kind {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        schema: "io.k8s.api.batch.v1.CronJob",
        generation: true,
        subresources: STATUS,
        defaults: batch::default_cron_job,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: batch::validate_cron_job,
        validate_create: batch::validate_new_cron_job,
        columns: columns::CRON_JOB,
        cells: columns::cron_job,
        ..Kind::BASE
    },
    Kind {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        schema: "io.k8s.api.batch.v1.Job",
        generation: true,
        subresources: STATUS,
        fields: &[("status.successful", &["status", "succeeded"])],
        defaults: batch::default_job,
        prepare_create: batch::prepare_job,
        prepare_update: carry_status,
        validate: batch::validate_job,
        validate_update: batch::validate_job_update,
        validate_part: batch::validate_job_part,
        columns: columns::JOB,
        cells: columns::job,
        ..Kind::BASE
    },
];

pub(super) const POLICY: &[Kind] = &[Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    generation: true,
    unconditional_update: false,
    subresources: STATUS,
    prepare_create: drop_status,
    prepare_update: carry_status,
    validate: policy::validate,
    validate_part: policy::validate_part,
    columns: columns::POD_DISRUPTION_BUDGET,
    cells: columns::pod_disruption_budget,
    ..Kind::BASE
}];
