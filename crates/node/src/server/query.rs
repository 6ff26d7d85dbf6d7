//! Paths and queries of requests.

use super::Refusal;

/// Parameters of one request; more are refused.
const LIMIT: usize = 4096;

/// Undoes percent-encoding; in queries a plus is a blank.
fn decode(text: &str, plus: bool) -> Result<String, Refusal> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'%' => {
                let code = bytes
                    .get(index + 1..index + 3)
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| Refusal::bad_request("invalid URL escape"))?;
                plain.push(code);
                index += 3;
                continue;
            }
            b'+' if plus => plain.push(b' '),
            byte => plain.push(byte),
        }
        index += 1;
    }
    String::from_utf8(plain).map_err(|_| Refusal::bad_request("the URL is not UTF-8"))
}

/// The words of a path.
pub(super) fn decode_path(path: &str) -> Result<Vec<String>, Refusal> {
    path.split('/').filter(|word| !word.is_empty()).map(|word| decode(word, false)).collect()
}

/// The parameters of a query, in order.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() == LIMIT {
                return Err(Refusal::bad_request("too many parameters"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key, true)?, decode(value, true)?));
        }
        Ok(Self { pairs })
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value, "1" | "true" | "True" | "TRUE" | "t"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Refusal::bad_request(format!("invalid value {text:?} for {key}: must be a number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_parameters() {
        assert_eq!(decode_path("/exec/a/b%2Fc/d").unwrap(), ["exec", "a", "b/c", "d"]);
        let query = Query::parse(Some("command=a%20b&command=c+d&tty=1&x")).unwrap();
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a b", "c d"]);
        assert!(query.flag("tty") && !query.flag("x"));
        assert!(Query::parse(Some("a=%zz")).is_err() && Query::parse(Some("a=%ff")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            let _ = Query::parse(Some(&text));
            let _ = decode_path(&text);
        }
    }
}
