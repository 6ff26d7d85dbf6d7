//! `run`, `create`, `exec` and `attach`: a process's life at the user's terminal.

use std::fs;
use std::path::Path;

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, encode, query};
use super::options::{ContainerOptions, environment};
use super::stream;
use crate::terminal::{self, Raw};
use crate::text::{chain, complain};
use crate::{Error, Result};

/// The command was found and could not be run.
const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;
/// The daemon refused.
pub(crate) const REFUSED: u8 = 125;

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Leave it running and print its id.
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    container: ContainerOptions,
}

/// Options of `exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecOptions {
    /// Leave it running.
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open.
    #[arg(short, long)]
    interactive: bool,
    /// Give the process a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set a variable.
    #[arg(short, long)]
    env: Vec<String>,
    /// Working directory inside.
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// User and group: USER[:GROUP].
    #[arg(short, long, default_value = "")]
    user: String,
    /// Give the process all capabilities.
    #[arg(long)]
    privileged: bool,
    /// The container.
    container: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Creates a container and answers its id.
async fn create_container(client: &Client, options: &ContainerOptions, attach: bool) -> Result<String> {
    let path = format!("/containers/create{}", query(&[("name", &options.name)]));
    let body = options.body(attach)?;
    let answer = match client.json(Method::POST, &path, Some(&body)).await {
        Err(Error::Daemon { status: 404, message }) if message.starts_with("No such image") => {
            let image = body["Image"].as_str().unwrap_or_default();
            complain(&format!("Unable to find image '{image}' locally"));
            super::registry::bring(client, image, "", true).await?;
            client.json(Method::POST, &path, Some(&body)).await?
        }
        answer => answer?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        complain(&format!("WARNING: {warning}"));
    }
    answer["Id"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::Failed { message: "the daemon answered no container id".to_owned() })
}

pub(super) async fn create(client: &Client, options: &ContainerOptions) -> Result<u8> {
    let id = create_container(client, options, false).await?;
    super::say(&id)?;
    Ok(0)
}

pub(super) async fn run(client: &Client, options: &RunOptions) -> Result<u8> {
    let container = &options.container;
    if container.tty && container.interactive && !options.detach && !terminal::is_interactive() {
        return Err(Error::Failed { message: "the input device is not a TTY".to_owned() });
    }
    let id = match create_container(client, container, !options.detach).await {
        Ok(id) => id,
        Err(error) => return refused(&error),
    };
    if options.detach {
        if let Err(error) = client.post(&format!("/containers/{id}/start")).await {
            return refused(&error);
        }
        super::say(&id)?;
        return Ok(0);
    }
    let input = query(&[("stdin", if container.interactive { "1" } else { "" })]);
    let join = if input.is_empty() { "?" } else { "&" };
    let attached = client
        .hijack(&format!("/containers/{id}/attach{input}{join}stdout=1&stderr=1&stream=1"), None)
        .await?;
    let condition = if container.rm { "removed" } else { "next-exit" };
    let waiting = client.clone();
    let wait_path = format!("/containers/{id}/wait?condition={condition}");
    let wait = async move { waiting.post(&wait_path).await };
    let start_path = format!("/containers/{id}/start");
    let start = client.post(&start_path);
    // The wait has to be there before the start: a short life would be over before anybody looked.
    let wait = tokio::spawn(wait);
    tokio::task::yield_now().await;
    if let Err(error) = start.await {
        wait.abort();
        if container.rm {
            // It is gone already where the daemon removes it by itself.
            let _ = client.delete(&format!("/containers/{id}?force=1")).await;
        }
        return refused(&error);
    }
    let session = Session { client, resize: format!("/containers/{id}/resize"), tty: container.tty };
    let kill = format!("/containers/{id}/kill");
    session.follow(attached, container.interactive, Some(&kill)).await?;
    let answer =
        wait.await.map_err(|_| Error::Failed { message: "the wait was interrupted".to_owned() })??;
    Ok(exit_code(&answer["StatusCode"]))
}

