//! `cargo xtask suite NAME`: test suites of others, run against Dray, and rounds too long for every change.
//!
//! Each suite is a row of [`SUITES`] and a module beside this one. What cannot pass is in `xtask/suites/NAME.txt`, a line
//! each, with its reason; a suite fails when anything else does.

mod cel;
mod clients;
mod compose;
mod conformance;
mod debian;
mod distribution;
mod docker_py;
mod dockerode;
mod faults;
mod images;
mod oci;
mod oci_engines;
mod projects;
mod registry;
mod testcontainers;
mod upgrade;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, daemon, program, tools};

/// A suite: its name, and what runs it on the repository.
type Suite = (&'static str, fn(&Path) -> Result<(), Error>);

const SUITES: &[Suite] = &[
    ("cel", cel::run),
    ("clients", clients::run_suite),
    ("compose", compose::run),
    ("conformance", conformance::run_suite),
    ("distribution", distribution::run_suite),
    ("docker-py", docker_py::run_suite),
    ("dockerode", dockerode::run_suite),
    ("faults", faults::run),
    ("testcontainers", testcontainers::run_suite),
    ("upgrade", upgrade::run),
    ("oci", oci::run_suite),
    ("projects", projects::run_suite),
];

/// Runs the suite of this name.
pub(crate) fn run(root: &Path, name: &str) -> Result<(), Error> {
    let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        return Err(Error::Unexpected {
            what: format!("there is no suite {name:?}: try one of {}", known.join(", ")),
        });
    };
    suite(root)
}

/// What may fail in a suite, with the reason.
fn exceptions(root: &Path, suite: &str) -> Result<Vec<(String, String)>, Error> {
    let path = root.join("xtask/suites").join(format!("{suite}.txt"));
    let text = fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(" # ") {
            Some((test, reason)) => Ok((test.trim().to_owned(), reason.trim().to_owned())),
            None => Err(Error::Unexpected { what: format!("{} has no reason: {line}", path.display()) }),
        })
        .collect()
}

/// The binary to test, in namespaces of its own from here on: `DRAY` names one that is built already.
fn binary(root: &Path) -> Result<PathBuf, Error> {
    match std::env::var_os("DRAY") {
        Some(path) => daemon::isolated(PathBuf::from(path)),
        None => daemon::prepare(root, ["dray"]).map(|[dray]| dray),
    }
}

/// Runs pytest and answers what it says, which is kept beside the suite's tools as well.
fn pytest(root: &Path, suite: &str, command: &mut Command) -> Result<String, Error> {
    println!("xtask: {}", crate::describe(command));
    let output = command.output().map_err(|source| Error::Start { program: program(command), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = tools::directory(root).join(suite).join("pytest.log");
    fs::write(&log, &text).map_err(|source| Error::File { path: log.clone(), source })?;
    println!("xtask: all that pytest said is in {}", log.display());
    Ok(text)
}

/// Compares what failed with what may, and tells of both. An exception speaks of one test, or of all of a file, class or
/// test with parameters.
fn judge(root: &Path, suite: &str, mut failed: BTreeSet<&str>) -> Result<(), Error> {
    let covers = |exception: &str, name: &str| {
        name.strip_prefix(exception).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '[']))
    };
    let exceptions = exceptions(root, suite)?;
    for (exception, reason) in &exceptions {
        let count = failed.iter().filter(|name| covers(exception, name)).count();
        println!("excepted: {exception}: {count} ({reason})");
    }
    failed.retain(|name| !exceptions.iter().any(|(exception, _)| covers(exception, name)));
    if failed.is_empty() {
        return Ok(());
    }
    let failed: Vec<&str> = failed.into_iter().collect();
    Err(Error::Unexpected { what: format!("these fail without a reason:\n{}", failed.join("\n")) })
}
