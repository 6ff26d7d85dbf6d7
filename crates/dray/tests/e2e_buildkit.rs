//! `docker build` of current clients: buildx over BuildKit's API.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

fn started() -> Daemon {
    let daemon = Daemon::start();
    daemon.add_plugins();
    daemon.load_busybox();
    daemon
}

/// Writes a project below the daemon's directory.
fn project(daemon: &Daemon, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = daemon.path(name);
    for (name, content) in files {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    path
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes of the context that the client says have gone.
fn transferred(output: &str) -> String {
    let line = output.lines().rfind(|line| line.contains("transferring context:"));
    let words = line.unwrap_or_else(|| panic!("no transfer in {output}"));
    words.split("transferring context: ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn builds_with_progress_and_uses_its_cache() {
    let daemon = started();
    let files = [
        (
            "Dockerfile",
            "FROM box AS base\nARG COLOR=red\nENV A=1\nCOPY one.txt sub/ /files/\nRUN echo $COLOR > /color && echo said && echo wrong >&2\nCMD [\"cat\", \"/color\"]\n",
        ),
        ("one.txt", "one"),
        ("sub/two.txt", "two"),
        ("left.md", "out"),
        (".dockerignore", "*.md\n"),
    ];
    let path = project(&daemon, "app", &files);
    let output = daemon.buildx_ok(&["build", "-t", "app:1", "-t", "app:two", text(&path)]);
    for words in [
        "[internal] load build definition from Dockerfile",
        "transferring dockerfile:",
        "[internal] load build context",
        "RUN echo $COLOR > /color",
        "said",
        "wrong",
        "exporting to image",
        "writing image sha256:",
        "naming to docker.io/library/app:1",
        "naming to docker.io/library/app:two",
    ] {
        assert!(output.contains(words), "{words:?} is not in {output}");
    }
    // The base is here, and no step was made before.
    let cached = |output: &str| output.matches("CACHED").count();
    assert_eq!(cached(&output), 1, "{output}");
    assert_eq!(daemon.ok(&["run", "--rm", "app:two"]), "red");
    assert_eq!(daemon.ok(&["run", "--rm", "app:1", "sh", "-c", "cat /files/*"]), "onetwo");

    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "app:1"]);
    let again = daemon.buildx_ok(&["build", "-t", "app:1", text(&path)]);
    assert_eq!(cached(&again), 3, "{again}");
    let spoke = |output: &str| output.lines().any(|line| line.ends_with(" said"));
    assert!(spoke(&output) && !spoke(&again), "{again}");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", "app:1"]), id);
    let quiet = daemon.buildx(&["build", "-q", text(&path)]);
    assert_eq!(String::from_utf8_lossy(&quiet.stdout).trim(), id);

    let blue = daemon.buildx_ok(&["build", "-t", "app:blue", "--build-arg", "COLOR=blue", text(&path)]);
    assert_eq!(cached(&blue), 2, "{blue}");
    assert_eq!(daemon.ok(&["run", "--rm", "app:blue"]), "blue");
    let fresh = daemon.buildx_ok(&["build", "--no-cache", text(&path)]);
    assert!(spoke(&fresh), "{fresh}");
    let file = daemon.path("iid");
    daemon.buildx_ok(&[
        "build",
        "-t",
        "app:l",
        "--label",
        "kind=test",
        "--iidfile",
        text(&file),
        text(&path),
    ]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Config.Labels.kind}}", "app:l"]), "test");
    let written = fs::read_to_string(file).unwrap();
    assert_eq!(written, daemon.ok(&["inspect", "-f", "{{.Id}}", "app:l"]));
    daemon.assert_nothing_left();
}

