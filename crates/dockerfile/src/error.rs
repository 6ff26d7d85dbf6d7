//! What can be wrong with a Dockerfile.

use std::fmt;

/// What is wrong with a Dockerfile, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// The line as it was written.
    pub source_line: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dockerfile parse error on line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

impl ParseError {
    /// The line with a mark below the place.
    #[must_use]
    pub fn excerpt(&self) -> String {
        /// Longer lines tell nothing at a glance.
        const WIDTH: usize = 160;
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let line: String = self
            .source_line
            .chars()
            .take(WIDTH)
            .map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c })
            .collect();
        if self.column > WIDTH {
            return format!(" {number} | {line}");
        }
        let mark = "^".repeat(self.length.clamp(1, WIDTH - self.column + 1));
        format!(" {number} | {line}\n {gutter} | {}{mark}", " ".repeat(self.column.saturating_sub(1)))
    }
}
