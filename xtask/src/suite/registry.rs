//! What the suites of registries share: `dray registry` as a process.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{Error, program};

/// A running `dray registry`; it ends with the value.
pub(super) struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    /// Starts one at a free port and waits until it listens.
    pub(super) fn start(dray: &Path, data: &Path, options: &[&str]) -> Result<Self, Error> {
        let mut command = Command::new(dray);
        command.args(["registry", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(options);
        let started = command.stdout(Stdio::piped()).spawn();
        let mut process = started.map_err(|source| Error::Start { program: program(&command), source })?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            let _ = BufReader::new(output).read_line(&mut line);
        }
        match line.trim().strip_prefix("listening on ") {
            Some(address) => Ok(Self { process, address: address.to_owned() }),
            None => {
                let _ = process.wait();
                Err(Error::Unexpected { what: "the registry did not start".to_owned() })
            }
        }
    }

    /// Host and port.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
