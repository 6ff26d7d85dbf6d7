//! `logs`, `exec` and `port-forward`: bytes between the user and a pod.

use std::io::Read as _;

use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::Session;
use super::client::encode;
use super::output::say;
use super::resources::text;
use super::targets;
use crate::terminal::{self, Raw};
use crate::text::complain;
use crate::{Error, Result};

const EXEC_PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
const FORWARD_PROTOCOL: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// Tells the server that a channel has ended (version 5).
const CLOSE: u8 = 255;
const BUFFER: usize = 32 * 1024;

/// Options of `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsOptions {
    /// Go on with what is written from now on.
    #[arg(short, long)]
    follow: bool,
    /// The container.
    #[arg(short, long, default_value = "")]
    container: String,
    /// Of the container before this one.
    #[arg(short, long)]
    previous: bool,
    /// The last lines only.
    #[arg(long)]
    tail: Option<i64>,
    /// Not older than this, as 5s, 2m or 3h.
    #[arg(long)]
    since: Option<String>,
    /// With the time of each line.
    #[arg(long)]
    timestamps: bool,
    /// POD, or KIND/NAME.
    #[arg(required = true)]
    target: Vec<String>,
}

/// Options of `exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecOptions {
    /// Pass standard input.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// With a terminal.
    #[arg(short, long)]
    tty: bool,
    /// The container.
    #[arg(short, long, default_value = "")]
    container: String,
    /// POD, or KIND/NAME.
    target: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Options of `port-forward`.
#[derive(Clone, Debug, Args)]
pub struct PortForwardOptions {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// POD, or KIND/NAME.
    target: String,
    /// [LOCAL:]REMOTE.
    #[arg(required = true)]
    ports: Vec<String>,
}

/// The pod that a target means: itself, or one that the object selects.
async fn pod(session: &Session, target: &[String]) -> Result<String> {
    let (resource, name) = targets::one(session, target, "pods")?;
    if resource.kind == "Pod" {
        return Ok(name);
    }
    let object = session.client.get(&resource.object(&session.namespace, &name)).await?;
    let selector = &object["spec"]["selector"];
    let labels = if selector["matchLabels"].is_object() { &selector["matchLabels"] } else { selector };
    let labels: Vec<_> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    if labels.is_empty() {
        let message = format!("error: {}/{name} selects no pods", resource.label());
        return Err(Error::Failed { message });
    }
    let pods = session.resources.find("pods")?.collection(Some(&session.namespace));
    let list = session.client.get(&format!("{pods}?{}", targets::selectors(&labels.join(","), ""))).await?;
    let running = |pod: &&Value| text(&pod["status"], "phase") == "Running";
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let chosen = items.iter().find(running).or_else(|| items.first());
    chosen
        .map(|pod| text(&pod["metadata"], "name").to_owned())
        .ok_or_else(|| Error::Failed { message: format!("error: {}/{name} has no pods", resource.label()) })
}

fn pod_path(session: &Session, pod: &str, verb: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}/{verb}", encode(&session.namespace), encode(pod))
}

fn seconds(text: &str) -> Result<u64> {
    let bad = || Error::invalid("--since", format!("{text:?} is not like 5s, 2m or 3h"));
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3_600),
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)
}

pub(super) async fn logs(session: &Session, options: &LogsOptions) -> Result<u8> {
    let (target, container) = match options.target.as_slice() {
        [pod, container] if !pod.contains('/') => (vec![pod.clone()], container.clone()),
        target => (target.to_vec(), options.container.clone()),
    };
    let pod = pod(session, &target).await?;
    let mut query = vec![format!("container={}", encode(&container))];
    let flags =
        [("follow", options.follow), ("previous", options.previous), ("timestamps", options.timestamps)];
    query.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")));
    query.extend(options.tail.map(|lines| format!("tailLines={lines}")));
    if let Some(since) = &options.since {
        query.push(format!("sinceSeconds={}", seconds(since)?));
    }
    let path = format!("{}?{}", pod_path(session, &pod, "log"), query.join("&"));
    let mut body = session.client.stream(&path, "*/*").await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Connection { source })?;
        put(&mut std::io::stdout(), frame.data_ref().map_or(&[], |bytes| bytes))?;
    }
    Ok(0)
}

