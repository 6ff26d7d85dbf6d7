//! The rows of the cluster's own workings: leases, events, priorities, runtimes, devices and flows of requests.

use super::STATUS;
use crate::kinds::{
    Kind, StoredAs, carry_status, columns, devices, drop_status, events, flow, node, schedule,
};

pub(super) const COORDINATION: &[Kind] = &[Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema: "io.k8s.api.coordination.v1.Lease",
    create_on_update: true,
    unconditional_update: false,
    validate: schedule::validate_lease,
    columns: columns::LEASE,
    cells: columns::lease,
    ..Kind::BASE
}];

pub(super) const EVENTS: &[Kind] = &[Kind {
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
}];

pub(super) const FLOW_CONTROL: &[Kind] = &[
    Kind {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        namespaced: false,
        schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
        generation: true,
        unconditional_update: false,
        subresources: STATUS,
        defaults: flow::default_schema,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: flow::validate_schema,
        validate_part: flow::validate_part,
        columns: columns::FLOW_SCHEMA,
        cells: columns::flow_schema,
        ..Kind::BASE
    },
    Kind {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        namespaced: false,
        schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
        generation: true,
        unconditional_update: false,
        subresources: STATUS,
        defaults: flow::default_level,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: flow::validate_level,
        validate_part: flow::validate_part,
        columns: columns::PRIORITY_LEVEL,
        cells: columns::priority_level,
        ..Kind::BASE
    },
];

pub(super) const NODE: &[Kind] = &[Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    schema: "io.k8s.api.node.v1.RuntimeClass",
    unconditional_update: false,
    validate: node::validate_runtime_class,
    validate_update: node::validate_runtime_class_update,
    columns: columns::RUNTIME_CLASS,
    cells: columns::runtime_class,
    ..Kind::BASE
}];

pub(super) const RESOURCE: &[Kind] = &[
    Kind {
        group: "resource.k8s.io",
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        namespaced: false,
        schema: "io.k8s.api.resource.v1.DeviceClass",
        generation: true,
        validate: devices::validate_class,
        columns: columns::AGE,
        cells: columns::name_and_age,
        ..Kind::BASE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        schema: "io.k8s.api.resource.v1.ResourceClaim",
        subresources: STATUS,
        defaults: devices::default_claim,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: devices::validate_claim,
        validate_update: devices::validate_spec_unchanged,
        validate_part: devices::validate_claim_part,
        columns: columns::RESOURCE_CLAIM,
        cells: columns::resource_claim,
        ..Kind::BASE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        schema: "io.k8s.api.resource.v1.ResourceClaimTemplate",
        defaults: devices::default_template,
        validate: devices::validate_template,
        validate_update: devices::validate_spec_unchanged,
        columns: columns::AGE,
        cells: columns::name_and_age,
        ..Kind::BASE
    },
    Kind {
        group: "resource.k8s.io",
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        namespaced: false,
        schema: "io.k8s.api.resource.v1.ResourceSlice",
        generation: true,
        fields: &[("spec.nodeName", &["spec", "nodeName"]), ("spec.driver", &["spec", "driver"])],
        defaults: devices::default_slice,
        validate: devices::validate_slice,
        validate_update: devices::validate_slice_update,
        columns: columns::RESOURCE_SLICE,
        cells: columns::resource_slice,
        ..Kind::BASE
    },
];

pub(super) const SCHEDULING: &[Kind] = &[Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    generation: true,
    defaults: schedule::default_priority_class,
    validate: schedule::validate_priority_class,
    validate_update: schedule::validate_priority_class_update,
    columns: columns::PRIORITY_CLASS,
    cells: columns::priority_class,
    ..Kind::BASE
}];
