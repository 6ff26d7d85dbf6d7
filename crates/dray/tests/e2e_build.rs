//! `docker build` against the real daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

/// A build context below the daemon's directory.
struct Project<'a> {
    daemon: &'a Daemon,
    path: PathBuf,
}

impl<'a> Project<'a> {
    fn new(daemon: &'a Daemon, name: &str, files: &[(&str, &str)]) -> Self {
        let path = daemon.path(name);
        fs::create_dir_all(&path).unwrap();
        let project = Self { daemon, path };
        for (name, content) in files {
            project.write(name, content);
        }
        project
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn arguments<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        [&["build"], more, &[self.path.to_str().unwrap()]].concat()
    }

    fn build(&self, more: &[&str]) -> String {
        self.daemon.ok(&self.arguments(more))
    }

    fn refused(&self, more: &[&str], words: &str) -> String {
        let errors = self.daemon.refused(&self.arguments(more), words);
        self.daemon.assert_nothing_left();
        errors
    }
}

fn run(daemon: &Daemon, image: &str, script: &str) -> String {
    daemon.ok(&["run", "--rm", image, "sh", "-c", script])
}

#[test]
fn builds_from_scratch_and_from_an_image_and_uses_its_cache() {
    let daemon = Daemon::start();
    daemon.load_busybox();

    let scratch = Project::new(
        &daemon,
        "scratch",
        &[(
            "Dockerfile",
            "FROM scratch\nCOPY busybox /bin/echo\nENTRYPOINT [\"/bin/echo\", \"made\"]\nCMD [\"of nothing\"]\n",
        )],
    );
    fs::copy("/bin/busybox", scratch.path.join("busybox")).unwrap();
    let output = scratch.build(&["-t", "nothing", "-t", "nothing:two"]);
    assert!(output.contains("Step 1/4 : FROM scratch\n"), "{output}");
    assert!(output.contains("Successfully built ") && output.contains("Successfully tagged nothing:two"));
    assert_eq!(daemon.ok(&["run", "--rm", "nothing"]), "made of nothing");
    assert_eq!(daemon.ok(&["run", "--rm", "nothing:two", "it"]), "made it");
    assert_eq!(daemon.ok(&["history", "-q", "nothing"]).lines().count(), 3);

    let files = [
        (
            "Dockerfile",
            "ARG BASE=box\nFROM ${BASE}:latest\nARG COLOR=red\nENV A=1 B=\"x y\"\nENV C=$A-${B}\nLABEL kind=test\n\
             WORKDIR /srv/app\nRUN echo $COLOR > color && ln -s color link && mkdir made && echo run\n\
             COPY --chown=user one.txt two* sub/ ./files/\nADD archive.tar.gz unpacked/\nUSER user\nEXPOSE 80 90/udp\n\
             VOLUME /data\nSTOPSIGNAL SIGINT\nHEALTHCHECK --retries=2 CMD true\nCMD [\"cat\", \"color\"]\n",
        ),
        ("one.txt", "one"),
        ("two.txt", "two"),
        ("sub/deep/three.txt", "three"),
        ("ignored.md", "no"),
        (".dockerignore", "*.md\n!kept.md\n"),
    ];
    let project = Project::new(&daemon, "project", &files);
    let archive = fs::File::create(project.path.join("archive.tar.gz")).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["-C", project.path.to_str().unwrap(), "-cz", "one.txt"])
        .stdout(archive)
        .status();
    assert!(tar.unwrap().success());
    let output = project.build(&["-t", "app"]);
    assert!(output.contains("run\n") && output.contains(" ---> Running in "), "{output}");
    assert!(!output.contains("Using cache"), "{output}");
    assert_eq!(daemon.ok(&["run", "--rm", "app"]), "red");
    let listing = run(
        &daemon,
        "app",
        "cat files/one.txt files/two.txt files/deep/three.txt unpacked/one.txt; echo; pwd; readlink link; id -un; stat -c %U:%G files/one.txt; echo $C",
    );
    assert_eq!(listing, "onetwothreeone\n/srv/app\ncolor\nuser\nuser:user\n1-x y");
    let config = daemon.ok(&["inspect", "-f", "{{.Config.Labels.kind}} {{.Config.StopSignal}} {{len .Config.ExposedPorts}} {{.Config.WorkingDir}} {{.Config.User}}", "app"]);
    assert_eq!(config, "test SIGINT 2 /srv/app user");
    // The daemon's own mount points are no part of the image.
    let layers = daemon.ok(&["inspect", "-f", "{{len .RootFS.Layers}}", "app"]);
    assert_eq!(layers, "5", "box, WORKDIR, RUN, COPY, ADD");

    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", "app"]);
    let output = project.build(&["-t", "app"]);
    assert_eq!(output.matches("Using cache").count(), 14, "{output}");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", "app"]), id, "the same steps give the same image");
    assert_eq!(project.build(&["-q"]), id, "a quiet build says the id alone");

    // Times do not count, contents do.
    project.write("one.txt", "one");
    project.write("ignored.md", "still not");
    assert_eq!(project.build(&["-q"]), id);
    project.write("one.txt", "uno");
    let output = project.build(&["-t", "app"]);
    assert_eq!(output.matches("Using cache").count(), 6, "{output}");
    assert_eq!(run(&daemon, "app", "cat files/one.txt"), "uno");
    let output = project.build(&["-t", "blue", "--build-arg", "COLOR=blue", "--label", "more=$x y"]);
    assert_eq!(daemon.ok(&["run", "--rm", "blue"]), "blue", "{output}");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Config.Labels.more}}", "blue"]), "$x y");
    assert!(!project.build(&["--no-cache"]).contains("Using cache"));
    assert!(
        project
            .build(&["--build-arg", "NOBODY=1"])
            .contains("[Warning] One or more build-args [NOBODY] were not consumed")
    );

    // What the cache holds can go, also when images stay.
    daemon.ok(&["builder", "prune", "-f"]);
    assert_eq!(daemon.ok(&["run", "--rm", "blue"]), "blue");
    assert!(!project.build(&[]).contains("Using cache"));
    daemon.ok(&["image", "prune", "-f"]);
    daemon.assert_nothing_left();
}