#[test]
fn only_what_changed_goes_over_the_wire() {
    let daemon = started();
    let path = project(&daemon, "big", &[("Dockerfile", "FROM box\nCOPY . /all\n")]);
    for number in 0..300 {
        fs::write(path.join(format!("file-{number}")), format!("{number}").repeat(4000)).unwrap();
    }
    fs::write(path.join("large"), vec![7; 20 << 20]).unwrap();
    symlink("large", path.join("link")).unwrap();
    let first = daemon.buildx_ok(&["build", "-t", "big", text(&path)]);
    assert!(transferred(&first).ends_with("MB"), "{first}");
    fs::write(path.join("file-7"), "changed").unwrap();
    fs::remove_file(path.join("file-8")).unwrap();
    let second = daemon.buildx_ok(&["build", "-t", "big", text(&path)]);
    assert!(transferred(&second).ends_with("kB"), "{second}");
    let listing = daemon.ok(&[
        "run",
        "--rm",
        "big",
        "sh",
        "-c",
        "cat /all/file-7; ls /all | wc -l; readlink /all/link; wc -c < /all/large",
    ]);
    assert_eq!(listing.split_whitespace().collect::<Vec<_>>(), ["changed302", "large", "20971520"]);
}

#[test]
fn a_failure_shows_the_lines_and_leaves_nothing() {
    let daemon = started();
    let path =
        project(&daemon, "bad", &[("Dockerfile", "FROM box\n\nRUN echo before && exit 7\nRUN echo after\n")]);
    let output = daemon.buildx_refused(&["build", text(&path)]);
    for words in [
        "Dockerfile:3",
        ">>> RUN echo before && exit 7",
        "before",
        "process \"/bin/sh -c echo before && exit 7\" did not complete successfully: exit code: 7",
    ] {
        assert!(output.contains(words), "{words:?} is not in {output}");
    }
    daemon.assert_nothing_left();
    for (file, words) in [
        ("FROM box\nFETCH x\n", "dockerfile parse error on line 2: unknown instruction: FETCH"),
        ("FROM box\nCOPY missing /\n", "\"/missing\": not found"),
        ("FROM box\nRUN --mount=type=secret,id=none,required=true true\n", "secret none"),
    ] {
        fs::write(path.join("Dockerfile"), file).unwrap();
        let output = daemon.buildx_refused(&["build", text(&path)]);
        assert!(output.contains(words), "{words:?} is not in {output}");
    }
    let output = daemon.buildx_refused(&["build", "-f", text(&path.join("Absent")), text(&path)]);
    assert!(output.contains("Absent"), "{output}");
    daemon.assert_nothing_left();
}

#[test]
fn targets_files_and_standard_input() {
    let daemon = started();
    let files = [
        ("Dockerfile", "FROM box AS one\nRUN echo one > /which\nFROM one AS two\nRUN echo two > /which\n"),
        ("other/Containerfile", "FROM box\nCOPY mark /mark\n"),
        ("other/Containerfile.dockerignore", "Dockerfile\n"),
        ("mark", "marked"),
    ];
    let path = project(&daemon, "many", &files);
    let run = |image: &str, file: &str| daemon.ok(&["run", "--rm", image, "cat", file]);
    daemon.buildx_ok(&["build", "-t", "one", "--target", "one", text(&path)]);
    assert_eq!(run("one", "/which"), "one");
    let output = daemon.buildx_refused(&["build", "--target", "three", text(&path)]);
    assert!(output.contains("three"), "{output}");
    let other = path.join("other/Containerfile");
    daemon.buildx_ok(&["build", "-t", "other", "-f", text(&other), text(&path)]);
    assert_eq!(run("other", "/mark"), "marked");

    let feed = |arguments: &[&str], input: &[u8]| {
        let mut command = daemon.buildx_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        common::plugins::said(arguments, &output, true, &daemon.path("log"))
    };
    feed(&["build", "-t", "stdin", "-"], b"FROM box\nRUN echo from-stdin > /f\n");
    assert_eq!(run("stdin", "/f"), "from-stdin");
    feed(&["build", "-t", "stdin2", "-f", "-", text(&path)], b"FROM box\nCOPY mark /m\n");
    assert_eq!(run("stdin2", "/m"), "marked");
    let archive = Command::new("tar").args(["-C", text(&path), "-cz", "."]).output().unwrap().stdout;
    feed(&["build", "-t", "archive", "-f", "other/Containerfile", "-"], &archive);
    assert_eq!(run("archive", "/mark"), "marked");
}

