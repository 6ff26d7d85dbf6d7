//! Images of several platforms and what is stated about them: built, kept, shown, saved, pushed and pulled.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::Daemon;
use common::registry::Registry;
use serde_json::Value;

fn started() -> Daemon {
    let daemon = Daemon::start();
    daemon.add_plugins();
    daemon.load_busybox();
    daemon
}

fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a URL holds for a platform.
fn quoted(architecture: &str) -> String {
    format!("%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22{architecture}%22%7D")
}

/// A project whose image for this machine can be run; for another one it has a file alone.
fn project(daemon: &Daemon) -> PathBuf {
    let path = daemon.path("project");
    fs::create_dir_all(&path).unwrap();
    let dockerfile = format!(
        "FROM box AS base-{}\nFROM scratch AS base-s390x\nFROM base-$TARGETARCH\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n",
        host()
    );
    fs::write(path.join("Dockerfile"), dockerfile).unwrap();
    for architecture in [host(), "s390x"] {
        fs::write(path.join(architecture), architecture).unwrap();
    }
    path
}

fn build(daemon: &Daemon, name: &str, options: &[&str]) -> String {
    let path = project(daemon);
    let platforms = format!("linux/{},linux/s390x", host());
    let arguments = ["buildx", "build", "--platform", &platforms, "-t", name];
    daemon.buildx_ok(&[arguments.as_slice(), options, &[path.to_str().unwrap()]].concat())
}

/// The manifests that a name leads to.
fn manifests(daemon: &Daemon, name: &str) -> Vec<Value> {
    let document = daemon.get(&format!("/v1.48/images/{name}/json?manifests=1"));
    document["Manifests"].as_array().unwrap().clone()
}

