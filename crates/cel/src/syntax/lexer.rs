//! Text into tokens, and the reference's words for what is none.

use crate::source::{Issue, Source};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An operator or bracket; `text` says which.
    Symbol,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Ident,
    /// A name between backquotes.
    Quoted,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) at: u32,
}

const SYMBOLS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%", "in",
];

/// The tokens of a text, the last of which is its end; or what is no token, up to 30 of them.
pub(super) fn tokens(source: &Source) -> Result<Vec<Token<'_>>, Vec<Issue>> {
    let text = source.text();
    let mut lexer = Lexer { text, position: 0 };
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    while lexer.skip_blank() {
        let begin = lexer.position;
        match lexer.token() {
            Ok(kind) => {
                found.push(Token { kind, text: &text[begin..lexer.position], at: begin as u32 });
            }
            Err(length) => {
                lexer.position = begin + length;
                let message =
                    format!("Syntax error: token recognition error at: '{}'", &text[begin..lexer.position]);
                wrong.push(source.issue(Some(begin as u32), message));
                if wrong.len() == 30 {
                    break;
                }
            }
        }
    }
    found.push(Token { kind: Kind::End, text: "<EOF>", at: text.len() as u32 });
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

struct Lexer<'a> {
    text: &'a str,
    position: usize,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    /// Passes blanks and comments; false at the end.
    fn skip_blank(&mut self) -> bool {
        loop {
            let rest = self.rest();
            let blank = rest
                .bytes()
                .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c'))
                .count();
            self.position += blank;
            let rest = self.rest();
            if rest.starts_with("//") {
                self.position += rest.find('\n').unwrap_or(rest.len());
            } else if blank == 0 {
                return !rest.is_empty();
            }
        }
    }

    fn count(&self, from: usize, wanted: impl Fn(u8) -> bool) -> usize {
        self.rest().bytes().skip(from).take_while(|&byte| wanted(byte)).count()
    }

    fn byte(&self, at: usize) -> u8 {
        self.rest().as_bytes().get(at).copied().unwrap_or(0)
    }

    /// Passes one token, or says how many bytes are none.
    fn token(&mut self) -> Result<Kind, usize> {
        let first = self.byte(0);
        if let Some((prefix, kind)) = self.literal_prefix() {
            self.position += prefix;
            return match self.quoted(prefix > 0 && self.is_raw(prefix)) {
                Ok(length) => {
                    self.position += length;
                    Ok(kind)
                }
                Err(length) => Err(prefix + length),
            };
        }
        if first.is_ascii_digit() || (first == b'.' && self.byte(1).is_ascii_digit()) {
            return Ok(self.number());
        }
        if is_word(first) {
            let length = self.count(0, is_word);
            let word = &self.rest()[..length];
            self.position += length;
            return Ok(if word == "in" { Kind::Symbol } else { Kind::Ident });
        }
        if first == b'`' {
            let inner = self.count(1, |byte| is_word(byte) || matches!(byte, b'.' | b'-' | b'/' | b' '));
            if inner > 0 && self.byte(1 + inner) == b'`' {
                self.position += inner + 2;
                return Ok(Kind::Quoted);
            }
            let next = self.rest()[1 + inner..].chars().next().map_or(0, char::len_utf8);
            return Err(1 + inner + next);
        }
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol)) {
            self.position += symbol.len();
            return Ok(Kind::Symbol);
        }
        // An ampersand or bar alone takes the letter after it along, as the reference's lexer does.
        let mut letters = self.rest().chars();
        let mut length = letters.next().map_or(1, char::len_utf8);
        if matches!(first, b'&' | b'|' | b'=') {
            length += letters.next().map_or(0, char::len_utf8);
        }
        Err(length)
    }

    /// The bytes before the quotation mark, where the text begins with a string or bytes.
    fn literal_prefix(&self) -> Option<(usize, Kind)> {
        let quote = |at| matches!(self.byte(at), b'"' | b'\'');
        let raw = |at| matches!(self.byte(at), b'r' | b'R');
        let bytes = matches!(self.byte(0), b'b' | b'B');
        match () {
            () if quote(0) => Some((0, Kind::String)),
            () if raw(0) && quote(1) => Some((1, Kind::String)),
            () if bytes && quote(1) => Some((1, Kind::Bytes)),
            () if bytes && raw(1) && quote(2) => Some((2, Kind::Bytes)),
            () => None,
        }
    }

    fn is_raw(&self, prefix: usize) -> bool {
        let before = self.text.as_bytes()[self.position - 1];
        debug_assert!(prefix > 0);
        matches!(before, b'r' | b'R')
    }

    /// The length of a quoted text that begins here, or of what begins like one.
    fn quoted(&self, raw: bool) -> Result<usize, usize> {
        let text = self.rest().as_bytes();
        let quote = text[0];
        let triple = text.len() >= 3 && text[1] == quote && text[2] == quote;
        let mut at = if triple { 3 } else { 1 };
        while let Some(&byte) = text.get(at) {
            if byte == quote
                && (!triple || (text.get(at + 1) == Some(&quote) && text.get(at + 2) == Some(&quote)))
            {
                return Ok(at + if triple { 3 } else { 1 });
            }
            if !triple && matches!(byte, b'\n' | b'\r') {
                break;
            }
            if byte == b'\\' && !raw {
                let escape = escape_length(&text[at..]).map_err(|length| self.upto(at + length))?;
                at += escape;
            } else {
                at += 1;
            }
        }
        Err(self.upto(at))
    }

    fn upto(&self, at: usize) -> usize {
        (at.min(self.rest().len())..=self.rest().len())
            .find(|&at| self.rest().is_char_boundary(at))
            .unwrap_or(self.rest().len())
    }

    fn number(&mut self) -> Kind {
        let rest = self.rest().as_bytes();
        if rest[0] == b'0' && self.byte(1) == b'x' {
            let digits = self.count(2, |byte| byte.is_ascii_hexdigit());
            if digits > 0 {
                self.position += 2 + digits;
                return self.unsigned().unwrap_or(Kind::Int);
            }
        }
        let digit = |byte: u8| byte.is_ascii_digit();
        let whole = self.count(0, digit);
        let fraction = if self.byte(whole) == b'.' { self.count(whole + 1, digit) } else { 0 };
        let mut length = whole + if fraction > 0 { fraction + 1 } else { 0 };
        let mut double = fraction > 0;
        if matches!(self.byte(length), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(length + 1), b'+' | b'-'));
            let exponent = self.count(length + 1 + sign, digit);
            if exponent > 0 {
                double = true;
                length += 1 + sign + exponent;
            }
        }
        self.position += length;
        if double { Kind::Double } else { self.unsigned().unwrap_or(Kind::Int) }
    }

    fn unsigned(&mut self) -> Option<Kind> {
        matches!(self.byte(0), b'u' | b'U').then(|| {
            self.position += 1;
            Kind::Uint
        })
    }
}

/// The length of an escape, or of what begins like one.
fn escape_length(text: &[u8]) -> Result<usize, usize> {
    let hex = |digits: usize| {
        let found = text.iter().skip(2).take(digits).take_while(|byte| byte.is_ascii_hexdigit()).count();
        if found == digits { Ok(2 + digits) } else { Err(3 + found) }
    };
    match text.get(1) {
        Some(b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`') => Ok(2),
        Some(b'x' | b'X') => hex(2),
        Some(b'u') => hex(4),
        Some(b'U') => hex(8),
        Some(b'0'..=b'3') => {
            let found = text.iter().skip(2).take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            if found == 2 { Ok(4) } else { Err(3 + found) }
        }
        Some(_) => Err(2),
        None => Err(1),
    }
}
