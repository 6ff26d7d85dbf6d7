//! What expressions cost: the numbers of the reference, which decide what rules a definition may have.

use dray_cel::{Activation, Declared, Environment, NEWEST, Program, Value};
use serde_json::{Map, Value as Json, json};

fn string() -> Json {
    json!({"type": "string"})
}

fn integer() -> Json {
    json!({"type": "integer"})
}

fn object(properties: Json) -> Json {
    json!({"type": "object", "properties": properties})
}

fn list(items: Json) -> Json {
    json!({"type": "array", "items": items})
}

fn map_list(keys: &[&str], items: Json) -> Json {
    json!({"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys})
}

fn map(values: Json) -> Json {
    json!({"type": "object", "additionalProperties": values})
}

/// An object with fields `val1`, `val2` and so on, each with its schema and its value.
fn fields(of: &[(Json, Json)]) -> (Json, Json) {
    let (mut properties, mut values) = (Map::new(), Map::new());
    for (index, (schema, value)) in of.iter().enumerate() {
        properties.insert(format!("val{}", index + 1), schema.clone());
        values.insert(format!("val{}", index + 1), value.clone());
    }
    (object(Json::Object(properties)), Json::Object(values))
}

fn compile(expression: &str, declared: &Declared) -> Program {
    let environment = Environment::kubernetes(NEWEST).with_declared("self", declared);
    Program::compile(expression, &environment).unwrap_or_else(|issues| panic!("{expression}: {issues}"))
}

/// Evaluates expressions that are true, and compares what they cost.
fn costs((schema, value): (Json, Json), cases: &[(&str, u64)]) {
    let declared = Declared::from_schema(&schema, true, "self").expect("the test is well formed");
    let mut wrong = Vec::new();
    for (expression, expected) in cases {
        let program = compile(expression, &declared);
        let activation = Activation::new()
            .with("self", Value::declared(&value, &declared).expect("the test is well formed"));
        let evaluation = program.evaluate(&activation, 1_000_000);
        if !matches!(evaluation.value, Ok(Value::Bool(true))) {
            wrong.push(format!("{expression} is {:?}", evaluation.value));
        }
        if evaluation.cost != *expected {
            wrong.push(format!("{expression} costs {} and not {expected}", evaluation.cost));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn scalars() {
    costs(
        fields(&[(integer(), json!(i64::MAX)), (integer(), json!(i64::MAX)), (integer(), json!(5))]),
        &[
            (
                "self.val1 == 9223372036854775807 && 9223372036854775807 == self.val1 && self.val1 == self.val2",
                11,
            ),
            ("type(self.val1) == int", 4),
            ("double(self.val3) < 10.0", 4),
            ("self.val3 + 1 == 5 + 1", 5),
        ],
    );
    costs(
        fields(&[(integer(), json!(5)), (json!({"type": "number"}), json!(10.0))]),
        &[("double(self.val1) < self.val2", 6), ("double(5) < 10.0", 1), ("type(self.val2) == double", 4)],
    );
    costs(
        fields(&[(string(), json!("Rook takes 👑")), (string(), json!("Rook takes 👑"))]),
        &[
            ("self.val1 == 'Rook takes 👑' && 'Rook takes 👑' == self.val1 && self.val1 == self.val2", 14),
            ("self.val1.startsWith('Rook')", 3),
            ("!self.val1.startsWith('knight')", 4),
            ("self.val1.matches('^[^0-9]*$')", 8),
            ("!self.val1.matches('^[0-9]*$')", 7),
            ("size(self.val1) == 12", 4),
            ("self.val1.charAt(3) == 'k'", 4),
            ("self.val1.indexOf('o') == 1", 4),
            ("self.val1.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
            ("self.val1.split(' ') == ['Rook', 'takes', '👑']", 6),
            ("self.val1.substring(4, 10).trim() == 'takes'", 6),
            ("self.val1.upperAscii() == 'ROOK TAKES 👑'", 6),
            ("self.val1.lowerAscii() == self.val1.lowerAscii()", 10),
            (
                "'%d %s %f %s %s'.format([1, 'abc', 1.0, duration('1m'), timestamp('2000-01-01T00:00:00.000Z')]) \
              == '1 abc 1.000000 60s 2000-01-01T00:00:00Z'",
                6,
            ),
            ("'%e'.format([3.14]) == '3.140000×10⁰⁰'", 3),
            ("'%b %b %b'.format([7, 8, 9]) == '111 1000 1001'", 3),
        ],
    );
    costs(
        fields(&[(json!({"type": "string", "format": "byte"}), json!("QUI="))]),
        &[("self.val1 == b'AB'", 3), ("size(self.val1) == 2", 4)],
    );
    costs(
        fields(&[(json!({"type": "string", "format": "duration"}), json!("1h2m3s4ms"))]),
        &[
            ("self.val1 == duration('1h2m') + duration('3s4ms')", 4),
            ("self.val1.getHours() == 1", 4),
            ("type(self.val1) == google.protobuf.Duration", 4),
        ],
    );
    costs(
        fields(&[
            (integer(), json!(10)),
            (string(), json!("10")),
            (json!({"type": "string", "format": "byte"}), json!("MTA=")),
            (json!({"type": "string", "format": "date"}), json!("2011-08-18")),
            (string(), json!("2011-08-18T00:00:00Z")),
        ]),
        &[
            ("bytes(self.val2) == self.val3", 6),
            ("string(self.val1) == self.val2", 6),
            ("string(self.val3) == self.val2", 6),
            ("timestamp(self.val5) == self.val4", 6),
            ("string(self.val4) == self.val5", 7),
        ],
    );
    costs(
        (
            object(json!({"enumStr": {"type": "string", "enum": ["Pending", "Bound"]}})),
            json!({"enumStr": "Pending"}),
        ),
        &[("self.enumStr == 'Pending'", 3), ("self.enumStr in ['Pending', 'Available']", 2)],
    );
}

#[test]
fn lists() {
    costs(
        fields(&[(list(integer()), json!([1, 2, 3])), (list(integer()), json!([1, 2, 3]))]),
        &[
            ("self.val1 == [1, 2, 3] && [1, 2, 3] == self.val1 && self.val1 == self.val2", 11),
            ("1 in self.val1", 5),
            ("self.val2[0] in self.val1", 8),
            ("!(0 in self.val1)", 6),
            ("self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]", 6),
            ("self.val1 + [4, 5] == [1, 2, 3, 4, 5]", 4),
            ("has(self.val1)", 1),
            ("has(self.val1) && has(self.val2)", 2),
        ],
    );
    let set = |items: Json| json!({"type": "array", "items": items, "x-kubernetes-list-type": "set"});
    let large: Vec<i64> = (0..1000).collect();
    costs(
        fields(&[
            (set(string()), json!(["a", "b", "c"])),
            (set(string()), json!(["a", "c", "b"])),
            (set(integer()), json!(large)),
        ]),
        &[
            ("self.val1 == ['c', 'b', 'a']", 3),
            ("self.val1 == self.val2", 5),
            ("self.val1 + self.val2 == ['a', 'b', 'c']", 6),
            ("self.val1 + ['c', 'd'] == ['a', 'b', 'c', 'd']", 4),
            ("sets.contains(self.val1, ['a'])", 6),
            ("sets.equivalent(self.val1, ['a', 'b', 'c'])", 21),
            ("sets.contains(self.val3, [1])", 1003),
            ("!sets.equivalent(self.val3, [1, 2, 3])", 6004),
        ],
    );
    let entry = object(json!({"k": string(), "v": string()}));
    let value = json!({"objs": [
        [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}],
        [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}],
        [{"k": "b", "v": "3"}, {"k": "a", "v": "1"}],
        [{"k": "c", "v": "4"}],
    ]});
    costs(
        (object(json!({"objs": list(map_list(&["k"], entry))})), value),
        &[
            ("self.objs[0] == self.objs[1]", 7),
            ("self.objs[0] + self.objs[2] == self.objs[2]", 11),
            ("self.objs[2] + self.objs[0] == self.objs[0]", 11),
            ("self.objs[0] == [self.objs[0][0], self.objs[0][1]]", 22),
            ("self.objs[0] == [self.objs[0][1], self.objs[0][0]]", 22),
            ("self.objs[2] + [self.objs[0][0], self.objs[0][1]] == self.objs[0]", 26),
            ("size(self.objs[0] + [self.objs[3][0]]) == 3", 20),
        ],
    );
}

#[test]
fn maps_and_objects() {
    costs(
        fields(&[
            (map(string()), json!({"k1": "a", "k2": "b"})),
            (map(string()), json!({"k2": "b", "k1": "a"})),
        ]),
        &[
            ("self.val1 == self.val2", 5),
            ("'k1' in self.val1", 3),
            ("!('k3' in self.val1)", 4),
            ("self.val1 == {'k1': 'a', 'k2': 'b'}", 3),
        ],
    );
    let schema = object(json!({
        "a": object(json!({"b": integer(), "c": integer(), "d": {"type": "integer", "nullable": true}})),
        "a1": object(json!({
            "b1": object(json!({"c1": integer()})),
            "d2": object(json!({"e2": integer()})),
        })),
    }));
    costs(
        (schema, json!({"a": {"b": 1, "d": null}, "a1": {"b1": {"c1": 4}}})),
        &[
            ("has(self.a.b)", 2),
            ("has(self.a1.b1.c1)", 3),
            ("!(has(self.a1.d2) && has(self.a1.d2.e2))", 3),
            ("!has(self.a1.d2)", 3),
            ("!has(self.a.d)", 3),
        ],
    );
    costs(
        (object(json!({"val": map(integer())})), json!({"val": {"b": 1, "d": 2}})),
        &[
            ("!('a' in self.val)", 4),
            ("!has(self.val.a)", 3),
            ("has(self.val.b)", 2),
            ("self.val.all(k, self.val[k] > 0)", 17),
            ("!self.val.exists(k, self.val[k] == 3)", 20),
            ("self.val.exists_one(k, self.val[k] == 2)", 14),
            ("!self.val.exists_one(k, self.val[k] > 0)", 17),
            ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
            ("self.val.all(k, v, v > 0)", 13),
            ("!self.val.exists(k, v, v == 3)", 16),
            ("self.val.existsOne(k, v, v == 2)", 10),
            ("self.val.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
            ("self.val.transformMap(k, v, v + 1).size() == 2", 15),
            ("self.val.transformMapEntry(k, v, v > 1, {k + '2': v + 1}).size() == 1", 45),
            ("self.val.transformMapEntry(k, v, {k + '2': v + 1}).size() == 2", 77),
        ],
    );
}

#[test]
fn comprehensions() {
    let entry = object(json!({"k": string(), "v": string(), "v2": string()}));
    let value = json!({"listMap": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]});
    costs(
        (object(json!({"listMap": map_list(&["k"], entry)})), value),
        &[
            ("has(self.listMap[0].v)", 3),
            ("self.listMap.all(m, m.k.startsWith('a'))", 21),
            ("self.listMap.all(m, !has(m.v2) || m.v2 == 'z')", 21),
            ("self.listMap.exists(m, m.k.endsWith('1'))", 13),
            ("self.listMap.exists_one(m, m.k == 'a3')", 15),
            ("!self.listMap.all(m, m.k.endsWith('1'))", 18),
            ("!self.listMap.exists(m, m.v == 'x')", 25),
            ("!self.listMap.exists_one(m, m.k.startsWith('a'))", 20),
            ("size(self.listMap.filter(m, m.k == 'a1')) == 1", 27),
            ("self.listMap.exists(m, m.k == 'a1' && m.v == 'b1')", 16),
            ("self.listMap.map(m, m.v).exists(v, v == 'b1')", 55),
            ("self.listMap.exists(m, has(m.v2) && m.v2 == 'z')", 21),
            ("!self.listMap.all(m, has(m.v2) && m.v2 != 'z')", 10),
            ("self.listMap.exists_one(m, has(m.v2) && m.v2 == 'z')", 12),
            ("self.listMap.filter(m, has(m.v2) && m.v2 == 'z').size() == 1", 24),
            ("self.listMap.map(m, has(m.v2) && m.v2 == 'z', m.v2).size() == 1", 25),
            ("self.listMap.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1", 39),
            ("self.listMap.exists(m, m.v2 == 'z')", 24),
            ("!self.listMap.all(m, m.v2 != 'z')", 22),
            ("!self.listMap.all(i, m, has(m.v2) && m.v2 != 'z')", 10),
            ("self.listMap.transformList(i, m, has(m.v2) && m.v2 == 'z', m.v2).size() == 1", 25),
            ("self.listMap.transformList(i, m, m.v).size() == 3", 47),
        ],
    );
    costs(
        (object(json!({"array": list(integer())})), json!({"array": [1, 1, 2, 2, 3, 3, 4, 5]})),
        &[
            ("2 in self.array", 10),
            ("self.array.all(e, e > 0)", 43),
            ("self.array.exists(e, e > 2)", 36),
            ("self.array.exists_one(e, e > 4)", 22),
            ("size(self.array.filter(e, e%2 == 0)) == 3", 68),
            ("self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 194),
            ("self.array.transformList(i, e, e > 2, e * 2).size() > 0", 77),
        ],
    );
    let schema = object(json!({
        "mapOfMap": map(map(string())), "mapOfObj": map(object(json!({"field2": string()}))),
        "mapOfListMap": map(map_list(&["k"], object(json!({"k": string(), "v": string()})))),
        "listOfMap": list(map(string())),
    }));
    let value = json!({
        "mapOfMap": {"x": {"y": "b"}}, "mapOfObj": {"k": {"field2": "c"}},
        "mapOfListMap": {"o": [{"k": "1", "v": "d"}]}, "listOfMap": [{"z": "g"}],
    });
    costs(
        (schema, value),
        &[
            ("self.mapOfMap['x']['y'] == 'b'", 5),
            ("self.mapOfObj['k'].field2 == 'c'", 5),
            ("self.mapOfListMap['o'].exists(e, e.k == '1' && e.v == 'd')", 14),
            ("self.listOfMap[0]['z'] == 'g'", 5),
            ("self.mapOfMap.map(k, k).map(k, k).size() == 1", 32),
            ("self.mapOfMap.map(k, self.mapOfMap[k].map(m, m)).size() == 1", 34),
            ("self.listOfMap.map(e, e.map(m, m)).size() == 1", 32),
        ],
    );
}

#[test]
fn special_types() {
    let schema = object(json!({
        "min": {"x-kubernetes-int-or-string": true}, "something": {"x-kubernetes-int-or-string": true},
        "current": integer(), "available": integer(),
    }));
    costs(
        (schema, json!({"min": "50%", "something": "25%", "current": 5, "available": 10})),
        &[
            ("type(self.something) == int ? self.something == 1 : self.something == '25%'", 7),
            ("type(self.something) == string && self.something == '25%'", 7),
            ("self.something != 1", 3),
            ("self.something == 1 || self.something == '25%'", 6),
            ("self.something != ['anything']", 3),
            (r"type(self.min) == string && self.min.matches(r'(\d+(\.\d+)?%)')", 10),
            (
                "type(self.min) == int ? self.current <= self.min : double(self.current) / double(self.available) >= \
                 double(self.min.replace('%', '')) / 100.0",
                17,
            ),
        ],
    );
    let schema = object(json!({
        "obj": object(json!({"field": string(), "absentField": string()})), "m": map(string()), "l": list(string()),
    }));
    costs(
        (schema, json!({"obj": {"field": "a"}, "m": {"k": "v"}, "l": ["a"]})),
        &[
            ("optional.of('a') != optional.of('b')", 3),
            ("optional.of('a') != optional.none()", 3),
            ("optional.of('a').hasValue()", 2),
            ("optional.of('a').or(optional.of('a')).hasValue()", 2),
            ("optional.none().or(optional.of('a')).hasValue()", 3),
            ("optional.of('a').optMap(v, v == 'a').hasValue()", 8),
            ("self.obj.?field == optional.of('a')", 5),
            ("self.obj.?absentField == optional.none()", 4),
            ("self.obj.?field.orValue('v') == 'a'", 4),
            ("self.m[?'k'] == optional.of('v')", 5),
            ("self.l[?0] == optional.of('a')", 5),
        ],
    );
    let (schema, value) = (
        object(json!({"spec": object(json!({"field1": string()}))})),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "foo", "generateName": "pickItForMe"},
            "spec": {"field1": "a"},
        }),
    );
    costs(
        (schema, value),
        &[
            ("self.kind == 'Pod'", 3),
            ("self.metadata.name == 'foo'", 4),
            ("self.metadata.generateName == 'pickItForMe'", 5),
            ("self.spec.field1 == 'a'", 4),
        ],
    );
}

/// A schema with a limit on its size, if there is one.
fn limited(mut schema: Json, name: &str, limit: Option<u64>) -> Json {
    if let Some(limit) = limit {
        schema[name] = json!(limit);
    }
    schema
}

fn of_kind(kind: &str) -> Json {
    match kind {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" => json!({"type": "string", "format": kind}),
        other => json!({"type": other}),
    }
}

/// The worst cases of an expression over a schema: with no limit on its size, and with one.
fn worst(cases: &[(&str, Json, &str, u64, u64, u64)]) {
    let mut wrong = Vec::new();
    for (expression, schema, name, unlimited, limit, expected) in cases {
        for (limit, expected) in [(None, unlimited), (Some(*limit), expected)] {
            let schema = limited(schema.clone(), name, limit);
            let declared = Declared::from_schema(&schema, false, "self").expect("the test is well formed");
            let most = compile(expression, &declared).estimate(Some(&declared)).most;
            if most != *expected {
                wrong.push(format!("{expression} with {schema} costs {most} and not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn worst_cases_of_lists() {
    let of = |kind: &str| list(of_kind(kind));
    let limit = "maxItems";
    worst(&[
        ("self.all(x, true)", of("number"), limit, 4_718_591, 10, 32),
        ("self.all(x, true)", of("string"), limit, 3_145_727, 20, 62),
        ("self.all(x, true)", of("boolean"), limit, 1_887_437, 5, 17),
        ("self.all(x, true)", list(of("number")), limit, 3_145_727, 100, 302),
        ("self[1] == 0.0", of("number"), limit, 2, 5_000, 2),
        ("self[1] == self[1]", of("string"), limit, 314_577, 8, 314_577),
        ("self.all(x, x == 0.0)", of("number"), limit, 6_291_454, 3 * 1024 * 2048, 25_165_826),
        ("self.all(x, true)", of("int-or-string"), limit, 4_718_591, 10, 32),
        ("self[0] == 5", of("int-or-string"), limit, 3, 10, 3),
        ("self[0][0] == -1.0", list(of("number")), limit, 3, 51, 3),
        ("self.all(x, x.y == 25.2)", list(map(of_kind("number"))), limit, 6_291_452, 12, 74),
        ("self[0].x > 2.0", list(map(of_kind("number"))), limit, 4, 3_000, 4),
        ("self.all(x, true)", of("duration"), limit, 2_359_295, 5, 17),
        ("self[0].getHours() == 2", of("duration"), limit, 4, 525, 4),
        ("self.all(x, true)", of("date"), limit, 725_936, 15, 47),
        ("self.all(x, true)", of("date-time"), limit, 428_963, 25, 77),
    ]);
    let limited_numbers = limited(of("number"), "maxItems", Some(10));
    for (expression, expected) in
        [("self.all(x, self.all(y, true))", 352), ("self.all(x, self.all(y, self.all(z, true)))", 3_552)]
    {
        let declared =
            Declared::from_schema(&limited_numbers, false, "self").expect("the test is well formed");
        assert_eq!(compile(expression, &declared).estimate(Some(&declared)).most, expected);
        let declared = Declared::from_schema(&of("number"), false, "self").expect("the test is well formed");
        assert!(
            compile(expression, &declared).estimate(Some(&declared)).most > dray_cel::cost::STATIC_PER_RULE
        );
    }
}

#[test]
fn worst_cases_of_maps_and_texts() {
    let of = |kind: &str| map(of_kind(kind));
    let limit = "maxProperties";
    worst(&[
        ("self.all(x, true)", of("number"), limit, 1_348_169, 10, 32),
        ("self.all(x, true)", of("string"), limit, 1_179_647, 3, 11),
        ("self.all(x, true)", of("boolean"), limit, 943_718, 100, 302),
        ("self['x'] == 0.0", of("number"), limit, 2, 0, 2),
        ("self.all(x, true)", map(of("number")), limit, 1_179_647, 10, 32),
        ("self.all(x, true)", map(list(of_kind("number"))), limit, 1_179_647, 25, 77),
        ("self.all(x, true)", of("duration"), limit, 1_048_577, 5, 17),
        ("self.all(x, true)", of("date"), limit, 524_288, 10, 32),
    ]);
    let limit = "maxLength";
    worst(&[
        ("self.contains('test')", string(), limit, 314_574, 10, 5),
        ("self.startsWith('test')", string(), limit, 2, 15, 2),
        ("size(self + \"hello\") > size(\"hello\")", string(), limit, 314_578, 4, 7),
        ("self.matches(\"x\")", string(), limit, 314_574, 50, 22),
        ("\"\".matches(\"(((((((((())))))))))[0-9]\")", string(), limit, 7, 10, 7),
        ("self.matches(\"\")", string(), limit, 1, 100, 1),
        ("self == \"x\"", string(), limit, 2, 0, 1),
    ]);
    worst(&[("self == b\"x\"", json!({"type": "string", "format": "byte"}), limit, 2, 0, 1)]);
}

#[test]
fn what_costs_too_much_is_stopped() {
    let declared = Declared::from_schema(&list(integer()), false, "self").expect("the test is well formed");
    let program = compile("self.all(x, self.all(y, x != y || x == y)) || true", &declared);
    let value = json!((0..1000).collect::<Vec<i64>>());
    let activation =
        Activation::new().with("self", Value::declared(&value, &declared).expect("the test is well formed"));
    let evaluation = program.evaluate(&activation, 10_000);
    assert_eq!(evaluation.value.unwrap_err().to_string(), "operation cancelled: actual cost limit exceeded");
    assert!((10_000..10_100).contains(&evaluation.cost), "{}", evaluation.cost);
    let range = compile("lists.range(1000000000).size() > 0", &declared);
    assert!(range.evaluate(&activation, 1_000_000).value.is_err());
}
