//! Both versions of Compose, as Debian has them, on a project of five services (`xtask/suites/compose`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    tools,
};

const PROJECT: &str = "xtask/suites/compose";
/// Where the project publishes its web server.
const PAGE: &str = "127.0.0.1:18080";
/// What the project leaves for `down` to remove, and what is there from the start.
const NETWORKS: &str = "bridge\nhost\nnone";
const PATIENCE: Duration = Duration::from_secs(20);

/// A version of Compose: what stands for `docker-compose` in the steps, and its words.
struct Compose {
    name: &'static str,
    program: PathBuf,
    /// What `ps` says of a container that has ended, before its exit code and after it.
    ended: (&'static str, &'static str),
    /// Between the parts of names.
    separator: &'static str,
}

struct Project<'a> {
    compose: &'a Compose,
    directory: PathBuf,
    socket: PathBuf,
}

/// A step: what it shows, and how.
type Step = (&'static str, fn(&Project<'_>) -> Result<(), Error>);

const STEPS: &[Step] = &[
    ("config", |project| project.compose(&["config", "--quiet"]).map(drop)),
    ("build", |project| {
        project.compose(&["build"])?;
        project.expect(&["docker", "image", "ls", "-q", "suite-base"], |ids| !ids.is_empty())
    }),
    ("up, in the order that health asks for", |project| {
        project.compose(&["up", "-d"])?;
        project.expect(&["docker-compose", "ps", "-a"], |shown| {
            shown.contains("(healthy)")
                && shown.contains("127.0.0.1:18080->80/tcp")
                && shown.contains(&project.ended("0"))
        })
    }),
    ("the published page, with what build, environment and bind gave", |project| project.page()),
    ("ps --services --filter", |project| {
        project.expect(&["docker-compose", "ps", "--services", "--filter", "status=running"], |services| {
            ["db", "cache", "web", "worker"].iter().all(|name| services.lines().any(|line| line == *name))
        })
    }),
    ("scale, and one name for all", |project| {
        project.compose(&["up", "-d", "--scale", "worker=3"])?;
        project.expect(&["docker-compose", "ps", "-q", "worker"], |ids| ids.lines().count() == 3)?;
        let lookup = ["docker-compose", "exec", "-T", "web", "nslookup", "-type=a", "worker"];
        project.expect(&lookup, |answer| answer.matches("Address: 10.111.0.").count() == 3)
    }),
    ("an alias of another service", |project| {
        let lookup = ["docker-compose", "exec", "-T", "worker", "nslookup", "-type=a", "database"];
        project.expect(&lookup, |answer| answer.contains("Address: 10.111.0."))
    }),
    ("up again changes nothing", |project| {
        let before = project.ask(&["docker-compose", "ps", "-q", "db", "cache", "web"])?;
        project.compose(&["up", "-d", "--scale", "worker=3"])?;
        project.expect(&["docker-compose", "ps", "-q", "db", "cache", "web"], |after| after == before)
    }),
    ("up with another environment makes only one service anew", |project| {
        let ids = |service: &str| project.ask(&["docker-compose", "ps", "-q", service]);
        let (web, db) = (ids("web")?, ids("db")?);
        let mut command = project.command(&["docker-compose", "up", "-d", "--scale", "worker=3"]);
        output(command.env("SUITE_NAME", "again"))?;
        if ids("db")? != db || ids("web")? == web {
            return Err(unexpected("the wrong containers were made anew".to_owned()));
        }
        project.expect(&["docker-compose", "exec", "-T", "web", "sh", "-c", "echo $NAME"], |name| {
            name == "again"
        })
    }),
    ("logs of a service, with names", |project| {
        project.expect(&["docker-compose", "logs", "--no-color", "worker"], |lines| {
            let separator = project.compose.separator;
            (1..=3).all(|number| lines.contains(&format!("worker{separator}{number}  | found")))
        })
    }),
    ("logs --tail", |project| {
        let tail = ["docker-compose", "logs", "--no-color", "--no-log-prefix", "--tail", "1", "worker"];
        project.expect(&tail, |lines| lines.lines().filter(|line| *line == "found").count() == 3)
    }),
    ("exec and its exit code", |project| {
        let failed = project.command(&["docker-compose", "exec", "-T", "db", "sh", "-c", "exit 7"]).output();
        match failed.map(|output| output.status.code()) {
            Ok(Some(7)) => Ok(()),
            other => Err(unexpected(format!("exec ended with {other:?}"))),
        }
    }),
    ("run, a container for one command", |project| {
        project.expect(&["docker-compose", "run", "--rm", "-T", "worker", "echo", "one-off"], |said| {
            said.trim() == "one-off"
        })
    }),
    ("top", |project| project.expect(&["docker-compose", "top", "db"], |shown| shown.contains("sleep 1000"))),
    ("port", |project| project.expect(&["docker-compose", "port", "web", "80"], |address| address == PAGE)),
    ("images", |project| {
        let image = ["suite", "web"].join(project.compose.separator);
        project.expect(&["docker-compose", "images"], |shown| shown.contains(&image))
    }),
    ("pause and unpause", |project| {
        project.compose(&["pause", "cache"])?;
        project.expect(&["docker-compose", "ps", "-a", "cache"], |shown| shown.contains("Paused"))?;
        project.compose(&["unpause", "cache"]).map(drop)
    }),
    ("restart", |project| {
        project.compose(&["restart", "-t", "0", "web"])?;
        project.page()
    }),
    ("stop and start", |project| {
        project.compose(&["stop", "-t", "1", "worker"])?;
        project.expect(&["docker-compose", "ps", "-a", "worker"], |shown| shown.contains("Exit"))?;
        project.compose(&["start", "worker"]).map(drop)
    }),
    ("kill", |project| {
        project.compose(&["kill", "cache"])?;
        let killed = project.ended("137");
        project.expect(&["docker-compose", "ps", "-a", "cache"], |shown| shown.contains(&killed))
    }),
    ("rm", |project| {
        project.compose(&["rm", "-f", "cache"])?;
        project.expect(&["docker-compose", "ps", "-q", "cache"], str::is_empty)
    }),
    ("up --force-recreate keeps volumes", |project| {
        let write = ["docker-compose", "exec", "-T", "db", "sh", "-c", "echo mark > /data/mark"];
        project.ask(&write)?;
        project.compose(&["up", "-d", "--force-recreate", "-t", "1"])?;
        project.expect(&["docker-compose", "exec", "-T", "db", "cat", "/data/mark"], |said| said == "mark")
    }),
    ("down takes everything", |project| {
        project.compose(&["down", "-v", "-t", "1", "--rmi", "local"])?;
        project.expect(&["docker", "ps", "-aq"], str::is_empty)?;
        project.expect(&["docker", "volume", "ls", "-q"], str::is_empty)?;
        project.expect(&["docker", "network", "ls", "--format", "{{.Name}}"], |names| names == NETWORKS)
    }),
];

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_compose()?;
    let second = tools::second_compose(root)?;
    let [dray] = prepare(root, ["dray"])?;
    let versions = [
        Compose { name: "Compose 1", program: "docker-compose".into(), ended: ("Exit ", ""), separator: "_" },
        Compose { name: "Compose 2", program: second, ended: ("Exited (", ")"), separator: "-" },
    ];
    let directory = Directory::new("compose")?;
    let project = directory.path().join("project");
    let copied = Command::new("cp").arg("-r").arg(root.join(PROJECT)).arg(&project).status();
    copied.map_err(|source| Error::Start { program: "cp".to_owned(), source })?;
    let busybox = project.join("base/busybox");
    fs::copy("/bin/busybox", &busybox).map_err(|source| Error::File { path: busybox, source })?;
    let daemon = Daemon::start(&dray, directory.path())?;
    let mut failed = 0;
    for compose in &versions {
        let project = Project { compose, directory: project.clone(), socket: daemon.socket() };
        failed += project.steps();
    }
    daemon.stop(true)?;
    if failed == 0 { Ok(()) } else { Err(unexpected(format!("{failed} steps of compose failed"))) }
}

