//! The tests of the specification itself (cel-spec's `tests/simple/testdata`), all but those of protocol buffers.
//!
//! `CEL_SPEC=DIR cargo nextest run -p dray-cel --run-ignored only conformance` runs them on a checkout. What cannot pass is
//! in `exceptions.txt`, with its reason; the test fails when anything else does.

mod expected;
mod textproto;

use std::{collections::BTreeMap, fs, path::Path};

use dray_cel::{Activation, Environment, Program};
use textproto::Message;

/// Files about protocol buffers and about libraries that Kubernetes does not have.
const LEFT_OUT: [&str; 11] = [
    "block_ext",
    "dynamic",
    "encoders_ext",
    "enums",
    "math_ext",
    "network_ext",
    "proto2",
    "proto2_ext",
    "proto3",
    "unknowns",
    "wrappers",
];

enum Verdict {
    Passed,
    /// It is about something that JSON has not.
    LeftOut,
    Failed(String),
}

fn run(test: &Message) -> Verdict {
    let mut environment = Environment::specification(test.text("container").unwrap_or_default());
    for declaration in test.messages("type_env") {
        let name = declaration.text("name").unwrap_or_default();
        let of =
            declaration.message("ident").and_then(|ident| ident.message("type")).and_then(expected::declared);
        let Some(of) = of else { return Verdict::LeftOut };
        environment = environment.with_variable(name, of);
    }
    let mut bindings = BTreeMap::new();
    for binding in test.messages("bindings") {
        let value =
            binding.message("value").and_then(|value| value.message("value")).and_then(expected::value);
        let (Some(name), Some(value)) = (binding.text("key"), value) else { return Verdict::LeftOut };
        bindings.insert(name.to_owned(), value);
    }
    let wanted = match (test.message("value"), test.message("typed_result")) {
        (Some(value), _) => Some(value),
        (None, Some(typed)) => typed.message("result"),
        (None, None) => None,
    };
    let wanted = match wanted.map(expected::shown) {
        Some(None) => return Verdict::LeftOut,
        Some(Some(wanted)) => Some(wanted),
        None => None,
    };
    let deduced =
        test.message("typed_result").and_then(|typed| typed.message("deduced_type")).map(expected::deduced);
    let expression = test.text("expr").unwrap_or_default();
    if expression.contains("TestAllTypes") || expression.contains("google.protobuf.") {
        return Verdict::LeftOut;
    }
    let program = match Program::compile(expression, &environment) {
        Ok(program) => program,
        Err(_) if test.message("eval_error").is_some() => return Verdict::Passed,
        Err(issues) => return Verdict::Failed(issues.to_string()),
    };
    if let Some(Some(deduced)) = &deduced
        && *deduced != program.result().to_string()
    {
        return Verdict::Failed(format!("its type is {}, not {deduced}", program.result()));
    }
    if test.text("check_only") == Some("true") {
        return Verdict::Passed;
    }
    let activation = bindings
        .into_iter()
        .fold(Activation::new(), |activation, (name, value)| activation.with(&name, value));
    let result = program.evaluate(&activation, u64::MAX).value;
    match (result, wanted) {
        (Err(_), _) if test.message("eval_error").is_some() => Verdict::Passed,
        (Err(fault), _) => Verdict::Failed(fault.to_string()),
        (Ok(value), None) if test.message("eval_error").is_none() => match expected::show(&value).as_str() {
            "true" => Verdict::Passed,
            other => Verdict::Failed(format!("it is {other}")),
        },
        (Ok(value), None) => Verdict::Failed(format!("it is {} and no error", expected::show(&value))),
        (Ok(value), Some(wanted)) if expected::show(&value) == wanted => Verdict::Passed,
        (Ok(value), Some(wanted)) => {
            Verdict::Failed(format!("it is {}, not {wanted}", expected::show(&value)))
        }
    }
}

#[test]
#[ignore = "needs a checkout of cel-spec, which CEL_SPEC names"]
fn conformance() {
    let checkout = std::env::var_os("CEL_SPEC").expect("CEL_SPEC names a checkout of cel-spec");
    let data = Path::new(&checkout).join("tests/simple/testdata");
    let exceptions: BTreeMap<&str, &str> = include_str!("exceptions.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" # ").expect("an exception has a reason"))
        .collect();
    let mut files: Vec<_> = fs::read_dir(&data)
        .expect("the tests are there")
        .map(|entry| entry.expect("the tests are well formed").path())
        .collect();
    files.sort();
    let (mut passed, mut left_out, mut excepted) = (0, 0, 0);
    let (mut wrong, mut mended) = (Vec::new(), Vec::new());
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "textproto"))
    {
        let stem =
            path.file_stem().expect("the tests are well formed").to_str().expect("the tests are well formed");
        if LEFT_OUT.contains(&stem) {
            continue;
        }
        let text = fs::read_to_string(path).expect("the file is text");
        let file = textproto::parse(&text);
        let before = (passed, left_out, excepted);
        for section in file.messages("section") {
            for test in section.messages("test") {
                let name = format!(
                    "{stem}/{}/{}",
                    section.text("name").expect("the tests are well formed"),
                    test.text("name").expect("the tests are well formed")
                );
                match (run(test), exceptions.contains_key(name.as_str())) {
                    (Verdict::Passed, false) => passed += 1,
                    (Verdict::Passed, true) => mended.push(name),
                    (Verdict::LeftOut, _) => left_out += 1,
                    (Verdict::Failed(_), true) => excepted += 1,
                    (Verdict::Failed(why), false) => {
                        wrong.push(format!("{name}: {}\n    {why}", test.text("expr").unwrap_or_default()));
                    }
                }
            }
        }
        println!(
            "{stem}: {} passed, {} left out, {} excepted",
            passed - before.0,
            left_out - before.1,
            excepted - before.2
        );
    }
    println!("{passed} passed, {left_out} left out, {excepted} excepted");
    assert!(passed > 500, "so few tests were found: {passed}");
    assert!(wrong.is_empty(), "{} fail without a reason:\n{}", wrong.len(), wrong.join("\n"));
    assert!(mended.is_empty(), "these are excepted and pass: {}", mended.join(", "));
}
