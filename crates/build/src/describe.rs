//! What a Dockerfile says without building it: `--call=check`, `outline` and `targets`.

use crate::progress::Warning;

/// What the checks of a Dockerfile found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// In the order of the lines.
    pub warnings: Vec<Warning>,
    /// Why it cannot be built at all, with the place; empty when it can.
    pub error: String,
    /// Whether what was found is to count as an error.
    pub is_failure: bool,
}

/// A stage that may be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetDescription {
    /// Its name; empty when it has none.
    pub name: String,
    /// Whether it is the one that is built when none is asked for.
    pub is_default: bool,
    /// What stands in the comment before it.
    pub description: String,
    /// What it stands on.
    pub base: String,
    /// Its platform, as it was written.
    pub platform: String,
    /// The line of its `FROM`.
    pub line: usize,
}

/// What a target takes from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target.
    pub name: String,
    /// What stands in the comment before it.
    pub description: String,
    /// Arguments: name, value, and what the comment before says.
    pub arguments: Vec<(String, Option<String>, String)>,
    /// Ids of secrets, and whether a build fails without them.
    pub secrets: Vec<(String, bool)>,
    /// Ids of ssh agents, and whether a build fails without them.
    pub ssh: Vec<(String, bool)>,
    /// Ids of cache mounts.
    pub caches: Vec<String>,
}
