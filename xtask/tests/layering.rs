//! Which crate may know which: the table below is the architecture, and the manifests must follow it.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

/// What a crate may depend on among ours, development dependencies aside.
enum May {
    Know(&'static [&'static str]),
    KnowAll,
}

const LAYERS: [(&str, May); 25] = [
    ("dray-testkit", May::Know(&[])),
    ("dray-runtime", May::Know(&[])),
    ("dray-oci", May::Know(&["dray-runtime"])),
    ("dray-image", May::Know(&[])),
    ("dray-registry", May::Know(&["dray-image"])),
    ("dray-network", May::Know(&[])),
    ("dray-machinery", May::Know(&[])),
    ("dray-cel", May::Know(&["dray-machinery"])),
    ("dray-store", May::Know(&["dray-machinery"])),
    ("dray-engine", May::Know(&["dray-runtime", "dray-image", "dray-network"])),
    ("dray-dockerfile", May::Know(&["dray-image"])),
    ("dray-build", May::Know(&["dray-dockerfile", "dray-engine", "dray-image"])),
    ("dray-buildkit", May::Know(&["dray-engine", "dray-image", "dray-build"])),
    ("dray-swarm", May::Know(&["dray-engine"])),
    (
        "dray-docker-api",
        May::Know(&[
            "dray-engine",
            "dray-image",
            "dray-registry",
            "dray-build",
            "dray-buildkit",
            "dray-swarm",
        ]),
    ),
    ("dray-access", May::Know(&[])),
    ("dray-apiserver", May::Know(&["dray-store", "dray-machinery", "dray-access", "dray-cel"])),
    ("dray-proxy", May::Know(&["dray-network"])),
    ("dray-scheduler", May::Know(&["dray-cel"])),
    ("dray-controllers", May::Know(&["dray-machinery"])),
    ("dray-node", May::Know(&["dray-engine", "dray-image", "dray-registry", "dray-machinery"])),
    ("dray-metrics", May::Know(&["dray-machinery"])),
    ("dray-cli", May::Know(&[])),
    ("dray", May::KnowAll),
    ("xtask", May::Know(&["dray-testkit"])),
];

/// The packages of the workspace and, for each, the packages of ours it depends on outside of tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside the repository");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        let ours = package["dependencies"]
            .as_array()
            .expect("a list of dependencies")
            .iter()
            // Normal dependencies have no kind. Ours have a path and no source.
            .filter(|dependency| dependency["kind"] != "dev" && dependency["source"].is_null())
            .map(|dependency| dependency["name"].as_str().expect("a dependency has a name").to_owned())
            .collect();
        found.insert(name, ours);
    }
    found
}

#[test]
fn crates_know_only_the_layers_beneath_them() {
    let found = dependencies();
    let mut wrong = Vec::new();
    for (name, may) in &LAYERS {
        let Some(ours) = found.get(*name) else {
            wrong.push(format!("{name} is in the table and not in the workspace"));
            continue;
        };
        if let May::Know(allowed) = may {
            let strangers = ours.iter().filter(|other| !allowed.contains(&other.as_str()));
            wrong.extend(strangers.map(|other| format!("{name} must not know {other}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_has_its_place_in_the_table() {
    // Examples are no part of the product: they know none of ours.
    for (name, ours) in dependencies() {
        let placed = LAYERS.iter().any(|(layer, _)| *layer == name);
        assert!(placed || ours.is_empty(), "{name} depends on {ours:?} and has no place in the table");
        assert!(placed || name.starts_with("example-"), "{name} has no place in the table");
    }
}
