//! Policies with the real kubectl: what they refuse, warn of and change.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::{Cluster, cluster};

const CREATE: &[&str] = &["create", "-f", "-"];
const MAP: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, labels: {team: web}}, data: {size: '3'}}";
const RULES: &str = "matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [configmaps], \
                     operations: [CREATE, UPDATE]}]}";

fn validating(cluster: &Cluster, spec: &str, binding: &str) {
    let text = format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: p}}
spec: {{{RULES}, {spec}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: b}}
spec: {{policyName: p, {binding}}}
"
    );
    cluster.ok(CREATE, &text);
}

fn mutating(cluster: &Cluster, name: &str, spec: &str) {
    let text = format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {name}}}
spec: {{{RULES}, {spec}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec: {{policyName: {name}}}
"
    );
    cluster.ok(CREATE, &text);
}

#[track_caller]
fn check_refused(cluster: &Cluster, words: &str) {
    let refused = cluster.refused(CREATE, MAP);
    assert!(refused.contains(words), "{words}: {refused}");
}

#[test]
fn what_a_policy_denies_is_not_made() {
    let cluster = cluster();
    let spec = "
      variables: [{name: size, expression: 'int(object.data.size)'}, {name: most, expression: 'variables.size * 0 + 2'}],
      matchConditions: [{name: team, expression: \"object.metadata.labels.team == 'web'\"}],
      validations: [
        {expression: 'variables.size > 0'},
        {expression: 'variables.size <= variables.most', messageExpression: '\"at most \" + string(variables.most)', reason: Forbidden}]";
    validating(&cluster, spec, "validationActions: [Deny]");
    check_refused(&cluster, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: at most 2");
    check_refused(&cluster, "configmaps \"m\" is forbidden");
    cluster.ok(CREATE, &MAP.replace("'3'", "'2'"));
    let other = MAP.replace("team: web", "team: db").replace("name: m", "name: other");
    cluster.ok(CREATE, &other);
    let refused = cluster.refused(&["patch", "cm", "m", "-p", r#"{"data":{"size":"9"}}"#], "");
    assert!(refused.contains("at most 2"), "{refused}");
}

#[test]
fn a_policy_can_warn_instead() {
    let cluster = cluster();
    let spec = "validations: [{expression: 'false', message: ' is not nice '}]";
    validating(&cluster, spec, "validationActions: [Warn, Audit]");
    let said = cluster.run(CREATE, MAP);
    let words = "Warning: Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': is not nice";
    assert!(said.success && said.stderr.contains(words), "{said:?}");
}

#[test]
fn what_goes_wrong_refuses_unless_failures_are_ignored() {
    let cluster = cluster();
    validating(&cluster, "validations: [{expression: 'object.spec.x'}]", "validationActions: [Deny]");
    check_refused(&cluster, "expression 'object.spec.x' resulted in error: no such key: spec");
    let ignore = r#"{"spec":{"failurePolicy":"Ignore"}}"#;
    cluster.ok(&["patch", "validatingadmissionpolicy", "p", "--type=merge", "-p", ignore], "");
    cluster.ok(CREATE, MAP);
}

#[test]
fn bindings_give_parameters_and_narrow() {
    let cluster = cluster();
    let spec = "paramKind: {apiVersion: v1, kind: ConfigMap},
      validations: [{expression: 'int(object.data.size) <= int(params.data.most)', message: too large}]";
    let binding = "validationActions: [Deny], paramRef: {name: limits, namespace: kube-system, parameterNotFoundAction: Deny},
      matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}";
    validating(&cluster, spec, binding);
    check_refused(
        &cluster,
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
    );
    let limits = "{apiVersion: v1, kind: ConfigMap, metadata: {name: limits, namespace: kube-system}, data: {most: '2'}}";
    cluster.ok(CREATE, limits);
    check_refused(&cluster, "denied request: too large");
    cluster.ok(CREATE, &MAP.replace("name: m", "name: m, namespace: kube-public"));
    cluster.ok(&["patch", "cm", "limits", "-n", "kube-system", "-p", r#"{"data":{"most":"3"}}"#], "");
    cluster.ok(CREATE, MAP);
}

#[test]
fn parameters_are_selected() {
    let cluster = cluster();
    let spec = "paramKind: {apiVersion: v1, kind: ConfigMap},
      validations: [{expression: 'int(object.data.size) != int(params.data.bad)', messageExpression: '\"not \" + params.data.bad'}]";
    let binding = "validationActions: [Deny], paramRef: {selector: {matchLabels: {params: 'yes'}}, parameterNotFoundAction: Allow}";
    validating(&cluster, spec, binding);
    cluster.ok(CREATE, &MAP.replace("name: m", "name: first"));
    for (name, no) in [("a", "2"), ("b", "3")] {
        let text = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{params: 'yes'}}}}, data: {{bad: '{no}', size: '7'}}}}"
        );
        cluster.ok(CREATE, &text);
    }
    check_refused(&cluster, "denied request: not 3");
    cluster.ok(CREATE, &MAP.replace("'3'", "'4'"));
}

