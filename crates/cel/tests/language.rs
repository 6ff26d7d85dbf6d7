//! The language and its libraries, expression by expression: what each gives, or what is said of it.

use dray_cel::{Activation, Environment, Error, NEWEST, Program, Type, Value};
use serde_json::{Value as Json, json};

fn object() -> Json {
    json!({
        "name": "web", "count": 3, "ratio": 0.5, "on": true, "none": null,
        "list": [1, 2, 3], "words": ["a", "bb", "ccc"], "empty": [], "map": {"a": 1, "b": 2},
        "nested": {"deep": {"x": "y"}}, "items": [{"k": "a", "v": 1}, {"k": "b", "v": 2}],
    })
}

fn environment() -> Environment {
    Environment::kubernetes(NEWEST).with_variable("self", Type::Dyn).with_variable("text", Type::String)
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => format!("{:?}", &**text),
        Value::Uint(number) => format!("{number}u"),
        Value::Bytes(bytes) => format!("b{bytes:?}"),
        Value::Duration(nanos) => format!("{nanos}ns"),
        Value::Timestamp(time) => time.to_string(),
        Value::Type(of) => format!("type {of}"),
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("some {}", show(value)),
        Value::Double(number) => format!("{number:?}"),
        Value::List(list) => {
            let shown: Vec<String> =
                list.iter().map(|element| show(&element.expect("the test is well formed"))).collect();
            format!("[{}]", shown.join(", "))
        }
        other => other.to_json().map_or_else(|fault| format!("({fault})"), |json| json.to_string()),
    }
}

/// The value of an expression as text, or what is wrong with it.
fn evaluate(expression: &str) -> String {
    let program = match Program::compile(expression, &environment()) {
        Ok(program) => program,
        Err(Error::Compilation(issues)) => {
            let issue = &issues.0[0];
            return format!("{}:{}: {}", issue.line, issue.column, issue.message);
        }
        Err(error) => return error.to_string(),
    };
    let object = object();
    let activation = Activation::new()
        .with("self", Value::from_json(&object))
        .with("text", Value::from_json(&object["name"]));
    match program.evaluate(&activation, 1_000_000).value {
        Ok(value) => show(&value),
        Err(fault) => format!("fault: {fault}"),
    }
}