#[test]
fn builds_in_stages_and_reads_contexts_in_many_ways() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let project = Project::new(
        &daemon,
        "stages",
        &[(
            "Dockerfile",
            "FROM box AS build\nRUN mkdir /out && echo built > /out/result && busybox chown user /out/result && chmod 640 /out/result\n\
             FROM box AS unneeded\nRUN false\n\
             FROM build AS test\nRUN test -s /out/result\n\
             FROM box\nCOPY --from=build /out /\nCOPY --from=box /bin/busybox /copied\nCOPY --from=0 --chown=7:8 --chmod=0600 /out/result /other\n\
             COPY <<EOF <<'RAW' /texts/\nhello $PATH\nEOF\nraw $PATH\nRAW\n\
             RUN <<EOF\necho a > /script\necho b >> /script\nEOF\n",
        )],
    );
    let output = project.build(&["-t", "final"]);
    assert!(!output.contains("RUN false") && output.contains("Step 1/8 : FROM box AS build"), "{output}");
    let listing = run(
        &daemon,
        "final",
        "cat /result; stat -c '%u %a' /result; stat -c '%u:%g %a' /other; cat /texts/EOF /texts/RAW /script; cmp=$(wc -c < /copied); test $cmp -gt 1000 && echo copied",
    );
    assert_eq!(listing, "built\n1000 640\n7:8 600\nhello /bin\nraw $PATH\na\nb\ncopied");
    let output = project.build(&["-t", "tested", "--target", "TEST"]);
    assert!(output.contains("Step 4/4 : RUN test -s /out/result"), "{output}");
    project.refused(&["--target", "nosuch"], "failed to reach build target nosuch in Dockerfile");

    // A Dockerfile of another name, outside of the context, from the input, and a whole context from there.
    fs::write(daemon.path("Elsewhere"), "FROM box\nRUN --network=none echo elsewhere > /where\n").unwrap();
    project.build(&["-t", "elsewhere", "-f", daemon.path("Elsewhere").to_str().unwrap()]);
    assert_eq!(run(&daemon, "elsewhere", "cat /where"), "elsewhere");
    for (name, file) in [("piped", daemon.path("Elsewhere")), ("context", daemon.path("context.tar"))] {
        if name == "context" {
            let tar = std::process::Command::new("tar")
                .arg("-cf")
                .arg(&file)
                .arg("-C")
                .arg(&project.path)
                .arg(".")
                .status();
            assert!(tar.unwrap().success());
        }
        let mut command = daemon.command(&["build", "-q", "-t", name, "-"]);
        let output = command.stdin(fs::File::open(&file).unwrap()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(run(&daemon, "context", "cat /script"), "a\nb");

    // Triggers of a base image run in the images made from it.
    let base = Project::new(
        &daemon,
        "base",
        &[("Dockerfile", "FROM box\nONBUILD COPY mine /mine\nONBUILD RUN cat /mine\n")],
    );
    base.build(&["-t", "base"]);
    let derived = Project::new(&daemon, "derived", &[("Dockerfile", "FROM base\n"), ("mine", "triggered\n")]);
    let output = derived.build(&["-t", "derived"]);
    assert!(output.contains("# Executing 2 build triggers") && output.contains("\ntriggered\n"), "{output}");
    // Options for RUN: neither network nor more memory than allowed.
    let limited = Project::new(
        &daemon,
        "limited",
        &[("Dockerfile", "FROM box\nRUN ls /sys/class/net; cat /proc/self/cgroup\n")],
    );
    let output = limited.build(&["--network", "none", "--memory", "32m"]);
    assert!(output.contains("\nlo\n") && !output.contains("eth0"), "{output}");
    daemon.assert_nothing_left();
}

#[test]
fn says_what_is_wrong_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let project =
        Project::new(&daemon, "bad", &[("there", "x"), (".dockerignore", "secret\n"), ("secret", "x")]);
    let errors = |dockerfile: &str, words: &str| {
        project.write("Dockerfile", dockerfile);
        project.refused(&["-t", "bad"], words)
    };
    let excerpt = errors(
        "FROM box\n\n  FRM x\n",
        "dockerfile parse error on line 3: unknown instruction: FRM (did you mean FROM?)",
    );
    assert!(excerpt.contains("3 |   FRM x\n   |   ^^^"), "{excerpt}");
    errors("\n", "file with no instructions");
    errors("", "the Dockerfile (Dockerfile) cannot be empty");
    errors("FROM scratch\n", "No image was generated. Is your Dockerfile empty?");
    errors("FROM nosuch\n", "pull access denied for nosuch");
    errors(
        "FROM box\nCOPY missing /\n",
        "COPY failed: file not found in build context or excluded by .dockerignore: stat missing: file does not exist",
    );
    errors(
        "FROM box\nCOPY secret /\n",
        "file not found in build context or excluded by .dockerignore: stat secret: file does not exist",
    );
    errors(
        "FROM box\nADD http://127.0.0.1:1/y /z\n",
        "cannot fetch http://127.0.0.1:1/y: Connection refused",
    );
    errors("FROM box\nCOPY ../there /\n", "forbidden path outside the build context: ../there ()");
    errors("FROM box\nCOPY no* /\n", "no source files were specified");
    errors(
        "FROM box\nCOPY there Dockerfile /x\n",
        "When using COPY with more than one source file, the destination must be a directory and end with a /",
    );
    errors("FROM box\nCOPY --from=nosuch a /\n", "invalid from flag value nosuch");
    errors("FROM box\nCOPY --chown=nobody there /\n", "unable to convert uid/gid chown string");
    errors(
        "FROM box\nRUN sh -c 'echo so far; exit 3'\n",
        "The command '/bin/sh -c sh -c 'echo so far; exit 3'' returned a non-zero code: 3",
    );
    assert_eq!(daemon.code(&project.arguments(&[])), 3, "the command line ends with the code of the command");
    errors("FROM box\nRUN [\"/nosuch\"]\n", "no such file or directory");
    errors("FROM box\nEXPOSE x\n", "Invalid containerPort: x");
    errors("FROM box\nENV A=${B\n", "missing '}'");
    project.write("Dockerfile", "FROM box\n");
    project.refused(&["-t", "UPPER"], "must be lowercase");
    project.refused(&["-f", "Other"], "Other");
    let mut command = daemon.command(&["build", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    assert!(!child.wait_with_output().unwrap().status.success(), "nothing is no Dockerfile");
    assert_eq!(daemon.ok(&["images", "-q"]).lines().count(), 1, "only what was loaded");

    // A client that goes away ends its build.
    project.write("Dockerfile", "FROM box\nRUN echo begun; sleep 1000\n");
    let log = daemon.path("cancelled");
    let mut command = daemon.command(&project.arguments(&[]));
    let mut child = command.stdout(fs::File::create(&log).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the step to begin", PATIENCE, || {
        fs::read_to_string(&log).unwrap().contains("begun\n").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the container to go", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
    daemon.assert_nothing_left();
}

#[test]
fn what_a_killed_daemon_was_building_is_cleared_away() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let project = Project::new(
        &daemon,
        "p",
        &[("Dockerfile", "FROM box\nRUN echo kept > /kept\nRUN echo begun; sleep 1000\n")],
    );
    let log = daemon.path("cancelled");
    let mut command = daemon.command(&project.arguments(&[]));
    let mut child = command.stdout(fs::File::create(&log).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the step to begin", PATIENCE, || {
        fs::read_to_string(&log).unwrap().contains("begun\n").then_some(())
    });
    let path = project.path.clone();
    daemon.kill();
    child.wait().unwrap();
    daemon.up();
    eventually("the container to go", PATIENCE, || daemon.ok(&["ps", "-aq"]).is_empty().then_some(()));
    daemon.assert_nothing_left();
    fs::write(path.join("Dockerfile"), "FROM box\nRUN echo kept > /kept\n").unwrap();
    let output = daemon.ok(&["build", path.to_str().unwrap()]);
    assert_eq!(output.matches("Using cache").count(), 1, "{output}");
}

/// `user` with the password `secret`, as `htpasswd -B` writes it.
const USERS: &str = "user:$2y$05$dEN46vIb.yJvmYpjobM4a.jTwjMkkxEPHz5rV2d7wbi5HPaIENVVC\n";

#[test]
fn pulls_what_it_stands_on() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    fs::write(daemon.path("users"), USERS).unwrap();
    let users = daemon.path("users");
    daemon.down(&[]);
    let registry = "127.0.0.1:5005";
    daemon.up_with(&[], &["--registry", registry, "--htpasswd", users.to_str().unwrap()]);
    let name = format!("{registry}/team/box");
    let project = Project::new(&daemon, "pulling", &[]);
    project.write(
        "Dockerfile",
        &format!("FROM {name}\nRUN echo made > /made\nCOPY --from={name} /etc/passwd /p\n"),
    );
    daemon.ok(&["login", "-u", "user", "-p", "secret", registry]);
    daemon.ok(&["tag", "box", &name]);
    daemon.ok(&["push", &name]);
    daemon.ok(&["rmi", &name, "box"]);
    assert_eq!(daemon.ok(&["images", "-q"]), "");
    let output = project.build(&["-t", "pulled"]);
    assert!(output.contains("Successfully tagged pulled:latest"), "{output}");
    assert_eq!(run(&daemon, "pulled", "cat /made; grep -c user /p"), "made\n1");
    let output = project.build(&["--pull"]);
    assert_eq!(output.matches("Using cache").count(), 2, "{output}");
    // Whoever has no login is refused, and told so.
    daemon.ok(&["logout", registry]);
    daemon.ok(&["rmi", "-f", &name, "pulled"]);
    let errors = project.refused(&[], &format!("pull access denied for {name}"));
    assert!(errors.contains("docker login"), "{errors}");
}

#[test]
fn a_remote_context_is_fetched_by_the_daemon() {
    use std::io::{Read as _, Write as _};
    let daemon = Daemon::start();
    daemon.load_busybox();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).unwrap();
        let body = "FROM box\nRUN echo remote > /x\n";
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let path = format!("/v1.43/build?t=remote&remote=http%3A%2F%2F{address}%2FDockerfile");
    let answer = daemon.request("POST", &path, "");
    assert!(answer.contains(r#"{"stream":"Successfully tagged remote:latest\n"}"#), "{answer}");
    serving.join().unwrap();
    assert_eq!(run(&daemon, "remote", "cat /x"), "remote");
    daemon.assert_nothing_left();
}