pub(super) async fn exec(client: &Client, options: &ExecOptions) -> Result<u8> {
    let body = json!({
        "AttachStdin": options.interactive && !options.detach,
        "AttachStdout": !options.detach,
        "AttachStderr": !options.detach,
        "Tty": options.tty,
        "Env": environment(&options.env),
        "WorkingDir": options.workdir,
        "User": options.user,
        "Privileged": options.privileged,
        "Cmd": options.command,
    });
    let path = format!("/containers/{}/exec", encode(&options.container));
    let answer = client.json(Method::POST, &path, Some(&body)).await?;
    let id = answer["Id"].as_str().unwrap_or_default();
    let start = json!({ "Detach": options.detach, "Tty": options.tty });
    let path = format!("/exec/{id}/start");
    if options.detach {
        client.json(Method::POST, &path, Some(&start)).await?;
        return Ok(0);
    }
    let attached = match client.hijack(&path, Some(&start)).await {
        Ok(attached) => attached,
        Err(error) => return refused(&error),
    };
    let session = Session { client, resize: format!("/exec/{id}/resize"), tty: options.tty };
    session.follow(attached, options.interactive, None).await?;
    let answer = client.get(&format!("/exec/{id}/json")).await?;
    Ok(exit_code(&answer["ExitCode"]))
}

pub(super) async fn attach(client: &Client, container: &str, input: bool) -> Result<u8> {
    let id = encode(container);
    let record = client.get(&format!("/containers/{id}/json")).await?;
    if record["State"]["Running"] != true {
        return Err(Error::Failed {
            message: "cannot attach to a stopped container, start it first".to_owned(),
        });
    }
    let tty = record["Config"]["Tty"] == true;
    let input = input && record["Config"]["OpenStdin"] == true;
    let stdin = if input { "&stdin=1" } else { "" };
    let attached =
        client.hijack(&format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1{stdin}"), None).await?;
    let session = Session { client, resize: format!("/containers/{id}/resize"), tty };
    session.follow(attached, input, Some(&format!("/containers/{id}/kill"))).await?;
    let record = client.get(&format!("/containers/{id}/json")).await?;
    let running = record["State"]["Running"] == true;
    Ok(if running { 0 } else { exit_code(&record["State"]["ExitCode"]) })
}

/// A process at the user's terminal.
struct Session<'a> {
    client: &'a Client,
    resize: String,
    tty: bool,
}

impl Session<'_> {
    /// Carries input, output, sizes and signals until the output ends.
    async fn follow(
        &self,
        attached: hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>,
        input: bool,
        kill: Option<&str>,
    ) -> Result<()> {
        let (from, to) = stream::split(attached);
        let _raw = (self.tty && input).then(Raw::enter).flatten();
        let output = stream::print(from, self.tty);
        let input = async {
            if input {
                stream::send_input(to).await;
            } else {
                // Dropping this half would end the other.
                let _to = to;
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = output => result,
            () = input => Ok(()),
            () = self.keep_size() => Ok(()),
            () = self.pass_signals(kill) => Ok(()),
        }
    }

    /// The process's terminal is as large as the user's, always.
    async fn keep_size(&self) {
        let changes = signal(SignalKind::window_change());
        let (true, Ok(mut changes)) = (self.tty, changes) else { return std::future::pending().await };
        loop {
            if let Some((columns, rows)) = terminal::size() {
                // A process that has just ended has no size.
                let _ = self.client.post(&format!("{}?w={columns}&h={rows}", self.resize)).await;
            }
            changes.recv().await;
        }
    }

    /// Signals to this process are meant for that one.
    async fn pass_signals(&self, kill: Option<&str>) {
        let kinds =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
        let (Some(kill), (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup))) = (kill, kinds) else {
            return std::future::pending().await;
        };
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
            };
            // It may have ended meanwhile.
            let _ = self.client.post(&format!("{kill}?signal={name}")).await;
        }
    }
}

/// What the user's shell gets when the daemon refuses to create or start.
fn refused(error: &Error) -> Result<u8> {
    complain(&format!("dray: {}", chain(error)));
    let Error::Daemon { message, .. } = error else { return Ok(REFUSED) };
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    Ok(if says(&["executable file not found", "no such file or directory"]) {
        NOT_FOUND
    } else if says(&["permission denied", "is a directory"]) {
        NOT_EXECUTABLE
    } else {
        REFUSED
    })
}

fn exit_code(value: &Value) -> u8 {
    value.as_i64().and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(REFUSED)
}

/// Whether a path looks like a directory that is there.
pub(super) fn directory(path: &Path) -> Result<()> {
    if fs::metadata(path).map_err(Error::io("use", path))?.is_dir() {
        Ok(())
    } else {
        Err(Error::invalid("build context", format!("{} is not a directory", path.display())))
    }
}