/// Expressions that are true.
fn holds(expressions: &[&str]) {
    let wrong: Vec<String> = expressions
        .iter()
        .map(|expression| (expression, evaluate(expression)))
        .filter(|(_, result)| result != "true")
        .map(|(expression, result)| format!("{expression} is {result}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Expressions and what they give.
fn gives(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(expression, expected)| (expression, expected, evaluate(expression)))
        .filter(|(_, expected, result)| result != *expected)
        .map(|(expression, expected, result)| format!("{expression}\n    is {result}\n not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn arithmetic() {
    gives(&[
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("-7 % 3", "-1"),
        ("7u % 4u", "3u"),
        ("1.5 + 2.0", "3.5"),
        ("--1", "1"),
        ("---1", "-1"),
        ("-(3)", "-3"),
        ("0x10", "16"),
        ("-0x10", "-16"),
        ("1e3", "1000.0"),
        (".5", "0.5"),
        ("9223372036854775807 + 1", "fault: integer overflow"),
        ("-9223372036854775808 - 1", "fault: integer overflow"),
        ("-(-9223372036854775808)", "fault: integer overflow"),
        ("-9223372036854775808 / -1", "fault: integer overflow"),
        ("0u - 1u", "fault: unsigned integer overflow"),
        ("18446744073709551615u + 1u", "fault: unsigned integer overflow"),
        ("1 / 0", "fault: division by zero"),
        ("1 % 0", "fault: modulus by zero"),
        ("1.0 / 0.0", "inf"),
        ("self.count * 2", "6"),
        ("self.ratio * 2.0", "1.0"),
        ("[1] + [2, 3]", "[1, 2, 3]"),
        ("'a' + 'b'", "\"ab\""),
        ("b'a' + b'b'", "b[97, 98]"),
    ]);
}

#[test]
fn equality_and_order() {
    holds(&[
        "1 == 1",
        "dyn(1) == 1u",
        "dyn(1) == 1.0",
        "dyn(1) != '1'",
        "[1, 2] == [1, 2]",
        "{'a': 1} == {'a': 1}",
        "{'a': 1} != {'a': 2}",
        "[dyn(1), dyn(2.0)] == [dyn(1.0), dyn(2u)]",
        "null == null",
        "self.none == null",
        "type(1) == int",
        "type(self.count) == int",
        "type(self.map) == map",
        "type(type(1)) == type",
        "1 < 2 && 2u > 1u && 1.0 <= 1.0",
        "1 < 1.5 && 1.5 < 2u && -1 < 0u",
        "'a' < 'b' && b'a' < b'ab'",
        "false < true",
        "duration('1s') < duration('1m')",
        "timestamp('2000-01-01T00:00:00Z') < timestamp('2001-01-01T00:00:00Z')",
        "!(0.0 / 0.0 == 0.0 / 0.0)",
        "!(0.0 / 0.0 < 1.0)",
        "1 in [1, 2] && !(3 in [1, 2])",
        "'a' in {'a': 1} && 1u in [dyn(1)]",
        "2 in self.list && 'a' in self.map",
        "self.list == [1, 2, 3]",
        "self.map == {'b': 2, 'a': 1}",
    ]);
}

#[test]
fn logic_absorbs_what_is_wrong() {
    gives(&[
        ("true || self.missing", "true"),
        ("self.missing || true", "true"),
        ("false && self.missing", "false"),
        ("self.missing && false", "false"),
        ("self.missing && true", "fault: no such key: missing"),
        ("1 / 0 == 1 || true", "true"),
        ("true ? 1 : 2", "1"),
        ("false ? 1 : true ? 2 : 3", "2"),
        ("self.missing ? 1 : 2", "fault: no such key: missing"),
        ("!!true", "true"),
        ("!!!true", "false"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("[0, 2].exists(x, 1 / x == 1)", "fault: division by zero"),
        ("[0, 2].all(x, 1 / x == 1)", "false"),
        ("self.count && true", "fault: no such overload"),
    ]);
}

#[test]
fn names_fields_and_indices() {
    gives(&[
        ("self.name", "\"web\""),
        ("self['name']", "\"web\""),
        ("self.nested.deep.x", "\"y\""),
        ("self.list[1]", "2"),
        ("self.list[1u]", "2"),
        ("self.list[3]", "fault: index out of bounds: 3"),
        ("self.list[-1]", "fault: index out of bounds: -1"),
        ("self.map.c", "fault: no such key: c"),
        ("self.map['c']", "fault: no such key: c"),
        ("{1: 'a'}[1u]", "1:9: found no matching overload for '_[_]' applied to '(map(int, string), uint)'"),
        ("{1: 'a'}[dyn(1.0)]", "\"a\""),
        ("has(self.name)", "true"),
        ("has(self.missing)", "false"),
        ("has(self.nested.deep.z)", "false"),
        ("has(self.missing.x)", "fault: no such key: missing"),
        ("self.`name`", "\"web\""),
        ("self.name.size()", "3"),
        ("size(self.map)", "2"),
        ("[[1, 2], [3]][0][1]", "2"),
    ]);
}

#[test]
fn macros() {
    gives(&[
        ("[1, 2, 3].map(x, x * 2)", "[2, 4, 6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4, 6]"),
        ("[1, 2, 3].filter(x, x != 2)", "[1, 3]"),
        ("[1, 2, 3].all(x, x > 0)", "true"),
        ("[1, 2, 3].exists_one(x, x > 2)", "true"),
        ("[1, 2, 3].existsOne(x, x > 1)", "false"),
        ("[].all(x, x > 0)", "true"),
        ("self.map.all(k, k in ['a', 'b'])", "true"),
        ("self.items.filter(i, i.v > 1).map(i, i.k)", "[\"b\"]"),
        ("[1, 2].map(x, [3, 4].map(y, x * y))", "[[3, 4], [6, 8]]"),
        ("[1, 2].map(x, [x].map(x, x + 1))", "[[2], [3]]"),
        ("[1, 2, 3].all(i, v, i + 1 == v)", "true"),
        ("['a', 'b'].exists(i, v, i == 1 && v == 'b')", "true"),
        ("{'a': 1, 'b': 2}.exists_one(k, v, v == 2)", "true"),
        ("{'a': 1, 'b': 2}.transformList(k, v, k + string(v))", "[\"a1\", \"b2\"]"),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10)", "{\"b\":20}"),
        ("['a', 'b'].transformMap(i, v, v)[1]", "\"b\""),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", "{\"x\":\"a\"}"),
        (
            "{'a': 'x', 'b': 'x'}.transformMapEntry(k, v, {v: k})",
            "fault: insert failed: key x already exists",
        ),
        ("[3, 1, 2].sortBy(x, -x)", "[3, 2, 1]"),
        ("['b', 'a'].sort()", "[\"a\", \"b\"]"),
        ("[1].all(x.y, true)", "1:10: argument must be a simple name"),
        ("[1].map(1, true)", "1:9: argument is not an identifier"),
        ("[1].all(x, x, true)", "1:12: duplicate variable name: x"),
        ("has(self)", "1:5: invalid argument to has() macro"),
        (
            "1.map(x, x)",
            "1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
    ]);
}

#[test]
fn optionals() {
    gives(&[
        ("self.?name", "some \"web\""),
        ("self.?missing", "none"),
        ("self.?missing.deep.deeper", "none"),
        ("self.?nested.deep.x", "some \"y\""),
        ("self.?nested.?deep.?z.orValue('d')", "\"d\""),
        ("self.list[?1]", "some 2"),
        ("self.list[?9]", "none"),
        ("self.map[?'a'].orValue(0)", "1"),
        ("self.map[?'z'].or(self.map[?'b']).value()", "2"),
        ("optional.none().hasValue()", "false"),
        ("optional.of(1) == optional.of(1)", "true"),
        ("optional.ofNonZeroValue('')", "none"),
        ("optional.none().value()", "fault: optional.none() dereference"),
        ("[?optional.none(), ?optional.of(2)]", "[2]"),
        ("{?'a': optional.none(), ?'b': optional.of(2)}", "{\"b\":2}"),
        ("optional.of(2).optMap(x, x * 2)", "some 4"),
        ("optional.of([1]).optFlatMap(x, x[?0])", "some 1"),
        ("has(self.?nested.deep)", "true"),
        ("has(self.?missing.deep)", "false"),
        ("[1, 2].first()", "some 1"),
        ("[].last()", "none"),
        ("optional.unwrap([optional.of(1), optional.none()])", "[1]"),
    ]);
}

#[test]
fn conversions() {
    gives(&[
        ("int('12')", "12"),
        ("int(3.9)", "3"),
        ("int(-3.9)", "-3"),
        ("uint(3)", "3u"),
        ("double('1.5')", "1.5"),
        ("string(1.0)", "\"1\""),
        ("string(1e6)", "\"1e+06\""),
        ("string(-2)", "\"-2\""),
        ("string(true)", "\"true\""),
        ("string(b'abc')", "\"abc\""),
        ("bytes('é')", "b[195, 169]"),
        ("bool('true')", "true"),
        ("string(duration('90m'))", "\"5400s\""),
        ("string(timestamp('2000-01-01T00:00:00.5Z'))", "\"2000-01-01T00:00:00.5Z\""),
        ("timestamp(0)", "1970-01-01T00:00:00Z"),
        ("int(timestamp('1970-01-01T00:01:00Z'))", "60"),
        ("type(dyn('a'))", "type string"),
        ("int(9223372036854775808u)", "program instantiation failed: range error: the number does not fit"),
        ("uint(-1)", "program instantiation failed: range error: the number does not fit"),
        ("int(text)", "fault: type conversion error from 'string' to 'int': cannot parse \"web\""),
        ("duration('x')", "1:10: invalid duration argument"),
        ("timestamp('x')", "1:11: invalid timestamp argument"),
    ]);
}

#[test]
fn times() {
    gives(&[
        ("timestamp('2009-02-13T23:31:30.123Z').getFullYear()", "2009"),
        ("timestamp('2009-02-13T23:31:30.123Z').getMonth()", "1"),
        ("timestamp('2009-02-13T23:31:30.123Z').getDate()", "13"),
        ("timestamp('2009-02-13T23:31:30.123Z').getDayOfMonth()", "12"),
        ("timestamp('2009-02-13T23:31:30.123Z').getDayOfWeek()", "5"),
        ("timestamp('2009-02-13T23:31:30.123Z').getDayOfYear()", "43"),
        ("timestamp('2009-02-13T23:31:30.123Z').getHours('+02:00')", "1"),
        ("timestamp('2009-02-13T23:31:30.123Z').getMinutes('-00:30')", "1"),
        ("timestamp('2009-02-13T23:31:30.123Z').getMilliseconds()", "123"),
        ("duration('90m').getHours()", "1"),
        ("duration('3.5s').getMilliseconds()", "3500"),
        ("timestamp('2000-01-01T00:00:00Z') + duration('1h')", "2000-01-01T01:00:00Z"),
        ("timestamp('2000-01-01T01:00:00Z') - timestamp('2000-01-01T00:00:00Z')", "3600000000000ns"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "fault: timestamp overflow"),
        ("timestamp('9999-12-31T23:59:59Z') - timestamp('0001-01-01T00:00:00Z')", "fault: duration overflow"),
    ]);
}

#[test]
fn strings() {
    gives(&[
        ("'tacocat'.charAt(3)", "\"o\""),
        ("'tacocat'.charAt(7)", "\"\""),
        ("'tacocat'.charAt(8)", "fault: index out of range: 8"),
        ("'ta©o©αT'.indexOf('©', 3)", "4"),
        ("'tacocat'.indexOf('')", "0"),
        ("'tacocat'.lastIndexOf('at')", "5"),
        ("'tacocat'.lastIndexOf('a', 4)", "1"),
        ("'tacocat'.lastIndexOf('ac', 1)", "1"),
        ("'TacoÆCat'.lowerAscii()", "\"tacoÆcat\""),
        ("'hello hello'.replace('he', 'we', 1)", "\"wello hello\""),
        ("'abc'.replace('', '-')", "\"-a-b-c-\""),
        ("'a,b,c'.split(',')", "[\"a\", \"b\", \"c\"]"),
        ("'a,b,c'.split(',', 2)", "[\"a\", \"b,c\"]"),
        ("'abc'.split('')", "[\"a\", \"b\", \"c\"]"),
        ("'abc'.split('', 2)", "[\"a\", \"bc\"]"),
        ("'abc'.split(',', 0)", "[]"),
        ("'tacocat'.substring(2, 4)", "\"co\""),
        ("'tacocat'.substring(4, 2)", "fault: invalid substring range. start: 4, end: 2"),
        ("' \\t a\\n'.trim()", "\"a\""),
        ("['a', 'b'].join('-')", "\"a-b\""),
        ("[].join()", "\"\""),
        ("strings.quote('a\"b\\n')", "\"\\\"a\\\\\\\"b\\\\n\\\"\""),
        ("'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')", "true"),
        ("'abc'.matches('^[a-c]+$') && matches('abc', 'b')", "true"),
        ("'abc'.matches('[')", "1:15: invalid matches argument"),
        (
            "'%s|%d|%f|%.2f|%x|%X|%o|%b|%%'.format(['a', 1, 1.5, 2.345, 255, 'z', 8, true])",
            "\"a|1|1.500000|2.35|ff|7A|10|1|%\"",
        ),
        ("'%e'.format([3.14])", "\"3.140000×10⁰⁰\""),
        (
            "'%s %s'.format([[1, 'a', 2.0], {'k': duration('1s')}])",
            "\"[1, \\\"a\\\", 2.000000] {\\\"k\\\":duration(\\\"1s\\\")}\"",
        ),
        (
            "'%d'.format(['a'])",
            "1:14: error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s'.format([])", "1:12: index 0 out of range"),
        ("'%z'.format([1])", "1:12: could not parse formatting clause: unrecognized formatting clause \"z\""),
        ("text.format([1])", "\"web\""),
        ("'abc'.find('b.')", "\"bc\""),
        ("'a1b22'.findAll('[0-9]+')", "[\"1\", \"22\"]"),
        ("'a1b22'.findAll('[0-9]+', 1)", "[\"1\"]"),
    ]);
}

#[test]
fn lists_and_sets() {
    gives(&[
        ("[1, 2, 2].isSorted() && ![2, 1].isSorted()", "true"),
        ("[1, 2, 3].sum()", "6"),
        ("[1.5, 2.5].sum()", "4.0"),
        ("['b', 'a'].min() + ['b', 'a'].max()", "\"ab\""),
        ("self.empty.min()", "fault: min called on empty list"),
        ("[1, 2, 1].indexOf(1) + [1, 2, 1].lastIndexOf(1)", "2"),
        ("[1].indexOf(2)", "-1"),
        ("[1, 2].includes(2) && 'a'.includes('a')", "true"),
        ("[1, 2, 3, 4].slice(1, 3)", "[2, 3]"),
        ("[1].slice(0, 2)", "fault: cannot slice(0, 2), list is length 1"),
        ("[[1], [2, 3]].flatten()", "[1, 2, 3]"),
        ("[dyn(1), dyn([dyn(2), dyn([3])])].flatten(2)", "[1, 2, 3]"),
        ("lists.range(3)", "[0, 1, 2]"),
        ("[1, 2, 3].reverse()", "[3, 2, 1]"),
        ("[1, 2, 1, dyn(1.0)].distinct()", "1:14: expected type 'int' but found 'dyn'"),
        ("[1, 2, 1].distinct()", "[1, 2]"),
        ("sets.contains([1, 2], [2]) && !sets.contains([1], [2])", "true"),
        ("sets.equivalent([1, 2, 1], [2, 1])", "true"),
        ("sets.intersects([1], [2]) || sets.intersects([1], [1, 2])", "true"),
    ]);
}

#[test]
fn kubernetes_libraries() {
    holds(&[
        "url('https://user@example.com:80/a%20b?q=1&q=2&r').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getHostname() == 'example.com'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'",
        "url('https://[::1]/').getPort() == ''",
        "url('HTTPS://example.com/a b').getEscapedPath() == '/a%20b'",
        "url('https://example.com/?q=1&q=2%20').getQuery() == {'q': ['1', '2 ']}",
        "url('/path').getScheme() == '' && isURL('/path')",
        "!isURL('../path') && !isURL('https://a:b:c/') && !isURL('') && !isURL('https://a b.com/')",
        "url('https://a/') == url('https://a/')",
        "quantity('1.5G').isGreaterThan(quantity('1G'))",
        "quantity('50k').add(20).compareTo(quantity('50020')) == 0",
        "quantity('50k').sub(quantity('20k')) == quantity('30k')",
        "sign(quantity('-1')) == -1",
        "quantity('50000000G').isInteger() && quantity('1k').asInteger() == 1000",
        "!quantity('0.5').isInteger() && quantity('0.5').asApproximateFloat() == 0.5",
        "isQuantity('1.3Gi') && !isQuantity('1.3GI')",
        "ip('127.0.0.1').isLoopback() && ip('127.0.0.1').family() == 4",
        "ip('::1').family() == 6 && ip.isCanonical('::1') && !ip.isCanonical('0::1')",
        "isIP('10.0.0.1') && !isIP('10.0.0') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()",
        "ip('10.0.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "string(ip('2001:DB8::1')) == '2001:db8::1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1')",
        "cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/25'))",
        "!cidr('192.168.0.0/24').containsCIDR('192.168.0.0/23')",
        "cidr('192.168.0.5/24').masked() == cidr('192.168.0.0/24')",
        "cidr('::/0').containsIP(ip('::1')) && cidr('::1/128').prefixLength() == 128",
        "cidr('192.168.0.5/24').ip() == ip('192.168.0.5')",
        "string(cidr('192.168.0.0/24')) == '192.168.0.0/24'",
        "isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/08')",
        "!format.dns1123Label().validate('my-label').hasValue()",
        "format.named('dns1123Label').value().validate('My_Label').value()[0].startsWith('a lowercase RFC 1123 label')",
        "!format.named('nothing').hasValue()",
        "!format.dns1123LabelPrefix().validate('prefix-').hasValue()",
        "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "format.uuid().validate('x').value() == ['does not match the UUID format']",
        "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.2.3').minor() == 2",
        "isSemver('v1.0', true) && !isSemver('v1.0') && semver('v1', true) == semver('1.0.0')",
    ]);
}

#[test]
fn what_the_checker_says() {
    gives(&[
        ("x", "1:1: undeclared reference to 'x' (in container '')"),
        ("f(1)", "1:2: undeclared reference to 'f' (in container '')"),
        ("self.f()", "1:7: undeclared reference to 'f' (in container '')"),
        ("1 + 'a'", "1:3: found no matching overload for '_+_' applied to '(int, string)'"),
        ("1 == 'a'", "1:3: found no matching overload for '_==_' applied to '(int, string)'"),
        ("'a'.startsWith(1)", "1:15: found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("1.x", "1:2: type 'int' does not support field selection"),
        ("[1, 'a']", "1:5: expected type 'int' but found 'string'"),
        ("{'a': 1, 'b': 'c'}", "1:15: expected type 'int' but found 'string'"),
        ("true && 1", "1:9: expected type 'bool' but found 'int'"),
        ("1 ? 2 : 3", "1:3: found no matching overload for '_?_:_' applied to '(int, int, int)'"),
        ("Foo{a: 1}", "1:4: undeclared reference to 'Foo' (in container '')"),
        ("[?1]", "1:3: expected type 'optional_type(int)' but found 'int'"),
    ]);
}

#[test]
fn what_the_parser_says() {
    const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, \
                              STRING, BYTES, IDENTIFIER}";
    let wrong = |at: &str, kind: &str, token: &str| {
        format!("{at}: Syntax error: {kind} input '{token}' expecting {BEGINNINGS}")
    };
    gives(&[
        ("*@a | b", "1:2: Syntax error: token recognition error at: '@'"),
        ("a + $", "1:5: Syntax error: token recognition error at: '$'"),
        ("1 +", &wrong("1:4", "mismatched", "<EOF>")),
        ("1 + +", &wrong("1:5", "mismatched", "+")),
        ("?", &wrong("1:1", "mismatched", "?")),
        ("* a", &wrong("1:1", "extraneous", "*")),
        ("a b", "1:3: Syntax error: extraneous input 'b' expecting <EOF>"),
        ("x(1)(2)", "1:5: Syntax error: mismatched input '(' expecting <EOF>"),
        ("{1}", "1:3: Syntax error: mismatched input '}' expecting ':'"),
        ("namespace", "1:1: reserved identifier: namespace"),
        ("99999999999999999999", "1:1: invalid int literal"),
        ("1e400", "1:1: invalid double literal"),
        ("'\\ud800'", "1:1: invalid unicode code point"),
    ]);
}

#[test]
fn newer_libraries_are_missing_from_older_versions() {
    for (minor, expression) in [
        (27, "optional.none().hasValue()"),
        (27, "isQuantity('1')"),
        (28, "sets.contains([1], [1])"),
        (29, "isIP('::1')"),
        (30, "format.named('uri').hasValue()"),
        (31, "[1].all(i, v, true)"),
        (32, "isSemver('1.0.0')"),
        (33, "[1].reverse() == [1]"),
        (36, "[1].includes(1)"),
    ] {
        assert!(
            Program::compile(expression, &Environment::kubernetes(minor)).is_err(),
            "{expression} in 1.{minor}"
        );
        let newer = Program::compile(expression, &Environment::kubernetes(minor + 1));
        assert!(newer.is_ok(), "{expression} in 1.{}: {}", minor + 1, newer.unwrap_err());
    }
}
