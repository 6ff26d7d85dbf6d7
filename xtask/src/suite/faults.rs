//! The daemon killed at every failpoint and at hundreds of random moments; what is left is compared with what was there.

use std::{path::Path, process::Command};

use crate::{Error, run as run_command, tools};

/// Rounds at random moments, unless `DRAY_FAULT_ROUNDS` says otherwise.
const ROUNDS: &str = "250";

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_packages()?;
    tools::install_docker()?;
    tools::install_cargo_tool("cargo-nextest")?;
    let rounds = std::env::var("DRAY_FAULT_ROUNDS").unwrap_or_else(|_| ROUNDS.to_owned());
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--profile", "suite", "--package", "dray", "--test", "e2e_faults"]);
    run_command(command.current_dir(root).env("DRAY_FAULT_ROUNDS", rounds))
}
