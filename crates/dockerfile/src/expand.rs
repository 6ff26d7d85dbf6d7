//! Variables in the arguments of instructions: `$X`, `${X}` and the forms with a default, with quotes taken off.

use std::iter::Peekable;
use std::str::Chars;

use crate::glob;

/// Longest result of one expansion, in bytes: variables that double each other must not eat the memory.
const LONGEST: usize = 1 << 20;
/// How deep `${a:-${b:-…}}` may go.
const DEEPEST: usize = 32;
/// Longest value that a pattern is tried on.
const LONGEST_FOR_PATTERNS: usize = 4096;

/// Replaces variables in words.
pub struct Expander<'a> {
    /// What quotes the next character.
    pub escape: char,
    /// The value of a variable.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Expander<'_> {
    /// The word with variables replaced and quotes taken off.
    ///
    /// # Errors
    /// What is wrong with a variable, or that the result is too long.
    pub fn word(&self, word: &str) -> Result<String, String> {
        let mut reader = Reader { expander: self, rest: word.chars().peekable(), depth: 0 };
        reader.until(None).map_err(|why| format!("failed to process \"{word}\": {why}"))
    }

    /// Text with variables replaced in which quotes are like other characters.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn text(&self, text: &str) -> Result<String, String> {
        let mut reader = Reader { expander: self, rest: text.chars().peekable(), depth: 0 };
        let mut out = String::new();
        while let Some(c) = reader.rest.next() {
            if c == self.escape {
                match reader.rest.peek() {
                    Some('$') => out.push('$'),
                    Some(next) if *next == self.escape => out.push(self.escape),
                    _ => {
                        out.push(c);
                        continue;
                    }
                }
                reader.rest.next();
            } else if c == '$' {
                out.push_str(&reader.variable()?);
            } else {
                out.push(c);
            }
            bounded(&out)?;
        }
        Ok(out)
    }
}

fn bounded(text: &str) -> Result<(), String> {
    if text.len() > LONGEST { Err(format!("the value is longer than {LONGEST} bytes")) } else { Ok(()) }
}

struct Reader<'a> {
    expander: &'a Expander<'a>,
    rest: Peekable<Chars<'a>>,
    depth: usize,
}

impl Reader<'_> {
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.rest.next() {
            if Some(c) == stop {
                return Ok(out);
            }
            match c {
                '\'' => self.single_quoted(&mut out)?,
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                c if c == self.expander.escape => out.extend(self.rest.next()),
                c => out.push(c),
            }
            bounded(&out)?;
        }
        match stop {
            Some(_) => Err("syntax error: missing '}'".to_owned()),
            None => Ok(out),
        }
    }

    /// Up to the first of two characters, and which it was; an escaped one is part of the text.
    fn until_either(&mut self, one: char, other: char) -> Result<(String, char), String> {
        let mut out = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                c if c == one || c == other => return Ok((out, c)),
                '\'' => self.single_quoted(&mut out)?,
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                c if c == self.expander.escape => match self.rest.next() {
                    Some(next) if next == one || next == other => out.push(next),
                    Some(next) => {
                        // It stays for the pattern, in which it quotes as well.
                        out.push('\\');
                        out.push(next);
                    }
                    None => break,
                },
                c => out.push(c),
            }
            bounded(&out)?;
        }
        Err("syntax error: missing '}'".to_owned())
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), String> {
        for c in self.rest.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err("unexpected end of statement while looking for matching single-quote".to_owned())
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        let escape = self.expander.escape;
        while let Some(c) = self.rest.next() {
            match c {
                '"' => return Ok(()),
                '$' => out.push_str(&self.variable()?),
                c if c == escape => match self.rest.next() {
                    Some(next) if next == '"' || next == '$' || next == escape => out.push(next),
                    Some(next) => {
                        out.push(c);
                        out.push(next);
                    }
                    None => break,
                },
                c => out.push(c),
            }
            bounded(out)?;
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    /// What stands for a variable; the `$` is read already.
    fn variable(&mut self) -> Result<String, String> {
        let lookup = |name: &str| (self.expander.lookup)(name);
        if self.rest.peek() != Some(&'{') {
            let name = name(&mut self.rest);
            return Ok(if name.is_empty() { "$".to_owned() } else { lookup(&name).unwrap_or_default() });
        }
        self.rest.next();
        let name = name(&mut self.rest);
        if name.is_empty() {
            return Err("syntax error: bad substitution".to_owned());
        }
        let value = lookup(&name);
        let missing = || "syntax error: missing '}'".to_owned();
        let modifier = self.rest.next().ok_or_else(missing)?;
        let (modifier, value) = match modifier {
            '}' => return Ok(value.unwrap_or_default()),
            ':' => (self.rest.next().ok_or_else(missing)?, value.filter(|value| !value.is_empty())),
            other => (other, value),
        };
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("variables are nested deeper than {DEEPEST}"));
        }
        let greedy = self.rest.peek() == Some(&modifier) && matches!(modifier, '#' | '%' | '/');
        if greedy {
            self.rest.next();
        }
        let replaced = match modifier {
            '-' => {
                let word = self.until(Some('}'))?;
                value.unwrap_or(word)
            }
            '+' => {
                let word = self.until(Some('}'))?;
                if value.is_some() { word } else { String::new() }
            }
            '?' => {
                let word = self.until(Some('}'))?;
                match (value, word.as_str()) {
                    (Some(value), _) => value,
                    (None, "") => return Err(format!("{name}: not allowed to be unset")),
                    (None, word) => return Err(format!("{name}: {word}")),
                }
            }
            '#' | '%' => {
                let pattern = self.until(Some('}'))?;
                without(&value.unwrap_or_default(), &pattern, modifier == '#', greedy)?
            }
            '/' => {
                let pattern = self.until_either('/', '}')?;
                let replacement = if pattern.1 == '/' { self.until(Some('}'))? } else { String::new() };
                replace(&value.unwrap_or_default(), &pattern.0, &replacement, greedy)?
            }
            other => {
                return Err(format!(
                    "unsupported modifier ({other}) in substitution: -, +, ?, #, ##, %, %%, / and // are known"
                ));
            }
        };
        self.depth -= 1;
        Ok(replaced)
    }
}