fn unexpected(what: String) -> Error {
    Error::Unexpected { what }
}

impl Project<'_> {
    /// Takes all steps and tells of each; answers how many failed.
    fn steps(&self) -> usize {
        let mut failed = 0;
        for (name, step) in STEPS {
            let begin = Instant::now();
            match step(self) {
                Ok(()) => println!("passed  {name} ({:.1} s)", begin.elapsed().as_secs_f64()),
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {name}: {error}");
                }
            }
        }
        println!("{}: {} passed, {failed} failed", self.compose.name, STEPS.len() - failed);
        failed
    }

    /// What `ps` says of a container that ended with this code.
    fn ended(&self, code: &str) -> String {
        let (before, after) = self.compose.ended;
        format!("{before}{code}{after}")
    }

    /// A command on this project's daemon; Compose gets the project's name.
    fn command(&self, words: &[&str]) -> Command {
        let is_compose = words[0] == "docker-compose";
        let mut command =
            Command::new(if is_compose { self.compose.program.as_os_str() } else { words[0].as_ref() });
        if is_compose {
            command.args(["--ansi", "never", "--project-name", "suite"]);
        }
        command.args(&words[1..]).current_dir(&self.directory);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", self.directory.join("config"));
        if self.compose.separator == "_" {
            // The first version builds by the classic endpoint alone.
            command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
        }
        command
    }

    fn ask(&self, words: &[&str]) -> Result<String, Error> {
        let mut command = self.command(words);
        let done =
            command.output().map_err(|source| Error::Start { program: words[0].to_owned(), source })?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(unexpected(format!("`{}` failed: {}", words.join(" "), said.trim())));
        }
        // The second version clears lines even of a terminal that it does not have.
        Ok(String::from_utf8_lossy(&done.stdout).replace("\u{1b}[2K", "").trim_end().to_owned())
    }

    fn compose(&self, words: &[&str]) -> Result<String, Error> {
        let mut all = vec!["docker-compose"];
        all.extend(words);
        self.ask(&all)
    }

    /// What a command says must come to be right.
    fn expect(&self, words: &[&str], is_right: impl Fn(&str) -> bool) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            let answer = self.ask(words)?;
            if is_right(&answer) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(unexpected(format!("`{}` says {answer:?}", words.join(" "))));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn page(&self) -> Result<(), Error> {
        let address = PAGE.parse().map_err(|_| unexpected(format!("{PAGE} is no address")))?;
        let page = crate::daemon::fetch_when_served(address)?;
        let right = page.starts_with("hello ") && page.ends_with("\nstatic");
        if right { Ok(()) } else { Err(unexpected(format!("the page is {page:?}"))) }
    }
}
