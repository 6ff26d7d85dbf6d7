//! The built-in rows.

use super::{
    Kind, NameRule, StoredAs, Subresource, carry_status, columns, core, drop_status, events, pod, pod_update,
    service, workloads,
};

const STATUS: &[Subresource] = &[Subresource::Status];
const SCALED: &[Subresource] = &[Subresource::Scale, Subresource::Status];

static KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap",
        validate: core::validate_config_map,
        validate_update: core::validate_config_map_update,
        columns: columns::CONFIG_MAP,
        cells: columns::config_map,
        ..Kind::BASE
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        schema: "io.k8s.api.core.v1.Endpoints",
        create_on_update: true,
        defaults: core::default_endpoints,
        columns: columns::ENDPOINTS,
        cells: columns::endpoints,
        ..Kind::BASE
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.core.v1.Event",
        create_on_update: true,
        fields: events::FIELDS,
        columns: columns::EVENT,
        cells: columns::event,
        ..Kind::BASE
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        name_rule: NameRule::Label,
        schema: "io.k8s.api.core.v1.Namespace",
        subresources: &[Subresource::Finalize, Subresource::Status],
        fields: &[("status.phase", &["status", "phase"]), ("name", &["metadata", "name"])],
        defaults: core::default_namespace,
        prepare_create: core::prepare_namespace,
        prepare_update: core::prepare_namespace_update,
        columns: columns::NAMESPACE,
        cells: columns::namespace,
        ..Kind::BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        schema: "io.k8s.api.core.v1.Node",
        subresources: STATUS,
        fields: &[("spec.unschedulable", &["spec", "unschedulable"])],
        prepare_update: carry_status,
        validate: core::validate_node,
        columns: columns::NODE,
        cells: columns::node,
        ..Kind::BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Pod",
        generation: true,
        graceful: true,
        subresources: &[
            Subresource::Attach,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Resize,
            Subresource::Status,
        ],
        fields: pod::FIELDS,
        defaults: pod::defaults,
        prepare_create: pod::prepare_create,
        prepare_update: carry_status,
        validate: pod::validate,
        validate_update: pod_update::validate,
        columns: columns::POD,
        cells: columns::pod,
        ..Kind::BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        schema: "io.k8s.api.core.v1.Secret",
        fields: &[("type", &["type"])],
        defaults: core::default_secret,
        prepare_create: core::fold_string_data,
        prepare_update: core::fold_string_data_update,
        validate: core::validate_secret,
        validate_update: core::validate_secret_update,
        columns: columns::SECRET,
        cells: columns::secret,
        ..Kind::BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        schema: "io.k8s.api.core.v1.ServiceAccount",
        columns: columns::SERVICE_ACCOUNT,
        cells: columns::service_account,
        ..Kind::BASE
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        name_rule: NameRule::Label1035,
        schema: "io.k8s.api.core.v1.Service",
        create_on_update: true,
        subresources: STATUS,
        fields: &[("spec.clusterIP", &["spec", "clusterIP"]), ("spec.type", &["spec", "type"])],
        defaults: service::defaults,
        prepare_create: service::prepare_create,
        prepare_update: service::prepare_update,
        validate: service::validate,
        validate_update: service::validate_update,
        columns: columns::SERVICE,
        cells: columns::service,
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        schema: "io.k8s.api.apps.v1.ControllerRevision",
        columns: columns::CONTROLLER_REVISION,
        cells: columns::controller_revision,
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
        defaults: workloads::default_deployment,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: workloads::validate_deployment,
        validate_update: workloads::validate_selector_unchanged,
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
        defaults: workloads::default_replica_set,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: workloads::validate_replica_set,
        validate_update: workloads::validate_selector_unchanged,
        columns: columns::REPLICA_SET,
        cells: columns::replica_set,
        ..Kind::BASE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        question: true,
        namespaced: false,
        schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
        ..Kind::BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        question: true,

        schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        ..Kind::BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        question: true,
        namespaced: false,
        schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ..Kind::BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        question: true,
        namespaced: false,
        schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        ..Kind::BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        question: true,
        namespaced: false,
        schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
        ..Kind::BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        schema: "io.k8s.api.coordination.v1.Lease",
        create_on_update: true,
        unconditional_update: false,
        validate: core::validate_lease,
        columns: columns::LEASE,
        cells: columns::lease,
        ..Kind::BASE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        generation: true,
        defaults: core::default_endpoint_slice,
        validate: core::validate_endpoint_slice,
        validate_update: core::validate_endpoint_slice_update,
        columns: columns::ENDPOINT_SLICE,
        cells: columns::endpoint_slice,
        ..Kind::BASE
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.events.v1.Event",
        create_on_update: true,
        fields: events::FIELDS_V1,
        validate: events::validate,
        columns: columns::EVENT,
        cells: columns::event_v1,
        stored_as: Some(StoredAs {
            resource: "core/events",
            to_stored: events::to_core,
            from_stored: events::from_core,
        }),
        ..Kind::BASE
    },
];

/// All rows: the core group first, then by group.
pub fn all() -> &'static [Kind] {
    KINDS
}

/// The row of a resource.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The row of a kind.
pub fn find_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.kind == kind && row.group == group)
}
