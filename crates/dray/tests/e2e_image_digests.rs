//! Images agree with what skopeo and buildah make of them, byte for byte, in both directions; and what `docker system df`
//! says is what is on the disk.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Daemon;
use common::registry::Registry;
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a program that succeeds prints.
fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|_| panic!("no {program}: install it"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

fn said(program: &str, arguments: &[&str]) -> String {
    String::from_utf8(run(program, arguments)).unwrap().trim().to_owned()
}

/// The digest of bytes, by a program of the host's.
fn digest_of(bytes: &[u8], scratch: &Path) -> String {
    fs::write(scratch, bytes).unwrap();
    let line = said("sha256sum", &[text(scratch)]);
    format!("sha256:{}", line.split(' ').next().unwrap())
}

/// buildah with a store of its own.
struct Buildah(PathBuf);

impl Buildah {
    fn run(&self, arguments: &[&str]) -> String {
        let (root, run_root) = (self.0.join("root"), self.0.join("run"));
        let own = ["--root", text(&root), "--runroot", text(&run_root), "--storage-driver", "vfs"];
        said("buildah", &[&own, arguments].concat())
    }
}

/// What skopeo finds under a name: the manifest's bytes, its digest, and the digests of the configuration and the layers.
struct Found {
    digest: String,
    config: String,
    layers: Vec<String>,
}

fn skopeo(place: &str, scratch: &Path) -> Found {
    let raw = run("skopeo", &["inspect", "--tls-verify=false", "--raw", place]);
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let bytes = run("skopeo", &["inspect", "--tls-verify=false", "--config", "--raw", place]);
    assert_eq!(digest_of(&bytes, scratch), config, "the configuration is what the manifest says");
    let layers = manifest["layers"].as_array().unwrap();
    let layers = layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect();
    Found { digest: digest_of(&raw, scratch), config, layers }
}

/// Has skopeo copy an image into a directory, where each blob is a file; all of them must have their digests.
fn copied(place: &str, directory: &Path, found: &Found) {
    let to = format!("dir:{}", directory.display());
    run("skopeo", &["copy", "-q", "--src-tls-verify=false", "--preserve-digests", place, &to]);
    for digest in found.layers.iter().chain([&found.config]) {
        let file = directory.join(digest.trim_start_matches("sha256:"));
        let line = said("sha256sum", &[text(&file)]);
        assert!(digest.ends_with(line.split(' ').next().unwrap()), "{digest}");
    }
}

fn project(daemon: &Daemon) -> PathBuf {
    let path = daemon.path("project");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), "of the project").unwrap();
    let dockerfile =
        "FROM box\nENV A=1\nCOPY file /file\nRUN echo made > /made && ln /made /same && ln -s made /link\n";
    fs::write(path.join("Dockerfile"), dockerfile).unwrap();
    path
}

#[test]
fn skopeo_and_buildah_read_what_is_built() {
    let daemon = Daemon::start();
    daemon.add_plugins();
    daemon.load_busybox();
    let registry = Registry::start(&daemon.path("registry"));
    let scratch = daemon.path("scratch");
    let path = project(&daemon);
    let name = format!("{}/made:1", registry.address);
    daemon.ok(&["build", "-q", "-t", &name, text(&path)]);
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", &name]);
    let pushed = daemon.ok(&["push", &name]);
    let found = skopeo(&format!("docker://{name}"), &scratch);
    assert!(pushed.contains(&format!("digest: {}", found.digest)), "{} {pushed}", found.digest);
    assert_eq!((found.config.as_str(), found.layers.len()), (id.as_str(), 3));
    copied(&format!("docker://{name}"), &daemon.path("copied"), &found);

    let buildah = Buildah(daemon.path("buildah"));
    buildah.run(&["pull", "-q", "--tls-verify=false", &format!("docker://{name}")]);
    let seen: Value = serde_json::from_str(&buildah.run(&["inspect", "--type", "image", &name])).unwrap();
    assert_eq!(seen["FromImageDigest"], found.digest.as_str());
    assert_eq!(format!("sha256:{}", seen["FromImageID"].as_str().unwrap()), id);

    // Archives of Docker's: the layers are plain, and so have the digests that the configuration names.
    let archive = daemon.path("saved.tar");
    daemon.ok(&["save", "-o", text(&archive), &name]);
    let diff_ids = daemon.ok(&["inspect", "-f", "{{join .RootFS.Layers \" \"}}", &name]);
    for place in
        [format!("docker-archive:{}", archive.display()), format!("oci-archive:{}", archive.display())]
    {
        let saved = skopeo(&place, &scratch);
        assert_eq!((saved.config, saved.layers.join(" ")), (id.clone(), diff_ids.clone()), "{place}");
    }
    // Archives of the OCI's: the layers are those of the registry.
    let layout = daemon.path("oci.tar");
    let metadata = daemon.path("metadata");
    let option = format!("type=oci,dest={}", layout.display());
    daemon.buildx_ok(&[
        "build",
        "-t",
        "made:1",
        "-o",
        &option,
        "--metadata-file",
        text(&metadata),
        text(&path),
    ]);
    let told: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    let exported = skopeo(&format!("oci-archive:{}", layout.display()), &scratch);
    assert_eq!(told["containerimage.digest"], exported.digest.as_str());
    assert_eq!(told["containerimage.config.digest"], exported.config.as_str());
    // The base came first in both builds, and its layer is one blob everywhere.
    assert_eq!(exported.layers[0], found.layers[0]);
    buildah.run(&["pull", "-q", &format!("oci-archive:{}", layout.display())]);
}