#[test]
fn secrets_and_keys_are_lent_and_not_kept() {
    let daemon = started();
    let path = project(
        &daemon,
        "secret",
        &[
            (
                "Dockerfile",
                "FROM box\nRUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /size\nRUN --mount=type=secret,id=token,env=TOKEN echo ${#TOKEN} >> /size\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo agent >> /size\n",
            ),
            ("token", "very-secret-words"),
        ],
    );
    let agent = Command::new("ssh-agent").arg("-s").output().expect("install openssh-client");
    let words = String::from_utf8(agent.stdout).unwrap();
    let value =
        |name: &str| words.split(&format!("{name}=")).nth(1).unwrap().split(';').next().unwrap().to_owned();
    let (socket, pid) = (value("SSH_AUTH_SOCK"), value("SSH_AGENT_PID"));
    let secret = format!("id=token,src={}", text(&path.join("token")));
    let arguments = ["build", "-t", "secret", "--secret", &secret, "--ssh", "default", text(&path)];
    let output = daemon.buildx_command(&arguments).env("SSH_AUTH_SOCK", &socket).output().unwrap();
    Command::new("kill").arg(&pid).status().unwrap();
    common::plugins::said(&arguments, &output, true, &daemon.path("log"));
    assert_eq!(daemon.ok(&["run", "--rm", "secret", "cat", "/size"]), "17\n17\nagent");
    let archive = daemon.docker(&["save", "secret"]).stdout;
    assert!(!archive.windows(17).any(|window| window == b"very-secret-words"));
}

#[test]
fn results_go_where_they_are_wanted() {
    let daemon = started();
    let path = project(
        &daemon,
        "result",
        &[(
            "Dockerfile",
            "FROM box AS made\nRUN mkdir -p /out/deep && echo a > /out/a && chmod 750 /out/a && ln -s a /out/link && ln /out/a /out/deep/hard\nFROM scratch\nCOPY --from=made /out /\n",
        )],
    );
    let target = daemon.path("tree");
    daemon.buildx_ok(&["build", "-o", text(&target), text(&path)]);
    assert_eq!(fs::read_to_string(target.join("deep/hard")).unwrap(), "a\n");
    assert_eq!(fs::read_link(target.join("link")).unwrap(), PathBuf::from("a"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(target.join("a")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o750);

    let archive = daemon.path("tree.tar");
    daemon.buildx_ok(&["build", "-o", &format!("type=tar,dest={}", text(&archive)), text(&path)]);
    let listing = Command::new("tar").args(["-tf", text(&archive)]).output().unwrap().stdout;
    assert!(String::from_utf8(listing).unwrap().lines().any(|line| line == "deep/hard"));

    let layout = daemon.path("oci.tar");
    let option = format!("type=oci,dest={}", text(&layout));
    daemon.buildx_ok(&["build", "-t", "named/out:1", "-o", &option, text(&path)]);
    let index = Command::new("tar").args(["-xOf", text(&layout), "index.json"]).output().unwrap().stdout;
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!(annotations["io.containerd.image.name"], "docker.io/named/out:1");

    let docker = daemon.path("docker.tar");
    let option = format!("type=docker,dest={}", text(&docker));
    daemon.buildx_ok(&["build", "-t", "named/out:2", "-o", &option, text(&path)]);
    for archive in [&layout, &docker] {
        let loaded = daemon.ok(&["load", "-i", text(archive)]);
        assert!(loaded.contains("named/out:"), "{loaded}");
    }
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{.Id}}", "named/out:1"]),
        daemon.ok(&["inspect", "-f", "{{.Id}}", "named/out:2"])
    );
    daemon.buildx_ok(&["buildx", "build", "--load", "-t", "loaded", text(&path)]);
    daemon.ok(&["inspect", "loaded"]);
}

