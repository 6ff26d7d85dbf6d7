//! `cargo xtask suite NAME`: test suites of others, run against Dray, and rounds too long for every change.
//!
//! Each suite is a row of [`SUITES`] and a module beside this one. What cannot pass is in `xtask/suites/NAME.txt`, a line
//! each, with its reason; a suite fails when anything else does.

mod compose;
mod faults;
mod oci;
mod upgrade;

use std::path::Path;

use crate::Error;

/// A suite: its name, and what runs it on the repository.
type Suite = (&'static str, fn(&Path) -> Result<(), Error>);

const SUITES: &[Suite] = &[
    ("compose", compose::run),
    ("faults", faults::run),
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