fn put(to: &mut impl std::io::Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(Error::io("write to", "the output"))
}

/// Reads standard input on a thread that ends with the process: a read of a terminal cannot be called off.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(bytes);
    Message::Binary(frame.into())
}

fn broken(error: tokio_tungstenite::tungstenite::Error) -> Error {
    Error::Failed { message: format!("error: the stream broke: {error}") }
}

pub(super) async fn exec(session: &Session, options: &ExecOptions) -> Result<u8> {
    let pod = pod(session, std::slice::from_ref(&options.target)).await?;
    let tty = options.tty && (!options.stdin || terminal::is_interactive());
    if options.tty && !tty {
        let text = "Unable to use a TTY - input is not a terminal or the right kind of file";
        complain(text);
    }
    let mut query: Vec<_> = options.command.iter().map(|word| format!("command={}", encode(word))).collect();
    query.push("stdout=true".to_owned());
    let flags = [("stdin", options.stdin), ("tty", tty), ("stderr", !tty)];
    query.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")));
    if !options.container.is_empty() {
        query.push(format!("container={}", encode(&options.container)));
    }
    let path = format!("{}?{}", pod_path(session, &pod, "exec"), query.join("&"));
    let socket = session.client.websocket(&path, EXEC_PROTOCOLS).await?;
    let (mut to, mut from) = socket.split();
    let _raw = (tty && options.stdin).then(Raw::enter).flatten();
    let mut input = options.stdin.then(standard_input);
    let mut resized = signal(SignalKind::window_change()).map_err(Error::stream)?;
    let mut status = Value::Null;
    if tty && let Some(size) = size_message() {
        to.send(size).await.map_err(broken)?;
    }
    loop {
        tokio::select! {
            message = from.next() => match message {
                Some(Ok(Message::Binary(bytes))) => match bytes.split_first() {
                    Some((&STDOUT, bytes)) => put(&mut std::io::stdout(), bytes)?,
                    Some((&STDERR, bytes)) => put(&mut std::io::stderr(), bytes)?,
                    Some((&STATUS, bytes)) => status = serde_json::from_slice(bytes).unwrap_or_default(),
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => {}
                // The server may simply hang up after the status.
                Some(Err(_)) if !status.is_null() => break,
                Some(Err(error)) => return Err(broken(error)),
            },
            bytes = receive(&mut input) => match bytes {
                Some(bytes) => to.send(framed(STDIN, &bytes)).await.map_err(broken)?,
                None => {
                    input = None;
                    to.send(framed(CLOSE, &[STDIN])).await.map_err(broken)?;
                }
            },
            _ = resized.recv(), if tty => {
                if let Some(size) = size_message() {
                    to.send(size).await.map_err(broken)?;
                }
            }
        }
    }
    exit_code(&status)
}

/// The next input; pending for ever where there is none to come.
async fn receive(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn size_message() -> Option<Message> {
    let (columns, rows) = terminal::size()?;
    Some(framed(RESIZE, json!({ "Width": columns, "Height": rows }).to_string().as_bytes()))
}

/// What a command's status says: success, its exit code, or why it could not run.
fn exit_code(status: &Value) -> Result<u8> {
    if text(status, "status") == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| text(cause, "reason") == "ExitCode")
        .find_map(|cause| text(cause, "message").parse::<i32>().ok());
    if let Some(code) = code {
        complain(&format!("command terminated with exit code {code}"));
        return Ok(u8::try_from(code & 0xff).unwrap_or(1));
    }
    match text(status, "message") {
        "" => Err(Error::Failed { message: "error: the stream ended without a status".to_owned() }),
        message => Err(Error::Failed { message: format!("error: {message}") }),
    }
}

/// `[LOCAL:]REMOTE`; an empty local port lets the system choose.
fn ports(text: &str) -> Result<(u16, u16)> {
    let bad = || Error::invalid("port", format!("{text:?} is not [LOCAL:]REMOTE"));
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let remote = remote.parse().map_err(|_| bad())?;
    let local = if local.is_empty() { 0 } else { local.parse().map_err(|_| bad())? };
    Ok((local, remote))
}

pub(super) async fn port_forward(session: &Session, options: &PortForwardOptions) -> Result<u8> {
    let pod = pod(session, std::slice::from_ref(&options.target)).await?;
    let mut listeners = Vec::new();
    for text in &options.ports {
        let (local, remote) = ports(text)?;
        let listener = TcpListener::bind((options.address.as_str(), local)).await;
        let listener = listener.map_err(Error::io("listen on", format!("{}:{local}", options.address)))?;
        let address = listener.local_addr().map_err(Error::stream)?;
        say(&format!("Forwarding from {address} -> {remote}\n"))?;
        listeners.push((listener, remote));
    }
    let pod = pod.as_str();
    let serve = listeners.iter().map(|(listener, remote)| async move {
        let mut connections = futures_util::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(Error::stream)?;
                    connections.push(forward(session, pod, *remote, stream));
                }
                Some(result) = connections.next() => {
                    if let Err(error) = result {
                        complain(&error.to_string());
                    }
                }
            }
        }
    });
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::stream)?;
    tokio::select! {
        result = futures_util::future::try_join_all(serve) => result.map(|_: Vec<()>| 0),
        _ = interrupt.recv() => Ok(0),
    }
}

