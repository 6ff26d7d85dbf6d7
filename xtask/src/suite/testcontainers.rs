//! `cargo xtask suite testcontainers`: the tests of the core of Testcontainers for Python, of its repository.
//!
//! `TESTCONTAINERS=DIR` names a checkout; otherwise git clones one below the target directory. No registry is asked: the
//! images that the tests want are made of Debian's busybox, and say and serve what the tests look for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::images::{self, Image};
use crate::{
    Error,
    daemon::{Daemon, Directory},
    run, tools,
};

const SOURCE: &str = "https://github.com/testcontainers/testcontainers-python";
const REQUIREMENTS: [&str; 9] = [
    "bcrypt",
    "httpx",
    "paramiko",
    "pytest",
    "pytest-asyncio",
    "pytest-mock",
    "pytest-timeout",
    "PyYAML",
    "SQLAlchemy",
];
/// Seconds that one test may take.
const PATIENCE: &str = "60";
const IMAGES: [Image; 4] = [
    (
        "alpine:latest",
        images::BASE,
        &["alpine:3", "bash:latest", "busybox:latest", "busybox:buildroot-2014.02", "ubuntu:latest"],
    ),
    (
        "hello-world:latest",
        "FROM alpine
CMD [\"printf\", \"Hello from Docker!\\\\nThis message shows that your installation appears to be working correctly.\\\\n\"]
",
        &[],
    ),
    (
        "nginx:latest",
        "FROM alpine
EXPOSE 80
CMD echo '<title>Welcome to nginx!</title>' > /tmp/index.html; echo start worker process; exec httpd -f -p 80 -h /tmp
",
        &["nginx:alpine", "nginx:alpine-slim", "nginx:1.25.4-alpine-slim"],
    ),
    // The one that removes what tests leave, which needs the daemon's socket at its usual place, only listens here.
    (
        "testcontainers/ryuk:0.8.1",
        "FROM alpine
EXPOSE 8080
CMD echo '0 Started!'; exec nc -ll -p 8080 -e cat
",
        &[],
    ),
];

/// Installs what is missing, runs all tests, and compares what fails with `xtask/suites/testcontainers.txt`.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let (checkout, environment) = install(root)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("tc")?;
    let daemon = Daemon::start(&dray, directory.path())?;
    let host = format!("unix://{}", daemon.socket().display());
    let result = images::make(directory.path(), &host, &IMAGES)
        .and_then(|()| test(root, &checkout, &environment, &host));
    daemon.stop(true)?;
    judge(root, &result?)
}

fn install(root: &Path) -> Result<(PathBuf, PathBuf), Error> {
    let directory = tools::directory(root).join("testcontainers");
    fs::create_dir_all(&directory).map_err(|source| Error::File { path: directory.clone(), source })?;
    let checkout = match std::env::var_os("TESTCONTAINERS") {
        Some(path) => PathBuf::from(path),
        None => directory.join("testcontainers-python"),
    };
    if !checkout.exists() {
        run(Command::new("git").args(["clone", "--quiet", "--depth", "1", SOURCE]).arg(&checkout))?;
    }
    let environment = directory.join("venv");
    if !environment.join("bin/pytest").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(environment.join("bin/pip"));
        run(pip.args(["--quiet", "install"]).arg(&checkout).args(REQUIREMENTS))?;
    }
    tools::install_docker()?;
    Ok((checkout, environment))
}

/// Runs the tests and answers what pytest says.
fn test(root: &Path, checkout: &Path, environment: &Path, host: &str) -> Result<String, Error> {
    let mut command = Command::new(environment.join("bin/pytest"));
    command
        .current_dir(checkout)
        .env("DOCKER_HOST", host)
        .env("DOCKER_BUILDKIT", "0")
        .env("TESTCONTAINERS_RYUK_DISABLED", "true")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("COLUMNS", "400")
        .args(["-q", "--tb=short", "-o", "addopts=", "-p", "no:cacheprovider", "--timeout", PATIENCE])
        .arg("tests/core")
        .stderr(Stdio::inherit());
    super::pytest(root, "testcontainers", &mut command)
}

/// The name of a test in a line of pytest's summary of what failed.
fn failure(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "))?;
    let name = rest.strip_prefix("tests/core/")?;
    Some(name.split_once(" - ").map_or(name, |(name, _)| name))
}

fn judge(root: &Path, text: &str) -> Result<(), Error> {
    let summary = text.lines().rev().find(|line| line.contains(" passed")).unwrap_or("no test ran");
    println!("\ntestcontainers: {}", summary.trim_matches(['=', ' ']));
    if !summary.contains(" passed") {
        return Err(Error::Unexpected { what: summary.to_owned() });
    }
    super::judge(root, "testcontainers", text.lines().filter_map(failure).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_summary_are_read() {
        let line = "FAILED tests/core/test_a.py::test_x[a - b] - docker.errors.X";
        assert_eq!(failure(line), Some("test_a.py::test_x[a"));
        assert_eq!(failure("ERROR tests/core/test_a.py::test_y"), Some("test_a.py::test_y"));
        assert_eq!(failure("ERROR    testcontainers.compose"), None);
    }
}
