//! Rules of schemas: what they say of objects, of changes and of themselves.

use dray_cel::{
    NEWEST,
    rules::{Judgement, Reason, Validator, Violation, check},
};
use serde_json::{Value as Json, json};

fn validator(schema: &Json) -> Validator {
    Validator::new(schema, true, NEWEST).expect("the schema has rules")
}

fn judge(schema: &Json, object: &Json, old: Option<&Json>) -> Judgement {
    validator(schema).validate(object, old, &mut 10_000_000)
}

fn shown(violations: &[Violation]) -> Vec<String> {
    let shown = |violation: &Violation| {
        let value = violation.value.as_ref().map(|value| format!(" {value}")).unwrap_or_default();
        format!("{}: {:?}{value}: {}", violation.path, violation.reason, violation.message)
    };
    violations.iter().map(shown).collect()
}

#[test]
fn what_rules_say() {
    let schema = json!({
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.spec.min <= self.spec.max", "message": " min must not be above max "},
            {"rule": "self.metadata.name.startsWith('a')", "messageExpression": "'bad name ' + self.metadata.name",
             "reason": "FieldValueForbidden", "fieldPath": ".metadata.name"},
        ],
        "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {
                "type": "object",
                "properties": {
                    "min": {"type": "integer"},
                    "max": {"type": "integer"},
                    "port": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
                        {"rule": "type(self) == int ? self > 0 : self.endsWith('%')"}]},
                    "labels": {"type": "object", "additionalProperties": {"type": "string",
                        "x-kubernetes-validations": [{"rule": "size(self) < 3", "reason": "FieldValueRequired"}]}},
                    "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}},
                        "x-kubernetes-validations": [{"rule": "self.n > 0"}]}},
                    "namespace": {"type": "string", "nullable": true,
                        "x-kubernetes-validations": [{"rule": "self != ''", "reason": "FieldValueDuplicate"}]},
                },
                "x-kubernetes-validations": [{"rule": "!has(self.__namespace__) || self.__namespace__ != 'x'"}],
            },
        },
    });
    let of = |spec: Json| json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "abc"}, "spec": spec});
    for (object, expected) in [
        (of(json!({"min": 1, "max": 2, "port": "5%", "labels": {"a": "b"}, "list": [{"n": 1}]})), vec![]),
        (of(json!({"min": 3, "max": 2})), vec![": Invalid: min must not be above max"]),
        (
            of(json!({"min": 3})),
            vec![": Invalid \"object\": no such key: max evaluating rule: min must not be above max"],
        ),
        (
            json!({"metadata": {"name": "xyz"}, "spec": {"min": 1, "max": 1}}),
            vec!["metadata.name: Forbidden: bad name xyz"],
        ),
        (
            of(json!({"min": 1, "max": 1, "port": 0})),
            vec!["spec.port: Invalid 0: failed rule: type(self) == int ? self > 0 : self.endsWith('%')"],
        ),
        (
            of(json!({"min": 1, "max": 1, "labels": {"a": "bcde"}})),
            vec!["spec.labels[a]: Required \"bcde\": failed rule: size(self) < 3"],
        ),
        (
            of(json!({"min": 1, "max": 1, "list": [{"n": 1}, {"n": 0}]})),
            vec!["spec.list[1]: Invalid: failed rule: self.n > 0"],
        ),
        (
            of(json!({"min": 1, "max": 1, "namespace": ""})),
            vec!["spec.namespace: Duplicate \"\": failed rule: self != ''"],
        ),
        (of(json!({"min": 1, "max": 1, "namespace": null})), vec![]),
        (
            of(json!({"min": 1, "max": 1, "namespace": "x"})),
            vec!["spec: Invalid: failed rule: !has(self.__namespace__) || self.__namespace__ != 'x'"],
        ),
    ] {
        assert_eq!(shown(&judge(&schema, &object, None).violations), expected, "{object}");
    }
    assert!(Validator::new(&json!({"type": "object"}), true, NEWEST).is_none());
}

