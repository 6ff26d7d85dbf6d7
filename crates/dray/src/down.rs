//! `dray down`: the daemon is asked to end, and waited for.

use std::path::Path;
use std::time::{Duration, Instant};

use dray_runtime::Process;

use crate::arguments::DownOptions;
use crate::error::Error;

/// The file by which the daemon of a run directory is found.
pub(crate) const PID_FILE: &str = "dray.pid";
const SIGTERM: i32 = 15;
/// The daemon gives requests that are under way less than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon of a run directory, when it lives.
pub(crate) fn find(run_dir: &Path) -> Option<Process> {
    Process::read(&run_dir.join(PID_FILE)).ok().filter(Process::is_alive)
}

pub(crate) fn run(options: &DownOptions) -> Result<(), Error> {
    let Some(process) = find(&options.run_dir) else {
        return Err(Error::NotRunning { run_dir: options.run_dir.clone() });
    };
    process.signal(SIGTERM).map_err(|source| Error::Signal { pid: process.pid, source })?;
    let start = Instant::now();
    while process.is_alive() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
