//! The file that says what is encrypted by which keys: `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{
    Key, Providers, Rule,
    cipher::{Cipher, Failed},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    resources: Vec<String>,
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    kms: Option<serde_yaml_ng::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    secret: String,
}

/// The longest file that is read, in bytes.
pub(super) const LONGEST: u64 = 1024 * 1024;

/// Reads the text of a file; an error says where in it and what.
pub(super) fn parse(text: &str) -> Result<Providers, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    if file.api_version != "apiserver.config.k8s.io/v1" || file.kind != "EncryptionConfiguration" {
        return Err(format!(
            "it is {}/{}, not EncryptionConfiguration of apiserver.config.k8s.io/v1",
            file.api_version, file.kind
        ));
    }
    if file.resources.is_empty() {
        return Err("resources: at least one is required".into());
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (index, entry) in file.resources.iter().enumerate() {
        let rule = rule(entry, &format!("resources[{index}]"))?;
        for pattern in &rule.patterns {
            if rules.iter().any(|earlier| earlier.patterns.contains(pattern)) {
                let (group, plural) = pattern;
                return Err(format!("resources[{index}].resources: {plural}.{group} is named twice"));
            }
        }
        rules.push(rule);
    }
    Ok(Providers { rules })
}

fn rule(entry: &RuleEntry, at: &str) -> Result<Rule, String> {
    if entry.resources.is_empty() {
        return Err(format!("{at}.resources: at least one is required"));
    }
    let mut patterns = Vec::new();
    for resource in &entry.resources {
        // "secrets", "deployments.apps", "*." for the core group, "*.apps", "*.*".
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let whole = !plural.is_empty() && !plural.contains('/') && resource != "*";
        if !whole || (plural != "*" && (group == "*" || resource.ends_with('.'))) {
            return Err(format!(
                "{at}.resources: {resource:?} is no resource; write PLURAL, PLURAL.GROUP, *., *.GROUP or *.*"
            ));
        }
        let group = if group.is_empty() { "core" } else { group };
        patterns.push((group.to_owned(), plural.to_owned()));
    }
    if entry.providers.is_empty() {
        return Err(format!("{at}.providers: at least one is required"));
    }
    let mut keys = Vec::new();
    for (index, provider) in entry.providers.iter().enumerate() {
        provide(provider, &format!("{at}.providers[{index}]"), &mut keys)?;
    }
    Ok(Rule { patterns, keys })
}

type Make = fn(&[u8]) -> Result<Cipher, Failed>;

fn provide(entry: &ProviderEntry, at: &str, keys: &mut Vec<Key>) -> Result<(), String> {
    if entry.kms.is_some() {
        return Err(format!(
            "{at}.kms: plugins are not supported; use aesgcm, aescbc, secretbox or identity"
        ));
    }
    let kinds: [(&str, &Option<Keys>, Make); 3] = [
        ("aesgcm", &entry.aesgcm, Cipher::gcm),
        ("aescbc", &entry.aescbc, Cipher::cbc),
        ("secretbox", &entry.secretbox, Cipher::secret_box),
    ];
    let named =
        kinds.iter().filter_map(|(name, given, make)| given.as_ref().map(|given| (*name, given, *make)));
    let named: Vec<_> = named.collect();
    match (&named[..], &entry.identity) {
        ([], Some(Identity {})) => {
            keys.push(Key { prefix: String::new(), cipher: None });
            Ok(())
        }
        ([(name, given, make)], None) => {
            let at = format!("{at}.{name}.keys");
            if given.keys.is_empty() {
                return Err(format!("{at}: at least one is required"));
            }
            for (index, entry) in given.keys.iter().enumerate() {
                let at = format!("{at}[{index}]");
                if entry.name.is_empty() || entry.name.contains(':') {
                    return Err(format!("{at}.name: it must not be empty or contain a colon"));
                }
                let prefix = format!("k8s:enc:{name}:v1:{}:", entry.name);
                if keys.iter().any(|key| key.prefix == prefix) {
                    return Err(format!("{at}.name: {:?} is named twice", entry.name));
                }
                let secret = STANDARD.decode(entry.secret.trim());
                let secret = secret.map_err(|_| format!("{at}.secret: it is no base64"))?;
                let cipher = make(&secret).map_err(|Failed| {
                    let lengths = if *name == "secretbox" { "32" } else { "16, 24 or 32" };
                    format!("{at}.secret: it has {} bytes, and must have {lengths}", secret.len())
                })?;
                keys.push(Key { prefix, cipher: Some(cipher) });
            }
            Ok(())
        }
        _ => Err(format!("{at}: name exactly one of aesgcm, aescbc, secretbox and identity")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn file(rules: &str) -> String {
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {rules}\n")
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let short = "c2hvcnQ=";
        let good = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let keys = |secret: &str| format!("{{keys: [{{name: a, secret: {secret}}}]}}");
        let cases = [
            (file("[]"), "resources: at least one"),
            (file("[{resources: [], providers: [{identity: {}}]}]"), "resources[0].resources: at least one"),
            (file("[{resources: [secrets], providers: []}]"), "resources[0].providers: at least one"),
            (file("[{resources: ['*'], providers: [{identity: {}}]}]"), "\"*\" is no resource"),
            (file("[{resources: ['secrets.*'], providers: [{identity: {}}]}]"), "is no resource"),
            (file("[{resources: [a], providers: [{}]}]"), "name exactly one of"),
            (
                file(&format!(
                    "[{{resources: [a], providers: [{{identity: {{}}, aesgcm: {}}}]}}]",
                    keys(good)
                )),
                "exactly one",
            ),
            (
                file(&format!("[{{resources: [a], providers: [{{aesgcm: {}}}]}}]", keys(short))),
                "it has 5 bytes, and must have 16, 24 or 32",
            ),
            (
                file(&format!(
                    "[{{resources: [a], providers: [{{secretbox: {}}}]}}]",
                    keys("MTIzNDU2Nzg5MDEyMzQ1Ng==")
                )),
                "must have 32",
            ),
            (
                file(&format!("[{{resources: [a], providers: [{{aescbc: {}}}]}}]", keys("'%'"))),
                "keys[0].secret: it is no base64",
            ),
            (file("[{resources: [a], providers: [{aescbc: {keys: []}}]}]"), "aescbc.keys: at least one"),
            (
                file("[{resources: [a], providers: [{kms: {name: x}}]}]"),
                "providers[0].kms: plugins are not supported",
            ),
            (
                file(
                    "[{resources: [a], providers: [{identity: {}}]}, {resources: [a], providers: [{identity: {}}]}]",
                ),
                "named twice",
            ),
            (file("[{resources: [a], providers: [{rot13: {}}]}]"), "rot13"),
            ("apiVersion: v1\nkind: Secret\nresources: []".to_owned(), "it is v1/Secret"),
            (": [".to_owned(), "while parsing"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
        let right = format!(
            "[{{resources: [secrets, '*.apps', '*.'], providers: [{{aesgcm: {}}}, {{identity: {{}}}}]}}]",
            keys(good)
        );
        assert_eq!(parse(&file(&right)).unwrap().rules[0].keys.len(), 2);
    }
}