#[test]
fn rules_about_changes() {
    let entry = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "v may only grow"}]});
    let schema = json!({"type": "object", "properties": {
        "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]},
        "once": {"type": "string", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true, "message": "set once"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": entry},
        "map": {"type": "object", "additionalProperties": entry},
        "even": {"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 0", "message": "must be even"}]},
        "around": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "self < 10", "message": "too large"}]}},
    }});
    let none: [&str; 0] = [];
    for (old, new, expected, warnings) in [
        (json!({"fixed": "a"}), json!({"fixed": "a"}), vec![], vec![]),
        (json!({"fixed": "a"}), json!({"fixed": "b"}), vec!["fixed: Invalid \"b\": immutable"], vec![]),
        (json!({}), json!({"fixed": "b"}), vec![], vec![]),
        (json!({}), json!({"once": "a"}), vec![], vec![]),
        (json!({"once": "a"}), json!({"once": "b"}), vec!["once: Invalid \"b\": set once"], vec![]),
        (
            json!({"list": [{"k": "a", "v": 1}, {"k": "b", "v": 5}]}),
            json!({"list": [{"k": "b", "v": 4}, {"k": "a", "v": 2}, {"k": "c", "v": 0}]}),
            vec!["list[0]: Invalid: v may only grow"],
            vec![],
        ),
        (
            json!({"map": {"a": {"v": 2}}}),
            json!({"map": {"a": {"v": 1}, "b": {"v": 0}}}),
            vec!["map[a]: Invalid: v may only grow"],
            vec![],
        ),
        (json!({"even": 1}), json!({"even": 1, "fixed": "x"}), vec![], vec!["even: Invalid 1: must be even"]),
        (json!({"even": 1}), json!({"even": 3}), vec!["even: Invalid 3: must be even"], vec![]),
        (
            json!({"around": [11]}),
            json!({"around": [11], "even": 2}),
            vec![],
            vec!["around[0]: Invalid 11: too large"],
        ),
        (
            json!({"around": [11]}),
            json!({"around": [11, 1]}),
            vec!["around[0]: Invalid 11: too large"],
            vec![],
        ),
    ] {
        let judgement = judge(&schema, &new, Some(&old));
        assert_eq!(shown(&judgement.violations), expected, "{old} to {new}");
        assert_eq!(shown(&judgement.warnings), warnings, "{old} to {new}");
    }
    // Without an object before, rules about changes are silent.
    assert_eq!(shown(&judge(&schema, &json!({"fixed": "b"}), None).violations), none);
}

#[test]
fn the_budget_is_one_for_all_rules() {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [
            {"rule": "self.all(x, self.exists(y, x == y))"}, {"rule": "self.size() > 0"}]},
    }});
    let object = json!({"list": (0..100).collect::<Vec<i64>>()});
    let mut budget = 1_000;
    let judgement = validator(&schema).validate(&object, None, &mut budget);
    assert_eq!(
        shown(&judgement.violations),
        [
            "list: Invalid \"array\": validation failed due to running out of cost budget, no further validation rules will \
          be run"
        ]
    );
    assert!(budget < 0);
    let mut budget = 100_000;
    assert!(validator(&schema).validate(&object, None, &mut budget).violations.is_empty());
    assert!((0..100_000).contains(&budget));
    let object = json!({"list": (0..2000).collect::<Vec<i64>>()});
    assert_eq!(
        shown(&judge(&schema, &object, None).violations),
        [
            "list: Invalid \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will \
          be run due to call cost exceeds limit for rule: self.all(x, self.exists(y, x == y))"
        ]
    );
}

#[test]
fn rules_inside_of_all_of() {
    let schema = json!({
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "allOf": [{"properties": {"n": {"x-kubernetes-validations": [{"rule": "self > 1", "message": "too small"}]}}}],
    });
    assert_eq!(shown(&judge(&schema, &json!({"n": 1}), None).violations), ["n: Invalid 1: too small"]);
}

fn checked(schema: Json) -> Vec<String> {
    shown(&check(&schema, "schema", NEWEST))
}

