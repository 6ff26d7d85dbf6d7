//! Tokens of service accounts: JSON Web Tokens signed with the cluster's own key (ES256), bound to an object where asked,
//! and the documents by which others verify them (OpenID Connect discovery, RFC 7517).

use std::{fs, path::Path};

use base64::Engine as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Error, pki};

/// Who issues the tokens, and whom they are for unless somebody says otherwise.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long a token may be, in bytes.
const LIMIT: usize = 16 << 10;
/// Bytes of an uncompressed point of P-256: a mark and two coordinates.
const POINT: usize = 65;
/// Seconds by which the clocks of a cluster may differ.
const LEEWAY: u64 = 10;

/// An object that a token names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

/// What a token says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Private {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Named>,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970, as all times here.
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Private,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// The key of a cluster's tokens.
pub(crate) struct Signer {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// The coordinates of the public key.
    point: (String, String),
}

fn url_safe(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// Reads the key that is kept in `directory`, or makes one.
    ///
    /// # Errors
    /// What the file system refuses; a file that is no key.
    pub(crate) fn open(directory: &Path) -> Result<Signer, Error> {
        let path = directory.join("sa.key");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let subject = "tokens of service accounts".to_owned();
                let failed = |source| Error::Certificate { subject, source };
                let text =
                    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?.serialize_pem();
                pki::write_private(&path, &text)?;
                text
            }
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let bad = || Error::BadCertificate { path: path.clone() };
        let key = KeyPair::from_pem(&text).map_err(|_| bad())?;
        let point = key.der_bytes();
        let (x, y) = match point {
            [4, rest @ ..] if point.len() == POINT => rest.split_at(rest.len() / 2),
            _ => return Err(bad()),
        };
        let point = (url_safe(x), url_safe(y));
        let decoding = DecodingKey::from_ec_components(&point.0, &point.1).map_err(|_| bad())?;
        Ok(Signer {
            id: url_safe(&Sha256::digest(key.subject_public_key_info())),
            encoding: EncodingKey::from_ec_pem(text.as_bytes()).map_err(|_| bad())?,
            decoding,
            point,
        })
    }

    /// A token that says so.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = Header { kid: Some(self.id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| error.to_string())
    }

    /// What a token says that this key signed, that holds now, and that is for one of `audiences`.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of the token.
    pub(crate) fn verify(&self, token: &str, audiences: &[String]) -> Result<Claims, String> {
        if token.len() > LIMIT {
            return Err("the token is too long".to_owned());
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation);
        decoded.map(|decoded| decoded.claims).map_err(|error| error.to_string())
    }

    /// Where the keys are and what the tokens are like (OpenID Connect Discovery 1.0).
    pub(crate) fn discovery(&self, address: &str) -> Value {
        json!({
            "issuer": ISSUER, "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The public keys, as a JSON Web Key Set.
    pub(crate) fn keys(&self) -> Value {
        let (x, y) = &self.point;
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y,
        }] })
    }
}

/// Who issued a token, unverified: whether it is worth asking the key about.
pub(crate) fn issuer(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1).filter(|_| token.len() <= LIMIT)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(exp: i64) -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp,
            iat: 1,
            iss: ISSUER.to_owned(),
            jti: "j".to_owned(),
            kubernetes: Private {
                namespace: "a".to_owned(),
                serviceaccount: Named { name: "b".to_owned(), uid: "u".to_owned() },
                pod: None,
                node: None,
                secret: None,
            },
            nbf: 1,
            sub: "system:serviceaccount:a:b".to_owned(),
        }
    }

    #[test]
    fn tokens_hold_for_whom_and_as_long_as_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(directory.path()).unwrap();
        let audiences = [ISSUER.to_owned()];
        let good = claims(i64::from(u32::MAX));
        let token = signer.sign(&good).unwrap();
        assert_eq!(signer.verify(&token, &audiences).unwrap(), good);
        assert_eq!(issuer(&token).as_deref(), Some(ISSUER));
        // The key is kept.
        let again = Signer::open(directory.path()).unwrap();
        assert_eq!(again.verify(&token, &audiences).unwrap(), good);
        assert_eq!(again.keys(), signer.keys());
        signer.verify(&token, &["other".to_owned()]).unwrap_err();
        signer.verify(&signer.sign(&claims(1)).unwrap(), &audiences).unwrap_err();
        signer
            .verify(&signer.sign(&Claims { iss: "x".to_owned(), ..good.clone() }).unwrap(), &audiences)
            .unwrap_err();
        let elsewhere = tempfile::tempdir().unwrap();
        Signer::open(elsewhere.path()).unwrap().verify(&token, &audiences).unwrap_err();
        // A token that is signed with nothing, or with the public key as a secret.
        let parts: Vec<&str> = token.split('.').collect();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#] {
            let forged = format!("{}.{}.", url_safe(header.as_bytes()), parts[1]);
            signer.verify(&forged, &audiences).unwrap_err();
        }
        assert_eq!(issuer("x"), None);
    }
}
