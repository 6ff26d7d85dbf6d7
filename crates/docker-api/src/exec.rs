//! Execs.

use dray_engine::{Error as EngineError, ExecSpec, TerminalSize};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use crate::Api;
use crate::body::{self, Body};
use crate::containers;
use crate::error::{ApiError, Result};
use crate::hijack::{self, DetachKeys, Framing, Session};
use crate::query::Query;
use crate::version::Version;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateExec {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(alias = "detachKeys")]
    detach_keys: Option<String>,
    tty: bool,
    env: Option<Vec<String>>,
    cmd: Option<crate::create::Words>,
    privileged: bool,
    user: Option<String>,
    working_dir: Option<String>,
}

pub(crate) async fn create(api: &Api, id: &str, incoming: Incoming) -> Result<Response<Body>> {
    let request: CreateExec = body::read_json(incoming).await?;
    let container = api.engine.container(id)?;
    DetachKeys::parse(request.detach_keys.as_deref().filter(|keys| !keys.is_empty()))?;
    let spec = ExecSpec {
        args: request.cmd.map(|words| words.0).unwrap_or_default(),
        env: request.env.unwrap_or_default(),
        user: request.user,
        working_dir: request.working_dir.filter(|directory| !directory.is_empty()),
        tty: request.tty,
        stdin: request.attach_stdin,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
        privileged: request.privileged,
        detach_keys: request.detach_keys.filter(|keys| !keys.is_empty()),
    };
    let exec = api.engine.create_exec(&container, spec)?;
    body::json(StatusCode::CREATED, &json!({ "Id": exec.as_str() }))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartExec {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

pub(crate) async fn start(api: &Api, id: &str, request: Request<Incoming>) -> Result<Response<Body>> {
    // The body comes before the stream; reading it leaves the connection's upgrade alone.
    let (parts, incoming) = request.into_parts();
    let options: StartExec = body::read_json(incoming).await?;
    let exec = api.engine.exec(id)?;
    let request = Request::from_parts(parts, ());
    let size = options.console_size.map(|[height, width]| TerminalSize { width, height });
    let framing = match (exec.spec.tty, options.tty) {
        (true, false) => Framing::Framed,
        (false, true) => Framing::Unframed,
        _ => Framing::AsIs,
    };
    let session = match api.engine.start_exec(id, options.detach, size).await {
        Ok(None) => return Ok(body::empty(StatusCode::OK)),
        Ok(Some(stream)) => Session { framing, ..Session::with(stream) },
        // Who listens is told in the stream, as Docker does, and finds the exit code by a look at the exec.
        Err(EngineError::Start { message, .. }) if !options.detach => {
            let framing = if options.tty { Framing::AsIs } else { Framing::Framed };
            let message = format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {message}: unknown\r\n"
            );
            Session::message(&message, framing)
        }
        Err(error) => return Err(error.into()),
    };
    let keys = DetachKeys::parse(exec.spec.detach_keys.as_deref())?;
    let keys = (exec.spec.stdin && exec.spec.tty).then_some(keys);
    let (engine, id) = (api.engine.clone(), id.to_owned());
    let ended = async move {
        // The client asks for the exit code as soon as the stream ends.
        let _ = engine.wait_exec(&id).await;
    };
    Ok(hijack::answer(request, options.tty, keys, std::future::ready(Some(session)), ended))
}

pub(crate) async fn resize(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let (width, height) = containers::size(query)?;
    api.engine.resize_exec(id, width, height).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) fn inspect(api: &Api, id: &str, version: Version) -> Result<Response<Body>> {
    let exec = api.engine.exec(id)?;
    // Up to 1.47 a program that is not there was one that cannot be run.
    let missing = exec.process.is_none() && exec.exit_code == Some(127);
    let exit_code = if missing && version < Version::new(1, 48) { Some(126) } else { exec.exit_code };
    let (program, arguments) =
        exec.spec.args.split_first().ok_or_else(|| ApiError::internal("an exec without a program"))?;
    body::json(
        StatusCode::OK,
        &json!({
            "ID": exec.id.as_str(),
            "ContainerID": exec.container.as_str(),
            "Running": exec.running,
            "ExitCode": exit_code,
            "ProcessConfig": {
                "tty": exec.spec.tty, "entrypoint": program, "arguments": arguments,
                "privileged": exec.spec.privileged, "user": exec.spec.user.clone().unwrap_or_default(),
            },
            "OpenStdin": exec.spec.stdin,
            "OpenStdout": exec.spec.stdout,
            "OpenStderr": exec.spec.stderr,
            "CanRemove": false,
            "DetachKeys": exec.spec.detach_keys.clone().unwrap_or_default(),
            "Pid": exec.process.map_or(0, |process| process.pid),
        }),
    )
}
