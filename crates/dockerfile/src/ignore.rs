//! `.dockerignore`: which paths of a context do not belong to it. The last pattern that fits a path, or a directory
//! above it, decides.

use crate::glob::Pattern;

/// Most patterns of one file.
const MOST: usize = 10_000;

/// The patterns of a `.dockerignore`.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// As they were written, for who applies them elsewhere.
    patterns: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// `!`: what fits belongs to the context after all.
    keep: bool,
    components: Vec<Component>,
}

#[derive(Clone, Debug)]
enum Component {
    /// `**`: any number of directories.
    Any,
    One(Pattern),
}

impl Ignore {
    /// Parses the file.
    ///
    /// # Errors
    /// A message that names the pattern that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut rules, mut patterns) = (Vec::new(), Vec::new());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if keep && pattern.is_empty() {
                return Err("illegal exclusion pattern: \"!\"".to_owned());
            }
            let mut components = Vec::new();
            for component in pattern.split('/') {
                match component {
                    "" | "." => {}
                    ".." => {
                        components.pop();
                    }
                    "**" => components.push(Component::Any),
                    name => {
                        // `a**b` is like `a*b` within one component.
                        let one = Pattern::parse(&name.replace("**", "*"));
                        components.push(Component::One(one.ok_or_else(|| {
                            format!("error checking .dockerignore: syntax error in pattern {line:?}")
                        })?));
                    }
                }
            }
            if !components.is_empty() {
                rules.push(Rule { keep, components });
                patterns.push(line.to_owned());
            }
            if rules.len() > MOST {
                return Err(format!("error checking .dockerignore: it has more than {MOST} patterns"));
            }
        }
        Ok(Self { rules, patterns })
    }

    /// Those of a list, as `--exclude` has them.
    ///
    /// # Errors
    /// As [`Ignore::parse`].
    pub fn of_list(patterns: &[String]) -> Result<Self, String> {
        Self::parse(&patterns.join("\n"))
    }

    /// The patterns, as they were written.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path, relative to the context, is left out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let mut excluded = false;
        for rule in &self.rules {
            // A rule that would change nothing need not be tried.
            if rule.keep == excluded && (1..=names.len()).any(|end| fits(&rule.components, &names[..end])) {
                excluded = !rule.keep;
            }
        }
        excluded
    }
}

/// Whether all names fit all components. One row of a table for each component keeps several `**` cheap.
fn fits(components: &[Component], names: &[&str]) -> bool {
    let mut reached = vec![false; names.len() + 1];
    reached[0] = true;
    for component in components {
        let mut next = vec![false; names.len() + 1];
        match component {
            Component::Any => {
                let mut on = false;
                for (at, reached) in reached.iter().enumerate() {
                    on |= reached;
                    next[at] = on;
                }
            }
            Component::One(pattern) => {
                for (at, name) in names.iter().enumerate() {
                    next[at + 1] = reached[at] && pattern.fits(name);
                }
            }
        }
        reached = next;
    }
    reached[names.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let ignore = Ignore::parse(
            "# comment\n*.md\n!README.md\n/secret\nnode_modules/\n**/*.tmp\ndocs/**/draft\nbuild/*\n!build/keep\n",
        )
        .unwrap();
        for (path, excluded) in [
            ("a.md", true),
            ("README.md", false),
            ("sub/a.md", false),
            ("secret/deep/file", true),
            ("sub/secret", false),
            ("node_modules/x/y", true),
            ("x.tmp", true),
            ("a/b/x.tmp", true),
            ("docs/draft", true),
            ("docs/a/b/draft/c", true),
            ("docs/a/final", false),
            ("build", false),
            ("build/out/file", true),
            ("build/keep/file", false),
            ("main.rs", false),
        ] {
            assert_eq!(ignore.excludes(path), excluded, "{path}");
        }
        let all = Ignore::parse("**\n!src/**\n").unwrap();
        assert!(all.excludes("a") && !all.excludes("src/a/b"));
        assert!(Ignore::parse("[").is_err() && Ignore::parse("!").is_err());
        assert!(Ignore::parse("/\n.\n\n").unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[\\PC\n]*", path in "\\PC*") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = ignore.excludes(&path);
            }
        }
    }
}
