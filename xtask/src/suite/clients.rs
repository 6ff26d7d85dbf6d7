//! `cargo xtask suite clients`: Debian's skopeo and podman, and Docker's command line, against `dray registry`; and the
//! daemon against Debian's docker-registry. What they hand each other keeps its digest.
//!
//! `DRAY=PATH` names a binary that is built already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    images::{self, Image},
    registry::Registry,
};
use crate::{
    Error,
    daemon::{Daemon, Directory, output},
    program, tools,
};

const IMAGES: [Image; 1] = [("app:latest", images::BASE, &[])];
/// Where Debian's registry listens.
const PEER: &str = "127.0.0.1:5055";
const PATIENCE: Duration = Duration::from_secs(20);
/// `user` with the password `secret`.
const USERS: &str = "user:$2y$05$dEN46vIb.yJvmYpjobM4a.jTwjMkkxEPHz5rV2d7wbi5HPaIENVVC\n";

struct World {
    directory: PathBuf,
    docker: String,
    open: Registry,
    locked: Registry,
    peer: Peer,
}

/// A step: what it shows, and how.
type Step = (&'static str, fn(&World) -> Result<(), Error>);

const STEPS: &[Step] = &[
    ("docker pushes, skopeo reads the same digest", |world| {
        let digest = world.push(world.open.address(), "app")?;
        world.expect(
            "skopeo",
            &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &world.open_image("app")],
            &digest,
        )
    }),
    ("skopeo copies within the registry, and docker runs the copy", |world| {
        let (from, to) = (world.open_image("app"), world.open_image("copy/by-skopeo"));
        world.skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to])?;
        let name = format!("{}/copy/by-skopeo", world.open.address());
        world.ask("docker", &["pull", &name])?;
        world.expect("docker", &["run", "--rm", &name, "echo", "copied"], "copied")
    }),
    ("skopeo converts to OCI and zstd, and docker runs that", |world| {
        let (from, to) = (world.open_image("app"), world.open_image("zstd:1"));
        let directory = format!("oci:{}/layout:app", world.directory.display());
        world.skopeo(&[
            "copy",
            "--src-tls-verify=false",
            "--dest-compress-format",
            "zstd",
            &from,
            &directory,
        ])?;
        world.skopeo(&["copy", "--dest-tls-verify=false", &directory, &to])?;
        let name = format!("{}/zstd:1", world.open.address());
        world.ask("docker", &["pull", &name])?;
        world.expect("docker", &["run", "--rm", &name, "echo", "zstd"], "zstd")
    }),
    ("an OCI image that docker pulled goes back under its digest", |world| {
        let name = format!("{}/zstd:1", world.open.address());
        let format = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
        let before = world.skopeo(&[&format[..], &[&world.open_image("zstd:1")]].concat())?;
        // Its layers are here under other compressions: all of that goes first.
        let copy = format!("{}/copy/by-skopeo", world.open.address());
        let first = format!("{}/app", world.open.address());
        world.ask("docker", &["rmi", "app", &first, &copy, &name])?;
        world.ask("docker", &["builder", "prune", "-f"])?;
        world.ask("docker", &["pull", &name])?;
        world.ask("docker", &["tag", &name, "app"])?;
        let again = format!("{}/zstd-again:1", world.open.address());
        world.ask("docker", &["tag", &name, &again])?;
        world.ask("docker", &["push", &again])?;
        world.expect("skopeo", &[&format[..], &[&world.open_image("zstd-again:1")]].concat(), &before)
    }),
    ("skopeo lists tags and deletes", |world| {
        let tags = world.skopeo(&["list-tags", "--tls-verify=false", &world.open_image("zstd-again")])?;
        if !tags.contains("\"1\"") {
            return Err(unexpected(format!("no tag is listed: {tags}")));
        }
        world.skopeo(&["delete", "--tls-verify=false", &world.open_image("zstd-again:1")])?;
        world.refuse("skopeo", &["inspect", "--tls-verify=false", &world.open_image("zstd-again:1")])
    }),
    ("podman pulls and pushes", |world| {
        let name = format!("{}/app", world.open.address());
        world.podman(&["pull", "--tls-verify=false", &name])?;
        let mine = format!("{}/by-podman:2", world.open.address());
        world.podman(&["tag", &name, &mine])?;
        world.podman(&["push", "--tls-verify=false", &mine])?;
        world.ask("docker", &["pull", &mine])?;
        world.expect("docker", &["run", "--rm", &mine, "echo", "podman"], "podman")
    }),
    ("a registry with users: docker, skopeo and podman log in", |world| {
        let name = format!("{}/app", world.locked.address());
        world.ask("docker", &["tag", "app", &name])?;
        world.refuse("docker", &["push", &name])?;
        world.ask("docker", &["login", "-u", "user", "-p", "secret", world.locked.address()])?;
        let digest = world.push(world.locked.address(), "app")?;
        let image = format!("docker://{name}");
        let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image];
        world.refuse("skopeo", &inspect)?;
        world.expect("skopeo", &[&["inspect", "--creds", "user:secret"], &inspect[1..]].concat(), &digest)?;
        world.podman(&["pull", "--tls-verify=false", "--creds", "user:secret", &name]).map(drop)
    }),
    ("the daemon pushes to Debian's registry and pulls from it", |world| {
        let digest = world.push(PEER, "deep/app")?;
        let name = format!("{PEER}/deep/app");
        let image = format!("docker://{name}");
        world.expect(
            "skopeo",
            &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image],
            &digest,
        )?;
        world.ask("docker", &["rmi", &name])?;
        world.ask("docker", &["pull", &name])?;
        world.expect("docker", &["run", "--rm", &name, "echo", "peer"], "peer")
    }),
    ("both registries give what was pushed to both the same digest", |world| {
        let (ours, theirs) = (world.push(world.open.address(), "same")?, world.push(PEER, "same")?);
        if ours == theirs { Ok(()) } else { Err(unexpected(format!("{ours} and {theirs}"))) }
    }),
    ("docker finds no tag where none is, in either", |world| {
        for address in [world.open.address(), PEER] {
            let words = world.refuse_with("docker", &["pull", &format!("{address}/app:none")])?;
            if !words.contains("not found: manifest unknown") {
                return Err(unexpected(words));
            }
        }
        Ok(())
    }),
];

