//! The formats that texts and numbers can be held to. One that is not known holds nothing to anything.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Timestamp, civil};

/// A format that is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    name: &'static str,
    fits: fn(&str) -> bool,
}

const TEXTS: [Format; 22] = [
    Format { name: "bsonobjectid", fits: |text| text.len() == 24 && hexadecimal(text) },
    Format { name: "byte", fits: |text| STANDARD.decode(text).is_ok() },
    Format { name: "cidr", fits: cidr },
    Format { name: "creditcard", fits: card },
    Format { name: "date", fits: |text| text.len() == 10 && text.parse::<civil::Date>().is_ok() },
    Format { name: "datetime", fits: moment },
    Format { name: "duration", fits: duration },
    Format { name: "email", fits: email },
    Format { name: "hexcolor", fits: color },
    Format { name: "hostname", fits: hostname },
    Format { name: "ipv4", fits: |text| text.parse::<Ipv4Addr>().is_ok() },
    Format { name: "ipv6", fits: |text| text.parse::<Ipv6Addr>().is_ok() },
    Format { name: "isbn", fits: |text| isbn_ten(text) || isbn_thirteen(text) },
    Format { name: "isbn10", fits: isbn_ten },
    Format { name: "isbn13", fits: isbn_thirteen },
    Format { name: "mac", fits: mac },
    Format { name: "password", fits: |_| true },
    Format { name: "uri", fits: uri },
    Format { name: "uuid", fits: |text| uuid(text, None) },
    Format { name: "uuid3", fits: |text| uuid(text, Some('3')) },
    Format { name: "uuid4", fits: |text| uuid(text, Some('4')) },
    Format { name: "uuid5", fits: |text| uuid(text, Some('5')) },
];

/// Names of Kubernetes itself, and the formats of numbers, which [`Format::holds`] knows.
const OTHERS: [Format; 4] = [
    Format { name: "k8s-short-name", fits: |text| dray_machinery::names::label(text).is_empty() },
    Format { name: "k8s-long-name", fits: |text| dray_machinery::names::subdomain(text).is_empty() },
    Format { name: "int32", fits: |_| true },
    Format { name: "int64", fits: |_| true },
];

impl Format {
    /// The format of a name; dashes in it do not count.
    pub(crate) fn parse(name: &str) -> Option<Format> {
        if let Some(exact) = OTHERS.iter().find(|format| format.name == name) {
            return Some(*exact);
        }
        let plain = name.replace('-', "");
        TEXTS.iter().find(|format| format.name == plain).copied()
    }

    pub(crate) fn name(self) -> &'static str {
        if self.name == "datetime" { "date-time" } else { self.name }
    }

    /// Whether a text has it.
    pub(crate) fn fits(self, text: &str) -> bool {
        (self.fits)(text)
    }

    /// Whether a whole number has it.
    pub(crate) fn holds(self, number: i64) -> bool {
        self.name != "int32" || i32::try_from(number).is_ok()
    }
}

fn hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let fine = |most: u8| bits.parse::<u8>().is_ok_and(|number| number <= most && number.to_string() == bits);
    (address.parse::<Ipv4Addr>().is_ok() && fine(32)) || (address.parse::<Ipv6Addr>().is_ok() && fine(128))
}

fn moment(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes()[10].eq_ignore_ascii_case(&b'T') && text.parse::<Timestamp>().is_ok()
}

/// A span in Go's words ("1h30m"), or a number and one longer unit ("3 days").
fn duration(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-']);
    let mut rest = text;
    if rest == "0" {
        return true;
    }
    let units = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w", "days", "day", "weeks", "week"];
    while !rest.is_empty() {
        let digits = rest.len()
            - rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
        if rest[..digits].parse::<f64>().is_err() {
            return false;
        }
        rest = rest[digits..].trim_start();
        let end = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        if !units.contains(&rest[..end].trim_end()) {
            return false;
        }
        rest = &rest[end..];
    }
    !text.is_empty()
}

