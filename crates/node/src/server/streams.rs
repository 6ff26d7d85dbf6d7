//! exec and attach: the streams of a process in the channels of one WebSocket (`v5.channel.k8s.io`).
//!
//! The first byte of each message is its channel: 0 standard input, 1 and 2 standard output and error, 3 how it ended
//! (a Status), 4 the size of the terminal, and since version 5 also 255, which closes the channel named by the next
//! byte.

use std::sync::Arc;

use dray_engine::{AttachOptions, ContainerHandle, ExecSpec, WaitCondition};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::query::Query;
use super::websocket::{self, Socket};
use super::{Body, Refusal, find};
use crate::context::Context;
use crate::output::Frames;
use crate::pod::slot::Background;

const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Whose streams are meant.
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
    pub(super) exec: bool,
}

/// What the size of a terminal is changed of.
#[derive(Clone)]
enum Terminal {
    Exec(String),
    Container(Arc<ContainerHandle>),
}

pub(super) async fn answer(
    context: &Arc<Context>,
    place: &Place<'_>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(request.uri().query())?;
    let handle = find::container(context, place.namespace, place.pod, place.container, false)?;
    let missing =
        || Refusal::new(StatusCode::NOT_FOUND, format!("container not found ({:?})", place.container));
    if handle.record().state.status != dray_engine::Status::Running {
        return Err(missing());
    }
    let wanted = Wanted {
        args: query.all("command").map(str::to_owned).collect(),
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
        exec: place.exec,
    };
    if place.exec && wanted.args.is_empty() {
        return Err(Refusal::bad_request("you must specify at least one command for the container"));
    }
    let mut handshake = websocket::accept(&mut request, PROTOCOLS)?;
    let response = handshake.take_response();
    let context = Arc::clone(context);
    tokio::spawn(async move {
        if let Some(socket) = handshake.socket().await {
            serve(&context, handle, wanted, socket).await;
        }
    });
    Ok(response)
}

struct Wanted {
    args: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    exec: bool,
}

/// A process whose streams are joined.
struct Joined {
    stream: UnixStream,
    terminal: Option<Terminal>,
    framed: bool,
    exec: Option<String>,
}

async fn join(context: &Context, handle: Arc<ContainerHandle>, wanted: &Wanted) -> Result<Joined, String> {
    let engine = &context.engine;
    if wanted.exec {
        let spec = ExecSpec {
            args: wanted.args.clone(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            ..ExecSpec::default()
        };
        let failed =
            |error: dray_engine::Error| format!("error executing command in container: {}", error.chain());
        let id = engine.create_exec(&handle, spec).map_err(failed)?.to_string();
        let stream = engine.start_exec(&id, false, None).await.map_err(failed)?;
        let stream = stream.ok_or("error executing command in container: it has no streams")?;
        let terminal = wanted.tty.then(|| Terminal::Exec(id.clone()));
        return Ok(Joined { stream, terminal, framed: !wanted.tty, exec: Some(id) });
    }
    let tty = handle.record().spec.tty;
    let options = AttachOptions {
        stdin: wanted.stdin && handle.record().spec.open_stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !tty,
    };
    let failed = |error: dray_engine::Error| format!("error attaching to container: {}", error.chain());
    let receiver = engine.attach(&handle, options).await.map_err(failed)?;
    // The engine would keep who joins a container that has just ended until its next start, which never comes.
    let stream = tokio::select! {
        biased;
        answer = receiver => answer.map_err(|_| "error attaching to container: it has ended")?.map_err(failed)?,
        _ = handle.wait(WaitCondition::NotRunning) => {
            return Err("error attaching to container: it has ended".to_owned());
        }
    };
    Ok(Joined { stream, terminal: tty.then_some(Terminal::Container(handle)), framed: !tty, exec: None })
}

fn internal(message: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {message}"),
        "details": { "causes": [{ "message": message }] },
    })
}

