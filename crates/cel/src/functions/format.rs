//! `string.format`: what a clause shows of an argument, as cel-go's string extension does in its second version.

use super::{Caller, Row, bounded, conversions::written, text};
use crate::{
    types::Type,
    value::{Fault, Key, List, Outcome, Text, Value, Work, fault, no_such_overload},
};

pub(super) const FORMAT: &[Row] = &[("string_format", "string.format(list(dyn)) -> string", format)];

/// The most digits after the point.
const MOST_DIGITS: usize = 1_000;

#[derive(Debug, Clone, Copy)]
enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex { upper: bool },
    Octal,
}

/// Part of a format.
enum Piece<'f> {
    Plain(&'f str),
    Clause(Clause),
}

/// The next part of a format, and what is left.
fn piece(format: &str) -> Result<(Piece<'_>, &str), String> {
    let wrong = |why: String| Err(format!("could not parse formatting clause: {why}"));
    if !format.starts_with('%') {
        let end = format.find('%').unwrap_or(format.len());
        return Ok((Piece::Plain(&format[..end]), &format[end..]));
    }
    let mut rest = &format[1..];
    if let Some(after) = rest.strip_prefix('%') {
        return Ok((Piece::Plain("%"), after));
    }
    if rest.is_empty() {
        return Err("unexpected end of string".to_owned());
    }
    let mut digits = 6;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
        if end == after.len() {
            return wrong(
                "error while parsing precision: could not find end of precision specifier".to_owned(),
            );
        }
        digits = match after[..end].parse::<usize>() {
            Ok(digits) if digits <= MOST_DIGITS => digits,
            Ok(digits) => {
                let why = format!("precision {digits} exceeds maximum allowed precision {MOST_DIGITS}");
                return wrong(format!("error while parsing precision: {why}"));
            }
            Err(_) => {
                let why = format!("strconv.Atoi: parsing \"{}\": invalid syntax", &after[..end]);
                return wrong(format!(
                    "error while parsing precision: error while converting precision to integer: {why}"
                ));
            }
        };
        rest = &after[end..];
    }
    let letter = rest.chars().next().unwrap_or(' ');
    let clause = match letter {
        's' => Clause::Text,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(digits),
        'e' => Clause::Scientific(digits),
        'b' => Clause::Binary,
        'x' | 'X' => Clause::Hex { upper: letter == 'X' },
        'o' => Clause::Octal,
        other => return wrong(format!("unrecognized formatting clause \"{other}\"")),
    };
    Ok((Piece::Clause(clause), &rest[letter.len_utf8()..]))
}