/// A name, or one of the shell's own one-character variables, which have no value here.
fn name(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
        if name.len() == 1 && c.is_ascii_digit() {
            return name;
        }
    }
    if name.is_empty() {
        name.extend(rest.next_if(|c| "@*#".contains(*c)));
    }
    name
}

/// The value without the shortest (or longest) beginning or end that fits the pattern.
fn without(value: &str, pattern: &str, beginning: bool, greedy: bool) -> Result<String, String> {
    if value.len() > LONGEST_FOR_PATTERNS || pattern.len() > LONGEST_FOR_PATTERNS {
        return Err(format!("a pattern is tried on at most {LONGEST_FOR_PATTERNS} bytes"));
    }
    let mut cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    if beginning == greedy {
        cuts.reverse();
    }
    for cut in cuts {
        let (head, tail) = value.split_at(cut);
        if beginning && glob::fits_text(pattern, head) {
            return Ok(tail.to_owned());
        }
        if !beginning && glob::fits_text(pattern, tail) {
            return Ok(head.to_owned());
        }
    }
    Ok(value.to_owned())
}

/// The value with the first (or every) longest part that fits the pattern replaced.
fn replace(value: &str, pattern: &str, replacement: &str, every: bool) -> Result<String, String> {
    /// Each part of the value is tried, so this is cubic.
    const LONGEST: usize = 512;
    if pattern.is_empty() {
        return Ok(value.to_owned());
    }
    if !glob::is_pattern(pattern) && !pattern.contains('\\') {
        let replaced =
            if every { value.replace(pattern, replacement) } else { value.replacen(pattern, replacement, 1) };
        bounded(&replaced)?;
        return Ok(replaced);
    }
    if value.len() > LONGEST || pattern.len() > LONGEST {
        return Err(format!("a pattern is replaced in at most {LONGEST} bytes"));
    }
    let cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    let (mut out, mut at, mut done) = (String::new(), 0, false);
    while at + 1 < cuts.len() {
        let fits = |end: &usize| glob::fits_text(pattern, &value[cuts[at]..cuts[*end]]);
        match (at + 1..cuts.len()).rev().find(fits).filter(|_| every || !done) {
            Some(end) => {
                out.push_str(replacement);
                (at, done) = (end, true);
            }
            None => {
                out.push_str(&value[cuts[at]..cuts[at + 1]]);
                at += 1;
            }
        }
        bounded(&out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(word: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "FILE" => Some("dir.d/name.tar.gz".to_owned()),
            _ => None,
        };
        Expander { escape: '\\', lookup: &lookup }.word(word)
    }

    #[test]
    fn replaces_variables() {
        for (word, expected) in [
            ("$A", "a"),
            ("${A}x$A", "axa"),
            ("$Ax", ""),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "a b"),
            ("\"\\$A \\n\"", "$A \\n"),
            ("${NO:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+x}", "x"),
            ("${NO:+x}", ""),
            ("${NO:-${A}b}", "ab"),
            ("${NO:-\"}\"}", "}"),
            ("$", "$"),
            ("$-a", "$-a"),
            ("a\\ b", "a b"),
            ("${FILE#*.}", "d/name.tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.*}", "dir.d/name.tar"),
            ("${FILE%%.*}", "dir"),
            ("${FILE/d/x}", "xir.d/name.tar.gz"),
            ("${FILE//d/x}", "xir.x/name.tar.gz"),
            ("${FILE//.*}", "dir"),
            ("${FILE/\\//-}", "dir.d-name.tar.gz"),
            ("${FILE//[.\\/]/_}", "dir_d_name_tar_gz"),
            ("${FILE//a?/_}", "dir.d/n_e.t_.gz"),
            ("${FILE/$A/${NO:-b}}", "dir.d/nbme.tar.gz"),
            ("${NO/a/b}", ""),
        ] {
            assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
        }
    }

    #[test]
    fn refuses_what_does_not_end() {
        for word in [
            "${A/",
            "${A//",
            "${A/a/",
            "${A",
            "${",
            "${}",
            "'a",
            "\"a",
            "${A:",
            "${A:-",
            "${A:-${B}",
            "${A^}",
            "${NO:?}",
            "${NO?why}",
        ] {
            assert!(expand(word).is_err(), "{word}");
        }
        assert!(expand(&"${NO:-".repeat(1000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(word in "\\PC*") {
            let _ = expand(&word);
            let _ = Expander { escape: '`', lookup: &|_| Some("x".into()) }.text(&word);
        }
    }
}
