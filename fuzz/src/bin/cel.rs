//! Expressions: whatever the text, an answer; what compiles is evaluated within its budget and has a worst case.
#![no_main]

use std::sync::LazyLock;

use dray_cel::{Activation, Declared, Environment, NEWEST, Program, Value};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};

static DECLARED: LazyLock<Declared> = LazyLock::new(|| {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}},
        "t": {"type": "string", "format": "date-time"}, "b": {"type": "string", "format": "byte"},
    }});
    Declared::from_schema(&schema, true, "self").expect("the schema has a declaration")
});
static OBJECT: LazyLock<Json> = LazyLock::new(
    || json!({"a": "x", "n": 1, "l": ["a", "b"], "m": {"k": 1, "l": "5%"}, "t": "2000-01-01T00:00:00Z", "b": "YQ=="}),
);
/// What an evaluation may cost.
const LIMIT: u64 = 10_000;

fuzz_target!(|text: &str| {
    let environment = Environment::kubernetes(NEWEST).with_declared("self", &DECLARED);
    let Ok(program) = Program::compile(text, &environment) else { return };
    let object = Value::declared(&OBJECT, &DECLARED).expect("the object fits its schema");
    let evaluation = program.evaluate(&Activation::new().with("self", object), LIMIT);
    let estimate = program.estimate(Some(&DECLARED));
    assert!(estimate.least <= estimate.most, "the worst case is not below the best");
    if let Ok(value) = evaluation.value {
        assert!(evaluation.cost <= LIMIT, "what costs more is stopped");
        let _ = value.to_json();
    }
});