impl Clause {
    /// What it says of a type that it cannot show.
    fn refuse(self, kind: &Type) -> String {
        let what = match self {
            Clause::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, \
                 and timestamps"
            }
            Clause::Decimal => "decimal clause can only be used on integers",
            Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
            Clause::Scientific(_) => "scientific clause can only be used on doubles",
            Clause::Binary => "only integers and bools can be formatted as binary",
            Clause::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Clause::Octal => "octal clause can only be used on integers",
        };
        format!("error during formatting: {what}, was given {}", kind.name())
    }

    fn shows(self, kind: &Type) -> bool {
        match self {
            Clause::Text => {
                !matches!(kind, Type::Opaque(_) | Type::Object(_) | Type::Optional(_) | Type::Error)
            }
            Clause::Decimal | Clause::Octal => matches!(kind, Type::Int | Type::Uint | Type::Dyn),
            Clause::Fixed(_) | Clause::Scientific(_) => matches!(kind, Type::Double | Type::Dyn),
            Clause::Binary => matches!(kind, Type::Int | Type::Uint | Type::Bool | Type::Dyn),
            Clause::Hex { .. } => {
                matches!(kind, Type::Int | Type::Uint | Type::String | Type::Bytes | Type::Dyn)
            }
        }
    }

    fn show(self, value: &Value<'_>, work: &mut Work) -> Result<String, Fault> {
        let unsigned = |number: i64| number.unsigned_abs();
        let signed = |number: i64, shown: String| if number < 0 { format!("-{shown}") } else { shown };
        Ok(match (self, value) {
            (Clause::Text, value) => plain(value, work)?,
            (Clause::Decimal, Value::Int(number)) => number.to_string(),
            (Clause::Decimal, Value::Uint(number)) => number.to_string(),
            (Clause::Fixed(digits), Value::Double(number)) => fixed(*number, digits),
            (Clause::Scientific(digits), Value::Double(number)) => scientific(*number, digits),
            (Clause::Fixed(_) | Clause::Scientific(_), Value::String(text))
                if matches!(&**text, "NaN" | "Infinity" | "-Infinity") =>
            {
                text.replace("Infinity", "\u{221e}")
            }
            (Clause::Binary, Value::Bool(value)) => u8::from(*value).to_string(),
            (Clause::Binary, Value::Int(number)) => signed(*number, format!("{:b}", unsigned(*number))),
            (Clause::Binary, Value::Uint(number)) => format!("{number:b}"),
            (Clause::Octal, Value::Int(number)) => signed(*number, format!("{:o}", unsigned(*number))),
            (Clause::Octal, Value::Uint(number)) => format!("{number:o}"),
            (Clause::Hex { upper }, value) => {
                let shown = match value {
                    Value::Int(number) => signed(*number, format!("{:x}", unsigned(*number))),
                    Value::Uint(number) => format!("{number:x}"),
                    Value::String(text) => hex(text.as_bytes())?,
                    Value::Bytes(bytes) => hex(bytes)?,
                    other => return fault(self.refuse(&other.kind())),
                };
                if upper { shown.to_uppercase() } else { shown }
            }
            (clause, other) => return fault(clause.refuse(&other.kind())),
        })
    }
}

