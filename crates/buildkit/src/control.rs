//! `moby.buildkit.v1.Control`: builds, their progress, and what earlier ones left.

use std::sync::Arc;

use dray_build::Platform;

use crate::export::{self, Export, Response};
use crate::grpc::{Call, Code, Status};
use crate::history::now;
use crate::jobs::Running;
use crate::kit::{Connection, Inner};
use crate::proto::control::{
    BuildHistoryEvent, BuildHistoryKind, BuildHistoryRecord, BuildHistoryRequest, BuildkitVersion,
    DiskUsageRequest, Exporter, InfoResponse, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse,
    StatusRequest, UpdateBuildHistoryRequest, WorkerRecord,
};
use crate::proto::gateway::{References, ReturnRequest};
use crate::proto::ops;
use crate::{bridge, failure, usage};

/// The answer of `grpc.health.v1`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Serving {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

pub(crate) async fn answer(connection: &Arc<Connection>, method: &str, mut call: Call) -> Result<(), Status> {
    let kit = &connection.kit;
    match method {
        "Solve" => {
            let request: SolveRequest = call.request().await?;
            let response = solve(connection, request).await?;
            call.answer(&SolveResponse { exporter_response: response }).await
        }
        "Status" => {
            let request: StatusRequest = call.request().await?;
            status(kit, &call, &request.reference).await
        }
        "ListWorkers" => call.answer(&ListWorkersResponse { record: vec![worker(kit)] }).await,
        "Info" => call.answer(&InfoResponse { version: Some(version(kit)) }).await,
        "DiskUsage" => {
            let request: DiskUsageRequest = call.request().await?;
            call.answer(&usage::list(kit, &request.filter).await?).await
        }
        "Prune" => {
            let request: PruneRequest = call.request().await?;
            for record in usage::prune(kit, &request).await? {
                call.answer(&record).await?;
            }
            Ok(())
        }
        "ListenBuildHistory" => {
            let request: BuildHistoryRequest = call.request().await?;
            listen(kit, &call, &request).await
        }
        "UpdateBuildHistory" => {
            let request: UpdateBuildHistoryRequest = call.request().await?;
            // A record is final as soon as it is there.
            if !request.finalize || request.delete {
                kit.history.update(&request.reference, request.pinned, request.delete)?;
            }
            call.answer(&()).await
        }
        other => Err(Status::new(Code::Unimplemented, format!("unknown method {other}"))),
    }
}

pub(crate) fn version(kit: &Inner) -> BuildkitVersion {
    BuildkitVersion {
        package: "dray".to_owned(),
        version: format!("v{}", kit.version),
        revision: String::new(),
    }
}