fn index_digest(daemon: &Daemon, name: &str) -> String {
    let document = daemon.get(&format!("/v1.48/images/{name}/json"));
    assert_eq!(document["Descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json", "{document}");
    document["Descriptor"]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_build_for_two_platforms_is_one_image_of_the_store() {
    let daemon = started();
    let said = build(&daemon, "many:1", &["--output", "type=image"]);
    assert!(said.contains("exporting manifest list sha256:"), "{said}");
    assert_eq!(daemon.ok(&["run", "--rm", "many:1", "cat", "/arch"]), host());
    let listed = daemon.ok(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(listed.lines().filter(|line| *line != "box:latest").collect::<Vec<_>>(), ["many:1"]);

    let all = manifests(&daemon, "many:1");
    assert_eq!(all.len(), 2, "{all:?}");
    for (manifest, architecture) in all.iter().zip([host(), "s390x"]) {
        assert_eq!(
            (&manifest["Available"], &manifest["Kind"]),
            (&true.into(), &"image".into()),
            "{manifest}"
        );
        assert_eq!(manifest["ImageData"]["Platform"]["architecture"], architecture);
        assert!(manifest["Size"]["Content"].as_u64().unwrap() > 0, "{manifest}");
    }
    let listed = daemon.get("/v1.48/images/json?manifests=1");
    let many = listed.as_array().unwrap().iter().find(|image| image["RepoTags"][0] == "many:1").unwrap();
    assert_eq!(many["Manifests"].as_array().unwrap().len(), 2, "{many}");
    assert_eq!(many["Descriptor"]["digest"], index_digest(&daemon, "many:1").as_str());
    let foreign = daemon.get(&format!("/v1.49/images/many:1/json?platform={}", quoted("s390x")));
    assert_eq!(foreign["Architecture"], "s390x");
    let refused =
        daemon.request("GET", &format!("/v1.49/images/many:1/json?platform={}", quoted("mips")), "");
    assert!(
        refused.starts_with("HTTP/1.1 404") && refused.contains("does not provide the specified platform")
    );

    // A container of the other platform cannot be run here, but made and read.
    daemon.ok(&["create", "--platform", "linux/s390x", "--name", "foreign", "many:1", "x"]);
    let out = daemon.path("out-arch");
    daemon.ok(&["cp", "foreign:/arch", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(out).unwrap(), "s390x");
    let using = manifests(&daemon, "many:1");
    assert_eq!(using[1]["ImageData"]["Containers"].as_array().unwrap().len(), 1, "{using:?}");
    daemon.refused(&["rmi", "many:1"], "is using its referenced image");
    daemon.ok(&["image", "prune", "-a", "-f"]);
    assert_eq!(manifests(&daemon, "many:1").len(), 2, "what a container uses stays with its index");
    daemon.ok(&["rm", "foreign"]);
    // Nobody uses them, and they have a name: only with `-a` they go, all of them.
    daemon.ok(&["image", "prune", "-f"]);
    assert!(manifests(&daemon, "many:1").iter().all(|manifest| manifest["Available"] == true));
    daemon.ok(&["tag", "many:1", "other:2"]);
    daemon.ok(&["rmi", "many:1"]);
    assert_eq!(manifests(&daemon, "other:2").len(), 2);
    let removed = daemon.ok(&["rmi", "other:2"]);
    assert_eq!(removed.matches("Deleted: sha256:").count(), 2, "{removed}");
    daemon.assert_nothing_left();
}

#[test]
fn an_index_is_saved_loaded_pushed_and_pulled() {
    let daemon = started();
    let registry = Registry::start(&daemon.path("registry"));
    let name = format!("{}/many:1", registry.address);
    build(&daemon, &name, &["--output", "type=image"]);
    let digest = index_digest(&daemon, &name);
    let archive = daemon.path("many.tar");
    let save = || daemon.ok(&["save", "-o", archive.to_str().unwrap(), &name]);
    let load = || daemon.ok(&["load", "-i", archive.to_str().unwrap()]);
    save();
    daemon.ok(&["rmi", &name]);
    assert_eq!(load(), format!("Loaded image: {name}"));
    assert_eq!((index_digest(&daemon, &name), manifests(&daemon, &name).len()), (digest.clone(), 2));

    // One platform of it, which is an image like others.
    let path = format!("/v1.48/images/{name}/get?platform={}", quoted("s390x"));
    let answer = daemon.request_bytes("GET", &path, "");
    let begin = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let one = daemon.path("one.tar");
    fs::write(&one, unchunked(&answer[begin..])).unwrap();
    daemon.ok(&["rmi", &name]);
    daemon.ok(&["load", "-i", one.to_str().unwrap()]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Architecture}}", &name]), "s390x");
    daemon.ok(&["rmi", &name]);
    load();

    let pushed = daemon.ok(&["push", &name]);
    assert!(pushed.contains(&format!("1: digest: {digest} size:")), "{pushed}");
    let inspected = daemon.buildx_ok(&["buildx", "imagetools", "inspect", &name]);
    for words in [&digest, &format!("linux/{}", host()), "linux/s390x"] {
        assert!(inspected.contains(words), "{words}: {inspected}");
    }
    daemon.ok(&["rmi", &name]);
    daemon.ok(&["pull", "--platform", "linux/s390x", &name]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Architecture}}", &name]), "s390x");
    assert!(daemon.ok(&["pull", &name]).contains("Status: Downloaded newer image for"));
    assert_eq!(daemon.ok(&["run", "--rm", &name, "cat", "/arch"]), host());
    let by_digest = format!("{}/many@{digest}", registry.address);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{index .RepoDigests 0}}", &name]), by_digest);

    // One platform alone, under a tag of its own.
    let alone = format!("{}/many:alone", registry.address);
    daemon.ok(&["tag", &name, &alone]);
    let (repository, _) = alone.rsplit_once(':').unwrap();
    let path = format!("/v1.48/images/{repository}/push?tag=alone&platform={}", quoted("s390x"));
    let answer = daemon.request("POST", &path, "");
    assert!(answer.contains("alone: digest: sha256:") && !answer.contains("\"error\""), "{answer}");
    let inspected = daemon.buildx_ok(&["buildx", "imagetools", "inspect", "--raw", &alone]);
    assert!(inspected.contains("\"layers\"") && !inspected.contains("\"manifests\""), "{inspected}");

    // One platform goes and comes back, and with the last one the name goes.
    daemon.ok(&["rmi", &alone]);
    let missing = "does not provide the specified platform";
    daemon.refused(&["rmi", "--platform", "linux/mips64", &name], missing);
    daemon.ok(&["pull", "--platform", "linux/s390x", &name]);
    daemon.ok(&["create", "--platform", "linux/s390x", "--name", "user", &name, "x"]);
    let remove = ["rmi", "--platform", "linux/s390x", &name];
    daemon.refused(&remove, "is being used by stopped container");
    daemon.ok(&["rm", "user"]);
    assert!(daemon.ok(&remove).starts_with("Deleted: sha256:"));
    daemon.refused(&remove, missing);
    assert_eq!(daemon.ok(&["run", "--rm", &name, "cat", "/arch"]), host());
    daemon.ok(&["pull", "--platform", "linux/s390x", &name]);
    let own = format!("linux/{}", host());
    let removed = daemon.ok(&["rmi", "--platform", "linux/s390x", "--platform", &own, &name]);
    assert!(removed.contains(&format!("Untagged: {name}")), "{removed}");
    assert!(!daemon.ok(&["images", "--no-trunc"]).contains("many"));
    daemon.assert_nothing_left();
}

/// A body without the lengths of its chunks.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return plain;
        }
        plain.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
}

