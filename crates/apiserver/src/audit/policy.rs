//! The audit policy: how much of which request is written (`audit.k8s.io/v1 Policy`).

use std::collections::BTreeSet;

use serde::Deserialize;

/// How much of a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Level {
    /// Nothing.
    None,
    /// Who asked for what, and what came of it.
    Metadata,
    /// What was sent, too.
    Request,
    /// What was answered, too.
    RequestResponse,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When in the course of a request something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Stage {
    /// It has come.
    RequestReceived,
    /// Its answer has begun, and goes on.
    ResponseStarted,
    /// Its answer is complete.
    ResponseComplete,
    /// The server failed.
    Panic,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A policy. The first rule that is about a request says what is written of it; where none is, nothing is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: BTreeSet<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: BTreeSet<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a request is to a policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
    pub(super) verb: String,
    /// None for a path that is no resource.
    pub(super) resource: Option<Resource>,
    pub(super) path: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) part: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What a policy says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omitted: BTreeSet<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy.
    pub(super) fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(format!(
                "it is a {} of {}, not a Policy of audit.k8s.io/v1",
                policy.kind, policy.api_version
            ));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if resources && !rule.paths.is_empty() {
                return Err(format!("rules[{index}] is about both paths and resources"));
            }
            for path in &rule.paths {
                let plain = path.strip_suffix('*').unwrap_or(path);
                if (path != "*" && !path.starts_with('/')) || plain.contains('*') {
                    return Err(format!(
                        "rules[{index}].nonResourceURLs: {path:?} is no path; a star is its end or all of it"
                    ));
                }
            }
        }
        Ok(policy)
    }

    /// What is written of a request.
    pub(super) fn judge(&self, asked: &Asked) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.is_about(asked)) else {
            return Verdict {
                level: Level::None,
                omitted: self.omit_stages.clone(),
                omit_managed_fields: self.omit_managed_fields,
            };
        };
        Verdict {
            level: rule.level,
            omitted: self.omit_stages.union(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn is_about(&self, asked: &Asked) -> bool {
        let allows = |list: &[String], one: &String| list.is_empty() || list.contains(one);
        if !allows(&self.users, &asked.user)
            || !(self.user_groups.is_empty()
                || asked.groups.iter().any(|group| self.user_groups.contains(group)))
            || !allows(&self.verbs, &asked.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.resource.as_ref().is_some_and(|resource| {
                allows(&self.namespaces, &resource.namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|of| of.has(resource)))
            });
        }
        self.paths.is_empty()
            || (asked.resource.is_none()
                && self.paths.iter().any(|path| match path.strip_suffix('*') {
                    Some(start) => asked.path.starts_with(start),
                    None => *path == asked.path,
                }))
    }
}

impl GroupResources {
    fn has(&self, asked: &Resource) -> bool {
        if self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&asked.name);
        named
            && self.resources.iter().any(|of| match of.split_once('/') {
                None => of == "*" || (asked.part.is_empty() && *of == asked.plural),
                Some(("*", part)) => !asked.part.is_empty() && part == asked.part,
                Some((plural, "*")) => plural == asked.plural,
                Some((plural, part)) => plural == asked.plural && part == asked.part,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, verb: &str, resource: Option<(&str, &str, &str, &str)>, path: &str) -> Asked {
        let resource = resource.map(|(group, plural, part, namespace)| Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            part: part.into(),
            namespace: namespace.into(),
            name: "n".into(),
        });
        Asked { user: user.into(), groups: vec!["g".into()], verb: verb.into(), resource, path: path.into() }
    }

    #[test]
    fn the_first_rule_that_is_about_a_request_counts() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [noisy]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: RequestResponse, resources: [{group: '', resources: [pods, pods/exec]}], namespaces: [a], omitStages: [ResponseStarted]}
- {level: Request, resources: [{group: apps, resources: ['*/scale', 'statefulsets/*']}], omitManagedFields: true}
- {level: Metadata, resources: [{group: '', resources: [secrets], resourceNames: [n]}], verbs: [get]}
- {level: Metadata, userGroups: [g], verbs: [delete]}
",
        )
        .unwrap();
        let pods = |part, namespace| Some(("", "pods", part, namespace));
        for (asked, expected) in [
            (asked("noisy", "get", pods("", "a"), ""), Level::None),
            (asked("u", "get", pods("", "a"), ""), Level::RequestResponse),
            (asked("u", "create", pods("exec", "a"), ""), Level::RequestResponse),
            (asked("u", "get", pods("log", "a"), ""), Level::None),
            (asked("u", "get", pods("", "b"), ""), Level::None),
            (asked("u", "delete", pods("", "b"), ""), Level::Metadata),
            (asked("u", "get", None, "/healthz/ping"), Level::None),
            (asked("u", "delete", None, "/other"), Level::Metadata),
            (asked("u", "update", Some(("apps", "deployments", "scale", "a")), ""), Level::Request),
            (asked("u", "update", Some(("apps", "deployments", "", "a")), ""), Level::None),
            (asked("u", "update", Some(("apps", "statefulsets", "", "a")), ""), Level::Request),
            (asked("u", "get", Some(("", "secrets", "", "a")), ""), Level::Metadata),
            (asked("u", "list", Some(("", "secrets", "", "a")), ""), Level::None),
        ] {
            assert_eq!(policy.judge(&asked).level, expected, "{asked:?}");
        }
        let verdict = policy.judge(&asked("u", "get", pods("", "a"), ""));
        assert_eq!(verdict.omitted, [Stage::RequestReceived, Stage::ResponseStarted].into());
        assert!(
            policy.judge(&asked("u", "update", Some(("apps", "x", "scale", "a")), "")).omit_managed_fields
        );
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        for (text, words) in [
            (String::new(), "apiVersion"),
            ("apiVersion: v1\nkind: Pod\nrules: [{level: None}]".to_owned(), "it is a Pod of v1"),
            (head.to_owned(), "it has no rules"),
            (format!("{head}rules: [{{level: Some}}]"), "unknown variant `Some`"),
            (format!("{head}rules: [{{level: None, user: [a]}}]"), "unknown field `user`"),
            (format!("{head}rules: [{{level: None, nonResourceURLs: [a]}}]"), "\"a\" is no path"),
            (format!("{head}rules: [{{level: None, nonResourceURLs: ['/a*b']}}]"), "is no path"),
            (format!("{head}rules: [{{level: None, nonResourceURLs: [/], namespaces: [a]}}]"), "both"),
        ] {
            let wrong = Policy::parse(&text).unwrap_err();
            assert!(wrong.contains(words), "{words}: {wrong}");
        }
    }
}
