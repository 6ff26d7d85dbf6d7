//! `moby.buildkit.v1.frontend.LLBBridge`: a client leads its build, asks frontends, and returns what the build is to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use dray_build::Built;
use dray_engine::Root;

use crate::control;
use crate::definition;
use crate::failure;
use crate::grpc::{Call, Code, Status};
use crate::jobs::Job;
use crate::kit::Connection;
use crate::proto::control::{StatusResponse, VertexWarning};
use crate::proto::gateway::{
    ApiCap, EvaluateRequest, InputsResponse, PongResponse, ReadDirRequest, ReadDirResponse, ReadFileRequest,
    ReadFileResponse, Ref, References, ResolveImageConfigRequest, ResolveImageConfigResponse,
    ResolveSourceImageResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse, ReturnRequest,
    SolveRequest, SolveResponse, SolveResult, StatFileRequest, StatFileResponse, WarnRequest,
};
use crate::proto::ops::Definition;
use crate::sync::stat_of;

/// Which build a call belongs to.
const BUILD: &str = "buildkit-controlapi-buildid";
/// The largest part of a file that is given at once, in bytes.
const LARGEST_PART: u64 = 8 << 20;

/// What frontends may ask of this API.
const FRONTEND: &[&str] = &[
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "source.metaresolver",
];

/// What graphs may hold, and what else clients look for here.
const GRAPHS: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.subdir",
    "source.http",
    "source.http.checksum",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.sourcedateepoch",
];

pub(crate) async fn answer(connection: &Arc<Connection>, method: &str, mut call: Call) -> Result<(), Status> {
    let build = call.text(BUILD).unwrap_or_default().to_owned();
    // Before the build has begun, its client may ask already.
    let job = connection.kit.jobs.find(&build).await?;
    match method {
        "Ping" => {
            let caps = |ids: &[&str]| {
                ids.iter().map(|id| ApiCap { id: (*id).to_owned(), enabled: true }).collect::<Vec<_>>()
            };
            let workers = vec![control::worker(&connection.kit)];
            call.answer(&PongResponse { frontend_caps: caps(FRONTEND), llb_caps: caps(GRAPHS), workers })
                .await
        }
        "Solve" => {
            let request: SolveRequest = call.request().await?;
            let result = solve(connection, &job, request).await.map_err(failure::plain)?;
            call.answer(&result).await
        }
        "Return" => {
            let request: ReturnRequest = call.request().await?;
            job.give_back(request);
            call.answer(&()).await
        }
        "Evaluate" => {
            let request: EvaluateRequest = call.request().await?;
            let reference = connection.reference(&request.reference)?;
            connection.evaluate(&reference).await.map_err(failure::plain)?;
            call.answer(&()).await
        }
        "Inputs" => call.answer(&InputsResponse::default()).await,
        "Warn" => {
            let request: WarnRequest = call.request().await?;
            let warning = VertexWarning {
                vertex: request.digest,
                level: request.level,
                short: request.short,
                detail: request.detail,
                url: request.url,
                info: request.info,
                ranges: request.ranges,
            };
            job.record.tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
            call.answer(&()).await
        }
        "ResolveImageConfig" => {
            let request: ResolveImageConfigRequest = call.request().await?;
            let (digest, config) = image_config(connection, request.reference.clone()).await?;
            call.answer(&ResolveImageConfigResponse { digest, config, reference: request.reference }).await
        }
        "ResolveSourceMeta" => {
            let request: ResolveSourceMetaRequest = call.request().await?;
            let identifier =
                request.source.as_ref().map(|source| source.identifier.clone()).unwrap_or_default();
            let image = match identifier.strip_prefix("docker-image://") {
                Some(name) => {
                    let (digest, config) = image_config(connection, name.to_owned()).await?;
                    Some(ResolveSourceImageResponse { digest, config })
                }
                None => None,
            };
            call.answer(&ResolveSourceMetaResponse { source: request.source, image }).await
        }
        "ReadFile" => {
            let request: ReadFileRequest = call.request().await?;
            let reference = request.reference.clone();
            let data = with_root(connection, &reference, move |root| {
                let path = request.path.as_str();
                let range = request.range.unwrap_or_default();
                let mut file = root.open_file(path).map_err(|error| not_found(path, &error))?;
                let wrong = |error: std::io::Error| not_found(path, &error);
                let offset = u64::try_from(range.offset).unwrap_or_default();
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).map_err(wrong)?;
                let length =
                    u64::try_from(range.length).ok().filter(|length| *length > 0).unwrap_or(LARGEST_PART);
                let mut data = Vec::new();
                let mut part = std::io::Read::take(file, length.min(LARGEST_PART));
                std::io::Read::read_to_end(&mut part, &mut data).map_err(wrong)?;
                Ok(data)
            })
            .await?;
            call.answer(&ReadFileResponse { data }).await
        }
        "StatFile" => {
            let request: StatFileRequest = call.request().await?;
            let reference = request.reference.clone();
            let stat = with_root(connection, &reference, move |root| {
                let path = request.path.as_str();
                let found = root.lstat(path).map_err(|error| not_found(path, &error))?;
                let name = path.rsplit('/').next().unwrap_or(path);
                let link = root.read_link(path).map(|target| target.to_string_lossy().into_owned());
                Ok(stat_of(name, &found, link.unwrap_or_default()))
            })
            .await?;
            call.answer(&StatFileResponse { stat: Some(stat) }).await
        }
        "ReadDir" => {
            let request: ReadDirRequest = call.request().await?;
            let reference = request.reference.clone();
            let entries = with_root(connection, &reference, move |root| list(root, &request)).await?;
            call.answer(&ReadDirResponse { entries }).await
        }
        "NewContainer" | "ExecProcess" | "ReleaseContainer" => Err(Status::new(
            Code::Unimplemented,
            "containers of frontends are not supported: use `docker run` on the image",
        )),
        other => Err(Status::new(Code::Unimplemented, format!("unknown method {other}"))),
    }
}

