//! Images between daemons and registries, driven by the `docker` that users have.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::registry::Registry;
use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

fn digest_of(output: &str) -> String {
    let at = output.find("sha256:").expect(output);
    output[at..at + 71].to_owned()
}

#[test]
fn pushes_and_pulls() {
    let daemon = Daemon::start();
    let registry = Registry::start_with(&daemon.path("registry"), "127.0.0.1:0", &[]);
    daemon.load_busybox();
    let name = registry.name("team/box:v1");
    daemon.ok(&["tag", "box", &name]);
    let pushed = daemon.ok(&["push", &name]);
    assert!(
        pushed.contains(&format!("The push refers to repository [{}]", registry.name("team/box"))),
        "{pushed}"
    );
    assert!(pushed.contains(": Pushed") && pushed.contains("v1: digest: sha256:"), "{pushed}");
    let digest = digest_of(&pushed);
    let again = daemon.ok(&["push", &name]);
    assert!(again.contains("Layer already exists") && again.contains(&digest), "{again}");
    let id = daemon.ok(&["inspect", "-f", "{{.Id}}", &name]);
    let by_digest = format!("{}@{digest}", registry.name("team/box"));
    assert_eq!(daemon.ok(&["inspect", "-f", "{{json .RepoDigests}}", &name]), format!("[\"{by_digest}\"]"));

    daemon.ok(&["rmi", "box", &name]);
    assert_eq!(daemon.ok(&["images", "-q"]), "");
    let pulled = daemon.ok(&["pull", &name]);
    for words in [
        "v1: Pulling from ",
        "Pull complete",
        &format!("Digest: {digest}"),
        "Status: Downloaded newer image for",
    ] {
        assert!(pulled.contains(words), "{words}: {pulled}");
    }
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.Id}}", &name]), id);
    assert!(daemon.ok(&["pull", &name]).contains("Status: Image is up to date for"));
    assert_eq!(daemon.ok(&["run", "--rm", &name, "echo", "hello"]), "hello");
    // What came compressed goes back as it came.
    assert_eq!(digest_of(&daemon.ok(&["push", &name])), digest);

    daemon.ok(&["rmi", &name]);
    assert_eq!(daemon.ok(&["images", "-q", "-a"]), "", "the name by digest goes with the tag");
    // An image that is not here is pulled by whoever runs it.
    assert_eq!(daemon.ok(&["run", "--rm", &by_digest, "echo", "by digest"]), "by digest");

    let missing = daemon.refused(&["pull", &registry.name("team/box:v2")], "manifest for");
    assert!(missing.contains("not found: manifest unknown"), "{missing}");
    daemon.refused(&["push", &registry.name("team/other")], "An image does not exist locally with the tag");
    let inspected = daemon.get(&format!("/v1.43/distribution/{name}/json"));
    assert_eq!(inspected["Descriptor"]["digest"], digest.as_str());
    assert_eq!(inspected["Platforms"][0]["os"], "linux");
}

#[test]
fn a_layer_that_the_registry_has_is_lent() {
    let daemon = Daemon::start();
    let registry = Registry::start_with(&daemon.path("registry"), "127.0.0.1:0", &[]);
    daemon.load_busybox();
    let (one, two) = (registry.name("one"), registry.name("two"));
    for name in [&one, &two] {
        daemon.ok(&["tag", "box", name]);
    }
    daemon.ok(&["push", &one]);
    let lent = daemon.ok(&["push", &two]);
    assert!(lent.contains("Mounted from one"), "{lent}");
}

