//! Policies: what they see, what they ask, and what they make.

use std::sync::{Arc, Mutex};

use dray_cel::{
    Access, Activation, Authorizer, Decision, Environment, Fault, NEWEST, Program, ResourceAccess,
    ServiceAccount, Text, Type, Value,
    admission::{self, Admission},
};
use serde_json::{Value as Json, json};

const EVERYTHING: Admission = Admission { params: true, authorizer: true, patches: true };

/// Allows one verb, and keeps what it was asked.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Authorizer for Recorder {
    fn authorize(&self, account: Option<&ServiceAccount>, verb: &str, access: &Access<'_>) -> Decision {
        let who =
            account.map(|account| format!("{}:{}", account.namespace, account.name)).unwrap_or_default();
        let what = match access {
            Access::Path(path) => (*path).to_owned(),
            Access::Resource(of) => {
                format!(
                    "{}/{}/{}/{}/{} {}",
                    of.group, of.resource, of.subresource, of.namespace, of.name, of.label_selector
                )
            }
        };
        self.0.lock().expect("the recorder works").push(format!("{who} {verb} {what}"));
        Decision { allowed: verb == "get", reason: "it is so".to_owned(), error: None }
    }
}

fn evaluate(expression: &str, recorder: &Arc<Recorder>) -> Result<Json, String> {
    let environment = Environment::admission(NEWEST, EVERYTHING);
    let program = Program::compile(expression, &environment).map_err(|issues| issues.to_string())?;
    let object = json!({"metadata": {"name": "web", "labels": {"app": "x"}}, "spec": {"replicas": 3}});
    let request = json!({"operation": "CREATE", "userInfo": {"username": "admin", "groups": ["g"]}, "dryRun": false,
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"}});
    let namespace = json!({"metadata": {"name": "default", "labels": {"env": "test"},
        "creationTimestamp": "2000-01-01T00:00:00Z"}});
    let access =
        ResourceAccess { resource: "deployments".into(), name: "web".into(), ..ResourceAccess::default() };
    let authorizer: Arc<dyn Authorizer> = recorder.clone();
    let activation = Activation::new()
        .with("object", Value::from_json(&object))
        .with("oldObject", Value::Null)
        .with_outcome("params", Err(Fault::Failed("no params".into())))
        .with_outcome("request", Value::declared(&request, admission::request()))
        .with_outcome("namespaceObject", Value::declared(&namespace, admission::namespace()))
        .with("authorizer", Value::authorizer(authorizer.clone()))
        .with("authorizer.requestResource", Value::resource_authorizer(authorizer, access));
    let value = program.evaluate(&activation, 1_000_000).value.map_err(|fault| fault.to_string())?;
    let wrong = admission::misnamed(&value);
    if wrong.is_empty() { value.to_json().map_err(|fault| fault.to_string()) } else { Err(wrong.join(", ")) }
}

fn check(expression: &str, expected: Result<Json, &str>) {
    assert_eq!(evaluate(expression, &Arc::default()), expected.map_err(str::to_owned), "{expression}");
}

#[test]
fn what_policies_see() {
    check("object.spec.replicas > 2 && oldObject == null", Ok(json!(true)));
    check(
        "request.operation == 'CREATE' && 'g' in request.userInfo.groups && !request.dryRun",
        Ok(json!(true)),
    );
    check("request.kind.kind + '.' + request.kind.group", Ok(json!("Deployment.apps")));
    check("!has(request.subResource) && has(request.userInfo.username)", Ok(json!(true)));
    check("namespaceObject.metadata.labels['env'] == 'test'", Ok(json!(true)));
    check("namespaceObject.metadata.creationTimestamp.getFullYear()", Ok(json!(2000)));
    check("params.limit > 1", Err("no params"));
    check("true || params.limit > 1", Ok(json!(true)));
    check(
        "request.user",
        Err("compilation failed: ERROR: <input>:1:8: undefined field 'user'\n | request.user\n | .......^"),
    );
}

#[test]
fn variables_of_policies_are_named_with_a_dot() {
    let environment = Environment::admission(NEWEST, Admission::default())
        .with_variable("variables.limit", Type::Int)
        .with_variable("variables.broken", Type::Bool);
    let expression = "variables.limit > 1 || variables.broken";
    let program = Program::compile(expression, &environment).expect("the variables are declared");
    assert_eq!(program.variables().into_iter().collect::<Vec<_>>(), ["variables.broken", "variables.limit"]);
    let evaluate = |limit| {
        let activation = Activation::new()
            .with("variables.limit", Value::Int(limit))
            .with_outcome("variables.broken", Err(Fault::Failed("broken".into())));
        program.evaluate(&activation, 100).value.map(|value| matches!(value, Value::Bool(true)))
    };
    assert_eq!(evaluate(2), Ok(true));
    assert_eq!(evaluate(0), Err(Fault::Failed("broken".into())));
}

#[test]
fn devices_are_selected() {
    let of = Type::map(Type::String, Type::map(Type::String, Type::Opaque("kubernetes.Quantity")));
    let environment = Environment::kubernetes(NEWEST).with_variable("device.capacity", of);
    let expression = "device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('10Gi'))";
    let program = Program::compile(expression, &environment).expect("the expression is fine");
    let text = |text: &'static str| Value::String(Text::Borrowed(text));
    let memory = Value::quantity("16Gi".parse().expect("it is a quantity"));
    let domain = Value::map_of([(text("memory"), memory)]).expect("the keys are fine");
    let capacity = Value::map_of([(text("gpu.example.com"), domain)]).expect("the keys are fine");
    let activation = Activation::new().with("device.capacity", capacity);
    assert!(matches!(program.evaluate(&activation, 1_000).value, Ok(Value::Bool(true))));
}

#[test]
fn what_policies_ask() {
    let recorder = Arc::new(Recorder::default());
    let asked = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('ns').name('n')\
                 .labelSelector('a=b').check('get').allowed() \
                 && !authorizer.path('/healthz').check('post').allowed() \
                 && authorizer.serviceAccount('ns', 'bob').group('').resource('pods').check('get').reason() == 'it is so' \
                 && authorizer.requestResource.check('get').allowed()";
    // Two questions fit into what one evaluation may cost.
    assert_eq!(evaluate(asked, &recorder), Err("operation cancelled: actual cost limit exceeded".to_owned()));
    for part in asked.split("&&") {
        assert_eq!(evaluate(part, &recorder), Ok(json!(true)), "{part}");
    }
    let asked = recorder.0.lock().expect("the recorder works").split_off(3);
    assert_eq!(
        asked,
        [
            " get apps/deployments/scale/ns/n a=b",
            " post /healthz",
            "ns:bob get /pods/// ",
            " get /deployments///web "
        ]
    );
    check("authorizer.path(' ').check('get').allowed()", Err("path must not be empty"));
    check(
        "authorizer.serviceAccount('ns', 'Bob').path('/').check('get').errored()",
        Err("Invalid service account name"),
    );
}

#[test]
fn what_policies_make() {
    check(
        "Object{metadata: Object.metadata{labels: {'a': 'b'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}",
        Ok(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 4}})),
    );
    check("Object{spec: Object.spec{?replicas: optional.none()}}", Ok(json!({"spec": {}})));
    check(
        "Object{spec: Object.status{replicas: 1}}",
        Err(
            "unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path from root \
             Object type",
        ),
    );
    check(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]",
        Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}])),
    );
    check(
        "JSONPatch{op: 1}",
        Err(
            "compilation failed: ERROR: <input>:1:13: expected type of field 'op' is 'string' but provided type is 'int'\n \
             | JSONPatch{op: 1}\n | ............^",
        ),
    );
    check("Object{a: 1} == Object{a: 1} && has(Object{a: 1}.a) && !has(Object{a: 1}.b)", Ok(json!(true)));
    let without = Environment::admission(NEWEST, Admission::default());
    for expression in ["Object{}", "params", "authorizer", "jsonpatch.escapeKey('a')"] {
        assert!(Program::compile(expression, &without).is_err(), "{expression}");
    }
}
