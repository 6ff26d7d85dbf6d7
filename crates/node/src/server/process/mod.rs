//! exec and attach: the streams of a process, carried to a client in the channels of a WebSocket or in streams of SPDY.
//!
//! What carries them is behind two traits, so that a process is joined, watched and ended in one way.

mod socket;
mod spdy;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use dray_engine::{AttachOptions, ContainerHandle, ExecSpec, WaitCondition};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use super::query::Query;
use super::{Body, Refusal, find, websocket};
use crate::context::Context;
use crate::output::{Frames, STDOUT as OUTPUT};
use crate::pod::slot::Background;

const OUTPUT_OF_ERRORS: u8 = 2;
/// By it a client is told how the process ended.
const ERROR: u8 = 3;

/// What a client says.
enum Said {
    Input(Bytes),
    InputEnds,
    /// The size of its terminal, as JSON.
    Size(Bytes),
}

/// Hears a client.
trait Hears: Send + 'static {
    /// What it says next; none once it has gone.
    fn next(&mut self) -> impl Future<Output = Option<Said>> + Send;
}

/// Tells a client.
trait Tells: Send {
    /// All is ready; `first` is the first channel that will be written to. False when the client has gone.
    fn begin(&mut self, first: u8) -> impl Future<Output = bool> + Send;
    /// Bytes of a channel. False when the client has gone.
    fn tell(&mut self, channel: u8, bytes: &[u8]) -> impl Future<Output = bool> + Send;
    /// How it ended; nothing comes after it.
    fn end(self, status: Value) -> impl Future<Output = ()> + Send;
}

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
    let context = Arc::clone(context);
    if super::spdy::is_wanted(&request) {
        let (response, agreed) = super::spdy::accept(&mut request, spdy::PROTOCOLS)?;
        tokio::spawn(async move {
            let version = agreed.version;
            let Some(wire) = agreed.wire().await else { return };
            match spdy::halves(wire, version, &wanted).await {
                Ok((mouth, ear)) => serve(&context, handle, wanted, mouth, ear).await,
                Err(error) => tracing::debug!(error = %error.chain(), "a client opened no streams"),
            }
        });
        return Ok(response);
    }
    let mut handshake = websocket::accept(&mut request, socket::PROTOCOLS)?;
    let response = handshake.take_response();
    tokio::spawn(async move {
        let protocol = handshake.protocol;
        if let Some(socket) = handshake.socket().await {
            let (mouth, ear) = socket::halves(socket, protocol);
            serve(&context, handle, wanted, mouth, ear).await;
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

/// What is said of an end by those who know no Status: nothing where all went well.
fn plain_words(status: &Value) -> Option<String> {
    (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

async fn serve(
    context: &Arc<Context>,
    handle: Arc<ContainerHandle>,
    wanted: Wanted,
    mut mouth: impl Tells,
    ear: impl Hears,
) {
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => OUTPUT,
        (false, true) => OUTPUT_OF_ERRORS,
        (false, false) => ERROR,
    };
    if !mouth.begin(first).await {
        return;
    }
    let status = match join(context, handle, &wanted).await {
        Ok(joined) => match pump(context, joined, &mut mouth, ear).await {
            Some(status) => status,
            None => return,
        },
        Err(message) => internal(&message),
    };
    mouth.end(status).await;
}

/// Carries bytes both ways until the process ends; none when the client went first.
async fn pump(
    context: &Arc<Context>,
    joined: Joined,
    mouth: &mut impl Tells,
    ear: impl Hears,
) -> Option<Value> {
    let (reader, writer) = joined.stream.into_split();
    let mut frames = Frames::new(reader, joined.framed);
    let (gone_sender, gone) = tokio::sync::oneshot::channel::<()>();
    let (terminal, for_input) = (joined.terminal, Arc::clone(context));
    let _input = Background(tokio::spawn(async move {
        take_input(&for_input, ear, writer, terminal).await;
        drop(gone_sender);
    }));
    let output = async {
        loop {
            match frames.next().await {
                Ok(Some((stream, bytes))) => {
                    if !mouth.tell(stream, bytes).await {
                        return None;
                    }
                }
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

/// Takes what the client says until it goes.
async fn take_input(
    context: &Context,
    mut ear: impl Hears,
    writer: OwnedWriteHalf,
    terminal: Option<Terminal>,
) {
    let mut writer = Some(writer);
    while let Some(said) = ear.next().await {
        match said {
            Said::Input(bytes) => {
                if let Some(open) = &mut writer
                    && !bytes.is_empty()
                    && open.write_all(&bytes).await.is_err()
                {
                    // The process no longer reads; what it writes still counts.
                    writer = None;
                }
            }
            Said::InputEnds => {
                if let Some(mut open) = writer.take() {
                    let _ = open.shutdown().await;
                }
            }
            Said::Size(text) => resize(context, terminal.as_ref(), &text).await,
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