#[test]
fn named_contexts_and_bake() {
    let daemon = started();
    let path = project(
        &daemon,
        "bake",
        &[
            ("base/Dockerfile", "FROM box\nRUN echo base > /base\n"),
            ("app/Dockerfile", "FROM base\nCOPY --from=extra file /file\nRUN cat /base /file > /both\n"),
            ("extra/file", "extra\n"),
            (
                "docker-bake.hcl",
                "group \"default\" { targets = [\"app\", \"base\"] }\ntarget \"base\" {\n context = \"base\"\n tags = [\"bake-base\"]\n}\ntarget \"app\" {\n context = \"app\"\n contexts = { base = \"target:base\", extra = \"extra\" }\n tags = [\"bake-app\"]\n}\n",
            ),
        ],
    );
    let mut command = daemon.buildx_command(&["buildx", "bake"]);
    let output = command.current_dir(&path).output().unwrap();
    common::plugins::said(&["bake"], &output, true, &daemon.path("log"));
    assert_eq!(daemon.ok(&["run", "--rm", "bake-app", "cat", "/both"]), "base\nextra");
    daemon.ok(&["inspect", "bake-base"]);

    let extra = format!("extra={}", text(&path.join("extra")));
    let contexts = ["--build-context", "base=docker-image://bake-base", "--build-context", &extra];
    daemon.buildx_ok(&[&["build", "-t", "by-image"][..], &contexts, &[text(&path.join("app"))]].concat());
    assert_eq!(daemon.ok(&["run", "--rm", "by-image", "cat", "/both"]), "base\nextra");
}

#[test]
fn a_client_that_goes_ends_its_build() {
    let daemon = started();
    let path = project(&daemon, "long", &[("Dockerfile", "FROM box\nRUN echo begun && sleep 1000\n")]);
    let log = daemon.path("client");
    let mut client = daemon
        .buildx_command(&["build", text(&path)])
        .stdout(fs::File::create(daemon.path("client-out")).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    eventually("the step to run", PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap();
        said.lines().any(|line| line.ends_with(" begun")).then_some(())
    });
    // The command line's child holds the connections.
    Command::new("pkill").args(["-KILL", "-P", &client.id().to_string()]).status().unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the container to go", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
    daemon.assert_nothing_left();
    let history = daemon.buildx_ok(&["buildx", "du"]);
    assert!(history.contains("Total:"), "{history}");
}

#[test]
fn the_builder_tells_of_itself_and_is_pruned() {
    let daemon = started();
    let path = project(&daemon, "small", &[("Dockerfile", "FROM box\nRUN echo 12345 > /f\n")]);
    let inspected = daemon.buildx_ok(&["buildx", "inspect"]);
    assert!(inspected.contains("Driver:") && inspected.contains("linux/"), "{inspected}");
    assert!(daemon.buildx_ok(&["buildx", "ls"]).contains("running"));
    let metadata = daemon.path("metadata");
    daemon.buildx_ok(&["build", "-t", "small", "--metadata-file", text(&metadata), text(&path)]);
    let metadata: serde_json::Value = serde_json::from_str(&fs::read_to_string(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], daemon.ok(&["inspect", "-f", "{{.Id}}", "small"]));
    assert_eq!(metadata["image.name"], "docker.io/library/small:latest");
    let usage = daemon.buildx_ok(&["buildx", "du", "--verbose"]);
    assert!(usage.contains("echo 12345") && usage.contains("source.local"), "{usage}");
    let pruned = daemon.buildx_ok(&["builder", "prune", "-f", "--filter", "type=source.local"]);
    assert!(pruned.contains("Total:"), "{pruned}");
    assert!(!daemon.buildx_ok(&["buildx", "du", "--verbose"]).contains("source.local"));
    daemon.buildx_ok(&["buildx", "prune", "-f", "-a"]);
    assert!(daemon.buildx_ok(&["buildx", "du"]).contains("Total:\t\t0B"));
    assert_eq!(daemon.ok(&["run", "--rm", "small", "cat", "/f"]), "12345");
    daemon.assert_nothing_left();
}

