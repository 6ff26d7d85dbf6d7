//! Commands as docker has them. What is printed, and the exit codes, are what scripts expect.

mod build;
mod client;
mod containers;
mod credentials;
mod images;
mod options;
mod registry;
mod resources;
mod run;
mod stream;
mod transfer;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use build::BuildOptions;
pub use containers::ContainerVerb;
pub use images::ImageVerb;
pub use options::ContainerOptions;
pub use registry::LoginOptions;
pub use resources::{NetworkVerb, SystemVerb, VolumeVerb};
pub use run::{ExecOptions, RunOptions};

use crate::text::{chain, complain};
use crate::{Error, Result};

/// The command line of a binary that is called `docker`.
#[derive(Debug, Parser)]
#[command(name = "docker", about = "A client for the Docker API", disable_version_flag = true)]
pub struct Docker {
    /// Where the daemon listens, as unix:///run/dray/docker.sock.
    #[arg(short = 'H', long, global = true)]
    pub host: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: DockerCommand,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum DockerCommand {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become the help of each verb")]
    Container(ContainerVerb),
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become the help of each verb")]
    Image(ImageVerb),
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become the help of each verb")]
    System(SystemVerb),
    /// Networks.
    Network {
        /// What to do.
        #[command(subcommand)]
        verb: NetworkVerb,
    },
    /// Volumes.
    Volume {
        /// What to do.
        #[command(subcommand)]
        verb: VolumeVerb,
    },
}

/// Does it, and answers the exit code.
#[must_use]
pub fn main(docker: &Docker) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("dray: cannot start: {error}"));
            return ExitCode::from(run::REFUSED);
        }
    };
    let client = client::Client::new(docker.host.as_deref());
    let result = runtime.block_on(docker.command.run(&client));
    // A thread that reads the terminal may wait for ever.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

impl DockerCommand {
    async fn run(&self, client: &client::Client) -> Result<u8> {
        match self {
            Self::Container(verb) => verb.run(client).await,
            Self::Image(verb) => verb.run(client).await,
            Self::System(verb) => verb.run(client).await,
            Self::Network { verb } => verb.run(client).await,
            Self::Volume { verb } => verb.run(client).await,
        }
    }
}

/// Does something to each; the failures are told and counted, not fatal to the others.
async fn each<F>(names: &[String], mut work: impl FnMut(String) -> F) -> Result<u8>
where
    F: Future<Output = Result<String>>,
{
    let mut code = 0;
    for name in names {
        match work(name.clone()).await {
            Ok(text) if text.is_empty() => {}
            Ok(text) => say(&text)?,
            Err(error) => {
                complain(&chain(&error));
                code = 1;
            }
        }
    }
    Ok(code)
}

/// A line to standard output.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(Error::io("write to", "the output"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Docker::command().debug_assert();
    }

    #[test]
    fn options_after_the_image_are_the_commands() {
        let docker = Docker::try_parse_from(["docker", "run", "--rm", "-it", "image", "ls", "-l", "--all"]);
        assert!(docker.is_ok(), "{docker:?}");
    }
}