#[test]
fn two_daemons_share_what_one_has() {
    let first = Daemon::start();
    let registry = "127.0.0.1:5005";
    first.load_busybox();
    let mut first = first;
    first.down(&[]);
    first.up_with(&[], &["--registry", registry]);
    let name = format!("{registry}/shared");
    first.ok(&["tag", "box", &name]);
    let before = blobs(&first.path("d/image/blobs/sha256"));
    let pushed = first.ok(&["push", &name]);
    assert!(pushed.contains("latest: digest:"), "{pushed}");
    let after = blobs(&first.path("d/image/blobs/sha256"));
    // The packed layer takes the plain one's place at the next sweep; the rest is the manifest.
    assert!(after <= before + 2, "a push into the own store copies nothing: {before} {after}");

    let directory = tempfile::tempdir().unwrap();
    let other = |name: &str| directory.path().join(name);
    let mut second = Command::new(env!("CARGO_BIN_EXE_dray"))
        .env("DRAY_CONNECT_GROUP", "none")
        .args(["up", "--api-listen", "127.0.0.1:6444", "--node-name", "second", "--data-dir"])
        .arg(other("d"))
        .arg("--run-dir")
        .arg(other("r"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(second.stdout.take().unwrap()).lines();
    assert_eq!(
        lines.map(Result::unwrap).take_while(|line| !line.starts_with("export KUBECONFIG")).count(),
        1
    );
    let docker = |arguments: &[&str]| {
        let host = format!("unix://{}", other("r/docker.sock").display());
        let output = Command::new("docker").env("DOCKER_HOST", host).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(docker(&["pull", &name]).contains("Downloaded newer image"));
    assert_eq!(docker(&["run", "--rm", &name, "echo", "second"]), "second\n");
    let down = Command::new(env!("CARGO_BIN_EXE_dray"))
        .args(["down", "--all", "--run-dir"])
        .arg(other("r"))
        .status()
        .unwrap();
    assert!(down.success());
    second.wait().unwrap();
}

fn blobs(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// `user` with the password `secret`, as `htpasswd -B` writes it.
const USERS: &str = "user:$2y$05$dEN46vIb.yJvmYpjobM4a.jTwjMkkxEPHz5rV2d7wbi5HPaIENVVC\n";

#[test]
fn users_log_in() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let users = daemon.path("users");
    fs::write(&users, USERS).unwrap();
    for options in [&["--htpasswd"][..], &["--tokens", "--anonymous-pull", "--htpasswd"][..]] {
        let with_tokens = options.len() > 1;
        let options: Vec<&str> = options.iter().copied().chain([users.to_str().unwrap()]).collect();
        let data = daemon.path(if with_tokens { "tokens" } else { "basic" });
        let registry = Registry::start_with(&data, "127.0.0.1:0", &options);
        let name = registry.name("private");
        daemon.ok(&["tag", "box", &name]);
        let words = if with_tokens { "unauthorized" } else { "no basic auth credentials" };
        daemon.refused(&["push", &name], words);
        let login = |password: &str| {
            let mut child = daemon
                .command(&["login", "-u", "user", "--password-stdin", &registry.address])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (success, words) = login("wrong");
        assert!(!success && words.contains("unauthorized"), "{words}");
        assert!(login("secret").0);
        daemon.ok(&["push", &name]);
        daemon.ok(&["rmi", &name]);
        daemon.ok(&["pull", &name]);
        daemon.ok(&["logout", &registry.address]);
        daemon.ok(&["rmi", &name]);
        if with_tokens {
            daemon.ok(&["pull", &name]);
        } else {
            daemon.refused(&["pull", &name], "pull access denied");
        }
    }
}

#[test]
fn a_full_disk_gives_up_what_can_be_had_again() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let data = daemon.path("d");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "none"]).arg(&data).status();
    assert!(mounted.unwrap().success());
    daemon.up_with(&[], &["--image-gc-period", "1", "--minimum-image-ttl", "0"]);
    daemon.load_busybox();
    let registry = Registry::start_with(&daemon.path("registry"), "127.0.0.1:0", &[]);
    let context = daemon.path("context");
    fs::create_dir(&context).unwrap();
    let build = |name: &str| {
        fs::write(context.join("Dockerfile"), format!("FROM box\nRUN echo {name} > /name\n")).unwrap();
        daemon.ok(&["build", "-q", "-t", name, context.to_str().unwrap()]);
    };
    let (spare, used) = (registry.name("spare:1"), registry.name("used:1"));
    for name in [&spare, &used, "alone"] {
        build(name);
    }
    for name in [&spare, &used] {
        daemon.ok(&["push", "-q", name]);
    }
    daemon.ok(&["run", "-d", "--name", "user", &used, "sleep", "1000"]);
    let named = || daemon.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let cached = || daemon.get("/system/df")["BuildCache"].as_array().unwrap().len();
    assert!(named().contains(&spare) && cached() >= 3, "there is room: {}", named());

    let filler = data.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let is_full = || {
        let disk = rustix::fs::statvfs(&data).unwrap();
        disk.f_bavail * 100 < disk.f_blocks * 10
    };
    while !is_full() {
        std::io::Write::write_all(&mut file, &[7; 1 << 20]).unwrap();
    }
    eventually("the spare image to go", PATIENCE, || (!named().contains(&spare)).then_some(()));
    assert_eq!(cached(), 0, "what a build can make again goes first");
    for kept in ["box:latest", "alone:latest", &used] {
        assert!(named().contains(kept), "{kept}: {}", named());
    }
    assert_eq!(daemon.ok(&["exec", "user", "cat", "/name"]), used);
    drop(file);
    fs::remove_file(&filler).unwrap();
    daemon.ok(&["pull", "-q", &spare]);
    assert_eq!(daemon.ok(&["run", "--rm", &spare, "cat", "/name"]), spare);
    daemon.ok(&["rm", "-f", "user"]);
    daemon.down(&["--all"]);
    assert!(Command::new("umount").arg(&data).status().unwrap().success());
}

/// Runs `dray …` as a client of the daemon, with a configuration of its own.
fn own(daemon: &Daemon, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dray"))
        .args(arguments)
        .env("DOCKER_HOST", format!("unix://{}", daemon.path("r/docker.sock").display()))
        .env("DOCKER_CONFIG", daemon.path("own-config"))
        .env("KUBECONFIG", daemon.path("d/kubeconfig"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn the_own_client_and_pods_show_who_they_are() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let users = daemon.path("users");
    fs::write(&users, USERS).unwrap();
    let options = ["--htpasswd", users.to_str().unwrap()];
    let registry = Registry::start_with(&daemon.path("registry"), "127.0.0.1:0", &options);
    let name = registry.name("team/pod:1");
    daemon.ok(&["tag", "box", &name]);
    let (success, said) = own(&daemon, &["push", &name], "");
    assert!(!success && said.contains("no basic auth credentials"), "{said}");
    let login = ["login", "-u", "user", "--password-stdin", &registry.address];
    assert!(!own(&daemon, &login, "wrong\n").0);
    let (success, said) = own(&daemon, &login, "secret\n");
    assert!(success && said.contains("Login Succeeded"), "{said}");
    use std::os::unix::fs::PermissionsExt as _;
    let kept = fs::metadata(daemon.path("own-config/config.json")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600, "passwords are the user's alone");
    let (success, said) = own(&daemon, &["push", &name], "");
    assert!(success && said.contains("Pushed") && said.contains("1: digest: sha256:"), "{said}");
    daemon.ok(&["rmi", "box", &name]);
    let (success, said) = own(&daemon, &["run", "--rm", &name, "echo", "pulled"], "");
    assert!(success && said.contains("pulled"), "{said}");
    daemon.ok(&["rmi", &name]);

    let pod = |pod: &str, secret: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{pod}\"}},\"spec\":{{\"restartPolicy\":\"Never\",\
             \"imagePullSecrets\":[{{\"name\":\"{secret}\"}}],\"containers\":[{{\"name\":\"c\",\"image\":\"{name}\",\
             \"imagePullPolicy\":\"Always\",\"command\":[\"true\"]}}]}}}}"
        )
    };
    let document = format!(
        "{{\"auths\":{{\"{}\":{{\"username\":\"user\",\"password\":\"secret\"}}}}}}",
        registry.address
    );
    let secret = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{{\"name\":\"known\"}},\
         \"type\":\"kubernetes.io/dockerconfigjson\",\"stringData\":{{\".dockerconfigjson\":{document:?}}}}}"
    );
    let kubectl = |arguments: &[&str], input: &str| own(&daemon, &[&["kubectl"], arguments].concat(), input);
    let (success, said) = kubectl(&["apply", "-f", "-"], &secret);
    assert!(success, "{said}");
    for (name, secret) in [("with", "known"), ("without", "unknown")] {
        let (success, said) = kubectl(&["apply", "-f", "-"], &pod(name, secret));
        assert!(success, "{said}");
    }
    let get = |pod: &str, path: &str| {
        kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={path}")], "").1.trim().to_owned()
    };
    eventually("the pod with a secret to end well", PATIENCE, || {
        (get("with", "{.status.phase}") == "Succeeded").then_some(())
    });
    let reason = "{.status.containerStatuses[0].state.waiting.reason}";
    eventually("the pod without one to wait", PATIENCE, || {
        let reason = get("without", reason);
        (reason == "ErrImagePull" || reason == "ImagePullBackOff").then_some(())
    });
    let (_, events) = kubectl(&["get", "events"], "");
    assert!(
        events.contains("Successfully pulled image") && events.contains("Failed to pull")
            || events.contains("failed to pull"),
        "{events}"
    );
    for name in ["with", "without"] {
        kubectl(&["delete", "pod", name, "--grace-period", "0", "--force"], "");
    }
}

/// Makes an authority and a certificate for 127.0.0.1 and `registry.test`.
fn certificates(directory: &Path) -> (std::path::PathBuf, std::path::PathBuf, std::path::PathBuf) {
    let path = |name: &str| directory.join(name);
    let openssl = |arguments: &str| {
        let done = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let kind = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {kind} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"));
    openssl(&format!("req {kind} -keyout tls.key -out tls.csr -subj /CN=registry"));
    fs::write(path("extensions"), "subjectAltName=IP:10.99.0.1,DNS:registry.test\n").unwrap();
    openssl(
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 2 -extfile extensions",
    );
    (path("ca.crt"), path("tls.crt"), path("tls.key"))
}

#[test]
fn tls_is_checked_by_the_authority_that_was_given() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // Loopback addresses are never checked; this one is the test's own.
    let ip = |arguments: &str| {
        assert!(Command::new("ip").args(arguments.split_whitespace()).status().unwrap().success());
    };
    ip("link add reg0 type veth peer name reg1");
    ip("addr add 10.99.0.1/24 dev reg0");
    ip("link set reg0 up");
    let (authority, certificate, key) = certificates(&daemon.path(""));
    let options = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let registry = Registry::start_with(&daemon.path("registry"), "10.99.0.1:0", &options);
    let name = registry.name("tls");
    daemon.ok(&["tag", "box", &name]);
    daemon.refused(&["push", &name], "certificate");
    // The host's /etc stays as it is: what is written goes beside it, in the test's own mount namespace.
    let over = daemon.path("over");
    fs::create_dir_all(&over).unwrap();
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).status().unwrap().success());
    let over = over.to_str().unwrap();
    mount(&["-t", "tmpfs", "none", over]);
    for name in ["upper", "work"] {
        fs::create_dir(Path::new(over).join(name)).unwrap();
    }
    let layers = format!("lowerdir=/etc,upperdir={over}/upper,workdir={over}/work");
    mount(&["-t", "overlay", "-o", &layers, "none", "/etc"]);
    let place = Path::new("/etc/docker/certs.d");
    let mine = place.join(&registry.address);
    fs::create_dir_all(&mine).unwrap();
    fs::copy(&authority, mine.join("ca.crt")).unwrap();
    daemon.ok(&["push", &name]);
    daemon.ok(&["rmi", &name]);
    daemon.ok(&["pull", &name]);
}

