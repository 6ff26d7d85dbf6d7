//! A Dockerfile's bytes become logical lines: comments out, continuations joined, here-documents taken in.
//!
//! It knows the line structure only, not what an instruction means.

use crate::ParseError;

/// Longest Dockerfile that is read, in bytes.
pub const LONGEST: usize = 2 << 20;

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
pub struct Line {
    /// The instruction and its arguments, continuations joined.
    pub text: String,
    /// The number of its first line, from 1.
    pub number: usize,
    /// The number of its last line, texts below it included.
    pub end: usize,
    /// The column it begins at, from 1.
    pub column: usize,
    /// Its lines as they were written, with their numbers.
    pub sources: Vec<(usize, String)>,
    /// The texts below it.
    pub heredocs: Vec<Heredoc>,
    /// The comment directly above it, without the number signs.
    pub comment: Vec<String>,
    /// The number of an empty line within it, which a continuation passes over.
    pub empty_continuation: Option<usize>,
}

impl Line {
    /// What is wrong with the word `word` of this line.
    pub(crate) fn error(&self, word: &str, message: impl Into<String>) -> ParseError {
        let found = self.sources.iter().find_map(|(number, source)| {
            let at = source.find(word).filter(|_| !word.is_empty())?;
            Some((*number, source, source[..at].chars().count() + 1))
        });
        let first = self.sources.first().map(|(_, source)| source);
        let (line, source, column) = match (found, first) {
            (Some((number, source, column)), _) => (number, source.clone(), column),
            (None, first) => (self.number, first.cloned().unwrap_or_default(), self.column),
        };
        ParseError {
            line,
            column,
            length: if found.is_some() { word.chars().count() } else { 1 },
            source_line: source,
            message: message.into(),
        }
    }
}

/// The directives at the top of a Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend that the writer had in mind.
    pub syntax: Option<String>,
    /// `# check=skip=…`: checks that say nothing, `all` for all.
    pub skip_checks: Vec<String>,
    /// `# check=error=true`: whether what checks say fails the build.
    pub checks_are_errors: bool,
    /// `# check=experimental=…`: checks that are asked for besides the usual ones.
    pub experimental_checks: Vec<String>,
}

/// Lines of a Dockerfile, and what stands above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The lines that say something, in order.
    pub lines: Vec<Line>,
    /// What quotes the next character.
    pub escape: char,
    /// What stands at the top.
    pub directives: Directives,
}

/// Reads a Dockerfile.
///
/// # Errors
/// What is wrong, and where.
pub fn read(bytes: &[u8]) -> Result<Lines, ParseError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    let physical: Vec<&str> = text.lines().collect();
    let (escape, directives, top) = read_directives(&physical)?;
    let mut lines = Vec::new();
    let mut comment = Vec::new();
    let mut index = 0;
    while index < physical.len() {
        let first = index;
        let start = physical[first].trim_start();
        index += 1;
        if let Some(words) = start.strip_prefix('#') {
            if first >= top {
                comment.push(words.trim().to_owned());
            }
            continue;
        }
        if start.is_empty() {
            comment.clear();
            continue;
        }
        let mut text = String::new();
        let mut sources = vec![(first + 1, physical[first].trim_end().to_owned())];
        let mut empty_continuation = None;
        let mut continues = append(&mut text, start, escape);
        while continues && index < physical.len() {
            let next = physical[index];
            index += 1;
            let trimmed = next.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_continuation.get_or_insert(index);
                continue;
            }
            sources.push((index, next.trim_end().to_owned()));
            continues = append(&mut text, next, escape);
        }
        let source = physical[first];
        let mut line = Line {
            text: text.trim().to_owned(),
            number: first + 1,
            end: index,
            column: source.chars().take_while(|c| c.is_whitespace()).count() + 1,
            sources,
            heredocs: Vec::new(),
            comment: std::mem::take(&mut comment),
            empty_continuation,
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
        line.end = index;
        if !line.text.is_empty() {
            lines.push(line);
        }
    }
    Ok(Lines { lines, escape, directives })
}

/// The directives at the very top, and how many lines they take.
fn read_directives(lines: &[&str]) -> Result<(char, Directives, usize), ParseError> {
    let (mut escape, mut syntax, mut check) = (None, None, None);
    let mut top = 0;
    for (index, line) in lines.iter().enumerate() {
        // A script's first line may stand above.
        if index == 0 && line.starts_with("#!") {
            continue;
        }
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('=')) else {
            break;
        };
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_name || value.trim().is_empty() {
            break;
        }
        let fail = |message: String| ParseError {
            line: index + 1,
            column: 1,
            length: line.chars().count().max(1),
            source_line: (*line).to_owned(),
            message,
        };
        let lower = name.to_ascii_lowercase();
        let known = match lower.as_str() {
            "escape" => &mut escape,
            "syntax" => &mut syntax,
            "check" => &mut check,
            _ => break,
        };
        top = index + 1;
        if known.is_some() {
            return Err(fail(format!("only one {lower} parser directive can be used")));
        }
        let value = value.trim();
        if lower == "escape" && value != "\\" && value != "`" {
            return Err(fail(format!("invalid escape token '{value}' does not match ` or \\")));
        }
        *known = Some((value.to_owned(), index));
    }
    let mut directives =
        Directives { syntax: syntax.map(|(value, _): (String, usize)| value), ..Directives::default() };
    if let Some((value, index)) = check {
        directives.read_check(&value).map_err(|message| ParseError {
            line: index + 1,
            column: 1,
            length: lines[index].chars().count().max(1),
            source_line: lines[index].to_owned(),
            message,
        })?;
    }
    let escape = if escape.is_some_and(|(value, _)| value == "`") { '`' } else { '\\' };
    Ok((escape, directives, top))
}

impl Directives {
    /// `skip=A,B;error=true;experimental=C`, as the directive and the build argument have it.
    ///
    /// # Errors
    /// A message that names the option that is none.
    pub fn read_check(&mut self, value: &str) -> Result<(), String> {
        let names = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        for option in value.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            match option.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("skip", value)) => self.skip_checks = names(value),
                Some(("experimental", value)) => self.experimental_checks = names(value),
                Some(("error", value)) => {
                    self.checks_are_errors = value.parse().map_err(|_| {
                        format!("failed to parse check option {option:?}: write error=true or error=false")
                    })?;
                }
                _ => {
                    return Err(format!(
                        "invalid check option {option:?}: skip=, experimental= and error= are known"
                    ));
                }
            }
        }
        Ok(())
    }
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
        let lines = read("RUN a \\\n  # no\n   b --oops\n".as_bytes()).unwrap().lines;
        let error = lines[0].error("--oops", "no");
        assert_eq!((error.line, error.column, lines[0].end), (3, 6, 3));
    }

    #[test]
    fn directives_and_comments_are_kept() {
        let source = b"#syntax = docker/dockerfile:1\n# check=skip=A, B;error=true\n# not one\n\n# why\n# so\nFROM x\n";
        let Lines { lines, directives, .. } = read(source).unwrap();
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!((directives.skip_checks.len(), directives.checks_are_errors), (2, true));
        assert_eq!(lines[0].comment, ["why", "so"]);
        assert!(read(b"# check=what\nFROM x").is_err() && read(b"# check=error=maybe\nFROM x").is_err());
    }
}