fn with_rule(rule: Json) -> Json {
    json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [rule]})
}

#[test]
fn rules_are_judged_when_they_are_written() {
    let none: [&str; 0] = [];
    assert_eq!(checked(with_rule(json!({"rule": "self.a == 'x'"}))), none);
    for (rule, expected) in [
        (json!({}), "rule: Required: rule is not specified"),
        (json!({"rule": "true", "message": " "}), "message: Invalid \" \": must be non-empty if specified"),
        (
            json!({"rule": "true", "message": "a\nb"}),
            "message: Invalid \"a\\nb\": must not contain line breaks",
        ),
        (
            json!({"rule": "true ||\ntrue"}),
            "message: Required: message must be specified if rule contains line breaks",
        ),
        (
            json!({"rule": "true", "messageExpression": " "}),
            "messageExpression: Required: messageExpression must be non-empty if specified",
        ),
        (
            json!({"rule": "true", "reason": "No"}),
            "reason: NotSupported \"No\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \
             \"FieldValueInvalid\", \"FieldValueRequired\"",
        ),
        (json!({"rule": "true", "fieldPath": ".b"}), "fieldPath: Invalid \".b\": must be a valid path"),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "optionalOldSelf: Invalid true: may not be set if oldSelf is not used in rule",
        ),
    ] {
        let found = checked(with_rule(rule.clone()));
        assert_eq!(found, [format!("schema.x-kubernetes-validations[0].{expected}")], "{rule}");
    }
    for (rule, expected) in [
        (
            json!({"rule": "self.b == 'x'"}),
            "rule: Invalid {\"rule\":\"self.b == 'x'\"}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n \
             | self.b == 'x'\n | ....^",
        ),
        (
            json!({"rule": "self.a"}),
            "rule: Invalid {\"rule\":\"self.a\"}: cel expression must evaluate to a bool",
        ),
        (
            json!({"rule": "true", "messageExpression": "1"}),
            "messageExpression: Invalid {\"messageExpression\":\"1\",\"rule\":\"true\"}: messageExpression must evaluate to \
             a string",
        ),
    ] {
        let found = checked(with_rule(rule.clone()));
        assert_eq!(found, [format!("schema.x-kubernetes-validations[0].{expected}")], "{rule}");
    }
}

#[test]
fn changes_need_something_to_compare_with() {
    let rules = json!([{"rule": "self == oldSelf"}]);
    let item = json!({"type": "string", "x-kubernetes-validations": rules});
    let found = checked(
        json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 1, "items": item}}}),
    );
    let expected = "schema.properties[list].items.x-kubernetes-validations[0].rule: Invalid \"self == oldSelf\": oldSelf \
                    cannot be used on the uncorrelatable portion of the schema within schema.properties[list]";
    assert_eq!(found, [expected]);
}

#[test]
fn worst_cases_are_refused() {
    let rule = json!([{"rule": "self.all(x, self.all(y, x == y))"}]);
    let list = json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rule});
    let found = checked(json!({"type": "object", "properties": {"list": list}}));
    let advice = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
                  strings are declared)";
    assert_eq!(found.len(), 3, "{found:?}");
    let at = "schema.properties[list].x-kubernetes-validations[0].rule";
    assert_eq!(
        found[0],
        format!("{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {advice}")
    );
    assert_eq!(
        found[1],
        format!(
            "{at}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        )
    );
    assert_eq!(
        found[2],
        format!(
            "schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds \
             budget by factor of more than 100x {advice}"
        )
    );
    // The rule is run for every element of the list around it.
    let many = json!({"type": "array", "maxItems": 1_000_000, "items": {"type": "string", "maxLength": 1000,
        "x-kubernetes-validations": [{"rule": "self.contains('abc')"}]}});
    let found = check(&json!({"type": "object", "properties": {"list": many}}), "schema", NEWEST);
    assert_eq!(found[0].reason, Reason::Forbidden);
    assert!(found[0].message.contains("exceeds budget by factor of 40.1x"), "{}", found[0].message);
}