#[test]
fn what_skopeo_and_buildah_make_is_taken_as_it_is() {
    let daemon = Daemon::start();
    let registry = Registry::start(&daemon.path("registry"));
    let scratch = daemon.path("scratch");
    let buildah = Buildah(daemon.path("buildah"));
    let container = buildah.run(&["from", "scratch"]);
    fs::write(daemon.path("file"), "of buildah").unwrap();
    for layer in ["one", "two"] {
        buildah.run(&["copy", "-q", &container, text(&daemon.path("file")), &format!("/{layer}")]);
    }
    buildah.run(&["config", "--cmd", "/one", "--label", "by=buildah", &container]);
    let image = buildah.run(&["commit", "-q", &container, "theirs:1"]);
    for format in ["oci", "v2s2"] {
        let name = format!("{}/theirs-{format}:1", registry.address);
        let place = format!("docker://{name}");
        let file = daemon.path("digest");
        buildah.run(&[
            "push",
            "-q",
            "--tls-verify=false",
            "--format",
            format,
            "--digestfile",
            text(&file),
            &image,
            &place,
        ]);
        let digest = fs::read_to_string(file).unwrap();
        let found = skopeo(&place, &scratch);
        assert_eq!(found.digest, digest.trim(), "our registry gives out what it was given");
        daemon.ok(&["pull", "-q", &name]);
        assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", &name]), found.config, "{format}");
        assert_eq!(daemon.ok(&["inspect", "-f", "{{.Config.Labels.by}}", &name]), "buildah");
        let repository = name.rsplit_once(':').unwrap().0.to_owned();
        let by_digest = daemon.ok(&["inspect", "-f", "{{join .RepoDigests \" \"}}", &name]);
        let expected = format!("{repository}@{}", found.digest);
        assert!(by_digest.split(' ').any(|name| name == expected), "{expected}: {by_digest}");
        // Pushed on from here it is the same.
        let copy = format!("{}/copy-{format}:1", registry.address);
        daemon.ok(&["tag", &name, &copy]);
        daemon.ok(&["push", "-q", &copy]);
        let again = skopeo(&format!("docker://{copy}"), &scratch);
        assert_eq!((again.digest, again.layers), (found.digest, found.layers), "{format}");
    }
    // Archives: that of the OCI holds the manifest, under which the image goes on to a registry.
    let layout = daemon.path("theirs-oci.tar");
    let name = format!("{}/archived:1", registry.address);
    buildah.run(&["push", "-q", "--format", "oci", &image, &format!("oci-archive:{}", layout.display())]);
    let found = skopeo(&format!("oci-archive:{}", layout.display()), &scratch);
    let loaded = daemon.ok(&["load", "-q", "-i", text(&layout)]);
    assert!(loaded.contains(&found.config), "{loaded}");
    daemon.ok(&["tag", &found.config, &name]);
    daemon.ok(&["push", "-q", &name]);
    let again = skopeo(&format!("docker://{name}"), &scratch);
    assert_eq!((again.digest, again.config, again.layers), (found.digest, found.config, found.layers));
    let archive = daemon.path("theirs-docker.tar");
    buildah.run(&["push", "-q", &image, &format!("docker-archive:{}:theirs:2", archive.display())]);
    let found = skopeo(&format!("docker-archive:{}", archive.display()), &scratch);
    daemon.ok(&["load", "-q", "-i", text(&archive)]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", "theirs:2"]), found.config);
}

/// Bytes of the regular files below a directory, each once whatever its names are.
fn bytes_below(directory: &Path) -> u64 {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() {
                files.insert((metadata.dev(), metadata.ino()), metadata.len());
            }
        }
    }
    files.values().sum()
}