fn email(text: &str) -> bool {
    // What is in angles is the address of a name before it.
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(at), Some(inner)) => &inner[at + 1..],
        _ => text,
    };
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !address.contains(|letter: char| letter.is_whitespace() || letter.is_control())
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && domain.split('.').all(|label| !label.is_empty())
    })
}

fn color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && hexadecimal(digits)
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn digits(text: &str) -> Vec<u32> {
    text.chars()
        .filter(|letter| !matches!(letter, '-' | ' '))
        .filter_map(|letter| letter.to_digit(10))
        .collect()
}

fn is_digits(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, '-' | ' '))
}

fn isbn_ten(text: &str) -> bool {
    let (body, last) = match text.strip_suffix(['X', 'x']) {
        Some(body) => (body, Some(10)),
        None => (text, None),
    };
    let all: Vec<u32> = digits(body).into_iter().chain(last).collect();
    is_digits(body)
        && all.len() == 10
        && all.iter().zip(1..).map(|(digit, place)| digit * place).sum::<u32>() % 11 == 0
}

fn isbn_thirteen(text: &str) -> bool {
    let all = digits(text);
    is_digits(text)
        && all.len() == 13
        && all.iter().enumerate().map(|(at, digit)| digit * if at % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10
            == 0
}

fn card(text: &str) -> bool {
    let all = digits(text);
    let sum: u32 = all
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { *digit } else { digit * 2 % 10 + digit * 2 / 10 })
        .sum();
    is_digits(text) && (13..=19).contains(&all.len()) && sum.is_multiple_of(10)
}

fn mac(text: &str) -> bool {
    let (separator, size) = match text.find([':', '-', '.']) {
        Some(2) => (text.as_bytes()[2], 2),
        Some(4) => (b'.', 4),
        _ => return false,
    };
    let parts: Vec<&str> = text.split(char::from(separator)).collect();
    parts.iter().all(|part| part.len() == size && hexadecimal(part))
        && matches!(parts.len() * size, 12 | 16 | 40)
}

fn uri(text: &str) -> bool {
    if text.is_empty() || text.contains(|letter: char| letter.is_control() || letter == ' ') {
        return false;
    }
    let scheme = |scheme: &str| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    text.starts_with('/')
        || text.split_once(':').is_some_and(|(before, after)| scheme(before) && !after.is_empty())
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let plain = text.replace('-', "");
    let dashes = |text: &str| {
        text.char_indices().all(|(_, letter)| letter.is_ascii_hexdigit() || letter == '-')
            && text.split('-').all(|part| !part.is_empty() && part.len() % 4 == 0)
    };
    let versioned = version.is_none_or(|version| plain.chars().nth(12) == Some(version));
    let variant = version.is_none_or(|version| {
        version == '3' || plain.chars().nth(16).is_some_and(|letter| "89abAB".contains(letter))
    });
    plain.len() == 32 && hexadecimal(&plain) && dashes(text) && versioned && variant
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn texts_have_formats() {
        for (name, good, bad) in [
            ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"),
            ("date", "2024-02-29", "2023-02-29"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uri", "https://example.com/x", "example"),
            ("email", "a@example.com", "a"),
            ("hostname", "a-b.example.com", "-a"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "f47ac10b-58cc-3372-a567-0e02b2c3d479"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("byte", "aGk=", "a"),
            ("duration", "1h30m", "1 parsec"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("hexcolor", "#ffaa00", "#ffaa"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            let format = Format::parse(name).unwrap();
            assert!(format.fits(good), "{name}: {good}");
            assert!(!format.fits(bad), "{name}: {bad}");
        }
        assert!(Format::parse("nothing").is_none());
        let int = Format::parse("int32").unwrap();
        assert!(int.holds(1 << 30) && !int.holds(1 << 31));
    }
}
