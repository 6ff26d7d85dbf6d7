//! URLs as Go's `net/url` reads those of requests: absolute, or a path from the root.

use std::{collections::BTreeMap, sync::Arc};

use super::{Caller, Row, text};
use crate::value::{Fault, Hidden, Key, Map, Opaque, Outcome, Text, Value, fault, no_such_overload};

pub(super) const URLS: &[Row] = &[
    ("string_to_url", "url(string) -> kubernetes.URL", url),
    ("url_get_scheme", "kubernetes.URL.getScheme() -> string", |_, arguments| {
        part(arguments, |url| url.scheme.clone())
    }),
    ("url_get_host", "kubernetes.URL.getHost() -> string", |_, arguments| {
        part(arguments, |url| url.host.clone())
    }),
    ("url_get_hostname", "kubernetes.URL.getHostname() -> string", |_, arguments| {
        part(arguments, Url::hostname)
    }),
    ("url_get_port", "kubernetes.URL.getPort() -> string", |_, arguments| part(arguments, Url::port)),
    ("url_get_escaped_path", "kubernetes.URL.getEscapedPath() -> string", |_, arguments| {
        part(arguments, |url| url.path.clone())
    }),
    ("url_get_query", "kubernetes.URL.getQuery() -> map(string, list(string))", query),
    ("is_url_string", "isURL(string) -> bool", is_url),
];

/// A URL, as far as expressions look into it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url {
    scheme: String,
    host: String,
    /// Escaped.
    path: String,
    query: String,
    /// The whole, for equality.
    text: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let whole = Url::parse_request(text)?;
        // A request's URL has no fragment; where there is one, the rest is read again without it.
        match text.split_once('#') {
            Some((before, _)) if !before.is_empty() => {
                Ok(Url { text: whole.text, ..Url::parse_request(before)? })
            }
            _ => Ok(whole),
        }
    }

    fn parse_request(text: &str) -> Result<Url, String> {
        let wrong = |why: String| Err(format!("parse {text:?}: {why}"));
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return wrong("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return wrong("empty url".to_owned());
        }
        let (scheme, rest) = match scheme(text) {
            Ok(found) => found,
            Err(why) => return wrong(why.to_owned()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Url {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
            text: text.to_owned(),
        };
        if text == "*" {
            url.path = "*".to_owned();
            return Ok(url);
        }
        if !rest.starts_with('/') {
            if scheme.is_empty() {
                return wrong("invalid URI for request".to_owned());
            }
            // An opaque URL, `mailto:someone`, has neither host nor path.
            return Ok(url);
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, after) = authority.split_at(end);
            path = after;
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            if !user.bytes().all(is_user) {
                return wrong("net/url: invalid userinfo".to_owned());
            }
            url.host = match host_of(host) {
                Ok(host) => host,
                Err(why) => return wrong(why),
            };
        }
        if let Err(why) = unescape(path, false) {
            return wrong(why);
        }
        url.path = escape_path(path);
        Ok(url)
    }

    fn hostname(&self) -> String {
        let host = self
            .host
            .rsplit_once(':')
            .filter(|(_, port)| !port.contains(']'))
            .map_or(&*self.host, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned()
    }

    fn port(&self) -> String {
        let port = self.host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        port.map_or("", |(_, port)| port).to_owned()
    }

    fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (unescape(key, true), unescape(value, true)) {
                found.entry(key).or_default().push(value);
            }
        }
        found
    }
}

/// The scheme and what follows it.
fn scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn is_user(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)
}

fn host_of(host: &str) -> Result<String, String> {
    let is_port = |text: &str| {
        text.is_empty()
            || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        let port = &host[end + 1..];
        if !is_port(port) {
            return Err(format!("invalid port {port:?} after host"));
        }
        return Ok(host.to_owned());
    }
    if let Some(colon) = host.rfind(':').filter(|colon| !is_port(&host[*colon..])) {
        return Err(format!("invalid port {:?} after host", &host[colon..]));
    }
    let bad = |byte: &u8| {
        byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"!$&'()*+,;=:[]<>\"-_.~%".contains(byte)
    };
    if let Some(bad) = host.bytes().find(bad) {
        return Err(format!("invalid character {:?} in host name", (bad as char).to_string()));
    }
    unescape(host, false)
}

fn unescape(text: &str, plus_is_blank: bool) -> Result<String, String> {
    let mut found = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let code = bytes.get(at..at + 2).and_then(|code| std::str::from_utf8(code).ok());
                let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let Some(code) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) else {
                    let shown: String = text[at - 1..].chars().take(3).collect();
                    return Err(format!("invalid URL escape {shown:?}"));
                };
                found.push(code);
                at += 2;
            }
            b'+' if plus_is_blank => found.push(b' '),
            byte => found.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&found).into_owned())
}

/// A path with everything escaped that has to be; escapes that are there stay.
fn escape_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn url<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match Url::parse(text(arguments, 0)?) {
        Ok(url) => Ok(Value::hidden(Opaque::Url(Arc::new(url)))),
        Err(why) => fault(format!("URL parse error during conversion from string: {why}")),
    }
}

fn is_url<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(Url::parse(text(arguments, 0)?).is_ok()))
}

fn of<'v>(arguments: &'v [Value<'_>]) -> Result<&'v Url, Fault> {
    match arguments.first() {
        Some(Value::Hidden(Hidden(Opaque::Url(url)))) => Ok(url),
        _ => no_such_overload(),
    }
}

fn part<'a>(arguments: &[Value<'a>], part: impl Fn(&Url) -> String) -> Outcome<'a> {
    Ok(Value::text(part(of(arguments)?)))
}

fn query<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let query = of(arguments)?.query().into_iter().map(|(key, values)| {
        let values = values.into_iter().map(Value::text).collect();
        (Key::String(Text::Shared(key.into())), Value::list(values))
    });
    Ok(Value::Map(Map::owned(query.collect())))
}
