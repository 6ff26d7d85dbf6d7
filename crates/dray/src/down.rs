//! `dray down`: the daemon is asked to end, and waited for.

use std::path::Path;
use std::time::{Duration, Instant};

use dray_runtime::Process;

use crate::arguments::DownOptions;
use crate::error::Error;

/// The file by which the daemon of a run directory is found.
pub(crate) const PID_FILE: &str = "dray.pid";
const SIGTERM: i32 = 15;
/// Asks the daemon to end with its containers.
const SIGUSR1: i32 = 10;
/// The daemon gives requests that are under way less than this.
const PATIENCE: Duration = Duration::from_secs(20);
/// Containers have their own time to stop, a pod's default being 30 seconds.
const PATIENCE_WITH_CONTAINERS: Duration = Duration::from_secs(120);

/// The daemon of a run directory, when it lives.
pub(crate) fn find(run_dir: &Path) -> Option<Process> {
    Process::read(&run_dir.join(PID_FILE)).ok().filter(Process::is_alive)
}

pub(crate) fn run(options: &DownOptions) -> Result<(), Error> {
    let Some(process) = find(&options.run_dir) else {
        return Err(Error::NotRunning { run_dir: options.run_dir.clone() });
    };
    let (signal, patience) =
        if options.all { (SIGUSR1, PATIENCE_WITH_CONTAINERS) } else { (SIGTERM, PATIENCE) };
    process.signal(signal).map_err(|source| Error::Signal { pid: process.pid, source })?;
    let start = Instant::now();
    while process.is_alive() {
        if start.elapsed() > patience {
            return Err(Error::StillRunning { pid: process.pid, seconds: patience.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
