//! The binary: arguments in, parts wired together, nothing else.
#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod cluster;
mod daemon;
mod doctor;
mod down;
mod error;
mod notify;
mod registry;
mod remap;
mod volume_directories;

use clap::Parser;
use dray_cli::docker::Docker;
use dray_cli::kubectl::Kubectl;

use crate::arguments::{Arguments, Command, KubectlOptions};

fn main() -> std::process::ExitCode {
    // A shim must have one thread from its first instruction on.
    dray_runtime::shim::main_if_requested();
    if let Some(code) = dray_oci::main_if_requested() {
        return code;
    }
    if called_as("docker") {
        return dray_cli::docker::main(&Docker::parse());
    }
    if called_as("kubectl") {
        return dray_cli::kubectl::main(&Kubectl::parse());
    }
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Up(options) => daemon::run(&options),
        Command::Down(options) => down::run(&options),
        Command::Registry(options) => registry::run(&options),
        Command::Backup(options) => backup::take(&options),
        Command::Restore(options) => backup::restore(&options),
        Command::Doctor => return doctor::run(),
        Command::Docker(command) => {
            return dray_cli::docker::main(&Docker { host: arguments.host, command });
        }
        // Answered above already: a container is made by one thread.
        Command::Runtime { .. } => return std::process::ExitCode::FAILURE,
        Command::Kubectl(KubectlOptions { options, command }) => {
            return dray_cli::kubectl::main(&Kubectl { options, command });
        }
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            std::process::ExitCode::FAILURE
        }
    }
}

/// Whether the binary was called by another name, through a link.
fn called_as(name: &str) -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&called).file_name().is_some_and(|file| file == name)
}

/// The error and all that lies behind it, in one line.
#[allow(clippy::print_stderr, reason = "the user's terminal is where this belongs")]
fn report(error: &dyn std::error::Error) {
    let mut line = format!("dray: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(&format!(": {error}"));
        source = error.source();
    }
    eprintln!("{line}");
}
