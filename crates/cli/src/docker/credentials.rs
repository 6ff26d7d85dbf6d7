//! Who the user is to registries: Docker's configuration file, and the helpers that it names.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The name under which Docker Hub's credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";
/// What helpers answer as the user of a token.
const TOKEN_USER: &str = "<token>";

/// The registry of an image's name.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// The key of a registry in the file.
pub(super) fn key(registry: &str) -> &str {
    match registry {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    }
}

fn path() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    directory.or_else(home).map(|directory| directory.join("config.json"))
}

/// Docker's configuration file.
pub(super) struct Config {
    path: PathBuf,
    document: Map<String, Value>,
}

impl Config {
    pub(super) fn read() -> Result<Self> {
        let path = path()
            .ok_or_else(|| Error::Failed { message: "neither DOCKER_CONFIG nor HOME is set".to_owned() })?;
        let document = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Failed {
                message: format!("cannot read {}: {error}", path.display()),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        Ok(Self { path, document })
    }

    fn write(&self) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        let new = self.path.with_extension("json.new");
        let _ = fs::remove_file(&new);
        let text = format!("{:#}\n", Value::Object(self.document.clone()));
        let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(Error::io("write", &self.path))
    }

    /// The helper that keeps the credentials of a registry.
    fn helper(&self, key: &str) -> Option<String> {
        let own = self.document.get("credHelpers").and_then(|helpers| helpers.get(key));
        let name = own.or_else(|| self.document.get("credsStore")).and_then(Value::as_str)?;
        (!name.is_empty() && !name.contains('/')).then(|| format!("docker-credential-{name}"))
    }

    /// What is known of a registry, as the daemon takes it.
    fn entry(&self, key: &str) -> Option<Value> {
        if let Some(helper) = self.helper(key) {
            let answer = ask(&helper, "get", key).ok()?;
            let answer: Value = serde_json::from_slice(&answer).ok()?;
            let (user, secret) = (answer["Username"].as_str()?, answer["Secret"].as_str()?);
            return Some(match user {
                TOKEN_USER => json!({ "identitytoken": secret, "serveraddress": key }),
                _ => json!({ "username": user, "password": secret, "serveraddress": key }),
            });
        }
        let auths = self.document.get("auths")?.as_object()?;
        let plain = |known: &str| {
            let rest = known.split_once("://").map_or(known, |(_, rest)| rest);
            rest.split('/').next().unwrap_or_default().to_owned()
        };
        let found = auths
            .get(key)
            .or_else(|| auths.iter().find(|(known, _)| plain(known) == plain(key)).map(|(_, entry)| entry))?;
        let mut entry = found.as_object()?.clone();
        if let Some(pair) = entry.remove("auth").and_then(|auth| STANDARD.decode(auth.as_str()?.trim()).ok())
        {
            let pair = String::from_utf8(pair).ok()?;
            let (user, password) = pair.split_once(':')?;
            entry.insert("username".to_owned(), user.into());
            entry.insert("password".to_owned(), password.into());
        }
        entry.insert("serveraddress".to_owned(), key.into());
        Some(Value::Object(entry))
    }

    /// The header by which the daemon hears who asks a registry.
    pub(super) fn header(&self, registry: &str) -> Option<String> {
        self.entry(key(registry)).map(|entry| URL_SAFE.encode(entry.to_string()))
    }

    /// Keeps credentials that a registry has taken.
    pub(super) fn keep(&mut self, registry: &str, user: &str, password: &str, token: &str) -> Result<()> {
        let key = key(registry).to_owned();
        if let Some(helper) = self.helper(&key) {
            let (user, secret) = if token.is_empty() { (user, password) } else { (TOKEN_USER, token) };
            let entry = json!({ "ServerURL": key, "Username": user, "Secret": secret });
            return ask(&helper, "store", &entry.to_string()).map(drop);
        }
        let entry = match token {
            "" => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
            token => json!({ "auth": STANDARD.encode(format!("{user}:")), "identitytoken": token }),
        };
        let auths = self.document.entry("auths").or_insert_with(|| json!({}));
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key, entry);
        }
        self.write()
    }

    /// Forgets a registry; whether there was anything to forget.
    pub(super) fn forget(&mut self, registry: &str) -> Result<bool> {
        let key = key(registry).to_owned();
        if let Some(helper) = self.helper(&key) {
            return ask(&helper, "erase", &key).map(|_| true);
        }
        let auths = self.document.get_mut("auths").and_then(Value::as_object_mut);
        let was_there = auths.is_some_and(|auths| auths.remove(&key).is_some());
        if was_there {
            self.write()?;
        }
        Ok(was_there)
    }
}

/// Runs a helper, which reads its question from its input.
fn ask(helper: &str, verb: &str, question: &str) -> Result<Vec<u8>> {
    let failed = |why: String| Error::Failed { message: format!("{helper} {verb}: {why}") };
    let mut child = Command::new(helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(question.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(document: Value) -> Config {
        let Value::Object(document) = document else { panic!("an object") };
        Config { path: PathBuf::new(), document }
    }

    #[test]
    fn finds_who_the_user_is() {
        assert_eq!(registry_of("nginx"), "docker.io");
        assert_eq!(registry_of("user/app"), "docker.io");
        assert_eq!(registry_of("localhost:5000/a/b:1"), "localhost:5000");
        let auth = STANDARD.encode("u:p:q");
        let config = config(
            json!({ "auths": { "https://reg.example/v1/": { "auth": auth }, HUB: { "identitytoken": "t" } } }),
        );
        let entry = config.entry("reg.example").unwrap();
        assert_eq!((entry["username"].as_str(), entry["password"].as_str()), (Some("u"), Some("p:q")));
        assert_eq!(config.entry(key("docker.io")).unwrap()["identitytoken"], "t");
        assert!(config.header("other.example").is_none());
    }
}
