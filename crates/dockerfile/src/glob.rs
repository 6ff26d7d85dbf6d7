//! Patterns: of shell parameters, of COPY's sources (Go's `filepath.Match`), and of `.dockerignore`.
//!
//! All matching is done with two pointers a star, so the time is at most length times length.

/// One part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Character(char),
    /// `?`: one character that is no separator.
    One,
    /// `[a-z]`, `[^a-z]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `*`: any characters but separators.
    Star,
}

/// A pattern of one path component (`*` does not cross `/`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    /// Parses a pattern; none when a class does not end or an escape has nothing behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Star,
                '?' => Part::One,
                '\\' => Part::Character(rest.next()?),
                '[' => {
                    let negated = rest.next_if(|c| matches!(c, '^')).is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let low = match rest.next()? {
                            ']' if !ranges.is_empty() => break,
                            ']' | '-' => return None,
                            '\\' => rest.next()?,
                            c => c,
                        };
                        let high = if rest.next_if_eq(&'-').is_some() {
                            match rest.next()? {
                                ']' | '-' => return None,
                                '\\' => rest.next()?,
                                c => c,
                            }
                        } else {
                            low
                        };
                        ranges.push((low, high));
                    }
                    Part::Class { negated, ranges }
                }
                c => Part::Character(c),
            });
        }
        Some(Self(parts))
    }

    /// Whether the whole text fits.
    pub fn fits(&self, text: &str) -> bool {
        self.matches(text, false)
    }

    fn matches(&self, text: &str, cross: bool) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where to go on when what follows the last star does not fit.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(part), text.get(at)) {
                (None, None) => return true,
                (Some(Part::Star), _) => {
                    again = Some((part, at));
                    part += 1;
                    continue;
                }
                (Some(expected), Some(c)) if expected.takes(*c, cross) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match again {
                Some((star, from)) if text.get(from).is_some_and(|c| cross || *c != '/') => {
                    again = Some((star, from + 1));
                    part = star + 1;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn takes(&self, c: char, cross: bool) -> bool {
        match self {
            Self::Character(own) => *own == c,
            Self::One => cross || c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            Self::Star => false,
        }
    }
}

/// Whether a text fits a pattern of the shell, in which `*` takes everything.
#[must_use]
pub fn fits_text(pattern: &str, text: &str) -> bool {
    Pattern::parse(pattern).is_some_and(|pattern| pattern.matches(text, true))
}

/// Whether a text has one of the characters that make a pattern.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_as_go_does() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^e-g]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "aäb", true),
            ("a?b", "a/b", false),
            ("*x", "xxx", true),
            ("busybox", "busybox", true),
            ("busy*:*", "busybox:latest", true),
            ("*/b?x", "my/box", true),
            ("*a*b*", "xaxbx", true),
            ("**", "", true),
            ("busy", "busybox", false),
            ("*", "my/box", false),
            ("?x", "/x", false),
            ("a*b", "a/b", false),
            ("", "x", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().fits(text), expected, "{pattern} {text}");
        }
        for pattern in ["[", "[]a]", "[-]", "[a-", "a\\", "[^", "[a-]"] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(pattern in "\\PC*", text in "\\PC*") {
            let _ = fits_text(&pattern, &text);
        }
    }
}