#[test]
fn compose_builds() {
    let daemon = started();
    let path = project(
        &daemon,
        "compose",
        &[
            (
                "compose.yaml",
                "services:\n  one:\n    build:\n      context: ./one\n      args: { WORD: hello }\n    image: c-one\n  two:\n    build:\n      dockerfile_inline: |\n        FROM box\n        RUN echo inline > /word\n    image: c-two\n",
            ),
            ("one/Dockerfile", "FROM box\nARG WORD\nRUN echo $WORD > /word\n"),
        ],
    );
    let mut command = daemon.buildx_command(&["compose", "build"]);
    let output = command.current_dir(&path).output().unwrap();
    common::plugins::said(&["compose", "build"], &output, true, &daemon.path("log"));
    assert_eq!(daemon.ok(&["run", "--rm", "c-one", "cat", "/word"]), "hello");
    assert_eq!(daemon.ok(&["run", "--rm", "c-two", "cat", "/word"]), "inline");
}

#[test]
fn caches_and_layouts_of_the_clients() {
    let daemon = started();
    let path = project(&daemon, "cached", &[("Dockerfile", "FROM box\nRUN echo kept > /kept\n")]);
    let (cache, layout) = (daemon.path("cache"), daemon.path("layout"));
    let to = format!("type=local,mode=max,dest={}", text(&cache));
    daemon.buildx_ok(&["build", "-t", "kept", "--cache-to", &to, text(&path)]);
    assert!(cache.join("index.json").exists());
    let blobs = fs::read_dir(cache.join("blobs/sha256")).unwrap();
    let is_config = |path: PathBuf| fs::read(path).unwrap().starts_with(b"{\"layers\":[{\"blob\":");
    assert_eq!(blobs.filter(|entry| is_config(entry.as_ref().unwrap().path())).count(), 1);
    daemon.ok(&["rmi", "kept"]);
    daemon.buildx_ok(&["buildx", "prune", "-f", "-a"]);
    let from = format!("type=local,src={}", text(&cache));
    let output = daemon.buildx_ok(&["build", "-t", "kept", "--cache-from", &from, text(&path)]);
    assert!(output.contains("CACHED") && !output.contains("echo kept\n"), "{output}");
    assert_eq!(daemon.ok(&["run", "--rm", "kept", "cat", "/kept"]), "kept");

    let to = format!("type=oci,tar=false,dest={}", text(&layout));
    daemon.buildx_ok(&["build", "-t", "kept:layout", "-o", &to, text(&path)]);
    assert!(layout.join("index.json").exists() && layout.join("blobs/sha256").exists());
    let on = project(&daemon, "on", &[("Dockerfile", "FROM base\nRUN cat /kept > /again\n")]);
    let context = format!("base=oci-layout://{}", text(&layout));
    daemon.buildx_ok(&["build", "-t", "again", "--build-context", &context, text(&on)]);
    assert_eq!(daemon.ok(&["run", "--rm", "again", "cat", "/again"]), "kept");
}

