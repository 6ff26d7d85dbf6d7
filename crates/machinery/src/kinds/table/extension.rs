//! The rows of what extends the server.

use super::STATUS;
use crate::kinds::{Kind, NameRule, admission, carry_status, columns, drop_status, extension};

/// What all kinds of the group are like.
const ADMISSION: Kind = Kind {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    namespaced: false,
    generation: true,
    unconditional_update: false,
    ..Kind::BASE
};

pub(super) const ADMISSION_REGISTRATION: &[Kind] = &[
    Kind {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
        defaults: admission::default_policy,
        validate: admission::validate_mutating_policy,
        columns: columns::MUTATING_POLICY,
        cells: columns::mutating_policy,
        ..ADMISSION
    },
    Kind {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
        defaults: admission::default_binding,
        validate: admission::validate_mutating_binding,
        columns: columns::POLICY_BINDING,
        cells: columns::policy_binding,
        ..ADMISSION
    },
    Kind {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        defaults: admission::default_mutating_webhooks,
        validate: admission::validate_webhooks,
        columns: columns::WEBHOOKS,
        cells: columns::webhooks,
        ..ADMISSION
    },
    Kind {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        subresources: STATUS,
        defaults: admission::default_policy,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: admission::validate_validating_policy,
        columns: columns::VALIDATING_POLICY,
        cells: columns::validating_policy,
        ..ADMISSION
    },
    Kind {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        defaults: admission::default_binding,
        validate: admission::validate_validating_binding,
        columns: columns::POLICY_BINDING,
        cells: columns::policy_binding,
        ..ADMISSION
    },
    Kind {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        defaults: admission::default_webhooks,
        validate: admission::validate_webhooks,
        columns: columns::WEBHOOKS,
        cells: columns::webhooks,
        ..ADMISSION
    },
];

pub(super) const API_EXTENSIONS: &[Kind] = &[Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    generation: true,
    unconditional_update: false,
    subresources: STATUS,
    defaults: extension::default_definition,
    prepare_create: extension::prepare_definition,
    prepare_update: extension::prepare_definition_update,
    validate: extension::validate_definition,
    validate_update: extension::validate_definition_update,
    validate_part: extension::validate_definition_part,
    ..Kind::BASE
}];

pub(super) const API_REGISTRATION: &[Kind] = &[Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    namespaced: false,
    name_rule: NameRule::PathSegment,
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    unconditional_update: false,
    subresources: STATUS,
    defaults: extension::default_service,
    prepare_create: extension::prepare_service,
    prepare_update: carry_status,
    validate: extension::validate_service,
    validate_part: extension::validate_service_part,
    columns: columns::API_SERVICE,
    cells: columns::api_service,
    ..Kind::BASE
}];