#[test]
fn policies_ask_who_may_do_what() {
    let cluster = cluster();
    let spec = "validations: [{expression: \"authorizer.serviceAccount('default', 'nobody').requestResource == null || \
                authorizer.group('').resource('secrets').namespace('default').check('get').allowed()\"}]";
    let refused = cluster.refused(
        CREATE,
        &format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: p}}, spec: {{{RULES}, {spec}}}}}"
        ),
    );
    assert!(refused.contains("spec.validations[0].expression: Invalid value"), "{refused}");
    let spec = "validations: [{expression: \"authorizer.group('').resource('secrets').namespace('default').check('get').allowed() \
                && !authorizer.serviceAccount('default', 'nobody').group('').resource('secrets').check('get').allowed()\"}]";
    validating(&cluster, spec, "validationActions: [Deny]");
    cluster.ok(CREATE, MAP);
}

#[test]
fn connections_and_evictions_are_judged_too() {
    let cluster = cluster();
    let text = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: p}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [pods/exec, pods/eviction], operations: ['*']}]}
  validations: [{expression: \"request.operation == 'CREATE' ? object.metadata.name != 'p' : object.command[0] != 'sh'\",
    messageExpression: \"request.kind.kind + ' is not for you'\"}]
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: b}, spec:
  {policyName: p, validationActions: [Deny]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: c}]}}
";
    cluster.ok(CREATE, text);
    let refused = cluster.refused(&["exec", "p", "--", "sh"], "");
    assert!(refused.contains("PodExecOptions is not for you"), "{refused}");
    let refused = cluster.refused(&["exec", "p", "--", "ls"], "");
    assert!(refused.contains("does not have a host assigned"), "{refused}");
    let eviction = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}"#;
    let path = "/api/v1/namespaces/default/pods/p/eviction";
    let refused = cluster.refused(&["create", "--raw", path, "-f", "-"], eviction);
    assert!(refused.contains("Eviction is not for you"), "{refused}");
    cluster.ok(&["get", "pod", "p"], "");
}

#[test]
fn nobody_gives_policies_parameters_that_he_cannot_read() {
    let cluster = cluster();
    let role = [
        "create",
        "clusterrole",
        "policies",
        "--verb=*",
        "--resource=validatingadmissionpolicies,validatingadmissionpolicybindings",
    ];
    cluster.ok(&role, "");
    cluster.ok(&["create", "clusterrolebinding", "policies", "--clusterrole=policies", "--user=eve"], "");
    let policy = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: p}}, spec: {{{RULES}, \
         paramKind: {{apiVersion: v1, kind: Secret}}, validations: [{{expression: 'params == null'}}]}}}}"
    );
    let binding = "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: b}, \
                   spec: {policyName: p, validationActions: [Deny], paramRef: {name: s, namespace: kube-system, parameterNotFoundAction: Allow}}}";
    let as_eve = &["create", "--as=eve", "-f", "-"];
    let refused = cluster.refused(as_eve, &policy);
    assert!(
        refused.contains("spec.paramKind: Forbidden: user eve must have \"get\" permission on all objects"),
        "{refused}"
    );
    cluster.ok(CREATE, &policy);
    let refused = cluster.refused(as_eve, binding);
    assert!(
        refused.contains("spec.paramRef: Forbidden: user eve does not have \"get\" permission"),
        "{refused}"
    );
    cluster.ok(CREATE, binding);
}

#[test]
fn whoever_may_read_a_custom_kind_may_give_it_as_parameter() {
    let cluster = cluster();
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  {group: example.com, scope: Namespaced, names: {plural: widgets, kind: Widget}, versions: [
    {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}},
    {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}]}
";
    cluster.ok(CREATE, definition);
    cluster.ok(&["wait", "--for=condition=Established", "--timeout=30s", "crd/widgets.example.com"], "");
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: eve}, rules: [
        {apiGroups: [admissionregistration.k8s.io], resources: ['*'], verbs: ['*']},
        {apiGroups: [example.com], resources: [widgets], verbs: [get]}]}";
    cluster.ok(CREATE, role);
    cluster.ok(&["create", "clusterrolebinding", "eve", "--clusterrole=eve", "--user=eve"], "");
    let policy = |kind: &str| {
        format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: p}}, spec: {{{RULES}, \
             paramKind: {{apiVersion: example.com/v2, kind: {kind}}}, validations: [{{expression: 'params == null'}}]}}}}"
        )
    };
    let binding = |name: &str| {
        format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {{name: b}}, spec: \
             {{policyName: p, validationActions: [Deny], paramRef: {{{name}, namespace: default, parameterNotFoundAction: Allow}}}}}}"
        )
    };
    let as_eve = &["create", "--as=eve", "-f", "-"];
    let refused = cluster.refused(as_eve, &policy("Gadget"));
    assert!(refused.contains("must have \"get\" permission on all objects"), "{refused}");
    cluster.ok(as_eve, &policy("Widget"));
    let refused = cluster.refused(as_eve, &binding("selector: {}"));
    assert!(refused.contains("does not have \"list\" permission"), "{refused}");
    cluster.ok(as_eve, &binding("name: w"));
}