fn hex(bytes: &[u8]) -> Result<String, Fault> {
    bounded(bytes.len() * 2)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// With commas between thousands, as the reference's default locale has it.
fn fixed(number: f64, digits: usize) -> String {
    if let Some(special) = special(number) {
        return special;
    }
    let shown = format!("{:.digits$}", number.abs());
    let (whole, fraction) =
        shown.split_once('.').map_or((shown.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{fraction}")
}

/// With the exponent as a power of ten in raised digits, as the reference's default locale has it.
fn scientific(number: f64, digits: usize) -> String {
    const RAISED: [char; 10] = [
        '\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}', '\u{2077}', '\u{2078}',
        '\u{2079}',
    ];
    if let Some(special) = special(number) {
        return special;
    }
    let shown = format!("{number:.digits$e}");
    let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let (sign, exponent) =
        exponent.strip_prefix('-').map_or(("", exponent), |exponent| ("\u{207b}", exponent));
    let raised = format!("{exponent:0>2}")
        .chars()
        .map(|digit| RAISED[digit.to_digit(10).unwrap_or(0) as usize])
        .collect::<String>();
    format!("{mantissa}\u{d7}10{sign}{raised}")
}

fn special(number: f64) -> Option<String> {
    match number {
        _ if number.is_nan() => Some("NaN".to_owned()),
        f64::INFINITY => Some("\u{221e}".to_owned()),
        f64::NEG_INFINITY => Some("-\u{221e}".to_owned()),
        _ => None,
    }
}

/// What `%s` shows.
fn plain(value: &Value<'_>, work: &mut Work) -> Result<String, Fault> {
    match value {
        Value::Null => Ok("null".to_owned()),
        Value::String(text) => Ok(text.to_string()),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => fault("error during formatting: could not convert argument to string"),
        },
        Value::List(_) | Value::Map(_) => literal(value, work),
        Value::Hidden(_) => fault(Clause::Text.refuse(&value.kind())),
        other => match written(other) {
            Some(shown) => Ok(shown),
            None => fault(Clause::Text.refuse(&value.kind())),
        },
    }
}

/// What is shown of a value inside a list or a map: a literal that gives it again.
fn literal(value: &Value<'_>, work: &mut Work) -> Result<String, Fault> {
    work.spend(1)?;
    Ok(match value {
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => format!("b{}", quoted(&String::from_utf8_lossy(bytes))),
        Value::Timestamp(time) => format!("timestamp(\"{time}\")"),
        Value::Duration(_) => format!("duration(\"{}\")", plain(value, work)?),
        Value::Double(number) if !number.is_finite() => format!("\"{}\"", plain(value, work)?),
        Value::Double(number) => format!("{number:.6}"),
        Value::List(list) => {
            let mut shown = String::from("[");
            for (index, element) in list.iter().enumerate() {
                if index > 0 {
                    shown.push_str(", ");
                }
                shown.push_str(&literal(&element?, work)?);
                bounded(shown.len())?;
            }
            shown.push(']');
            shown
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            let mut length = 0;
            for key in map.keys() {
                let Some(value) = map.get(&key).transpose()? else { continue };
                let entry = (shown_key(&key), literal(&value, work)?);
                length += entry.0.len() + entry.1.len();
                bounded(length)?;
                entries.push(entry);
            }
            entries.sort();
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => plain(other, work)?,
    })
}

fn shown_key(key: &Key<'_>) -> String {
    match key {
        Key::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A text as Go quotes it.
fn quoted(text: &str) -> String {
    let mut shown = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                shown.push('\\');
                shown.push(letter);
            }
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            letter if letter.is_control() => shown.push_str(&format!("\\x{:02x}", letter as u32)),
            letter => shown.push(letter),
        }
    }
    shown.push('"');
    shown
}

fn format<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let mut rest = text(arguments, 0)?;
    let Some(Value::List(list)) = arguments.get(1) else { return no_such_overload() };
    let list: &List<'a> = list;
    let mut shown = String::new();
    let mut index = 0;
    while !rest.is_empty() {
        // The argument is asked for before the clause is read.
        let wants = rest.starts_with('%') && !rest.starts_with("%%");
        let argument = if wants { list.get(index).transpose()? } else { None };
        if wants && argument.is_none() {
            return fault(format!("index {index} out of range"));
        }
        let (piece, after) = piece(rest).map_err(|why| Fault::Failed(why.into()))?;
        match (piece, argument) {
            (Piece::Clause(clause), Some(argument)) => {
                shown.push_str(&clause.show(&argument, caller.work)?);
                index += 1;
            }
            (Piece::Plain(text), _) => shown.push_str(text),
            (Piece::Clause(_), None) => {}
        }
        bounded(shown.len())?;
        rest = after;
    }
    Ok(Value::String(Text::Shared(shown.into())))
}

/// What is wrong with a format and its arguments: which one, if it is one, and why.
pub(crate) struct Check {
    pub(crate) argument: Option<usize>,
    pub(crate) message: String,
}

/// Checks a format that is known before evaluation.
pub(crate) fn check(format: &str, arguments: &[Type]) -> Result<(), Check> {
    let mut rest = format;
    let mut index = 0;
    while !rest.is_empty() {
        let wants = rest.starts_with('%') && !rest.starts_with("%%");
        if wants && index >= arguments.len() {
            return Err(Check { argument: None, message: format!("index {index} out of range") });
        }
        let (piece, after) = piece(rest).map_err(|message| Check { argument: None, message })?;
        if let Piece::Clause(clause) = piece {
            if !clause.shows(&arguments[index]) {
                return Err(Check { argument: Some(index), message: clause.refuse(&arguments[index]) });
            }
            index += 1;
        }
        rest = after;
    }
    if index < arguments.len() {
        let given = arguments.len();
        let message = format!("too many arguments supplied to string.format (expected {index}, got {given})");
        return Err(Check { argument: None, message });
    }
    Ok(())
}
