//! `docker cp`, `diff` and `export`: a container's file system, in part, in what is new, and as a whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dray_engine::{ChangeKind, PathEntry};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::Api;
use crate::body::{self, Body};
use crate::duration::rfc3339;
use crate::error::{ApiError, Result};
use crate::query::Query;

const STAT_HEADER: &str = "x-docker-container-path-stat";

fn path(query: &Query) -> Result<&str> {
    query.non_empty("path").ok_or_else(|| ApiError::bad_request("bad parameter: 'path' cannot be empty"))
}

/// File type and permissions in Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    const KINDS: [(u32, u32); 6] = [
        (0o040_000, 1 << 31),               // directory
        (0o120_000, 1 << 27),               // symbolic link
        (0o060_000, 1 << 26),               // block device
        (0o010_000, 1 << 25),               // pipe
        (0o140_000, 1 << 24),               // socket
        (0o020_000, (1 << 26) | (1 << 21)), // character device
    ];
    const BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = KINDS.iter().find(|(kind, _)| mode & 0o170_000 == *kind).map_or(0, |(_, bits)| *bits);
    let bits: u32 = BITS.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    (mode & 0o777) | kind | bits
}

fn with_stat(mut response: Response<Body>, entry: &PathEntry) -> Result<Response<Body>> {
    let stat = json!({
        "name": entry.name, "size": entry.size, "mode": go_mode(entry.mode),
        "mtime": rfc3339(Some(entry.modified)), "linkTarget": entry.link_target,
    });
    let value = HeaderValue::try_from(STANDARD.encode(stat.to_string()));
    let value = value.map_err(|error| ApiError::internal(error.to_string()))?;
    response.headers_mut().insert(STAT_HEADER, value);
    Ok(response)
}

pub(crate) async fn stat(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let entry = api.engine.stat_path(&container, path(query)?).await?;
    with_stat(body::empty(StatusCode::OK), &entry)
}

pub(crate) async fn read(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let path = path(query)?.to_owned();
    let entry = api.engine.stat_path(&container, &path).await?;
    let engine = api.engine.clone();
    let response = body::written("application/x-tar", move |writer| async move {
        engine.read_archive(&container, &path, writer).await
    });
    with_stat(response, &entry)
}

pub(crate) async fn write(api: &Api, id: &str, query: &Query, incoming: Incoming) -> Result<Response<Body>> {
    let reader = body::reader(incoming);
    let container = api.engine.container(id)?;
    api.engine.write_archive(&container, path(query)?, reader).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn changes(api: &Api, id: &str) -> Result<Response<Body>> {
    let changes = api.engine.changes(&api.engine.container(id)?).await?;
    let document: Vec<_> = changes
        .iter()
        .map(|(path, kind)| {
            let kind = match kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            };
            json!({ "Path": format!("/{}", path.to_string_lossy()), "Kind": kind })
        })
        .collect();
    body::json(StatusCode::OK, &document)
}

pub(crate) async fn export(api: &Api, id: &str) -> Result<Response<Body>> {
    let root = api.engine.merged_root(&api.engine.container(id)?).await?;
    Ok(body::written_by("application/octet-stream", move |writer| dray_image::archive_contents(root, writer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o041_777), (1 << 31) | (1 << 20) | 0o777);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
        assert_eq!(go_mode(0o020_600), (1 << 26) | (1 << 21) | 0o600);
    }
}