/// One connection: channel 0 carries its bytes, channel 1 what went wrong; the first message of each is the port.
async fn forward(session: &Session, pod: &str, port: u16, stream: TcpStream) -> Result<()> {
    let path = format!("{}?ports={port}", pod_path(session, pod, "portforward"));
    let socket = session.client.websocket(&path, FORWARD_PROTOCOL).await?;
    let (mut to, mut from) = socket.split();
    let (mut reader, mut writer) = stream.into_split();
    let upward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            to.send(framed(0, &buffer[..count])).await.map_err(broken)?;
        }
        // The other side may still have something to say.
        std::future::pending::<Result<()>>().await
    };
    let downward = async {
        let mut begun = [false; 2];
        while let Some(message) = from.next().await {
            let Ok(Message::Binary(bytes)) = message else { break };
            let Some((&channel, bytes)) = bytes.split_first() else { continue };
            let Some(begun) = begun.get_mut(usize::from(channel)) else { continue };
            if !std::mem::replace(begun, true) {
                continue;
            }
            if channel == 0 {
                writer.write_all(bytes).await.map_err(Error::stream)?;
            } else {
                return Err(Error::Failed { message: String::from_utf8_lossy(bytes).into_owned() });
            }
        }
        Ok(())
    };
    tokio::select! {
        result = upward => result,
        result = downward => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_one_or_two_sides() {
        assert_eq!(ports("80").unwrap(), (80, 80));
        assert_eq!(ports("8080:80").unwrap(), (8080, 80));
        assert_eq!(ports(":80").unwrap(), (0, 80));
        assert!(ports("x").is_err() && ports("1:").is_err() && ports("70000").is_err());
    }

    #[test]
    fn a_status_tells_the_exit_code() {
        let failed = json!({ "status": "Failure", "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": "3" }] } });
        assert_eq!(exit_code(&failed).unwrap(), 3);
        assert_eq!(exit_code(&json!({ "status": "Success" })).unwrap(), 0);
        assert!(exit_code(&json!({ "status": "Failure", "message": "no such container" })).is_err());
    }
}