#[test]
fn a_cache_goes_to_a_registry_with_all_stages() {
    let daemon = started();
    let registry = common::registry::Registry::start(&daemon.path("registry"));
    let dockerfile = "FROM box AS first\nRUN echo first-step > /first\nENV A=1\nFROM box\nCOPY --from=first /first /copied\nRUN echo last-step > /last\n";
    let path = project(&daemon, "cached", &[("Dockerfile", dockerfile)]);
    let name = format!("{}/cache:1", registry.address);
    let to = format!("type=registry,ref={name},mode=max");
    let said = daemon.buildx_ok(&["build", "-t", "made", "--cache-to", &to, text(&path)]);
    assert!(said.contains("exporting cache to registry"), "{said}");
    let raw = daemon.buildx_ok(&["buildx", "imagetools", "inspect", "--raw", &name]);
    assert!(raw.contains("application/vnd.buildkit.cacheconfig.v0"), "{raw}");
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "made"]);

    daemon.ok(&["rmi", "made"]);
    daemon.buildx_ok(&["buildx", "prune", "-f", "-a"]);
    let from = format!("type=registry,ref={name}");
    let again = daemon.buildx_ok(&["build", "-t", "made", "--cache-from", &from, text(&path)]);
    // Three steps that write, and the base.
    assert!(again.matches("CACHED").count() >= 4, "{again}");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", "made"]), id);
    assert_eq!(daemon.ok(&["run", "--rm", "made", "cat", "/copied", "/last"]), "first-step\nlast-step");
    // The least is what the result itself is made of: its first stage is not.
    let to = format!("type=registry,ref={name},mode=min");
    daemon.buildx_ok(&["build", "-t", "made", "--cache-to", &to, text(&path)]);
    daemon.buildx_ok(&["buildx", "prune", "-f", "-a"]);
    let least =
        daemon.buildx_ok(&["build", "-t", "other", "--cache-from", &from, "--target", "first", text(&path)]);
    assert_eq!(least.matches("CACHED").count(), 1, "only the base: {least}");
    // A place that has none costs time only.
    let none = format!("type=registry,ref={}/none", registry.address);
    daemon.buildx_ok(&["build", "-t", "made", "--cache-from", &none, text(&path)]);
    daemon.assert_nothing_left();
}

#[test]
fn questions_about_a_dockerfile() {
    let daemon = started();
    let file = "# one is first\nFROM box AS one\nARG WORD=1\nRUN --mount=type=secret,id=token true\nfrom one AS two\n";
    let path = project(&daemon, "asked", &[("Dockerfile", file)]);
    let ask = |question: &str| {
        let mut command = daemon.buildx_command(&["build", question, text(&path)]);
        let output = command.env("BUILDX_EXPERIMENTAL", "1").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    // buildx has called it `--print` before `--call`.
    let name = if ask("--help").contains("--call") { "--call" } else { "--print" };
    let targets = ask(&format!("{name}=targets"));
    assert!(targets.contains("one") && targets.contains("two"), "{targets}");
    let outline = ask(&format!("{name}=outline"));
    assert!(outline.contains("WORD") && outline.contains("token"), "{outline}");
    daemon.assert_nothing_left();
}

#[test]
fn what_is_built_goes_to_a_registry_and_is_pulled_from_there() {
    let daemon = started();
    let registry = common::registry::Registry::start(&daemon.path("registry"));
    let name = format!("{}/team/made:1", registry.address);
    let path = project(&daemon, "made", &[("Dockerfile", "FROM box\nRUN echo made > /made\n")]);
    let pushed = daemon.buildx_ok(&["build", "-t", &name, "--push", text(&path)]);
    assert!(pushed.contains("pushing"), "{pushed}");
    daemon.ok(&["rmi", &name]);
    daemon.buildx_ok(&["buildx", "prune", "-f", "-a"]);
    let on = project(&daemon, "on", &[("Dockerfile", &format!("FROM {name}\nRUN cat /made > /on\n"))]);
    daemon.buildx_ok(&["build", "-t", "on", text(&on)]);
    assert_eq!(daemon.ok(&["run", "--rm", "on", "cat", "/on"]), "made");
    let absent = project(&daemon, "absent", &[("Dockerfile", &format!("FROM {name}-absent\n"))]);
    let output = daemon.buildx_refused(&["build", text(&absent)]);
    assert!(output.contains("Dockerfile:1") && output.contains("made:1-absent"), "{output}");
}
