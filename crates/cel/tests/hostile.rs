//! Expressions that are made to break things: deep, long, large, or senseless. They are answered, on any thread, in time.

use std::time::{Duration, Instant};

use dray_cel::{Activation, Environment, NEWEST, Program, Type, Value};
use proptest::prelude::*;
use serde_json::json;

fn environment() -> Environment {
    Environment::kubernetes(NEWEST).with_variable("self", Type::Dyn)
}

/// Compiles and evaluates on a thread with the stack of a server's workers.
fn answer(expression: String) -> Result<String, String> {
    answer_within(expression, 1_000_000)
}

fn answer_within(expression: String, limit: u64) -> Result<String, String> {
    let started = Instant::now();
    let shown: String = expression.chars().take(60).collect();
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    let found = thread
        .spawn(move || {
            let program =
                Program::compile(&expression, &environment()).map_err(|issues| issues.to_string())?;
            let object = json!({"a": [1, 2, 3], "b": {"c": "d"}});
            let activation = Activation::new().with("self", Value::from_json(&object));
            program.estimate(None);
            let evaluation = program.evaluate(&activation, limit);
            evaluation.value.map(|value| value.kind().to_string()).map_err(|fault| fault.to_string())
        })
        .expect("the test is well formed")
        .join()
        .expect("the expression is answered");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(60), "{shown} took {took:?}");
    found
}

#[test]
fn depth_is_bounded() {
    const TOO_DEEP: &str =
        "compilation failed: ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    let repeat = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("true ? true : ", "true", ""),
        ("true ? (", "1", ") : 1"),
        ("size([", "1", "])"),
        ("[1].map(x, ", "1", ")"),
        ("!(", "true", ")"),
        ("-(", "1", ")"),
        ("optional.of(", "1", ")"),
    ] {
        let _ = answer(repeat(open, inner, close, 90));
        let _ = answer(repeat(open, inner, close, 249));
        assert_eq!(answer(repeat(open, inner, close, 5_000)), Err(TOO_DEEP.to_owned()), "{open}");
    }
    for (first, rest) in
        [("1", " + 1"), ("self", ".a"), ("self", "[0]"), ("'a'", ".trim()"), ("1", " == 1 == true")]
    {
        let _ = answer(format!("{first}{}", rest.repeat(280)));
        assert_eq!(answer(format!("{first}{}", rest.repeat(5_000))), Err(TOO_DEEP.to_owned()), "{rest}");
    }
    // What is wide is not deep.
    assert_eq!(answer(format!("true{}", " && true".repeat(5_000))), Ok("bool".to_owned()));
    assert_eq!(answer(format!("[1{}].size()", ", 1".repeat(5_000))), Ok("int".to_owned()));
    assert_eq!(answer(format!("{}true", "!".repeat(50_000))), Ok("bool".to_owned()));
    assert!(
        answer(format!("1{}", " ".repeat(100_000))).unwrap_err().contains("code point size exceeds limit")
    );
}

#[test]
fn types_and_values_that_double_are_bounded() {
    let doubling = |seed: &str, element: &str, times: usize| {
        let mut expression = format!("{seed}.map(x0, ");
        for level in 1..times {
            expression += &format!("[{}].map(x{level}, ", element.replace('_', &format!("x{}", level - 1)));
        }
        expression + &format!("x{}", times - 1) + &")".repeat(times)
    };
    for (seed, element) in
        [("[1]", "[_, _]"), ("['a']", "{_: _}"), ("['a']", "{'a': _, 'b': _}"), ("['aaaaaaaa']", "_ + _")]
    {
        for times in [20, 90] {
            let _ = answer(doubling(seed, element, times));
        }
    }
    let twice = doubling("[1]", "[_, _]", 60);
    assert_eq!(
        answer_within(format!("{twice} == {twice}"), 10_000),
        Err("the values are too large to look into".to_owned())
    );
    // A macro that copies what it is called on copies it again inside of itself.
    let copies = format!("optional.of(1){}", ".optMap(x, x)".repeat(40));
    assert!(answer(copies).is_err());
}

#[test]
fn results_are_bounded() {
    for expression in [
        "lists.range(9223372036854775807)",
        "lists.range(900000).map(x, lists.range(900000))",
        "lists.range(100000).map(x, 'aaaaaaaaaa').join('bbbbbbbbbbbbbbbbbbbbbbbbbb').replace('', 'cccccccccccccccccccc')",
        "'%.999999999f'.format([1.0])",
        "'%.1000f'.format([1.0])",
        "lists.range(1000).all(x, '%.1000f'.format([1.0]).size() > 0)",
        "lists.range(50000).map(x, self).distinct()",
        "lists.range(90000).reverse().sort() == lists.range(90000)",
        "self.a.all(x, 'a'.matches('(((((a{100}){100}){100}){100}){100})'))",
        "self.a.all(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('^(a+)+$b'))",
        "timestamp(9223372036854775807)",
        "duration('9223372036854775807h')",
        "[1].flatten(9223372036854775807)",
        "'a'.charAt(-9223372036854775808)",
        "[1, 2].slice(-9223372036854775808, 9223372036854775807)",
    ] {
        let _ = answer(expression.to_owned());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        let _ = Program::compile(&text, &environment());
    }

    #[test]
    fn any_tokens_are_answered(tokens in proptest::collection::vec(
        prop_oneof![
            Just("self"), Just("."), Just("a"), Just("["), Just("]"), Just("("), Just(")"), Just("{"), Just("}"), Just("?"),
            Just(":"), Just(","), Just("1"), Just("'x'"), Just("b'\\xff'"), Just("1.5"), Just("2u"), Just("-"), Just("!"),
            Just("+"), Just("=="), Just("in"), Just("&&"), Just("||"), Just("map"), Just("filter"), Just("has"), Just("x"),
            Just("all"), Just("true"), Just("null"), Just("optional.of"), Just("size"), Just("dyn"), Just("%"), Just("`a-b`"),
        ], 0..24))
    {
        let text = tokens.join(" ");
        if let Ok(program) = Program::compile(&text, &environment()) {
            let object = json!({"a": [1, "x", null], "x": {"a": 1}});
            let activation = Activation::new().with("self", Value::from_json(&object));
            let evaluation = program.evaluate(&activation, 10_000);
            let estimate = program.estimate(None);
            prop_assert!(estimate.least <= estimate.most);
            if let Ok(value) = evaluation.value {
                let _ = value.to_json();
            }
        }
    }
}
