//! `cargo xtask suite dockerode`: the tests of dockerode, the Docker client of Node's programs, of its repository.
//!
//! `DOCKERODE=DIR` names a checkout (otherwise git clones one below the target directory), and `DRAY=PATH` a binary that
//! is built already. The images that the tests want are made of Debian's busybox, and pulled from the daemon's own
//! registry, which stands for docker.io as its mirror.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::images::{self, Image};
use crate::{
    Error,
    daemon::{Daemon, Directory},
    program, run, tools,
};

const SOURCE: &str = "https://github.com/apocas/dockerode";
/// Milliseconds that a test may take that names no time of its own.
const PATIENCE: &str = "10000";
const IMAGES: [Image; 2] = [
    ("ubuntu:latest", images::BASE, &["alpine:latest"]),
    // A service is made of it, and nobody speaks to that.
    ("redis:latest", "FROM ubuntu\nCMD [\"sleep\", \"infinity\"]\n", &[]),
];

/// Installs what is missing, runs all tests, and compares what fails with `xtask/suites/dockerode.txt`.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let checkout = install(root)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("node")?;
    let daemon = Daemon::start_with(&dray, directory.path(), &images::MIRRORED)?;
    let host = format!("unix://{}", daemon.socket().display());
    let result = images::make(directory.path(), &host, &IMAGES)
        .and_then(|()| images::publish(&host, &["ubuntu:latest"]))
        .and_then(|()| test(root, &checkout, &host));
    daemon.stop(true)?;
    judge(root, &result?)
}

fn install(root: &Path) -> Result<PathBuf, Error> {
    let directory = tools::directory(root).join("dockerode");
    fs::create_dir_all(&directory).map_err(|source| Error::File { path: directory.clone(), source })?;
    let checkout = match std::env::var_os("DOCKERODE") {
        Some(path) => PathBuf::from(path),
        None => directory.join("dockerode"),
    };
    if !checkout.exists() {
        run(Command::new("git").args(["clone", "--quiet", "--depth", "1", SOURCE]).arg(&checkout))?;
    }
    tools::install_docker()?;
    tools::install_node()?;
    if !checkout.join("node_modules/mocha").exists() {
        let mut npm = Command::new("npm");
        run(npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&checkout))?;
    }
    Ok(checkout)
}

/// Runs the tests and answers mocha's report, which is kept beside the suite's tools as well.
fn test(root: &Path, checkout: &Path, host: &str) -> Result<Value, Error> {
    let path = |name: &str| tools::directory(root).join("dockerode").join(name);
    let (log, report) = (path("mocha.log"), path("report.json"));
    if report.exists() {
        fs::remove_file(&report).map_err(|source| Error::File { path: report.clone(), source })?;
    }
    let output = fs::File::create(&log).map_err(|source| Error::File { path: log.clone(), source })?;
    let mut command = Command::new("node");
    command
        .arg("node_modules/mocha/bin/mocha.js")
        .args(["--exit", "--timeout", PATIENCE, "--reporter", "json", "--reporter-option"])
        .arg(format!("output={}", report.display()))
        .current_dir(checkout)
        // Any value keeps the tests from the socket at the usual place, and lets them ask for the host.
        .env("DOCKER_SOCKET", "none")
        .env("DOCKER_HOST", host)
        .stdout(output)
        .stderr(Stdio::inherit());
    println!("xtask: {}", crate::describe(&command));
    // It exits with the number of tests that failed.
    command.status().map_err(|source| Error::Start { program: program(&command), source })?;
    println!(
        "xtask: all that the tests said is in {}, what failed and why in {}",
        log.display(),
        report.display()
    );
    let text = fs::read(&report).map_err(|source| Error::File { path: report.clone(), source })?;
    serde_json::from_slice(&text).map_err(|error| Error::Unexpected {
        what: format!("{} is no report of mocha's: {error}", report.display()),
    })
}

/// The names of the tests of one kind in mocha's report, each with its file.
fn names(report: &Value, kind: &str) -> BTreeSet<String> {
    let tests = report[kind].as_array().into_iter().flatten();
    tests
        .map(|test| {
            let file = Path::new(test["file"].as_str().unwrap_or_default());
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            format!("{file}: {}", test["fullTitle"].as_str().unwrap_or_default())
        })
        .collect()
}

fn judge(root: &Path, report: &Value) -> Result<(), Error> {
    let [passed, failed, skipped] = ["passes", "failures", "pending"].map(|kind| names(report, kind));
    println!("\ndockerode: {} passed, {} failed, {} skipped", passed.len(), failed.len(), skipped.len());
    if passed.is_empty() {
        return Err(Error::Unexpected { what: "no test ran".to_owned() });
    }
    super::judge(root, "dockerode", failed.iter().map(String::as_str).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mochas_report_is_read() {
        let report = serde_json::json!({
            "passes": [{ "file": "/x/test/image.js", "fullTitle": "#image #get should get an image" }],
            "failures": [{ "file": "/x/test/swarm.js", "fullTitle": "#swarm \"before all\" hook" }],
            "pending": [],
        });
        let one = |name: &str| BTreeSet::from([name.to_owned()]);
        assert_eq!(names(&report, "passes"), one("image.js: #image #get should get an image"));
        assert_eq!(names(&report, "failures"), one("swarm.js: #swarm \"before all\" hook"));
        assert_eq!(names(&report, "pending"), BTreeSet::new());
    }
}