fn unexpected(what: String) -> Error {
    Error::Unexpected { what }
}

/// Debian's registry; it ends with the value.
struct Peer(Child);

impl Peer {
    fn start(directory: &Path) -> Result<Self, Error> {
        let config = directory.join("peer.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {}/peer }} }}\nhttp: {{ addr: {PEER} }}\n",
            directory.display()
        );
        fs::write(&config, text).map_err(|source| Error::File { path: config.clone(), source })?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|source| Error::Start { program: program(&command), source })?;
        let peer = Self(child);
        let begin = Instant::now();
        while std::net::TcpStream::connect(PEER).is_err() {
            if begin.elapsed() > PATIENCE {
                return Err(unexpected("Debian's registry does not listen".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        // The others would look there too, and have no login of their own then.
        if program == "docker" {
            command.env("DOCKER_HOST", &self.docker).env("DOCKER_CONFIG", self.directory.join("config"));
        }
        command.stdin(Stdio::null());
        command
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        output(&mut self.command(program, arguments)).map(|said| said.trim().to_owned())
    }

    fn skopeo(&self, arguments: &[&str]) -> Result<String, Error> {
        self.ask("skopeo", arguments)
    }

    fn podman(&self, arguments: &[&str]) -> Result<String, Error> {
        let place = |name: &str| self.directory.join(name).to_string_lossy().into_owned();
        let (root, run) = (place("podman"), place("podman-run"));
        let own = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        self.ask("podman", &[&own[..], arguments].concat())
    }

    fn expect(&self, program: &str, arguments: &[&str], expected: &str) -> Result<(), Error> {
        let said = self.ask(program, arguments)?;
        if said == expected {
            return Ok(());
        }
        Err(unexpected(format!("{program} {arguments:?} says {said:?} where {expected:?} is right")))
    }

    fn refuse_with(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        let mut command = self.command(program, arguments);
        let output =
            command.output().map_err(|source| Error::Start { program: program.to_owned(), source })?;
        if output.status.success() {
            return Err(unexpected(format!("{program} {arguments:?} succeeds")));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn refuse(&self, program: &str, arguments: &[&str]) -> Result<(), Error> {
        self.refuse_with(program, arguments).map(drop)
    }

    fn open_image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.open.address())
    }

    /// Pushes the image under a name and answers its digest.
    fn push(&self, address: &str, name: &str) -> Result<String, Error> {
        let name = format!("{address}/{name}");
        self.ask("docker", &["tag", "app", &name])?;
        let said = self.ask("docker", &["push", &name])?;
        let at = said.find("sha256:").and_then(|at| said.get(at..at + 71));
        at.map(str::to_owned).ok_or_else(|| unexpected(format!("docker push says no digest: {said}")))
    }
}

/// Installs what is missing and takes all steps.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    tools::install_docker()?;
    tools::install_registry_clients()?;
    let dray = super::binary(root)?;
    let directory = Directory::new("clients")?;
    let path = directory.path();
    let users = path.join("users");
    fs::write(&users, USERS).map_err(|source| Error::File { path: users.clone(), source })?;
    let daemon = Daemon::start(&dray, path)?;
    let docker = format!("unix://{}", daemon.socket().display());
    let result = (|| {
        images::make(path, &docker, &IMAGES)?;
        let world = World {
            directory: path.to_owned(),
            docker,
            open: Registry::start(&dray, &path.join("open"), &[])?,
            locked: Registry::start(
                &dray,
                &path.join("locked"),
                &["--tokens", "--htpasswd", &users.to_string_lossy()],
            )?,
            peer: Peer::start(path)?,
        };
        for (name, step) in STEPS {
            step(&world)?;
            println!("passed: {name}");
        }
        drop(world.peer);
        Ok(())
    })();
    daemon.stop(true)?;
    result
}
