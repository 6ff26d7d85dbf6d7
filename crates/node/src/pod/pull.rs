//! Images of registries for a pod: who asks for them is in the Secrets that the pod names.

use std::time::Instant;

use dray_image::{Image, Reference};
use dray_registry::{Credentials, Error as RegistryError, Events, PullRequest};
use serde_json::Value;

use super::Worker;
use super::start::WantedImage;
use crate::api::{self, Kind};
use crate::recorder::Severity;

/// Where a Secret holds what Docker's configuration file holds, and what its older form held.
const KEYS: [&str; 2] = [".dockerconfigjson", ".dockercfg"];

/// Credentials, and for which images they are.
struct Entry {
    place: String,
    credentials: Credentials,
}

/// The host, with its port, and the path of an entry's key: `https://host/v1/` is the host.
fn place(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let rest = ["/v1", "/v2"].iter().find_map(|suffix| rest.strip_suffix(suffix)).unwrap_or(rest);
    match rest {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        rest => rest.to_owned(),
    }
}

/// Whether a name fits a pattern in which `*` stands for any letters of one part between dots.
fn part_fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| part_fits(after, &rest[at..]))
        }),
    }
}

/// Whether an entry is for an image: its host fits, and its path begins that of the image.
fn fits(place: &str, reference: &Reference) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (parts, own): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), reference.registry().split('.').collect());
    // A pattern of a kilobyte is none.
    let same_host = host.len() <= 255
        && host.matches('*').count() <= 8
        && parts.len() == own.len()
        && parts.iter().zip(own).all(|(pattern, text)| part_fits(pattern, text));
    let rest = reference.repository().strip_prefix(path);
    same_host && (path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The entries of a Secret's document, in the order in which they are tried: the more exact first.
fn entries(document: &[u8]) -> Vec<Entry> {
    let Ok(document) = serde_json::from_slice::<Value>(document) else { return Vec::new() };
    let all = document.get("auths").unwrap_or(&document);
    let mut found: Vec<Entry> = all
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let credentials = Credentials::of_json(value.to_string().as_bytes()).ok()??;
            Some(Entry { place: place(key), credentials })
        })
        .collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.place.len()));
    found
}

impl Worker {
    /// Who may ask for this image, as the pod's Secrets say; nobody at last.
    async fn askers(&self, reference: &Reference) -> Vec<Option<Credentials>> {
        let mut askers = Vec::new();
        let secrets = self.pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
        for secret in secrets.into_iter().flatten() {
            let data =
                api::data(&self.context.client, Kind::Secret, &self.identity.namespace, &secret.name).await;
            let data = match data {
                Ok(Some(data)) => data,
                Ok(None) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        secret.name
                    );
                    let recorder = &self.context.recorder;
                    recorder.pod(
                        &self.identity,
                        None,
                        Severity::Warning,
                        "FailedToRetrieveImagePullSecret",
                        message,
                    );
                    continue;
                }
                Err(error) => {
                    tracing::debug!(error = error.chain(), secret = secret.name, "cannot read a pull secret");
                    continue;
                }
            };
            let documents = KEYS.iter().filter_map(|key| data.get(*key));
            let fitting = documents
                .flat_map(|document| entries(document))
                .filter(|entry| fits(&entry.place, reference));
            askers.extend(fitting.map(|entry| Some(entry.credentials)));
        }
        askers.push(None);
        askers
    }

    /// Pulls an image, and tells of it. The error is what the registry said.
    pub(super) async fn pull(&self, wanted: &WantedImage<'_>) -> Result<Image, String> {
        let WantedImage { name, place, .. } = *wanted;
        let reference = Reference::parse(name).map_err(|error| error.to_string())?;
        let tell = |reason, message: String| {
            self.context.recorder.pod(&self.identity, place, Severity::Normal, reason, message);
        };
        tell("Pulling", format!("Pulling image {name:?}"));
        let begin = Instant::now();
        let mut said = String::new();
        for credentials in self.askers(&reference).await {
            let request = PullRequest { reference: reference.clone(), platform: None, credentials };
            match self.context.registries.pull(&request, &Events::ignored()).await {
                Ok(pulled) => {
                    self.context.engine.image_event("pull", &pulled.image.id, &reference.familiar());
                    let took = super::go_milliseconds(begin.elapsed());
                    let size = pulled.image.size();
                    tell(
                        "Pulled",
                        format!(
                            "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {size} bytes."
                        ),
                    );
                    return Ok(pulled.image);
                }
                Err(error) => {
                    // The first one counts: the others are less exact.
                    if said.is_empty() {
                        said = error.chain();
                    }
                    if !matches!(
                        error,
                        RegistryError::Unauthorized { .. }
                            | RegistryError::Denied { .. }
                            | RegistryError::NotFound { .. }
                    ) {
                        break;
                    }
                }
            }
        }
        Err(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_for_hosts_and_paths() {
        for (key, image, expected) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "user/app", true),
            ("reg.example:5000", "reg.example:5000/a", true),
            ("reg.example", "reg.example:5000/a", false),
            ("*.example", "reg.example/a", true),
            ("*.example", "a.b.example/a", false),
            ("re*.example/team", "reg.example/team/app", true),
            ("reg.example/team", "reg.example/teams/app", false),
            ("reg.example/team/", "reg.example/team", true),
        ] {
            let reference = Reference::parse(image).unwrap();
            assert_eq!(fits(&place(key), &reference), expected, "{key} {image}");
        }
    }

    #[test]
    fn both_forms_of_secrets_are_read() {
        let new = br#"{"auths":{"a.example":{"username":"u","password":"p"},"a.example/x":{"auth":"dTpw"}}}"#;
        let old = br#"{"a.example":{"username":"u","password":"p"}}"#;
        assert_eq!(
            entries(new).iter().map(|entry| entry.place.as_str()).collect::<Vec<_>>(),
            ["a.example/x", "a.example"]
        );
        assert_eq!(entries(old).len(), 1);
        for hostile in [&b"x"[..], b"[]", b"{\"auths\":7}", b"{\"auths\":{\"a\":7}}"] {
            assert!(entries(hostile).is_empty());
        }
    }
}
