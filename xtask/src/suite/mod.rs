//! `cargo xtask suite NAME`: test suites of others, run against Dray, and rounds too long for every change.
//!
//! Each suite is a row of [`SUITES`] and a module beside this one. What cannot pass is in `xtask/suites/NAME.txt`, a line
//! each, with its reason; a suite fails when anything else does.

mod compose;
mod docker_py;
mod faults;
mod oci;
mod oci_engines;
mod testcontainers;
mod upgrade;

use std::{fs, path::Path};

use crate::Error;

/// A suite: its name, and what runs it on the repository.
type Suite = (&'static str, fn(&Path) -> Result<(), Error>);

const SUITES: &[Suite] = &[
    ("compose", compose::run),
    ("docker-py", docker_py::run_suite),
    ("faults", faults::run),
    ("testcontainers", testcontainers::run_suite),
    ("upgrade", upgrade::run),
    ("oci", oci::run_suite),
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
