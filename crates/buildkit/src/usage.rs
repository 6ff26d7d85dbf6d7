//! What builds keep on the disk: steps of the builder's cache, and clients' directories.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::grpc::{Code, Status};
use crate::kit::Inner;
use crate::proto::control::{DiskUsageResponse, PruneRequest, UsageRecord};

/// What records of this kind are of.
const LOCAL: &str = "source.local";
const CACHE_MOUNT: &str = "exec.cachemount";

/// A filter of containerd's: a field, how it is compared, and with what. Several in one text hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    field: String,
    is_equal: bool,
    is_pattern: bool,
    value: String,
}

fn conditions(filter: &str) -> Result<Vec<Condition>, Status> {
    let condition = |text: &str| {
        let wrong = || Status::invalid(format!("invalid filter {text:?}: write it as FIELD==VALUE"));
        for (sign, is_equal, is_pattern) in [("==", true, false), ("!=", false, false), ("~=", true, true)] {
            if let Some((field, value)) = text.split_once(sign) {
                let field = field.trim().to_ascii_lowercase();
                if !matches!(
                    field.as_str(),
                    "id" | "parents"
                        | "parent"
                        | "description"
                        | "inuse"
                        | "mutable"
                        | "immutable"
                        | "type"
                        | "shared"
                        | "private"
                ) {
                    return Err(Status::invalid(format!("unknown field {field:?} in filter {text:?}")));
                }
                let value = value.trim_matches('"').to_owned();
                return Ok(Condition { field, is_equal, is_pattern, value });
            }
        }
        // A field alone is one that is set.
        match text.trim().to_ascii_lowercase().as_str() {
            field @ ("inuse" | "mutable" | "immutable" | "shared" | "private") => Ok(Condition {
                field: field.to_owned(),
                is_equal: true,
                is_pattern: false,
                value: "true".to_owned(),
            }),
            _ => Err(wrong()),
        }
    };
    filter.split(',').filter(|text| !text.is_empty()).map(condition).collect()
}

fn holds(condition: &Condition, record: &UsageRecord) -> bool {
    let value = match condition.field.as_str() {
        "id" => record.id.clone(),
        "description" => record.description.clone(),
        "type" => record.record_type.clone(),
        "inuse" => record.in_use.to_string(),
        "mutable" => record.mutable.to_string(),
        "immutable" => (!record.mutable).to_string(),
        "shared" => record.shared.to_string(),
        "private" => (!record.shared).to_string(),
        _ => record.parents.join(","),
    };
    // Patterns of clients are plain words in practice: a word anywhere in the value.
    let is_so =
        if condition.is_pattern { value.contains(&condition.value) } else { value == condition.value };
    is_so == condition.is_equal
}

/// Whether a record is among those that any of the filters names; no filter names all.
fn is_named(filters: &[Vec<Condition>], record: &UsageRecord) -> bool {
    filters.is_empty() || filters.iter().any(|all| all.iter().all(|condition| holds(condition, record)))
}

fn blocked<T>(_: T) -> Status {
    Status::new(Code::Internal, "the call ended unexpectedly")
}

async fn records(kit: &Inner) -> Result<Vec<UsageRecord>, Status> {
    let (builder, keep) = (kit.builder.clone(), std::sync::Arc::clone(&kit.keep));
    let read = tokio::task::spawn_blocking(move || {
        let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let steps = builder.cached().into_iter().map(|step| UsageRecord {
            id: step.key,
            in_use: step.in_use,
            size: size(step.size),
            mutable: step.kind == CACHE_MOUNT,
            created_at: Some(step.made.into()),
            last_used_at: Some(step.used.into()),
            usage_count: 1,
            description: step.description,
            record_type: step.kind,
            ..UsageRecord::default()
        });
        let kept = keep.list().into_iter().map(|kept| {
            let used = Timestamp::try_from(kept.used).unwrap_or_default();
            UsageRecord {
                id: kept.name,
                mutable: true,
                in_use: kept.in_use,
                size: size(kept.size),
                created_at: Some(used.into()),
                last_used_at: Some(used.into()),
                usage_count: 1,
                description: "local source".to_owned(),
                record_type: LOCAL.to_owned(),
                ..UsageRecord::default()
            }
        });
        steps.chain(kept).collect()
    });
    read.await.map_err(blocked)
}

/// What there is.
pub(crate) async fn list(kit: &Inner, filters: &[String]) -> Result<DiskUsageResponse, Status> {
    let filters = filters.iter().map(|filter| conditions(filter)).collect::<Result<Vec<_>, _>>()?;
    let mut record = records(kit).await?;
    record.retain(|record| is_named(&filters, record));
    Ok(DiskUsageResponse { record })
}

/// Removes what nobody uses, as far as the request goes; answers what went.
pub(crate) async fn prune(kit: &Inner, request: &PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    let filters = request.filter.iter().map(|filter| conditions(filter)).collect::<Result<Vec<_>, _>>()?;
    let oldest =
        u64::try_from(request.keep_duration).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    let young = oldest.and_then(|age| SystemTime::now().checked_sub(age));
    let is_old = |record: &UsageRecord| {
        let used = record.last_used_at.map_or(0, |time| time.seconds);
        young.is_none_or(|young| {
            let young = Timestamp::try_from(young).unwrap_or_default();
            used < young.as_second()
        })
    };
    let before = records(kit).await?;
    let mut wanted: Vec<&UsageRecord> = before
        .iter()
        .filter(|record| !record.in_use && is_named(&filters, record) && is_old(record))
        .collect();
    // Down to what may stay, the oldest first.
    let most = request.max_used_space.max(request.reserved_space);
    if most > 0 {
        let mut total: i64 = before.iter().map(|record| record.size).sum();
        wanted.sort_by_key(|record| record.last_used_at.map(|time| (time.seconds, time.nanos)));
        wanted.retain(|record| {
            let is_too_much = total > most;
            if is_too_much {
                total -= record.size;
            }
            is_too_much
        });
    }
    let names: BTreeSet<String> = wanted.iter().map(|record| record.id.clone()).collect();
    let local = wanted.iter().filter(|record| record.record_type == LOCAL);
    let local: Vec<String> = local.map(|record| record.id.clone()).collect();
    let chosen = names.clone();
    let pruned = kit.builder.prune(move |step| chosen.contains(&step.key)).await;
    pruned.map_err(|error| Status::new(Code::Internal, error.chain()))?;
    let keep = std::sync::Arc::clone(&kit.keep);
    let removing = tokio::task::spawn_blocking(move || {
        for name in &local {
            keep.remove(name);
        }
    });
    removing.await.map_err(blocked)?;
    let left: BTreeSet<String> = records(kit).await?.into_iter().map(|record| record.id).collect();
    Ok(before.into_iter().filter(|record| names.contains(&record.id) && !left.contains(&record.id)).collect())
}