fn not_found(path: &str, error: &dyn std::fmt::Display) -> Status {
    Status::new(Code::NotFound, format!("cannot read {path}: {error}"))
}

fn list(root: &Root, request: &ReadDirRequest) -> Result<Vec<crate::proto::fsutil::Stat>, Status> {
    use rustix::fs::{Dir, Mode, OFlags};
    let path = if request.path.is_empty() { "/" } else { request.path.as_str() };
    let wrong = |error: &dyn std::fmt::Display| not_found(path, error);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = root.open_at(path, flags, Mode::empty()).map_err(|error| wrong(&error))?;
    let pattern = dray_build::Pattern::parse(&request.include).filter(|_| !request.include.is_empty());
    let mut entries = Vec::new();
    for entry in Dir::new(directory).map_err(|error| wrong(&error))? {
        let entry = entry.map_err(|error| wrong(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." || pattern.as_ref().is_some_and(|pattern| !pattern.fits(&name)) {
            continue;
        }
        let full = format!("{}/{name}", path.trim_end_matches('/'));
        let found = root.lstat(&full).map_err(|error| wrong(&error))?;
        let link = root.read_link(&full).map(|target| target.to_string_lossy().into_owned());
        entries.push(stat_of(&name, &found, link.unwrap_or_default()));
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// Looks into the files of a result.
async fn with_root<T: Send + 'static>(
    connection: &Arc<Connection>,
    reference: &str,
    look: impl FnOnce(&Root) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let reference = connection.reference(reference)?;
    let built: Arc<Built> = connection.evaluate(&reference).await?;
    let looked = tokio::task::spawn_blocking(move || {
        let internal = |error: dray_build::Error| Status::new(Code::Internal, error.chain());
        let image = built.first().map_err(internal)?;
        let root = built.open(image).map_err(internal)?;
        look(&root.ok_or_else(|| Status::new(Code::NotFound, "the result has no files"))?)
    });
    looked.await.map_err(|_| Status::new(Code::Internal, "the call ended unexpectedly"))?
}

/// The digest and the configuration of an image that is here.
async fn image_config(connection: &Arc<Connection>, name: String) -> Result<(String, Vec<u8>), Status> {
    let images = Arc::clone(connection.kit.engine.images());
    let found = tokio::task::spawn_blocking(move || {
        let image = images.resolve(&name)?;
        let config = images.config_bytes(&image.id)?;
        Ok::<_, dray_image::Error>((image.id.to_string(), config))
    });
    let found = found.await.map_err(|_| Status::new(Code::Internal, "the call ended unexpectedly"))?;
    found.map_err(|error| Status::new(Code::NotFound, error.to_string()))
}

/// The frontends whose work the builder does, by name or image.
pub(crate) fn check_frontend(frontend: &str, attributes: &BTreeMap<String, String>) -> Result<(), Status> {
    match frontend {
        "dockerfile.v0" => Ok(()),
        "gateway.v0" => {
            let source = attributes.get("source").map(String::as_str).unwrap_or_default();
            let plain = source.trim_start_matches("docker.io/");
            let (name, _) = plain.split_once([':', '@']).unwrap_or((plain, ""));
            if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream") {
                return Ok(());
            }
            Err(Status::new(
                Code::Unimplemented,
                format!(
                    "the frontend {source} is not supported by this daemon, which reads Dockerfiles itself: leave it out, or \
                     use a builder of its own: docker buildx create --use"
                ),
            ))
        }
        other => Err(Status::new(Code::Unimplemented, format!("frontend {other:?} could not be found"))),
    }
}

async fn solve(
    connection: &Arc<Connection>,
    job: &Job,
    request: SolveRequest,
) -> Result<SolveResponse, Status> {
    let mut metadata = BTreeMap::new();
    let reference = if request.frontend.is_empty() {
        graph(connection, request.definition.unwrap_or_default())?
    } else {
        check_frontend(&request.frontend, &request.frontend_opt)?;
        if let Some(what) = request.frontend_opt.get("requestid").filter(|what| !what.is_empty()) {
            let what = what.clone();
            let (attributes, inputs) = (request.frontend_opt, request.frontend_inputs);
            metadata = crate::subrequest::answer(connection, job, &what, attributes, inputs).await?;
            None
        } else {
            let reference = connection.refer(job, request.frontend_opt, request.frontend_inputs)?;
            if request.evaluate {
                connection.evaluate(&reference).await?;
            }
            Some(reference.id.clone())
        }
    };
    let id = reference.unwrap_or_default();
    if !request.allow_result_return {
        return Ok(SolveResponse { reference: id, result: None });
    }
    let result = if request.allow_result_array_ref {
        let def = (!id.is_empty()).then(|| definition::of_result(&id));
        References::One(Ref { id, def })
    } else {
        References::OldOne(id)
    };
    Ok(SolveResponse {
        reference: String::new(),
        result: Some(SolveResult { result: Some(result), metadata }),
    })
}

/// The result that a graph names; an empty one names none.
fn graph(connection: &Arc<Connection>, definition: Definition) -> Result<Option<String>, Status> {
    match definition::source(&definition)? {
        definition::Source::Scratch => Ok(None),
        definition::Source::Result(id) => {
            connection.reference(&id).map(|reference| Some(reference.id.clone()))
        }
        _ => Err(Status::new(
            Code::Unimplemented,
            "this daemon builds Dockerfiles, not single sources: write FROM or ADD in a Dockerfile",
        )),
    }
}
