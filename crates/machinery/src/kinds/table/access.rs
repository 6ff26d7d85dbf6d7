//! The rows of who may do what, and of the questions about it.

use crate::kinds::{Kind, NameRule, Subresource, access, certificates, columns, drop_status};

/// What all questions are like.
const QUESTION: Kind = Kind { question: true, namespaced: false, ..Kind::BASE };

pub(super) const AUTHENTICATION: &[Kind] = &[
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
        ..QUESTION
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        schema: "io.k8s.api.authentication.v1.TokenReview",
        ..QUESTION
    },
];

pub(super) const AUTHORIZATION: &[Kind] = &[
    Kind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        namespaced: true,
        schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        ..QUESTION
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ..QUESTION
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        ..QUESTION
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
        ..QUESTION
    },
];

pub(super) const CERTIFICATES: &[Kind] = &[Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    name_rule: NameRule::PathSegment,
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    subresources: &[Subresource::Approval, Subresource::Status],
    fields: &[("spec.signerName", &["spec", "signerName"])],
    prepare_create: drop_status,
    prepare_update: certificates::prepare_update,
    validate: certificates::validate,
    validate_update: certificates::validate_update,
    validate_part: certificates::validate_part,
    requester: &["spec"],
    columns: columns::CERTIFICATE_SIGNING_REQUEST,
    cells: columns::certificate_signing_request,
    ..Kind::BASE
}];

pub(super) const RBAC: &[Kind] = &[
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        name_rule: NameRule::PathSegment,
        schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
        create_on_update: true,
        defaults: access::default_binding,
        validate: access::validate_cluster_binding,
        validate_update: access::validate_binding_update,
        columns: columns::CLUSTER_ROLE_BINDING,
        cells: columns::role_binding,
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        name_rule: NameRule::PathSegment,
        schema: "io.k8s.api.rbac.v1.ClusterRole",
        create_on_update: true,
        validate: access::validate_cluster_role,
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        name_rule: NameRule::PathSegment,
        schema: "io.k8s.api.rbac.v1.RoleBinding",
        create_on_update: true,
        defaults: access::default_binding,
        validate: access::validate_binding,
        validate_update: access::validate_binding_update,
        columns: columns::ROLE_BINDING,
        cells: columns::role_binding,
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        singular: "role",
        name_rule: NameRule::PathSegment,
        schema: "io.k8s.api.rbac.v1.Role",
        create_on_update: true,
        validate: access::validate_role,
        ..Kind::BASE
    },
];
