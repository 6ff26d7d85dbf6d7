//! `dray runtime`: the OCI runtime's command line, as runc has it, over [`dray_runtime`].
//!
//! It knows bundles, state directories and standard streams. It has one thread, asks no daemon and knows nothing of
//! images, networks and the engine; how a container is made is the runtime's.
#![forbid(unsafe_code)]

mod arguments;
mod bundle;
mod change;
mod create;
mod error;
mod events;
mod exec;
mod features;
mod foreground;
mod inspect;
mod log;
mod processes;
mod specification;
mod state;
mod update;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Command};
use crate::error::Result;
use crate::state::Store;

/// Handles the command line and gives its exit code when the binary was called as `dray runtime …`, or through a link
/// named `runc` or `dray-runtime`.
///
/// Must be called while the process has one thread.
pub fn main_if_requested() -> Option<ExitCode> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let called = std::path::Path::new(words.first()?).file_name().map(OsString::from);
    if words.get(1).is_some_and(|word| word == "runtime") {
        words.remove(1);
    } else if !called.is_some_and(|name| name == "runc" || name == "dray-runtime") {
        return None;
    }
    Some(run(words))
}

fn run(words: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::error(&arguments.global, &error.chain());
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<u8> {
    let global = &arguments.global;
    let store = Store::of(global)?;
    match &arguments.command {
        Command::Create(options) => create::create(&store, global, options),
        Command::Run(options) => create::run(&store, global, options),
        Command::Start(options) => change::start(&store, global, &options.id),
        Command::State(options) => inspect::state(&store, &options.id),
        Command::Kill(options) => change::kill(&store, options),
        Command::Delete(options) => change::delete(&store, global, options),
        Command::Exec(options) => exec::exec(&store, options),
        Command::Ps(options) => processes::ps(&store, options),
        Command::Events(options) => events::events(&store, options),
        Command::Update(options) => update::update(&store, options),
        Command::Pause(options) => change::pause(&store, &options.id),
        Command::Resume(options) => change::resume(&store, &options.id),
        Command::List(options) => inspect::list(&store, options),
        Command::Spec(options) => specification::spec(options),
        Command::Features => features::features(),
        Command::Checkpoint(_) | Command::Restore(_) => Err(error::Error::NoCheckpoints),
    }
}
