use dray_machinery::Subresource::Status;
use serde_json::json;

use super::case;

const HOOK: &str = "
webhooks:
- name: hook.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {service: {name: s, namespace: n}}
  rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]
";

#[test]
fn webhooks() {
    let hooks = case("admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", HOOK);
    hooks.defaults(
        "{}",
        "
webhooks:
- name: hook.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {service: {name: s, namespace: n, port: 443}}
  rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods], scope: '*'}]
  failurePolicy: Fail
  matchPolicy: Equivalent
  namespaceSelector: {}
  objectSelector: {}
  timeoutSeconds: 10
",
    );
    let hook = |fields: &str| {
        format!(
            "webhooks: [{{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {{url: 'https://x/y'}}, {fields}}}]"
        )
    };
    let service = |path: &str| {
        format!(
            "webhooks: [{{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {{service: {{name: s, namespace: n, path: '{path}'}}}}}}]"
        )
    };
    hooks.refuses(&[
        (&hook("name: ab").replacen("name: a.b.c, ", "", 1), &["webhooks[0].name: Invalid value: \"ab\": should be a domain with at least three segments separated by dots"]),
        (&hook("sideEffects: Some").replacen("sideEffects: None, ", "", 1), &["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""]),
        (&hook("failurePolicy: X, matchPolicy: Y, timeoutSeconds: 31"), &[
            "webhooks[0].failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
            "webhooks[0].matchPolicy: Unsupported value: \"Y\": supported values: \"Equivalent\", \"Exact\"",
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ]),
        (&hook("rules: [{operations: ['*', CREATE], apiGroups: [], apiVersions: [''], resources: ['*', pods]}]"), &[
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            "webhooks[0].rules[0].apiGroups: Required value",
            "webhooks[0].rules[0].apiVersions[0]: Required value",
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ]),
        (&hook("matchConditions: [{name: a, expression: ' '}, {name: a, expression: 'true'}]"), &[
            "webhooks[0].matchConditions[0].expression: Required value",
            "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
        ]),
        ("webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v2], clientConfig: {}}]", &[
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ]),
        ("webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'http://x'}}]", &[
            "webhooks[0].clientConfig.url: Invalid value: \"http://x\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ]),
        (&service("a"), &["webhooks[0].clientConfig.service.path: Invalid value: \"a\": must start with a '/'"]),
        (&service("/a//b/"), &[
            "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b/\": segment[1] may not be empty",
        ]),
    ]);
    hooks.made(&service(""));
    hooks.made(&service("/a/b/"));
    hooks.shows("{}", json!(["test", 1, "100s"]));
    let hooks = case("admissionregistration.k8s.io/v1 MutatingWebhookConfiguration", HOOK);
    assert_eq!(hooks.made("{}")["webhooks"][0]["reinvocationPolicy"], "Never");
}

const MATCH: &str = "matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}";

#[test]
fn policies() {
    let policy = case(
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy",
        &format!("spec: {{{MATCH}, validations: [{{expression: 'true'}}]}}"),
    );
    policy.defaults("{}", "spec: {failurePolicy: Fail, matchConstraints: {matchPolicy: Equivalent, namespaceSelector: {}, objectSelector: {}}}");
    policy.refuses(&[
        ("spec: {matchConstraints: null}", &["spec.matchConstraints: Required value"]),
        ("spec: {matchConstraints: {resourceRules: []}}", &["spec.matchConstraints.resourceRules: Required value"]),
        ("spec: {validations: []}", &[
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
        ]),
        ("spec: {validations: [{expression: '', reason: Odd}]}", &[
            "spec.validations[0].expression: Required value: expression is not specified",
            "spec.validations[0].reason: Unsupported value: \"Odd\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
        ]),
        ("spec: {variables: [{name: 1a, expression: x}]}", &["spec.variables[0].name: Invalid value: \"1a\": name is not a valid CEL identifier"]),
        ("spec: {paramKind: {apiVersion: a/b/c, kind: K}}", &["spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"]),
    ]);
    policy.shows(
        "spec: {paramKind: {apiVersion: v1, kind: ConfigMap}}",
        json!(["test", 1, "v1/ConfigMap", "100s"]),
    );
    let policy = case(
        "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy",
        &format!(
            "spec: {{{MATCH}, reinvocationPolicy: Never, mutations: [{{patchType: JSONPatch, jsonPatch: {{expression: '[]'}}}}]}}"
        ),
    );
    policy.refuses(&[
        ("spec: {mutations: []}", &["spec.mutations: Required value: mutations must contain at least one item"]),
        ("spec: {mutations: [{patchType: JSONPatch}], reinvocationPolicy: null}", &[
            "spec.mutations[0].jsonPatch: Required value: jsonPatch is required when patchType is JSONPatch",
            "spec.reinvocationPolicy: Required value",
        ]),
    ]);
    policy.shows("{}", json!(["test", 1, "<unset>", "100s"]));
}

#[test]
fn policy_bindings() {
    let binding = case(
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding",
        "spec: {policyName: p, validationActions: [Deny]}",
    );
    binding.refuses(&[
        ("spec: {policyName: null}", &["spec.policyName: Required value"]),
        ("spec: {validationActions: []}", &["spec.validationActions: Required value: at least one validation action is required"]),
        ("spec: {validationActions: [Deny, Warn, Odd]}", &["spec.validationActions[2]: Unsupported value: \"Odd\": supported values: \"Audit\", \"Deny\", \"Warn\"", "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Odd\"]: must not contain both…"]),
        ("spec: {paramRef: {}}", &["spec.paramRef.name: Required value: one of name or selector must be specified", "spec.paramRef.parameterNotFoundAction: Required value"]),
    ]);
    binding.shows("spec: {paramRef: {name: n, namespace: x}}", json!(["test", "p", "x/n", "100s"]));
    let binding =
        case("admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding", "spec: {policyName: p}");
    binding.refuses(&[(
        "spec: {paramRef: {name: a, selector: {}, parameterNotFoundAction: Deny}}",
        &["spec.paramRef.name: Forbidden: name and selector are mutually exclusive"],
    )]);
}

#[test]
fn definitions() {
    let definition = case(
        "apiextensions.k8s.io/v1 CustomResourceDefinition",
        "
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {plural: things, kind: Thing}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: integer, default: 1}, b: {items: {type: string}, type: array}, c: {additionalProperties: true}}}}}
",
    );
    definition.defaults(
        "{}",
        "{spec: {names: {singular: thing, listKind: ThingList}, conversion: {strategy: None}}, status: {storedVersions: [v1]}}",
    );
    let schema = "schema: {openAPIV3Schema: {type: object}}";
    definition.refuses(&[
        ("metadata: {name: other.example.com}", &["metadata.name: Invalid value: \"other.example.com\": must be spec.names.plural+\".\"+spec.group"]),
        ("{metadata: {name: things.local}, spec: {group: local}}", &["spec.group: Invalid value: \"local\": should be a domain with at least one dot"]),
        (&format!("spec: {{versions: [{{name: v1, served: true, storage: true, {schema}}}, {{name: v1, served: true, storage: true, {schema}}}]}}"), &[
            "spec.versions: Invalid value…",
            "spec.versions: Invalid value…",
        ]),
        ("spec: {versions: [{name: V1, served: true, storage: true}]}", &[
            "spec.versions[0].name: Invalid value: \"V1\": a DNS-1035 label…",
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ]),
        ("spec: {names: {kind: thing_}}", &["spec.names.singular: Invalid value: \"thing_\"…", "spec.names.kind: Invalid value: \"thing_\": may have mixed case, but should otherwise match: a DNS-1035 label…", "spec.names.listKind: Invalid value…"]),
        ("spec: {conversion: {strategy: Webhook}}", &[
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.webhook.conversionReviewVersions: Required value: must specify one of v1, v1beta1",
        ]),
        ("{metadata: {name: things.a.k8s.io}, spec: {group: a.k8s.io}}", &["metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation…"]),
        (&format!("spec: {{versions: [{{name: v1, served: true, storage: true, {schema}, additionalPrinterColumns: [{{name: a, type: text, jsonPath: x}}]}}]}}"), &[
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            "spec.additionalPrinterColumns[0].jsonPath: Invalid value: \"x\": must be a simple json path starting with .",
        ]),
    ]);
    definition.refuses(&[
        (&format!("spec: {{versions: [{{name: v1, served: true, storage: true, {schema}, subresources: {{scale: {{specReplicasPath: .x, labelSelectorPath: a}}}}}}]}}"), &[
            "spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec",
            "spec.subresources.scale.statusReplicasPath: Required value",
            "spec.subresources.scale.labelSelectorPath: Invalid value: \"a\": must be a simple json path starting with .",
        ]),
        (&format!("spec: {{versions: [{{name: v1, served: true, storage: true, {schema}, subresources: {{scale: {{specReplicasPath: .spec.a, statusReplicasPath: .status.a, labelSelectorPath: .a}}}}}}, {{name: v2, served: true, storage: false, {schema}}}]}}"), &[
            "spec.versions[0].subresources.scale.labelSelectorPath: Invalid value: \".a\": should be a json path under either .spec or .status",
        ]),
    ]);
    definition.refuses_parts(
        Status,
        "{}",
        &[
            (
                "status: {storedVersions: []}",
                &["status.storedVersions: Invalid value: []: must have at least one stored version"],
            ),
            (
                "status: {storedVersions: [v2]}",
                &[
                    "status.storedVersions: Invalid value: [\"v2\"]: must have the storage version v1",
                    "status.storedVersions[0]: Invalid value: \"v2\": missing from spec.versions…",
                ],
            ),
        ],
    );
    definition.refuses_updates(&[
        (&format!("spec: {{versions: [{{name: v2, served: true, storage: true, {schema}}}]}}"), &["status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version…"]),
        (&format!("spec: {{versions: [{{name: v1, served: true, storage: false, {schema}}}, {{name: v2, served: true, storage: true, {schema}}}]}}"), &[]),
    ]);
}

#[test]
fn services_of_the_api() {
    let service = case(
        "apiregistration.k8s.io/v1 APIService",
        "{metadata: {name: v1.example.com}, spec: {group: example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 10, service: {name: s, namespace: n}}}",
    );
    service.defaults("{}", "spec: {service: {port: 443}}");
    service.refuses(&[
        ("metadata: {name: v1}", &["metadata.name: Invalid value: \"v1\": must be `spec.version+\".\"+spec.group`: \"v1.example.com\""]),
        ("spec: {groupPriorityMinimum: 0, versionPriority: 1001}", &[
            "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
            "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
        ]),
        ("spec: {service: {name: null, port: 0}}", &["spec.service.name: Required value", "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"]),
        ("spec: {service: null, insecureSkipTLSVerify: true}", &["spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify"]),
    ]);
    service.refuses_parts(Status, "{}", &[("status: {conditions: [{type: Available, status: Maybe}]}", &["status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"True\", \"False\", \"Unknown\""])]);
    service.shows(
        "status: {conditions: [{type: Available, status: 'False', reason: Down}]}",
        json!(["v1.example.com", "n/s", "False (Down)", "100s"]),
    );
}
