//! Who asks a registry.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{Error, Result};

/// Bytes of the longest header that is decoded.
const HEADER_LIMIT: usize = 64 << 10;

/// A user's name and password, or a token in their place.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// A refresh token of an authorization server, in place of name and password.
    pub identity_token: String,
    /// A bearer token that the registry itself takes.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identityToken")]
    identitytoken: String,
    #[serde(alias = "registryToken")]
    registrytoken: String,
}

impl Credentials {
    /// Decodes Docker's header `X-Registry-Auth`: JSON in the URL's alphabet of base64. An empty one is nobody.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is no such thing.
    pub fn of_header(header: &str) -> Result<Option<Self>> {
        let invalid =
            |why: &str| Error::Setting { setting: "X-Registry-Auth".to_owned(), why: why.to_owned() };
        if header.len() > HEADER_LIMIT {
            return Err(invalid("it is too long"));
        }
        let bytes = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD, &STANDARD_NO_PAD]
            .iter()
            .find_map(|alphabet| alphabet.decode(header.trim()).ok())
            .ok_or_else(|| invalid("it is not base64"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Self::of_json(&bytes).map_err(|error| invalid(&error.to_string()))
    }

    /// Reads the JSON of `docker login` and of Docker's configuration file.
    ///
    /// # Errors
    /// What the parser says.
    pub fn of_json(bytes: &[u8]) -> serde_json::Result<Option<Self>> {
        let Some(wire) = serde_json::from_slice::<Option<Wire>>(bytes)? else { return Ok(None) };
        let mut credentials = Self {
            username: wire.username,
            password: wire.password,
            identity_token: wire.identitytoken,
            registry_token: wire.registrytoken,
        };
        if credentials.username.is_empty()
            && let Ok(pair) = STANDARD.decode(wire.auth.trim())
            && let Ok(pair) = String::from_utf8(pair)
            && let Some((username, password)) = pair.split_once(':')
        {
            credentials.username = username.to_owned();
            credentials.password = password.trim_end_matches('\0').to_owned();
        }
        Ok(Some(credentials).filter(|credentials| *credentials != Self::default()))
    }

    /// The value of a header `Authorization` with name and password.
    pub(crate) fn basic(&self) -> Option<String> {
        let pair = format!("{}:{}", self.username, self.password);
        (!self.username.is_empty()).then(|| format!("Basic {}", STANDARD.encode(pair)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let header = URL_SAFE.encode(r#"{"username":"u","password":"p?>","serveraddress":"x"}"#);
        let credentials = Credentials::of_header(&header).unwrap().unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("u", "p?>"));
        for nobody in ["", "e30=", "e30", &URL_SAFE.encode("null")] {
            assert_eq!(Credentials::of_header(nobody).unwrap(), None, "{nobody}");
        }
        let file = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("a:b:c"));
        assert_eq!(Credentials::of_json(file.as_bytes()).unwrap().unwrap().password, "b:c");
        assert!(Credentials::of_header("%%%").is_err());
        assert!(!format!("{credentials:?}").contains("p?>"));
    }
}
