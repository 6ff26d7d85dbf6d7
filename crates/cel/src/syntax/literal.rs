//! What a quoted text means: escapes, raw texts, and newlines, which are always `\n`.

/// The text that a string literal stands for.
pub(super) fn string(text: &str) -> Result<String, &'static str> {
    let (inner, raw) = unquote(text);
    let mut found = String::with_capacity(inner.len());
    unescape(inner, raw, |piece| match piece {
        Piece::Letter(letter) => {
            found.push(letter);
            Ok(())
        }
        Piece::Code(code) => {
            found.push(char::from_u32(code).ok_or("invalid unicode code point")?);
            Ok(())
        }
        Piece::Unicode(code) => {
            found.push(char::from_u32(code).ok_or("invalid unicode code point")?);
            Ok(())
        }
    })?;
    Ok(found)
}

/// The bytes that a bytes literal stands for.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (inner, raw) = unquote(&text[1..]);
    let mut found = Vec::with_capacity(inner.len());
    unescape(inner, raw, |piece| match piece {
        Piece::Letter(letter) => {
            found.extend(letter.encode_utf8(&mut [0; 4]).bytes());
            Ok(())
        }
        Piece::Code(code) => {
            found.push(code as u8);
            Ok(())
        }
        Piece::Unicode(_) => Err("unable to unescape string"),
    })?;
    Ok(found)
}

enum Piece {
    Letter(char),
    /// A byte of bytes, a code point of a string: `\x`, `\X` and octal.
    Code(u32),
    /// Only a code point: `\u` and `\U`.
    Unicode(u32),
}

/// What stands between the quotation marks, and whether escapes are none.
fn unquote(text: &str) -> (&str, bool) {
    let raw = text.starts_with(['r', 'R']);
    let text = if raw { &text[1..] } else { text };
    let triple = text.len() >= 6 && (text.starts_with("'''") || text.starts_with("\"\"\""));
    let mark = if triple { 3 } else { 1 };
    (&text[mark..text.len() - mark], raw)
}

fn unescape(
    text: &str,
    raw: bool,
    mut push: impl FnMut(Piece) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    const WRONG: &str = "unable to unescape string";
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        if letter == '\r' {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
            push(Piece::Letter('\n'))?;
            continue;
        }
        if letter != '\\' || raw {
            push(Piece::Letter(letter))?;
            continue;
        }
        let escape = rest.chars().next().ok_or(WRONG)?;
        let after = rest.get(escape.len_utf8()..).ok_or(WRONG)?;
        let number = |digits: usize, radix: u32, text: &str| {
            let digits = text.get(..digits).ok_or(WRONG)?;
            if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                u32::from_str_radix(digits, radix).map_err(|_| WRONG)
            } else {
                Err(WRONG)
            }
        };
        let (piece, length) = match escape {
            'a' => (Piece::Letter('\x07'), 1),
            'b' => (Piece::Letter('\x08'), 1),
            'f' => (Piece::Letter('\x0c'), 1),
            'n' => (Piece::Letter('\n'), 1),
            'r' => (Piece::Letter('\r'), 1),
            't' => (Piece::Letter('\t'), 1),
            'v' => (Piece::Letter('\x0b'), 1),
            '\\' | '\'' | '"' | '`' | '?' => (Piece::Letter(escape), 1),
            'x' | 'X' => (Piece::Code(number(2, 16, after)?), 3),
            'u' => (Piece::Unicode(number(4, 16, after)?), 5),
            'U' => (Piece::Unicode(number(8, 16, after)?), 9),
            '0'..='3' => (Piece::Code(number(3, 8, rest)?), 3),
            _ => return Err(WRONG),
        };
        push(piece)?;
        rest = &rest[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (literal, text) in [
            (r#""a""#, "a"),
            (r"'\''", "'"),
            (r#""""a"b"c""""#, r#"a"b"c"#),
            (r"r'\n'", r"\n"),
            (r#"R"""\"""""#, r#"\""#),
            (r"'\x41\101A\U0001F600'", "AAA\u{1f600}"),
            (r"'\a\b\f\n\r\t\v\?\`'", "\x07\x08\x0c\n\r\t\x0b?`"),
            ("'''a\r\nb\rc'''", "a\nb\nc"),
            ("'\u{e9}\\xe9'", "\u{e9}\u{e9}"),
            ("''", ""),
        ] {
            assert_eq!(string(literal).as_deref(), Ok(text), "{literal}");
        }
        assert_eq!(string(r"'\ud800'"), Err("invalid unicode code point"));
        assert_eq!(string(r"'\U00110000'"), Err("invalid unicode code point"));
    }

    #[test]
    fn octets() {
        for (literal, octets) in [
            ("b'\u{e9}'", "\u{e9}".as_bytes()),
            (r"b'\xff\377'", &[255, 255]),
            (r"b'\000'", &[0]),
            (r"br'\x'", br"\x"),
            ("b\"\"\"a\"\"\"", b"a"),
        ] {
            assert_eq!(bytes(literal).as_deref(), Ok(octets), "{literal}");
        }
        assert_eq!(bytes(r"b'A'").as_deref(), Ok(b"A".as_slice()));
        assert!(bytes("b'\\u0041'").is_err());
    }
}
