//! The text of an expression and the places in it, as errors name them.
//!
//! Columns count code points, as cel-go's do. The module knows nothing of the language.

use std::{fmt, sync::Arc};

/// The longest line that an error shows, in bytes.
const LONGEST_SNIPPET: usize = 16_384;

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The line, counted from 1; 0 where no place is to blame.
    pub line: usize,
    /// The column in code points, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    snippet: Option<String>,
}

impl fmt::Display for Issue {
    /// As cel-go shows it: the place, the line, and a pointer below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "ERROR: <input>:-1:0: {}", self.message);
        }
        write!(f, "ERROR: <input>:{}:{}: {}", self.line, self.column, self.message)?;
        let Some(snippet) = &self.snippet else { return Ok(()) };
        write!(f, "\n | {snippet}\n | ")?;
        let mut letters = snippet.chars();
        for letter in letters.by_ref().take(self.column - 1) {
            f.write_str(if letter.is_ascii() { "." } else { "\u{ff0e}" })?;
        }
        f.write_str(if letters.next().is_none_or(|letter| letter.is_ascii()) { "^" } else { "\u{ff3e}" })
    }
}

/// Everything that is wrong with an expression, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issues(pub Vec<Issue>);

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{issue}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

/// Why an expression is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not well formed, or of wrong types.
    #[error("compilation failed: {0}")]
    Compilation(Issues),
    /// Something in it that is known before evaluation cannot be evaluated.
    #[error("program instantiation failed: {0}")]
    Instantiation(String),
}

/// A place in the text: an offset in bytes, or none.
pub(crate) type Offset = Option<u32>;

/// The text of an expression.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    text: Arc<str>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Source {
        Source { text: text.into() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// An issue at a place.
    pub(crate) fn issue(&self, at: Offset, message: impl Into<String>) -> Issue {
        let message = message.into();
        let Some(at) = at.map(|at| self.boundary(at as usize)) else {
            return Issue { line: 0, column: 0, message, snippet: None };
        };
        let before = &self.text[..at];
        let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = self.text[begin..at].chars().count() + 1;
        let end = self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline);
        let snippet = &self.text[begin..end];
        let snippet = (snippet.len() <= LONGEST_SNIPPET).then(|| snippet.replace('\t', " "));
        Issue { line, column, message, snippet }
    }

    fn boundary(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        (0..=at).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_stands_below_its_letter() {
        for (text, at, shown) in [
            ("a + b", 2, "ERROR: <input>:1:3: wrong\n | a + b\n | ..^"),
            ("x\n\ty z", 5, "ERROR: <input>:2:4: wrong\n |  y z\n | ...^"),
            ("'ó' + ü", 7, "ERROR: <input>:1:7: wrong\n | 'ó' + ü\n | .．....＾"),
            ("", 0, "ERROR: <input>:1:1: wrong\n | \n | ^"),
            ("a", 9, "ERROR: <input>:1:2: wrong\n | a\n | .^"),
        ] {
            assert_eq!(Source::new(text).issue(Some(at), "wrong").to_string(), shown);
        }
        assert_eq!(Source::new("a").issue(None, "wrong").to_string(), "ERROR: <input>:-1:0: wrong");
    }
}
