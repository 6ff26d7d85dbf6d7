//! `cargo xtask suite projects`: projects as people have them, on a Debian that debootstrap makes: a compiled service, a
//! program that is packaged and installed, a site behind nginx, and three services of Compose (`xtask/suites/projects`).
//!
//! The base is made once, from where this host has its packages; what follows asks nothing of the network. `DRAY=PATH` names
//! a binary that is built already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    Error,
    daemon::{Daemon, Directory, fetch_when_served, output},
    tools,
};

use super::debian;

const PROJECTS: &str = "xtask/suites/projects";
/// What the Debian that the projects stand on has beyond the least.
const PACKAGES: &str = "python3-minimal,nginx-light,gcc,libc6-dev,make,passwd";
/// Where the site and the gateway are published.
const SITE: &str = "127.0.0.1:18080";
const SHOP: &str = "127.0.0.1:18081";

struct World {
    projects: PathBuf,
    config: PathBuf,
    socket: PathBuf,
}

/// A step: what it shows, and how.
type Step = (&'static str, fn(&World) -> Result<(), Error>);

const STEPS: &[Step] = &[
    ("a compiled service is one file on nothing", |world| {
        world.build("static", &["--build-arg", "VERSION=7"])?;
        world.expect(&["run", "--rm", "static"], "hello world from 7 as 65534")?;
        world.expect(&["run", "--rm", "static", "you"], "hello you from 7 as 65534")
    }),
    ("built again it comes from the cache, and another version only from there on", |world| {
        let again = world.build("static", &["--build-arg", "VERSION=7"])?;
        let other = world.build("static", &["--build-arg", "VERSION=8"])?;
        let ran = |said: &str| said.lines().any(|line| line.contains("-o service"));
        if ran(&again) || !ran(&other) {
            return Err(unexpected(format!("{again}\n{other}")));
        }
        world.expect(&["run", "--rm", "static"], "hello world from 8 as 65534")
    }),
    ("a program is packaged, installed and run by its own user", |world| {
        world.build("package", &[])?;
        world.expect(&["run", "--rm", "package"], "one=1 three=3 two=2")?;
        world.expect(
            &["run", "--rm", "package", "sh", "-c", "whoami; dpkg -s report | grep ^Status"],
            "report\nStatus: install ok installed",
        )
    }),
    ("a site is generated, checked and served", |world| {
        world.build("site", &[])?;
        let publish = format!("{SITE}:80");
        world.docker(&["run", "-d", "--name", "site", "-p", &publish, "site"])?;
        world.page(SITE, "<h1>Welcome</h1><p>to the suite</p>")?;
        world.expect(&["exec", "site", "ls", "/srv"], "index.html")?;
        world.docker(&["stop", "site"])?;
        world.expect(&["inspect", "-f", "{{.State.ExitCode}}", "site"], "0")?;
        world.docker(&["rm", "-v", "site"]).map(drop)
    }),
    ("three services are built, wait for each other and answer", |world| {
        world.compose(&["build"])?;
        world.compose(&["up", "-d"])?;
        world.page(SHOP, "shop has apples pears")?;
        world.compose(&["down", "-v", "-t", "1", "--rmi", "local"])?;
        world.expect(&["ps", "-aq"], "")
    }),
    ("the whole base goes through an archive and comes back", |world| {
        let archive = world.projects.join("static.tar");
        let archive = archive.to_string_lossy();
        world.docker(&["save", "-o", &archive, "static", "package"])?;
        world.docker(&["rmi", "static", "package"])?;
        world.docker(&["load", "-i", &archive])?;
        world.expect(&["run", "--rm", "package"], "one=1 three=3 two=2")
    }),
];

fn unexpected(what: String) -> Error {
    Error::Unexpected { what }
}

pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    tools::install_docker()?;
    let (buildx, compose) = (tools::buildx(root)?, tools::second_compose(root)?);
    let base = debian::base(root, "projects", PACKAGES)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("projects")?;
    let world = World {
        projects: directory.path().join("projects"),
        config: directory.path().join("config"),
        socket: directory.path().join("run/docker.sock"),
    };
    let plugins = world.config.join("cli-plugins");
    fs::create_dir_all(&plugins).map_err(|source| Error::File { path: plugins.clone(), source })?;
    for (program, name) in [(&buildx, "docker-buildx"), (&compose, "docker-compose")] {
        let link = plugins.join(name);
        std::os::unix::fs::symlink(program, &link).map_err(|source| Error::File { path: link, source })?;
    }
    output(Command::new("cp").arg("-r").arg(root.join(PROJECTS)).arg(&world.projects))?;
    let daemon = Daemon::start(&dray, directory.path())?;
    world.docker(&["import", &base.to_string_lossy(), "debian:suite"])?;
    let mut failed = 0;
    for (name, step) in STEPS {
        let begin = Instant::now();
        match step(&world) {
            Ok(()) => println!("passed  {name} ({:.1} s)", begin.elapsed().as_secs_f64()),
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error}");
            }
        }
    }
    daemon.stop(true)?;
    if failed == 0 { Ok(()) } else { Err(unexpected(format!("{failed} steps of projects failed"))) }
}

impl World {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(words).env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", &self.config).env("BUILDKIT_PROGRESS", "plain");
        command
    }

    fn docker(&self, words: &[&str]) -> Result<String, Error> {
        output(&mut self.command(words))
    }

    /// Builds a project under its own name; answers what the build says.
    fn build(&self, project: &str, options: &[&str]) -> Result<String, Error> {
        let mut command = self.command(&["buildx", "build", "-t", project]);
        command.args(options).arg(self.projects.join(project));
        let done =
            command.output().map_err(|source| Error::Start { program: "docker".to_owned(), source })?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.success() { Ok(said) } else { Err(unexpected(said)) }
    }

    fn compose(&self, words: &[&str]) -> Result<String, Error> {
        let mut command = self.command(&[&["compose"], words].concat());
        output(command.current_dir(self.projects.join("shop")))
    }

    fn expect(&self, words: &[&str], expected: &str) -> Result<(), Error> {
        let said = self.docker(words)?;
        if said == expected {
            return Ok(());
        }
        Err(unexpected(format!("`docker {}` says {said:?} and not {expected:?}", words.join(" "))))
    }

    fn page(&self, address: &str, expected: &str) -> Result<(), Error> {
        let place = address.parse().map_err(|_| unexpected(format!("{address} is no address")))?;
        let page = fetch_when_served(place)?;
        if page == expected { Ok(()) } else { Err(unexpected(format!("{address} serves {page:?}"))) }
    }
}