/// The one worker there is: this daemon.
pub(crate) fn worker(kit: &Inner) -> WorkerRecord {
    // What `host-gateway` means to builds: clients put the address in its place.
    let gateway = kit.engine.network("bridge").ok().and_then(|network| network.gateway);
    let gateway =
        gateway.map(|gateway| ("org.mobyproject.buildkit.worker.moby.host-gateway-ip", gateway.to_string()));
    let labels = [
        // By this one clients see that images of several platforms and archives can be asked for.
        ("org.mobyproject.buildkit.worker.snapshotter", "overlayfs".to_owned()),
        ("org.mobyproject.buildkit.worker.executor", "dray".to_owned()),
        ("org.mobyproject.buildkit.worker.network", "host".to_owned()),
        ("org.mobyproject.buildkit.worker.hostname", hostname()),
    ];
    let platform = Platform::host();
    WorkerRecord {
        id: kit.engine.config().instance.clone(),
        labels: labels.into_iter().chain(gateway).map(|(name, value)| (name.to_owned(), value)).collect(),
        platforms: vec![ops::Platform {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
        }],
        version: Some(version(kit)),
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A build from its beginning to its export. Dropping this ends it.
async fn solve(connection: &Arc<Connection>, request: SolveRequest) -> Result<Response, Status> {
    let kit = &connection.kit;
    let mut exporters = request.exporters.clone();
    if exporters.is_empty() && !request.old_exporter.is_empty() {
        exporters
            .push(Exporter { kind: request.old_exporter.clone(), attrs: request.old_exporter_attrs.clone() });
    }
    let inline_cache =
        request.cache.iter().flat_map(|cache| &cache.exports).any(|entry| entry.kind == "inline");
    let (running, returned) =
        kit.jobs.begin(&request.reference, &request.session, request.entitlements.clone(), inline_cache)?;
    let mut history = Kept {
        kit,
        record: (!request.internal).then(|| BuildHistoryRecord {
            reference: request.reference.clone(),
            frontend: request.frontend.clone(),
            frontend_attrs: request.frontend_attrs.clone(),
            exporters: exporters.clone(),
            created_at: now(),
            ..BuildHistoryRecord::default()
        }),
        running,
        outcome: Err(Status::new(Code::Cancelled, "the build was cancelled")),
    };
    if let Some(record) = &history.record {
        kit.history.started(record.clone());
    }
    let outcome = async {
        export::check(&exporters)?;
        let caches = request.cache.iter().flat_map(|cache| &cache.exports);
        let mut others = caches.filter(|entry| !matches!(entry.kind.as_str(), "inline" | "local" | "registry"));
        if let Some(other) = others.next() {
            let message = format!("cache export to {:?} is not supported: use inline, local or registry", other.kind);
            return Err(Status::new(Code::Unimplemented, message));
        }
        tokio::select! {
            outcome = run(connection, &history.running, &request, &exporters, returned) => outcome,
            () = history.running.job.cancel.cancelled() => Err(Status::new(Code::Cancelled, "the build was cancelled")),
        }
    }
    .await
    .map_err(failure::plain);
    history.outcome = outcome.clone();
    drop(history);
    outcome
}

async fn run(
    connection: &Arc<Connection>,
    running: &Running,
    request: &SolveRequest,
    exporters: &[Exporter],
    returned: tokio::sync::oneshot::Receiver<ReturnRequest>,
) -> Result<Response, Status> {
    let job = &running.job;
    let session = connection.kit.sessions.find(&request.session).await?;
    let id = if request.frontend.is_empty() {
        if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
            return Err(Status::new(
                Code::Unimplemented,
                "this daemon builds Dockerfiles: raw LLB is not supported; use a builder of its own: docker buildx create --use",
            ));
        }
        // The client leads: it asks by the bridge, and says in the end what the build has become.
        let returned = tokio::select! {
            returned = returned => returned.map_err(|_| Status::cancelled())?,
            () = session.gone() => return Err(Status::new(Code::Cancelled, "the client has gone")),
        };
        if let Some(error) = returned.error {
            return Err(Status::from_proto(error));
        }
        match returned.result.and_then(|result| result.result) {
            Some(References::One(reference)) => reference.id,
            Some(References::OldOne(id)) => id,
            Some(References::Map(map)) => one(map.refs.into_values().map(|reference| reference.id))?,
            Some(References::OldMap(map)) => one(map.refs.into_values())?,
            None => String::new(),
        }
    } else {
        bridge::check_frontend(&request.frontend, &request.frontend_attrs)?;
        let inputs = request.frontend_inputs.clone();
        connection.refer(job, request.frontend_attrs.clone(), inputs)?.id.clone()
    };
    // Nothing was built: a question was answered.
    if id.is_empty() {
        return Ok(Response::new());
    }
    let reference = connection.reference(&id)?;
    let built = connection.evaluate(&reference).await?;
    let export = Export {
        kit: &connection.kit,
        session: &session,
        record: &job.record,
        build: &job.reference,
        built: &built,
        split: reference.is_multi_platform(),
    };
    let exporting = async {
        let mut response = Response::new();
        for (number, exporter) in exporters.iter().enumerate() {
            response.extend(export.run(number, exporter).await?);
        }
        let caches = request.cache.iter().flat_map(|cache| &cache.exports);
        for entry in caches.filter(|entry| entry.kind != "inline") {
            response.extend(export.cache(entry).await?);
        }
        Ok(response)
    };
    tokio::select! {
        exported = exporting => exported,
        () = session.gone() => Err(Status::new(Code::Cancelled, "the client has gone")),
    }
}

/// The only result: ours have all platforms in one.
fn one(mut ids: impl Iterator<Item = String>) -> Result<String, Status> {
    let first = ids.next().unwrap_or_default();
    if ids.any(|id| id != first) {
        return Err(Status::new(Code::Unimplemented, "a build of several results is not supported"));
    }
    Ok(first)
}

/// A build in the history, however it ends.
struct Kept<'a> {
    kit: &'a Inner,
    record: Option<BuildHistoryRecord>,
    running: Running,
    outcome: Result<Response, Status>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let told = &self.running.job.record;
        told.complete();
        let Some(mut record) = self.record.take() else { return };
        let counts = told.counts();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        record.completed_at = now();
        record.total_steps = number(counts.total);
        record.completed_steps = number(counts.completed);
        record.cached_steps = number(counts.cached);
        record.warnings = number(counts.warnings);
        match &self.outcome {
            Ok(response) => record.exporter_response.clone_from(response),
            Err(status) => record.error = Some(status.to_proto()),
        }
        self.kit.history.completed(record, told);
    }
}

/// What a build tells, from its beginning to its end; also of one that has been.
async fn status(kit: &Inner, call: &Call, reference: &str) -> Result<(), Status> {
    let record = match (kit.jobs.get(reference), kit.history.told(reference)) {
        (Some(job), _) => Arc::clone(&job.record),
        (None, Some(before)) => Arc::new(before),
        (None, None) => Arc::clone(&kit.jobs.find(reference).await?.record),
    };
    let mut follower = record.follow();
    while let Some(update) = follower.next().await {
        call.answer(&*update).await?;
    }
    Ok(())
}

/// Builds that run and have been; then what happens, unless the client wants no more.
async fn listen(kit: &Inner, call: &Call, request: &BuildHistoryRequest) -> Result<(), Status> {
    let mut events = kit.history.listen();
    let is_wanted = |reference: &str| request.reference.is_empty() || request.reference == reference;
    for job in kit.jobs.all() {
        if is_wanted(&job.reference) {
            let record = BuildHistoryRecord {
                reference: job.reference.clone(),
                created_at: now(),
                ..BuildHistoryRecord::default()
            };
            let kind = BuildHistoryKind::Started as i32;
            call.answer(&BuildHistoryEvent { kind, record: Some(record) }).await?;
        }
    }
    if !request.active_only {
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let records = kit.history.list().into_iter().filter(|record| is_wanted(&record.reference));
        for record in records.take(limit) {
            let kind = BuildHistoryKind::Complete as i32;
            call.answer(&BuildHistoryEvent { kind, record: Some(record) }).await?;
        }
    }
    if request.early_exit {
        return Ok(());
    }
    loop {
        match events.recv().await {
            Ok(event) => {
                let is_wanted = event.record.as_ref().is_some_and(|record| is_wanted(&record.reference));
                if is_wanted {
                    call.answer(&event).await?;
                }
            }
            // A slow listener misses some, and hears of the next.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}
