//! Query strings.

use crate::error::{ApiError, Result};

/// The parameters of a request, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name, true)?, decode(value, true)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value, unless it is empty.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Docker's truth: everything but nothing, `0`, `no`, `false` and `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number, when the parameter is there.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.non_empty(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| ApiError::bad_request(format!("invalid value for {name}: {value:?}")))
            })
            .transpose()
    }
}

/// Takes percent-encoding off; in queries `+` is a space.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Result<String> {
    let invalid = || ApiError::bad_request(format!("invalid URL escape in {text:?}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || {
                    rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
                };
                let (high, low) = (digit().ok_or_else(invalid)?, digit().ok_or_else(invalid)?);
                bytes.push(high * 16 + low);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_judges_truth() {
        let query = Query::parse(Some("a=%2Fx+y&b=1&c=false&d&b=2")).unwrap();
        assert_eq!(query.get("a"), Some("/x y"));
        assert!(query.flag("b") && !query.flag("c") && !query.flag("d") && !query.flag("e"));
        assert_eq!(query.all("b"), ["1", "2"]);
        assert!(Query::parse(Some("a=%zz")).is_err());
        assert!(Query::parse(Some("a=%f")).is_err());
    }
}
