use serde_json::json;

use super::case;

#[test]
fn roles() {
    let role = case(
        "rbac.authorization.k8s.io/v1 Role",
        "rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]",
    );
    role.refuses(&[
        ("metadata: {name: 'system:a'}", &[]),
        ("metadata: {name: a/b}", &["metadata.name: Invalid value: \"a/b\": may not contain '/'"]),
        (
            "rules: [{verbs: []}]",
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ],
        ),
        (
            "rules: [{verbs: [get], nonResourceURLs: [/x]}]",
            &["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"],
        ),
    ]);
    let role =
        case("rbac.authorization.k8s.io/v1 ClusterRole", "rules: [{verbs: [get], nonResourceURLs: [/x]}]");
    role.refuses(&[
        (
            "rules: [{verbs: [get], nonResourceURLs: [/x], resources: [a]}]",
            &["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs"],
        ),
        (
            "aggregationRule: {}",
            &["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"],
        ),
    ]);
}

#[test]
fn bindings() {
    let binding = case(
        "rbac.authorization.k8s.io/v1 RoleBinding",
        "{roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s, namespace: n}]}",
    );
    binding.defaults(
        "{}",
        "
roleRef: {apiGroup: rbac.authorization.k8s.io}
subjects:
- {kind: User, name: u, apiGroup: rbac.authorization.k8s.io}
- {kind: ServiceAccount, name: s, namespace: n}
",
    );
    binding.refuses(&[
        (
            "roleRef: {kind: Thing, name: ''}",
            &[
                "roleRef.kind: Unsupported value: \"Thing\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Required value",
            ],
        ),
        (
            "subjects: [{kind: Group, name: ''}, {kind: X, name: x}, {kind: ServiceAccount, name: A, apiGroup: g}]",
            &[
                "subjects[0].name: Required value",
                "subjects[1].kind: Unsupported value: \"X\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                "subjects[2].name: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
                "subjects[2].apiGroup: Unsupported value: \"g\": supported values: \"\"",
            ],
        ),
    ]);
    binding.refuses_updates(&[
        ("subjects: []", &[]),
        ("roleRef: {name: other}", &["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"other\"}: cannot change roleRef"]),
    ]);
    binding.shows("{}", json!(["test", "Role/r", "100s", "u", "", "n/s"]));
    let binding = case(
        "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
        "{roleRef: {kind: ClusterRole, name: r}, subjects: [{kind: Group, name: g}]}",
    );
    binding.refuses(&[(
        "{roleRef: {kind: Role}, subjects: [{kind: ServiceAccount, name: s}]}",
        &[
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "subjects[0].namespace: Required value",
        ],
    )]);
}
