//! Commands as kubectl has them. The server prints the rows, merges what is applied and checks everything: this
//! client only asks.

mod change;
mod client;
mod config;
mod describe;
mod explain;
mod get;
mod output;
mod resources;
mod rollout;
mod streams;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use change::{ApplyOptions, DeleteOptions, ScaleOptions};
pub use describe::DescribeOptions;
pub use explain::ExplainOptions;
pub use get::GetOptions;
pub use rollout::RolloutVerb;
pub use streams::{ExecOptions, LogsOptions, PortForwardOptions};

use crate::Result;
use crate::text::{chain, complain};
use client::Client;
use config::Config;
use resources::Resources;

/// The command line of a binary that is called `kubectl`.
#[derive(Debug, Parser)]
#[command(name = "kubectl", about = "A client for the Kubernetes API", disable_version_flag = true)]
pub struct Kubectl {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub options: GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: KubectlCommand,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub struct GlobalOptions {
    /// The kubeconfig.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum KubectlCommand {
    /// Show objects.
    Get(GetOptions),
    /// Make objects as files say, or change them so.
    Apply(ApplyOptions),
    /// Make objects as files say.
    Create(ApplyOptions),
    /// Delete objects.
    Delete(DeleteOptions),
    /// Show all about objects.
    Describe(DescribeOptions),
    /// Show what a container has written.
    Logs(LogsOptions),
    /// Run a command in a container.
    Exec(ExecOptions),
    /// Let ports of this machine lead to a pod.
    PortForward(PortForwardOptions),
    /// Set the number of replicas.
    Scale(ScaleOptions),
    /// Follow and change how a Deployment rolls.
    Rollout {
        /// What to do.
        #[command(subcommand)]
        verb: RolloutVerb,
    },
    /// Describe a kind and its fields.
    Explain(ExplainOptions),
    /// List the kinds that the server has.
    ApiResources,
    /// Show the versions of client and server.
    Version,
}

/// What commands work with.
struct Session {
    client: Client,
    resources: Resources,
    namespace: String,
}

/// Does it, and answers the exit code.
#[must_use]
pub fn main(kubectl: &Kubectl) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(kubectl.run());
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

impl Kubectl {
    async fn run(&self) -> Result<u8> {
        let options = &self.options;
        let config = Config::load(options.kubeconfig.as_deref(), options.context.as_deref())?;
        let client = Client::new(config);
        let namespace = options.namespace.clone().unwrap_or_else(|| client.namespace().to_owned());
        if matches!(self.command, KubectlCommand::Version) {
            let version = client.get("/version").await?;
            let server = version["gitVersion"].as_str().unwrap_or_default();
            output::say(&format!(
                "Client Version: {}\nServer Version: {server}\n",
                env!("CARGO_PKG_VERSION")
            ))?;
            return Ok(0);
        }
        let resources = Resources::discover(&client).await?;
        let session = Session { client, resources, namespace };
        match &self.command {
            KubectlCommand::Get(options) => get::run(&session, options).await,
            KubectlCommand::Apply(options) => change::apply(&session, options).await,
            KubectlCommand::Create(options) => change::create(&session, options).await,
            KubectlCommand::Delete(options) => change::delete(&session, options).await,
            KubectlCommand::Describe(options) => describe::run(&session, options).await,
            KubectlCommand::Logs(options) => streams::logs(&session, options).await,
            KubectlCommand::Exec(options) => streams::exec(&session, options).await,
            KubectlCommand::PortForward(options) => streams::port_forward(&session, options).await,
            KubectlCommand::Scale(options) => change::scale(&session, options).await,
            KubectlCommand::Rollout { verb } => rollout::run(&session, verb).await,
            KubectlCommand::Explain(options) => explain::run(&session, options).await,
            KubectlCommand::ApiResources => explain::api_resources(&session),
            KubectlCommand::Version => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Kubectl::command().debug_assert();
    }
}
