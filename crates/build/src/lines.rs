//! A Dockerfile's bytes become logical lines: comments out, continuations joined, here-documents taken in.
//!
//! It knows the line structure only, not what an instruction means.

use crate::error::ParseError;

/// Longest Dockerfile that is read, in bytes.
pub(crate) const LONGEST: usize = 2 << 20;

/// A text that stands below the instruction that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// The lines, each with its end.
    pub content: String,
    /// Whether variables in it are replaced.
    pub expand: bool,
}

/// One instruction as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The instruction and its arguments, continuations joined.
    pub(crate) text: String,
    /// The number of its first line, from 1.
    pub(crate) number: usize,
    /// The column it begins at, from 1.
    pub(crate) column: usize,
    /// The first line as it was written.
    pub(crate) source: String,
    /// The texts below it.
    pub(crate) heredocs: Vec<Heredoc>,
}

impl Line {
    /// What is wrong with the word `word` of this line.
    pub(crate) fn error(&self, word: &str, message: impl Into<String>) -> ParseError {
        let found = self.source.find(word).filter(|_| !word.is_empty());
        let column = found.map_or(self.column, |at| self.source[..at].chars().count() + 1);
        ParseError {
            line: self.number,
            column,
            length: if found.is_some() { word.chars().count() } else { 1 },
            source_line: self.source.clone(),
            message: message.into(),
        }
    }
}

/// Lines of a Dockerfile, and the character that escapes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line>,
    pub(crate) escape: char,
}

/// Reads a Dockerfile.
pub(crate) fn read(bytes: &[u8]) -> Result<Lines, ParseError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    let physical: Vec<&str> = text.lines().collect();
    let escape = escape_directive(&physical)?;
    let mut lines = Vec::new();
    let mut index = 0;
    while index < physical.len() {
        let first = index;
        let start = physical[first].trim_start();
        index += 1;
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        let mut text = String::new();
        let mut continues = append(&mut text, start, escape);
        while continues && index < physical.len() {
            let next = physical[index];
            index += 1;
            let trimmed = next.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            continues = append(&mut text, next, escape);
        }
        let source = physical[first].trim_end();
        let mut line = Line {
            text: text.trim().to_owned(),
            number: first + 1,
            column: source.chars().take_while(|c| c.is_whitespace()).count() + 1,
            source: source.to_owned(),
            heredocs: Vec::new(),
        };
        for (name, expand, tabs) in heredoc_words(&line.text) {
            let mut content = String::new();
            loop {
                let Some(next) = physical.get(index) else {
                    return Err(line.error(&name, "unterminated heredoc"));
                };
                index += 1;
                let next = if tabs { next.trim_start_matches('\t') } else { next };
                if next == name {
                    break;
                }
                content.push_str(next);
                content.push('\n');
            }
            line.heredocs.push(Heredoc { name, content, expand });
        }
        if !line.text.is_empty() {
            lines.push(line);
        }
    }
    Ok(Lines { lines, escape })
}

/// `# escape=` at the very top; other directives are for other builders.
fn escape_directive(lines: &[&str]) -> Result<char, ParseError> {
    let mut escape = None;
    for (index, line) in lines.iter().enumerate() {
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('=')) else {
            break;
        };
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_name || value.trim().is_empty() {
            break;
        }
        if !name.eq_ignore_ascii_case("escape") {
            continue;
        }
        let fail = |message: String| ParseError {
            line: index + 1,
            column: 1,
            length: line.chars().count().max(1),
            source_line: (*line).to_owned(),
            message,
        };
        if escape.is_some() {
            return Err(fail("only one escape parser directive can be used".to_owned()));
        }
        escape = match value.trim() {
            "\\" => Some('\\'),
            "`" => Some('`'),
            other => return Err(fail(format!("invalid escape token '{other}' does not match ` or \\"))),
        };
    }
    Ok(escape.unwrap_or('\\'))
}

/// Appends a line and answers whether the next one continues it: the escape at its end, itself not escaped.
fn append(text: &mut String, line: &str, escape: char) -> bool {
    let end = line.trim_end_matches([' ', '\t', '\r']);
    match end.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => {
            text.push_str(rest);
            true
        }
        _ => {
            text.push_str(line);
            false
        }
    }
}

/// The here-documents that an instruction announces: name, whether variables count in it, whether tabs are taken off.
fn heredoc_words(text: &str) -> Vec<(String, bool, bool)> {
    let Some((keyword, rest)) = text.split_once(char::is_whitespace) else { return Vec::new() };
    if !["RUN", "COPY", "ADD"].iter().any(|name| keyword.eq_ignore_ascii_case(name)) {
        return Vec::new();
    }
    rest.split_whitespace().filter_map(heredoc_word).collect()
}

/// `<<NAME`, `<<-NAME` and their quoted forms, behind an optional descriptor number.
fn heredoc_word(word: &str) -> Option<(String, bool, bool)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let unquoted = ['"', '\''].iter().find_map(|quote| rest.strip_prefix(*quote)?.strip_suffix(*quote));
    let name = unquoted.unwrap_or(rest);
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    valid.then(|| (name.to_owned(), unquoted.is_none(), tabs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        read(source.as_bytes()).unwrap().lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn joins_continuations_and_drops_comments() {
        let source = "# a comment\nRUN a \\\n  # inside\n\n  b\\\\\nFROM x   \\  \n y\n";
        assert_eq!(texts(source), ["RUN a   b\\\\", "FROM x    y"]);
    }

    #[test]
    fn the_escape_directive_counts_at_the_top_only() {
        assert_eq!(texts("# syntax=x\n# escape=`\nRUN a `\n b"), ["RUN a  b"]);
        assert_eq!(texts("# nothing\n# escape=`\nRUN a `\n b"), ["RUN a `", "b"]);
        let error = read(b"# escape=x\n").unwrap_err();
        assert_eq!(error.message, "invalid escape token 'x' does not match ` or \\");
        assert!(read(b"#escape=`\n#escape=`\n").is_err());
    }

    #[test]
    fn heredocs_belong_to_their_line() {
        let lines = read(b"RUN <<A cat <<-'B'\none\nA\n\ttwo\n\tB\nRUN x=$((1<<2)) << Y\n").unwrap().lines;
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].heredocs[0], Heredoc { name: "A".into(), content: "one\n".into(), expand: true });
        assert_eq!(
            lines[0].heredocs[1],
            Heredoc { name: "B".into(), content: "two\n".into(), expand: false }
        );
        assert!(lines[1].heredocs.is_empty());
        assert_eq!(read(b"COPY <<EOF /x\nno end").unwrap_err().message, "unterminated heredoc");
    }

    #[test]
    fn errors_know_line_and_column() {
        let lines = read("\n  FROM bäd x\n".as_bytes()).unwrap().lines;
        let error = lines[0].error("x", "no");
        assert_eq!((error.line, error.column), (2, 12));
    }
}
