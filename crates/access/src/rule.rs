//! One rule of a role: what it grants, and whether rules together grant what another does.

use serde_json::{Map, Value, json};

use crate::Attributes;

const ALL: &str = "*";

/// A rule, as `rbac.authorization.k8s.io/v1 PolicyRule` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs; "*" is every one.
    pub verbs: Vec<String>,
    /// Groups; "*" is every one.
    pub groups: Vec<String>,
    /// Resources, with "/" before a subresource; "*" is every one, "*/scale" that subresource of every one.
    pub resources: Vec<String>,
    /// Names of objects; none means all.
    pub names: Vec<String>,
    /// Paths that are no resources; one that ends in "*" is all that begin so.
    pub urls: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn has(all: &[String], wanted: &str) -> bool {
    all.iter().any(|one| one == ALL || one == wanted)
}

impl Rule {
    /// Reads a rule.
    pub fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: texts(&value["verbs"]),
            groups: texts(&value["apiGroups"]),
            resources: texts(&value["resources"]),
            names: texts(&value["resourceNames"]),
            urls: texts(&value["nonResourceURLs"]),
        }
    }

    /// Reads the rules of a role.
    pub fn all_of(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().into_iter().flatten().map(Rule::from_value).collect()
    }

    /// The rule as JSON, without what is empty.
    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        let fields = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (name, texts) in fields {
            if !texts.is_empty() {
                value.insert(name.to_owned(), json!(texts));
            }
        }
        Value::Object(value)
    }

    /// Whether the rule grants what is asked for.
    pub fn grants(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource() {
            return self.urls.iter().any(|url| covers_url(url, asked.path));
        }
        has(&self.groups, asked.group)
            && self.resources.iter().any(|rule| covers_resource(rule, asked.resource, asked.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    /// The rule as rules that each say one thing of each sort: what of it is granted can then be told one by one.
    fn parts(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                parts.push(Rule { verbs: one(verb), urls: one(url), ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let whole = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        parts.push(whole);
                        continue;
                    }
                    parts.extend(self.names.iter().map(|name| Rule { names: one(name), ..whole.clone() }));
                }
            }
        }
        parts
    }

    /// Whether the rule grants all that a part does.
    fn covers(&self, part: &Rule) -> bool {
        let all = |ours: &[String], theirs: &[String], covers: fn(&str, &str) -> bool| {
            theirs.iter().all(|their| ours.iter().any(|our| covers(our, their)))
        };
        let same = |our: &str, their: &str| our == ALL || our == their;
        let resource = |our: &str, their: &str| match their.split_once('/') {
            Some((resource, subresource)) => covers_resource(our, resource, subresource),
            None => covers_resource(our, their, ""),
        };
        all(&self.verbs, &part.verbs, same)
            && all(&self.groups, &part.groups, same)
            && all(&self.resources, &part.resources, resource)
            && all(&self.urls, &part.urls, covers_url)
            && (self.names.is_empty()
                || (!part.names.is_empty() && all(&self.names, &part.names, |our, their| our == their)))
    }
}

/// Whether a resource of a rule means a resource and its subresource.
fn covers_resource(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ALL {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, part)) => part == subresource && (of == ALL || of == resource),
    }
}

/// Whether a path of a rule means a path.
fn covers_url(rule: &str, path: &str) -> bool {
    match rule.strip_suffix(ALL) {
        Some(beginning) => path.starts_with(beginning),
        None => rule == path,
    }
}

/// What of `wanted` the rules in `held` do not grant, in rules as few as they can be: who does not hold them may
/// not give them to others.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for part in wanted.iter().flat_map(Rule::parts) {
        if held.iter().any(|rule| rule.covers(&part)) {
            continue;
        }
        // Parts that differ in their verb only are told as one.
        let like = missing.iter_mut().find(|rule| {
            rule.groups == part.groups
                && rule.resources == part.resources
                && rule.names == part.names
                && rule.urls == part.urls
        });
        match like {
            Some(rule) if rule.verbs.contains(&part.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(part.verbs),
            None => missing.push(part),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        let value: Value = serde_json::from_str(text).unwrap();
        Rule::from_value(&value)
    }

    #[test]
    fn rules_grant_what_they_say_and_no_more() {
        let pod =
            Attributes { verb: "get", resource: "pods", namespace: "a", name: "p", ..Attributes::default() };
        let log = Attributes { subresource: "log", ..pod };
        let cases: &[(&str, Attributes<'_>, bool)] = &[
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#, pod, true),
            (r#"{"verbs":["list"],"apiGroups":[""],"resources":["pods"]}"#, pod, false),
            (r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#, log, true),
            (r#"{"verbs":["get"],"apiGroups":["apps"],"resources":["pods"]}"#, pod, false),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#, log, false),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}"#, log, true),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}"#, pod, false),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["*/log"]}"#, log, true),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["*/log"]}"#, pod, false),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["p"]}"#, pod, true),
            (r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["q"]}"#, pod, false),
            (r#"{"verbs":["get"],"nonResourceURLs":["*"]}"#, pod, false),
            (
                r#"{"verbs":["get"],"nonResourceURLs":["/healthz"]}"#,
                Attributes::path("get", "/healthz"),
                true,
            ),
            (
                r#"{"verbs":["get"],"nonResourceURLs":["/apis/*"]}"#,
                Attributes::path("get", "/apis/apps"),
                true,
            ),
            (r#"{"verbs":["get"],"nonResourceURLs":["/apis/*"]}"#, Attributes::path("get", "/apis"), false),
            (
                r#"{"verbs":["get"],"nonResourceURLs":["/healthz"]}"#,
                Attributes::path("post", "/healthz"),
                false,
            ),
        ];
        for (text, asked, expected) in cases {
            assert_eq!(rule(text).grants(asked), *expected, "{text} {asked}");
        }
    }

    #[test]
    fn nobody_gives_what_he_does_not_hold() {
        let wanted = [rule(r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","secrets"]}"#)];
        assert_eq!(missing(&wanted, &wanted), []);
        let all = [rule(r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#)];
        assert_eq!(missing(&all, &wanted), []);
        let held = [
            rule(r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}"#),
            rule(r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}"#),
        ];
        let lacking = rule(r#"{"verbs":["list"],"apiGroups":[""],"resources":["secrets"]}"#);
        assert_eq!(missing(&held, &wanted), [lacking]);
        // A name does not cover all names, but all names cover one.
        let named =
            [rule(r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["p"]}"#)];
        let unnamed = [rule(r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#)];
        assert_eq!(missing(&named, &unnamed), unnamed);
        assert_eq!(missing(&unnamed, &named), []);
        let paths = [rule(r#"{"verbs":["get"],"nonResourceURLs":["/a","/b"]}"#)];
        let some = [rule(r#"{"verbs":["get"],"nonResourceURLs":["/a*"]}"#)];
        assert_eq!(missing(&some, &paths), [rule(r#"{"verbs":["get"],"nonResourceURLs":["/b"]}"#)]);
    }
}