#[test]
fn expressions_that_mean_nothing_are_refused() {
    let cluster = cluster();
    for (spec, words) in [
        (
            "validations: [{expression: 'object.'}]",
            "spec.validations[0].expression: Invalid value: \"object.\": compilation failed",
        ),
        (
            "validations: [{expression: '1'}]",
            "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool",
        ),
        ("validations: [{expression: 'variables.none'}]", "undeclared reference to 'variables'"),
        ("validations: [{expression: 'params.x'}]", "undeclared reference to 'params'"),
        ("validations: [{expression: 'true', messageExpression: '1'}]", "must evaluate to string"),
        (
            "variables: [{name: x, expression: '}'}], validations: [{expression: 'true'}]",
            "spec.variables[0].expression: Invalid value",
        ),
    ] {
        let text = format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: p}}, spec: {{{RULES}, {spec}}}}}"
        );
        let refused = cluster.refused(CREATE, &text);
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn a_policy_tells_in_its_status_what_its_types_do_not_allow() {
    let cluster = cluster();
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  {group: example.com, scope: Namespaced, names: {plural: widgets, kind: Widget}, versions: [
    {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object,
      properties: {size: {type: integer}}}}}}}]}
";
    cluster.ok(CREATE, definition);
    cluster.ok(&["wait", "--for=condition=Established", "--timeout=30s", "crd/widgets.example.com"], "");
    let policy = |expression: &str| {
        format!(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: p}}
spec:
  matchConstraints: {{resourceRules: [
    {{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}},
    {{apiGroups: [example.com], apiVersions: [v1], resources: [widgets], operations: [CREATE]}}]}}
  validations: [{{expression: \"{expression}\"}}]
"
        )
    };
    let looked_at = |generation: u32| {
        let condition = format!("--for=jsonpath={{.status.observedGeneration}}={generation}");
        cluster.ok(&["wait", &condition, "--timeout=30s", "validatingadmissionpolicy/p"], "");
        let path = "jsonpath={range .status.typeChecking.expressionWarnings[*]}{.fieldRef} {.warning}{end}";
        cluster.ok(&["get", "validatingadmissionpolicy", "p", "-o", path], "")
    };
    cluster.ok(&["apply", "-f", "-"], &policy("object.spec.size > 1 && object.metadata.labels.a == 'b'"));
    let told = looked_at(1);
    assert!(told.contains("spec.validations[0].expression"), "{told}");
    assert!(told.contains("/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'spec'"), "{told}");
    assert!(!told.contains("Widget"), "{told}");
    cluster.ok(&["apply", "-f", "-"], &policy("has(object.data) || object.spec.size == 'x'"));
    let told = looked_at(2);
    assert!(told.contains("example.com/v1, Kind=Widget: ERROR"), "{told}");
    assert!(
        told.contains("undefined field 'data'") && told.contains("'_==_' applied to '(int, string)'"),
        "{told}"
    );
    cluster.ok(&["apply", "-f", "-"], &policy("object.metadata.name != ''"));
    assert_eq!(looked_at(3), "");
    let managers = [
        "get",
        "validatingadmissionpolicy",
        "p",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ];
    assert!(cluster.ok(&managers, "").contains("validatingadmissionpolicy-status-controller"));
    let described = cluster.ok(&["describe", "validatingadmissionpolicy", "p"], "");
    assert!(described.contains("Observed Generation:  3"), "{described}");
}

#[test]
fn policies_change_objects() {
    let cluster = cluster();
    let labels = "failurePolicy: Fail, reinvocationPolicy: IfNeeded, mutations: [{patchType: ApplyConfiguration, applyConfiguration: \
                  {expression: 'Object{metadata: Object.metadata{labels: {\"size\": object.data.size}}}'}}]";
    mutating(&cluster, "a", labels);
    let data = "failurePolicy: Fail, reinvocationPolicy: Never, \
                matchConditions: [{name: small, expression: \"object.data.size == '3'\"}], \
                mutations: [{patchType: JSONPatch, jsonPatch: {expression: \
                '[JSONPatch{op: \"replace\", path: \"/data/size\", value: \"4\"}]'}}]";
    mutating(&cluster, "b", data);
    cluster.ok(CREATE, MAP);
    // The first is asked again after the second has changed what it looked at.
    let shown = cluster.ok(&["get", "cm", "m", "-o", "jsonpath={.metadata.labels} {.data.size}"], "");
    assert_eq!(shown, r#"{"size":"4","team":"web"} 4"#);
}

#[test]
fn a_change_that_cannot_be_made_refuses() {
    let cluster = cluster();
    let spec = "failurePolicy: Fail, reinvocationPolicy: Never, mutations: [{patchType: JSONPatch, jsonPatch: {expression: \
                '[JSONPatch{op: \"remove\", path: \"/data/none\"}]'}}]";
    mutating(&cluster, "a", spec);
    check_refused(&cluster, "policy 'a' with binding 'a' denied request: ");
}
