//! Repositories over ssh, modules within repositories, and what of git is not supported: with the real `git`, `sshd` and
//! `ssh-agent`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dray_build::{
    BoxFuture, Client, ClientError, Credentials, Duplex, LocalDirectory, LocalFilter, NoClient, ProgressFn,
};
use dray_testkit::eventually;
use world::git::{Killed, daemon, git, repository};
use world::{World, of_address, run};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client with a key agent, and with secrets.
struct Agent {
    socket: PathBuf,
    secrets: BTreeMap<String, Vec<u8>>,
}

impl Client for Agent {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        let found = self.secrets.get(id).cloned();
        let found = found.ok_or_else(|| ClientError::Missing { what: format!("secret {id}") });
        Box::pin(std::future::ready(found))
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>> {
        assert_eq!(id, "default");
        Box::pin(async move {
            let stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>> {
        NoClient.credentials(host)
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>> {
        NoClient.local(name, filter, progress)
    }
}

fn program(name: &str, arguments: &[&str]) {
    let output =
        Command::new(name).args(arguments).output().unwrap_or_else(|_| panic!("no {name}: install it"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A pair of keys; answers the public one.
fn key(path: &Path) -> String {
    program("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", text(path)]);
    fs::read_to_string(path.with_extension("pub")).unwrap()
}

/// A server that lets whoever has the key in as root. Hearing of the protocol's version is up to its configuration.
fn server(base: &Path, port: u16, hears_versions: bool) -> Killed {
    let config = base.join(format!("sshd-{port}"));
    let lines = [
        format!("Port {port}"),
        "ListenAddress 127.0.0.1".to_owned(),
        format!("HostKey {}", base.join("host").display()),
        format!("AuthorizedKeysFile {}", base.join("authorized").display()),
        "StrictModes no".to_owned(),
        "UsePAM no".to_owned(),
        "PasswordAuthentication no".to_owned(),
        "PidFile none".to_owned(),
        if hears_versions { "AcceptEnv GIT_PROTOCOL".to_owned() } else { String::new() },
    ];
    fs::write(&config, lines.join("\n") + "\n").unwrap();
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f", text(&config)]).stderr(Stdio::null());
    let server = Killed(command.spawn().expect("cannot run sshd: install openssh-server"));
    eventually("the server to listen", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    server
}

/// An agent with a key.
fn agent(base: &Path, key: Option<&Path>) -> (Killed, PathBuf) {
    let socket = base.join(if key.is_some() { "agent" } else { "empty-agent" });
    let child = Command::new("ssh-agent").args(["-D", "-a", text(&socket)]).stdout(Stdio::null()).spawn();
    let agent = Killed(child.expect("cannot run ssh-agent: install openssh-client"));
    eventually("the agent to listen", PATIENCE, || std::os::unix::net::UnixStream::connect(&socket).ok());
    if let Some(key) = key {
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null());
        assert!(add.status().unwrap().success());
    }
    (agent, socket)
}

#[test]
fn a_repository_comes_over_ssh_with_the_clients_keys() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        let commit = repository(&base);
        program("mount", &["-t", "tmpfs", "none", "/run"]);
        fs::create_dir("/run/sshd").unwrap();
        let host_key = key(&base.join("host"));
        fs::write(base.join("authorized"), key(&base.join("user"))).unwrap();
        let _servers = [server(&base, 22, true), server(&base, 2222, false)];
        let (_agent, socket) = agent(&base, Some(&base.join("user")));
        let (_empty, empty) = agent(&base, None);
        let client = |socket: &Path, known: Option<&str>| -> Arc<dyn Client> {
            let known = known.map(|known| ("GIT_KNOWN_HOSTS".to_owned(), known.as_bytes().to_vec()));
            Arc::new(Agent { socket: socket.to_owned(), secrets: known.into_iter().collect() })
        };
        let build = async |address: &str, client: Arc<dyn Client>| {
            world.build_for(of_address(address), client).await.0
        };
        let path = base.join("x.git");
        let path = path.display();
        for address in [
            format!("root@127.0.0.1:{path}#v1:sub"),
            format!("ssh://root@127.0.0.1{path}#v1:sub"),
            // A server of the protocol's first version.
            format!("ssh://root@127.0.0.1:2222{path}#v1:sub"),
        ] {
            let built = build(&address, client(&socket, None)).await.unwrap();
            assert_eq!(world.read(&built, "of-sub"), "deep", "{address}");
        }
        for address in [
            format!("ssh://root@127.0.0.1{path}#{commit}:sub"),
            format!("ssh://root@127.0.0.1:2222{path}#other:sub"),
        ] {
            let built = build(&address, client(&socket, None)).await.unwrap();
            assert_eq!(world.read(&built, "of-sub"), "deeper", "{address}");
        }
        // Whoever says by which key a host is known is believed, and nobody else then.
        let address = format!("ssh://root@127.0.0.1{path}#v1:sub");
        let known = format!("127.0.0.1 {host_key}");
        build(&address, client(&socket, Some(&known))).await.unwrap();
        let other = format!("127.0.0.1 {}", fs::read_to_string(base.join("authorized")).unwrap());
        for (client, address, words) in [
            (client(&socket, Some(&other)), address.as_str(), "Host key verification failed"),
            (client(&empty, None), &address, "Permission denied"),
            (
                client(&socket, None),
                "ssh://root@127.0.0.1/none.git",
                "does not appear to be a git repository",
            ),
            (client(&socket, None), "ssh://root@127.0.0.1:1/x.git", "Connection refused"),
            (Arc::new(NoClient), &address, "the client forwards no key agent: build with --ssh default"),
        ] {
            let error = build(address, client).await.unwrap_err().chain();
            assert!(error.contains(words), "{words}: {error}");
        }
        // A machine without the program: nothing is in the place where it was.
        let ssh = fs::canonicalize("/usr/bin/ssh").unwrap();
        program("mount", &["-t", "tmpfs", "none", text(ssh.parent().unwrap())]);
        let error = build(&address, client(&socket, None)).await.unwrap_err().chain();
        assert!(error.contains("has no ssh: install its openssh-client"), "{error}");
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

#[test]
fn modules_come_with_their_repositories() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        let _daemon = daemon(&base);
        let make = |name: &str, modules: &[(&str, &str)]| {
            let work = base.join(name);
            fs::create_dir_all(&work).unwrap();
            git(&work, &["init", "-q"]);
            fs::write(work.join("name"), name).unwrap();
            for (url, path) in modules {
                git(&work, &["submodule", "add", "-q", url, path]);
            }
            git(&work, &["add", "-A"]);
            git(&work, &["commit", "-qm", name]);
            git(&base, &["clone", "-q", "--bare", name, &format!("{name}.git")]);
        };
        make("leaf", &[]);
        make("inner", &[("git://127.0.0.1/leaf.git", "deep/leaf")]);
        fs::create_dir(base.join("outer")).unwrap();
        make("outer", &[("../inner.git", "modules/inner")]);
        // Newer commits of a module are not those that the repository names.
        fs::write(base.join("leaf/name"), "newer").unwrap();
        git(&base.join("leaf"), &["commit", "-qam", "newer"]);
        git(&base.join("leaf"), &["push", "-q", "../leaf.git", "HEAD:main"]);
        let context = world.files("c", &[("a", "a")]);
        let dockerfile = "FROM scratch\nADD git://127.0.0.1/outer.git /all\n";
        let built = world.build_in(&context, dockerfile).await.unwrap();
        for (path, content) in [
            ("all/name", "outer"),
            ("all/modules/inner/name", "inner"),
            ("all/modules/inner/deep/leaf/name", "leaf"),
        ] {
            assert_eq!(world.read(&built, path), content, "{path}");
        }
        // A module that is not there any more is told of.
        fs::remove_dir_all(base.join("leaf.git")).unwrap();
        world.builder.prune(|_| true).await.unwrap();
        let error = world.build_in(&context, dockerfile).await.unwrap_err().chain();
        assert!(error.contains("git://127.0.0.1/leaf.git"), "{error}");
        drop(built);
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

#[test]
fn names_by_sha_256_are_declined_by_name() {
    run(|| async {
        let world = World::new().await;
        let base = world.files("git", &[("nothing", "")]);
        let work = base.join("long");
        fs::create_dir(&work).unwrap();
        git(&work, &["init", "-q", "--object-format=sha256"]);
        fs::write(work.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "one"]);
        git(&base, &["clone", "-q", "--bare", "long", "long.git"]);
        let _daemon = daemon(&base);
        let server = world::web::serve(&base, Default::default()).await;
        for address in ["git://127.0.0.1/long.git".to_owned(), format!("{server}/git/long.git")] {
            let error = world.build(of_address(&address)).await.unwrap_err().chain();
            assert!(error.contains("name their objects by SHA-256 are not supported"), "{address}: {error}");
        }
        world.assert_nothing_left();
        world.engine.close().await;
    });
}