#[test]
fn a_mirror_is_asked_first_and_another_registry_may_be_insecure() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let upstream = Registry::start_with(&daemon.path("upstream"), "127.0.0.1:0", &[]);
    let name = upstream.name("library/thing:1");
    daemon.ok(&["tag", "box", &name]);
    daemon.ok(&["push", &name]);
    let mirror = format!("http://{}", upstream.address);
    let through = Registry::start_with(&daemon.path("mirror"), "127.0.0.1:0", &["--mirror", &mirror]);
    daemon.ok(&["rmi", "box", &name]);
    daemon.down(&[]);
    let mirror = format!("http://{}", through.address);
    daemon.up_with(&[], &["--registry-mirror", &mirror, "--insecure-registry", "10.0.0.0/8"]);
    assert!(daemon.ok(&["pull", "thing:1"]).contains("Pulling from library/thing"));
    assert_eq!(daemon.ok(&["run", "--rm", "thing:1", "echo", "mirrored"]), "mirrored");
    let info = daemon.get("/v1.43/info");
    assert_eq!(info["RegistryConfig"]["Mirrors"][0], format!("{mirror}/").as_str());
    drop(upstream);
    daemon.ok(&["rmi", "thing:1"]);
    // What was asked for once is kept.
    daemon.ok(&["pull", "thing:1"]);
    daemon.refused(&["push", &through.name("x:1")], "An image does not exist locally");
}
