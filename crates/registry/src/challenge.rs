//! The challenge of a registry, header `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// Bytes of the longest header that is read.
const LIMIT: usize = 8 << 10;
/// Parameters of one header.
const PARAMETER_LIMIT: usize = 32;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// A word of the header's grammar.
fn token(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/=:@?".contains(&b)) || b == b'=')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A value, quoted or not, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return Some((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// The challenges of one header; what is not understood is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    if header.len() > LIMIT {
        return found;
    }
    let mut rest = header.trim_start();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut finish = |scheme: &str, parameters: &mut Vec<(String, String)>| {
        let get = |name: &str| {
            let found = parameters.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        match scheme {
            "basic" => found.push(Challenge::Basic),
            "bearer" if !get("realm").is_empty() => {
                found.push(Challenge::Bearer {
                    realm: get("realm"),
                    service: get("service"),
                    scope: get("scope"),
                });
            }
            _ => {}
        }
        parameters.clear();
    };
    let mut count = 0;
    while !rest.is_empty() {
        let (word, after) = token(rest);
        let after_spaces = after.trim_start();
        if word.is_empty() {
            // A comma, or what is none of ours.
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str().trim_start();
        } else if let Some(text) = after_spaces.strip_prefix('=') {
            count += 1;
            let Some((value, after)) = value(text.trim_start()).filter(|_| count <= PARAMETER_LIMIT) else {
                break;
            };
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after.trim_start();
        } else {
            finish(&scheme, &mut parameters);
            scheme = word.to_ascii_lowercase();
            rest = after_spaces;
        }
    }
    finish(&scheme, &mut parameters);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() }
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(hub),
            [bearer("https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull,push")]
        );
        assert_eq!(parse("Basic realm=\"x, y\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        let two = r#"Negotiate, Bearer realm="a\"b", Basic realm=x"#;
        assert_eq!(parse(two), [bearer("a\"b", "", ""), Challenge::Basic]);
        assert_eq!(parse("Bearer service=x"), []);
        assert_eq!(parse(&format!("Basic realm=\"{}\"", "x".repeat(LIMIT))), []);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_quoted_comes_back(realm in "[^\"\\\\]{1,40}") {
            let header = format!("Bearer realm=\"{realm}\"");
            proptest::prop_assert_eq!(parse(&header), [bearer(&realm, "", "")]);
        }
    }
}
