//! Statements about a result: how it was built (SLSA provenance), and what is in it (SPDX).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::builder::blocking;
use crate::request::{ContextSource, DockerfileSource, Provenance};
use crate::result::{BuiltImage, Statement};
use crate::session::Session;
use crate::{Result, sbom};

const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";
const SPDX: &str = "https://spdx.dev/Document";

/// The statements that the request asks for.
pub(crate) async fn statements(
    session: &Arc<Session>,
    image: &BuiltImage,
    started: jiff::Timestamp,
) -> Result<Vec<Statement>> {
    let mut all = Vec::new();
    let wanted = session.request.attestations;
    if wanted.sbom {
        let (engine, layers) = (session.builder.engine.clone(), image.layers.clone());
        let created = session.now();
        let name = image.id.to_string();
        let predicate = blocking(move || sbom::document(&engine, &layers, &name, &created)).await?;
        all.push(Statement { predicate_type: SPDX.to_owned(), predicate });
    }
    if let Some(amount) = wanted.provenance {
        let predicate = provenance(session, image, started, amount);
        all.push(Statement { predicate_type: PROVENANCE.to_owned(), predicate });
    }
    Ok(all)
}

fn provenance(session: &Session, image: &BuiltImage, started: jiff::Timestamp, amount: Provenance) -> Value {
    let request = &session.request;
    let is_maximal = amount == Provenance::Maximal;
    let materials: Vec<Value> = session
        .materials
        .lock()
        .iter()
        .map(|(address, digest)| {
            let uri = match address.strip_prefix("docker-image ") {
                Some(name) => package(name, &image.platform.to_string()),
                None => address.clone(),
            };
            let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha1", digest));
            json!({ "uri": uri, "digest": { algorithm: hex } })
        })
        .collect();
    let path = &session.definition.path;
    let mut args = Map::new();
    if !request.target.is_empty() {
        args.insert("target".to_owned(), json!(request.target));
    }
    // What is given to a build may be a secret, so the short form does not tell it.
    if is_maximal {
        for (name, value) in &request.build_args {
            if let Some(value) = value {
                args.insert(format!("build-arg:{name}"), json!(value));
            }
        }
        for (name, value) in &request.labels {
            args.insert(format!("label:{name}"), json!(value));
        }
    }
    let locals: Vec<Value> = match (&request.context, &request.dockerfile) {
        (_, DockerfileSource::Local { name, .. }) => {
            vec![json!({ "name": "context" }), json!({ "name": name })]
        }
        (ContextSource::Remote(_), _) => Vec::new(),
        _ => vec![json!({ "name": "context" })],
    };
    let platform = image.platform.to_string();
    let mut predicate = json!({
        "builder": { "id": "" },
        "buildType": BUILD_TYPE,
        "materials": materials,
        "invocation": {
            "configSource": { "entryPoint": path },
            "parameters": { "frontend": "dockerfile.v0", "args": args, "locals": locals },
            "environment": { "platform": platform },
        },
        "metadata": {
            "buildStartedOn": started.to_string(),
            "buildFinishedOn": jiff::Timestamp::now().to_string(),
            "completeness": { "parameters": is_maximal, "environment": true, "materials": materials_are_all(session) },
            "reproducible": false,
        },
    });
    if is_maximal {
        let steps: Vec<Value> = image
            .trail
            .iter()
            .enumerate()
            .map(|(index, trail)| {
                let history = image.config.history.get(trail.history);
                json!({
                    "id": format!("step{index}"),
                    "op": { "history": history.and_then(|history| history.created_by.clone()) },
                    "inputs": if index == 0 { vec![] } else { vec![format!("step{}:0", index - 1)] },
                })
            })
            .collect();
        predicate["buildConfig"] = json!({ "llbDefinition": steps });
        let text = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            &session.definition.dockerfile,
        );
        predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"] = json!({
            "source": { "infos": [{ "filename": path, "language": "Dockerfile", "data": text }] },
        });
    }
    predicate
}

/// Whether everything that came from outside has an address and a digest.
fn materials_are_all(session: &Session) -> bool {
    matches!(session.definition.main, crate::context::Main::Empty)
}

/// `pkg:docker/name@tag?platform=…`, the address of an image as a package.
pub(crate) fn package(name: &str, platform: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let (name, version) = match short.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (short, "latest"),
    };
    format!("pkg:docker/{name}@{version}?platform={}", platform.replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_as_others_name_them() {
        let name = package("docker.io/library/box:latest", "linux/amd64");
        assert_eq!(name, "pkg:docker/box@latest?platform=linux%2Famd64");
        assert_eq!(package("host:5000/a/b", "linux"), "pkg:docker/host:5000/a/b@latest?platform=linux");
    }
}
