//! Paths into objects as kubectl writes them (<https://kubernetes.io/docs/reference/kubectl/jsonpath/>): names, indexes,
//! slices, wildcards, descent, and items that are chosen by a comparison.

use serde_json::Value;

/// The longest path, in bytes.
const LONGEST: usize = 4096;
/// The most values that one step may lead to.
const MOST: usize = 10_000;

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Names(Vec<String>),
    Slice { from: Option<i64>, to: Option<i64>, by: i64 },
    Index(i64),
    Wildcard,
    Descent,
    Filter { left: Vec<Step>, compared: Option<(Comparison, Operand)> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Is(Value),
    At(Vec<Step>),
}

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path(Vec<Step>);

impl Path {
    /// Reads a path, as ".spec.ports[0].name".
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Path, String> {
        if text.len() > LONGEST {
            return Err(format!("a path may not be longer than {LONGEST} bytes"));
        }
        let mut reader = Reader { rest: text, depth: 0 };
        let steps = reader.steps()?;
        if reader.rest.is_empty() { Ok(Path(steps)) } else { Err(format!("unexpected {:?}", reader.rest)) }
    }

    /// The first value that it leads to.
    pub(crate) fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        follow(&self.0, vec![object]).into_iter().next()
    }
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

/// The deepest that filters are inside of filters.
const DEEPEST: usize = 8;

impl<'t> Reader<'t> {
    fn take(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> &'t str {
        let at = self.rest.find(end).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(at);
        self.rest = rest;
        taken
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Descent);
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.take(".") {
                if self.rest.is_empty() || self.rest.starts_with('[') {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn name(&mut self) -> Result<Step, String> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        loop {
            let part = self.until(|letter| "\\.[]()=!<>&|, ".contains(letter));
            name.push_str(part);
            if !self.take("\\") {
                break;
            }
            let mut letters = self.rest.chars();
            name.extend(letters.next());
            self.rest = letters.as_str();
        }
        if name.is_empty() {
            Err(format!("a name is missing before {:?}", self.rest))
        } else {
            Ok(Step::Name(name))
        }
    }

    fn quoted(&mut self) -> Option<Result<String, String>> {
        let quote = self.rest.chars().next().filter(|letter| matches!(letter, '\'' | '"'))?;
        self.rest = &self.rest[1..];
        let mut text = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => text.extend(letters.next().map(|(_, letter)| letter)),
                letter if letter == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Ok(text));
                }
                letter => text.push(letter),
            }
        }
        Some(Err("a quotation mark is missing".to_owned()))
    }

    fn bracket(&mut self) -> Result<Step, String> {
        let step = if self.take("?(") {
            self.filter()?
        } else if self.rest.starts_with(['\'', '"']) {
            let mut names = Vec::new();
            while let Some(name) = self.quoted() {
                names.push(name?);
                self.rest = self.rest.trim_start();
                if !self.take(",") {
                    break;
                }
                self.rest = self.rest.trim_start();
            }
            if names.len() == 1 { Step::Name(names.remove(0)) } else { Step::Names(names) }
        } else {
            let inner = self.until(|letter| letter == ']').trim();
            index(inner)?
        };
        if self.take("]") { Ok(step) } else { Err("a bracket is not closed".to_owned()) }
    }

    fn filter(&mut self) -> Result<Step, String> {
        if self.depth == DEEPEST {
            return Err("filters are nested too deep".to_owned());
        }
        self.depth += 1;
        self.rest = self.rest.trim_start();
        if !self.take("@") {
            return Err("a filter begins with @".to_owned());
        }
        let left = self.steps()?;
        self.rest = self.rest.trim_start();
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let found = operators.into_iter().find(|(word, _)| self.take(word));
        let compared = match found {
            Some((_, comparison)) => {
                self.rest = self.rest.trim_start();
                Some((comparison, self.operand()?))
            }
            None => None,
        };
        self.rest = self.rest.trim_start();
        self.depth -= 1;
        if self.take(")") {
            Ok(Step::Filter { left, compared })
        } else {
            Err("a filter is not closed".to_owned())
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        if let Some(text) = self.quoted() {
            return text.map(|text| Operand::Is(Value::from(text)));
        }
        if self.take("@") {
            return self.steps().map(Operand::At);
        }
        let word = self.until(|letter| letter == ')').trim();
        serde_json::from_str(word)
            .ok()
            .filter(|value: &Value| !value.is_object() && !value.is_array())
            .map(Operand::Is)
            .ok_or_else(|| format!("unrecognized {word:?}"))
    }
}

/// What stands between brackets without quotation marks: "*", "0", "-1", "0:2".
fn index(text: &str) -> Result<Step, String> {
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("invalid array index {text}"));
    if text == "*" {
        return Ok(Step::Wildcard);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let bound = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
    match parts.as_slice() {
        [only] => number(only).map(Step::Index),
        [from, to] => Ok(Step::Slice { from: bound(from)?, to: bound(to)?, by: 1 }),
        [from, to, by] => {
            let by = bound(by)?.unwrap_or(1);
            if by < 1 {
                return Err(format!("step must be > 0 but is {by}"));
            }
            Ok(Step::Slice { from: bound(from)?, to: bound(to)?, by })
        }
        _ => Err(format!("invalid array index {text}")),
    }
}

