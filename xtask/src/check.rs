//! Every check of the repository, the quick ones first.

use std::{path::Path, process::Command};

use crate::{Error, run, tools};

/// The checks, as arguments of cargo. The advisories of cargo-deny are not among them: they come from a
/// database on the network, and a check must not depend on the day it runs.
const CHECKS: [&[&str]; 4] = [
    &["fmt", "--all", "--check"],
    &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["deny", "check", "bans", "licenses", "sources"],
    &["nextest", "run", "--workspace"],
];

/// Installs what is missing and runs the checks on the repository at `root`, up to the first that fails.
pub(crate) fn everything(root: &Path) -> Result<(), Error> {
    tools::install_packages()?;
    tools::install_docker()?;
    tools::install_cargo_tool("cargo-nextest")?;
    tools::install_cargo_tool("cargo-deny")?;
    let kubectl = tools::kubectl(root)?;
    let (buildx, compose) = (tools::buildx(root)?, tools::second_compose(root)?);
    for arguments in CHECKS {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(root);
        run(command.env("KUBECTL", &kubectl).env("BUILDX", &buildx).env("COMPOSE", &compose))?;
    }
    println!("xtask: every check passed");
    Ok(())
}