/// The Status that tells of an exit code.
fn ended(code: u8) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn channel(number: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(number);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

async fn serve(context: &Arc<Context>, handle: Arc<ContainerHandle>, wanted: Wanted, socket: Socket) {
    let (mut sink, source) = socket.split();
    let status = match join(context, handle, &wanted).await {
        Ok(joined) => match pump(context, joined, &mut sink, source).await {
            Some(status) => status,
            None => return,
        },
        Err(message) => internal(&message),
    };
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let told = async {
        sink.send(channel(STATUS, status.to_string().as_bytes())).await?;
        sink.send(Message::Close(Some(close))).await?;
        sink.flush().await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "the client went before it was told how its command ended");
    }
}

/// Carries bytes both ways until the process ends; none when the client went first.
async fn pump(
    context: &Arc<Context>,
    joined: Joined,
    sink: &mut SplitSink<Socket, Message>,
    source: SplitStream<Socket>,
) -> Option<Value> {
    let (reader, writer) = joined.stream.into_split();
    let mut frames = Frames::new(reader, joined.framed);
    let (gone_sender, gone) = tokio::sync::oneshot::channel::<()>();
    let (terminal, for_input) = (joined.terminal, Arc::clone(context));
    let _input = Background(tokio::spawn(async move {
        take_input(&for_input, source, writer, terminal).await;
        drop(gone_sender);
    }));
    let output = async {
        loop {
            match frames.next().await {
                Ok(Some((stream, bytes))) => sink.send(channel(stream, bytes)).await.ok()?,
                Ok(None) => return Some(()),
                Err(error) => {
                    tracing::debug!(%error, "the streams of a process broke");
                    return Some(());
                }
            }
        }
    };
    let stayed = tokio::select! {
        stayed = output => stayed,
        _ = gone => None,
    };
    let Some(id) = joined.exec else { return stayed.map(|()| ended(0)) };
    if stayed.is_none() {
        hang_up(context, &id, joined.framed);
        return None;
    }
    match context.engine.wait_exec(&id).await {
        Ok(code) => Some(ended(code)),
        Err(error) => Some(internal(&error.chain())),
    }
}

/// A terminal whose user has gone hangs up, so that no shell waits for ever.
fn hang_up(context: &Context, id: &str, framed: bool) {
    const SIGHUP: i32 = 1;
    if !framed && let Some(process) = context.engine.exec(id).ok().and_then(|exec| exec.process) {
        // One that has ended meanwhile needs no signal.
        let _ = process.signal(SIGHUP);
    }
}

/// Takes what the client sends until it goes.
async fn take_input(
    context: &Context,
    mut source: SplitStream<Socket>,
    writer: OwnedWriteHalf,
    terminal: Option<Terminal>,
) {
    let mut writer = Some(writer);
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((number, rest)) = bytes.split_first() else { continue };
        match (*number, rest) {
            (STDIN, rest) => {
                if let Some(open) = &mut writer
                    && !rest.is_empty()
                    && open.write_all(rest).await.is_err()
                {
                    // The process no longer reads; what it writes still counts.
                    writer = None;
                }
            }
            (CLOSE, [STDIN]) => {
                if let Some(mut open) = writer.take() {
                    let _ = open.shutdown().await;
                }
            }
            (RESIZE, rest) => resize(context, terminal.as_ref(), rest).await,
            _ => {}
        }
    }
}

async fn resize(context: &Context, terminal: Option<&Terminal>, text: &[u8]) {
    let Ok(size) = serde_json::from_slice::<Value>(text) else { return };
    let side = |name: &str| size[name].as_u64().and_then(|value| u16::try_from(value).ok());
    let (Some(width), Some(height)) = (side("Width"), side("Height")) else { return };
    let resized = match terminal {
        Some(Terminal::Exec(id)) => context.engine.resize_exec(id, width, height).await,
        Some(Terminal::Container(handle)) => context.engine.resize(handle, width, height).await,
        None => Ok(()),
    };
    if let Err(error) = resized {
        tracing::debug!(error = %error.chain(), "cannot change the size of a terminal");
    }
}