fn follow<'a>(steps: &[Step], from: Vec<&'a Value>) -> Vec<&'a Value> {
    steps.iter().fold(from, |values, step| {
        let mut found = Vec::new();
        for value in values {
            if found.len() >= MOST {
                break;
            }
            one_step(step, value, &mut found);
        }
        found
    })
}

fn one_step<'a>(step: &Step, value: &'a Value, found: &mut Vec<&'a Value>) {
    match step {
        Step::Name(name) => found.extend(value.get(name)),
        Step::Names(names) => found.extend(names.iter().filter_map(|name| value.get(name))),
        Step::Wildcard => found.extend(children(value)),
        Step::Descent => descend(value, found),
        Step::Index(index) => {
            let Some(items) = value.as_array() else { return };
            found.extend(place(*index, items.len()).and_then(|at| items.get(at)));
        }
        Step::Slice { from, to, by } => {
            let Some(items) = value.as_array() else { return };
            let bound = |at: Option<i64>, other: usize| {
                at.map_or(other, |at| {
                    let at = if at < 0 { at.saturating_add(items.len() as i64) } else { at };
                    usize::try_from(at).unwrap_or(0).min(items.len())
                })
            };
            let (from, to) = (bound(*from, 0), bound(*to, items.len()));
            let by = usize::try_from(*by).unwrap_or(1);
            found.extend(items.get(from..to).unwrap_or_default().iter().step_by(by));
        }
        Step::Filter { left, compared } => {
            found.extend(children(value).filter(|item| holds(left, compared.as_ref(), item)));
        }
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(length).ok()?)? } else { index };
    usize::try_from(index).ok()
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if found.len() >= MOST {
        return;
    }
    found.push(value);
    children(value).for_each(|inner| descend(inner, found));
}

fn holds(left: &[Step], compared: Option<&(Comparison, Operand)>, item: &Value) -> bool {
    let Some(left) = follow(left, vec![item]).into_iter().next() else { return false };
    let Some((comparison, right)) = compared else { return true };
    let right = match right {
        Operand::Is(value) => Some(value),
        Operand::At(steps) => follow(steps, vec![item]).into_iter().next(),
    };
    let Some(right) = right else { return false };
    let order = match (left, right) {
        (Value::Number(one), Value::Number(two)) => one.as_f64().partial_cmp(&two.as_f64()),
        (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
        (Value::Bool(one), Value::Bool(two)) => Some(one.cmp(two)),
        _ => None,
    };
    match (comparison, order) {
        (Comparison::Equal, order) => order.is_some_and(|order| order.is_eq()),
        (Comparison::Unequal, order) => order.is_none_or(|order| order.is_ne()),
        (Comparison::Less, order) => order.is_some_and(|order| order.is_lt()),
        (Comparison::LessOrEqual, order) => order.is_some_and(|order| order.is_le()),
        (Comparison::Greater, order) => order.is_some_and(|order| order.is_gt()),
        (Comparison::GreaterOrEqual, order) => order.is_some_and(|order| order.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_somewhere() {
        let object = json!({
            "spec": { "a.b": 1, "c-d": 2, "list": [{ "n": "x", "v": 1 }, { "n": "y", "v": 2 }, { "n": "z", "v": 3, "w": 3 }] },
            "metadata": { "labels": { "app.kubernetes.io/name": "web" } },
        });
        for (path, expected) in [
            (".spec['a.b']", json!(1)),
            (".spec.a\\.b", json!(1)),
            (".spec.c-d", json!(2)),
            (".spec.list[1].n", json!("y")),
            (".spec.list[-1].n", json!("z")),
            (".spec.list[*].n", json!("x")),
            (".spec.list[1:].n", json!("y")),
            (".spec.list[0:3:2].n", json!("x")),
            (".spec.list[?(@.n==\"y\")].v", json!(2)),
            (".spec.list[?(@.n=='z')].v", json!(3)),
            (".spec.list[?(@.v > 1)].n", json!("y")),
            (".spec.list[?(@.w)].n", json!("z")),
            (".spec.list[?(@.v == @.w)].n", json!("z")),
            ("..w", json!(3)),
            (".metadata.labels.app\\.kubernetes\\.io/name", json!("web")),
            (".metadata.labels['app.kubernetes.io/name']", json!("web")),
        ] {
            let parsed = Path::parse(path).unwrap_or_else(|why| panic!("{path}: {why}"));
            assert_eq!(parsed.first(&object), Some(&expected), "{path}");
        }
        for path in [".spec.none", ".spec.list[9]", ".spec.list[?(@.n==\"q\")].v", ".spec.list[-9]"] {
            assert_eq!(Path::parse(path).unwrap().first(&object), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let deep = "[?(@".repeat(10_000);
        for path in [
            ".a[",
            ".a[x]",
            ".a['b",
            ".a[?(b)]",
            ".a[?(@.b==c)]",
            "a",
            ".a[0:1:0]",
            ".a[1:2:3:4]",
            deep.as_str(),
        ] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