/// The same by `du`, which counts each directory besides.
fn du(directory: &Path) -> u64 {
    let line = said("du", &["--summarize", "--apparent-size", "--block-size=1", text(directory)]);
    let all: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    let sizes = said("find", &[text(directory), "-not", "-type", "f", "-printf", "%s\n"]);
    all - sizes.lines().map(|size| size.parse::<u64>().unwrap()).sum::<u64>()
}

#[test]
fn what_is_said_of_the_disk_is_what_du_says() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let path = project(&daemon);
    daemon.ok(&["build", "-q", "-t", "made", text(&path)]);
    let fill = |megabytes: u32, file: &str| format!("dd if=/dev/zero of={file} bs=1048576 count={megabytes}");
    daemon.ok(&[
        "run",
        "--name",
        "writer",
        "made",
        "sh",
        "-c",
        &format!("{} && rm /made", fill(3, "/large")),
    ]);
    daemon.ok(&["run", "--rm", "-v", "kept:/v", "box", "sh", "-c", &fill(2, "/v/f")]);

    let usage = daemon.get("/v1.43/system/df");
    let layers = usage["LayersSize"].as_u64().unwrap();
    let on_disk = fs::read_dir(daemon.path("d/image/layers")).unwrap();
    let diffs: Vec<PathBuf> = on_disk.map(|entry| entry.unwrap().path().join("diff")).collect();
    let sum = |measure: &dyn Fn(&Path) -> u64| diffs.iter().map(|diff| measure(diff)).sum::<u64>();
    assert_eq!((layers, layers), (sum(&bytes_below), sum(&du)), "all layers");
    let image = |name: &str| {
        let all = usage["Images"].as_array().unwrap();
        all.iter().find(|image| image["RepoTags"][0] == name).unwrap()["Size"].as_u64().unwrap()
    };
    assert!(image("box:latest") < image("made:latest"));
    assert_eq!(image("made:latest"), layers, "one image has all layers");

    let writer = &usage["Containers"][0];
    assert_eq!(writer["Names"][0], "/writer");
    assert_eq!(writer["SizeRw"], 3 << 20);
    assert_eq!(writer["SizeRootFs"], (3 << 20) + layers);
    let volume = &usage["Volumes"][0];
    let place = PathBuf::from(volume["Mountpoint"].as_str().unwrap());
    let said = volume["UsageData"]["Size"].as_u64().unwrap();
    assert_eq!((said, said, said), (2 << 20, bytes_below(&place), du(&place)));
    let steps = usage["BuildCache"].as_array().unwrap();
    let cached: u64 = steps.iter().map(|step| step["Size"].as_u64().unwrap()).sum();
    assert_eq!(cached, image("made:latest") - image("box:latest"), "{steps:?}");

    // The command line shows the same, and what goes is what is said to go.
    let shown = daemon.ok(&["system", "df", "--format", "{{.Type}}: {{.Size}}"]);
    assert!(shown.contains("Local Volumes: 2.097MB") && shown.contains("Containers: 3.146MB"), "{shown}");
    let before = du(&daemon.path("d/image"));
    daemon.ok(&["rm", "writer"]);
    daemon.ok(&["builder", "prune", "-a", "-f"]);
    let pruned =
        daemon.post("/v1.43/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D", &Value::Null);
    let body = pruned.split_once("\r\n\r\n").unwrap().1;
    let body: Value = serde_json::from_str(body).unwrap();
    let freed = body["SpaceReclaimed"].as_u64().unwrap();
    let after = du(&daemon.path("d/image"));
    // Records of a few hundred bytes go besides.
    assert!(before - after >= freed && before - after < freed + (64 << 10), "{before} {after} {freed}");
    assert_eq!(daemon.get("/v1.43/system/df")["LayersSize"], 0);
}