#[test]
fn what_is_stated_about_an_image_goes_with_it() {
    let daemon = started();
    let registry = Registry::start(&daemon.path("registry"));
    let name = format!("{}/stated:1", registry.address);
    let path = daemon.path("stated");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("Dockerfile"), "FROM box\nRUN echo stated > /stated\n").unwrap();
    let options = ["--provenance=mode=max", "--sbom=true", "-t", &name];
    let said = daemon.buildx_ok(&[&["buildx", "build"][..], &options, &[path.to_str().unwrap()]].concat());
    assert!(said.contains("exporting manifest list sha256:"), "{said}");
    assert_eq!(daemon.ok(&["run", "--rm", &name, "cat", "/stated"]), "stated");
    let all = manifests(&daemon, &name);
    let kinds: Vec<&str> = all.iter().map(|manifest| manifest["Kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["image", "attestation"], "{all:?}");
    assert_eq!(all[1]["AttestationData"]["For"], all[0]["ID"]);
    assert_eq!(all[1]["Descriptor"]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");

    let digest = index_digest(&daemon, &name);
    let pushed = daemon.ok(&["push", &name]);
    assert!(pushed.contains(&digest), "{pushed}");
    let inspect = |format: &str| {
        let arguments = ["buildx", "imagetools", "inspect", "--format", format, &name];
        let output = daemon.buildx(&arguments);
        common::plugins::said(&arguments, &output, true, &daemon.path("log"))
    };
    let provenance = inspect("{{json .Provenance}}");
    assert!(
        provenance.contains("mobyproject.org/buildkit") && provenance.contains("llbDefinition"),
        "{provenance}"
    );
    assert!(inspect("{{json .SBOM}}").contains("SPDX"), "{}", inspect("{{json .SBOM}}"));

    // Through an archive it keeps them too.
    let archive = daemon.path("stated.tar");
    daemon.ok(&["save", "-o", archive.to_str().unwrap(), &name]);
    daemon.ok(&["rmi", &name]);
    daemon.ok(&["load", "-i", archive.to_str().unwrap()]);
    assert_eq!((index_digest(&daemon, &name), manifests(&daemon, &name)), (digest, all));

    // With nothing asked for there is an image and nothing else.
    daemon.buildx_ok(&["buildx", "build", "--label", "plain=1", "-t", "plain", path.to_str().unwrap()]);
    assert!(daemon.get("/v1.48/images/plain/json").get("Descriptor").is_none());
    daemon.assert_nothing_left();
}
