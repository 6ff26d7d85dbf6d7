//! `cargo xtask suite cel`: the tests of the Common Expression Language's specification.
//!
//! `CEL_SPEC=DIR` names a checkout; otherwise git clones one below the target directory. What cannot pass is in
//! `crates/cel/tests/conformance/exceptions.txt`, a line each, with its reason.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, run as run_command, tools};

const SPECIFICATION: &str = "https://github.com/google/cel-spec";

pub(super) fn run(root: &Path) -> Result<(), Error> {
    let checkout = match std::env::var_os("CEL_SPEC") {
        Some(path) => PathBuf::from(path),
        None => {
            let target = tools::directory(root).join("cel-spec");
            if !target.exists() {
                run_command(
                    Command::new("git")
                        .args(["clone", "--quiet", "--depth", "1", SPECIFICATION])
                        .arg(&target),
                )?;
            }
            target
        }
    };
    tools::install_cargo_tool("cargo-nextest")?;
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--package", "dray-cel", "--run-ignored", "only", "--no-capture"]);
    run_command(command.arg("conformance").current_dir(root).env("CEL_SPEC", checkout))
}
