//! What there is: repositories, tags, and the manifests that speak of another.

use std::sync::Arc;

use http::header::{HeaderName, LINK};
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::State;
use super::answer::{Answer, Refusal, blocking, json};
use super::blobs::parse_digest;
use super::router::{parameter, query};
use crate::token::encode;
use dray_image::media::OCI_INDEX;

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Names in one answer, whatever is asked for.
const PAGE_LIMIT: usize = 10_000;

/// One page of names that are in order, and where the next begins.
fn page(
    names: Vec<String>,
    query: &[(String, String)],
    path: &str,
) -> Result<(Vec<String>, Option<HeaderValue>), Refusal> {
    let wrong = || Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n is no number");
    let count = match parameter(query, "n").filter(|text| !text.is_empty()) {
        Some(text) => text.parse::<usize>().map_err(|_| wrong())?.min(PAGE_LIMIT),
        None => PAGE_LIMIT,
    };
    let last = parameter(query, "last").unwrap_or_default().to_owned();
    let mut rest = names.into_iter().skip_while(|name| !last.is_empty() && *name <= last);
    let page: Vec<String> = rest.by_ref().take(count).collect();
    let next = match (page.last(), rest.next()) {
        (Some(last), Some(_)) => {
            HeaderValue::from_str(&format!("<{path}?n={count}&last={}>; rel=\"next\"", encode(last))).ok()
        }
        _ => None,
    };
    Ok((page, next))
}

fn listed(document: &Value, next: Option<HeaderValue>) -> Answer {
    let mut response = json(StatusCode::OK, document, "application/json");
    if let Some(next) = next {
        response.headers_mut().insert(LINK, next);
    }
    Ok(response)
}

pub(crate) async fn catalog(state: &Arc<State>, request: &Request<Incoming>) -> Answer {
    let store = Arc::clone(&state.store);
    let names = blocking(move || Ok(store.repositories()?)).await?;
    let (page, next) = page(names, &query(request), "/v2/_catalog")?;
    listed(&json!({ "repositories": page }), next)
}

pub(crate) async fn tags(state: &Arc<State>, request: &Request<Incoming>, name: &str) -> Answer {
    let upstream = match &state.mirror {
        Some(mirror) => mirror.tags(name).await,
        None => None,
    };
    let (store, named) = (Arc::clone(&state.store), name.to_owned());
    let tags = blocking(move || {
        let repository = store.repository(&named)?;
        if upstream.is_none() && !repository.exists() {
            let message = format!("repository name not known to registry: {named}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message));
        }
        let mut tags = repository.tags()?;
        tags.extend(upstream.into_iter().flatten());
        tags.sort_unstable();
        tags.dedup();
        Ok(tags)
    })
    .await?;
    let (page, next) = page(tags, &query(request), &format!("/v2/{name}/tags/list"))?;
    listed(&json!({ "name": name, "tags": page }), next)
}

pub(crate) async fn referrers(
    state: &Arc<State>,
    request: &Request<Incoming>,
    name: &str,
    digest: &str,
) -> Answer {
    let subject = parse_digest(digest)?;
    let query = query(request);
    let wanted = parameter(&query, "artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let filter = wanted.clone();
    let (store, name) = (Arc::clone(&state.store), name.to_owned());
    let found = blocking(move || Ok(store.repository(&name)?.referrers(&subject)?)).await?;
    let suits = |kind: &Option<String>| filter.is_none() || *kind == filter;
    let manifests: Vec<Value> = found
        .into_iter()
        .filter(|(_, link)| suits(&link.artifact_type))
        .map(|(digest, link)| {
            let mut descriptor = json!({
                "mediaType": link.media_type, "digest": digest.to_string(), "size": link.size,
            });
            if let Some(kind) = link.artifact_type {
                descriptor["artifactType"] = json!(kind);
            }
            if !link.annotations.is_empty() {
                descriptor["annotations"] = json!(link.annotations);
            }
            descriptor
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let mut response = json(StatusCode::OK, &index, OCI_INDEX);
    if wanted.is_some() {
        response.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_pages() {
        let names = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let ask = |pairs: &[(&str, &str)]| {
            let query: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            let (page, next) = page(names(), &query, "/p").ok()?;
            Some((page.concat(), next.map(|next| next.to_str().unwrap_or_default().to_owned())))
        };
        assert_eq!(ask(&[]), Some(("abc".to_owned(), None)));
        assert_eq!(
            ask(&[("n", "2")]),
            Some(("ab".to_owned(), Some("</p?n=2&last=b>; rel=\"next\"".to_owned())))
        );
        assert_eq!(ask(&[("n", "2"), ("last", "b")]), Some(("c".to_owned(), None)));
        assert_eq!(ask(&[("n", "0")]), Some((String::new(), None)));
        assert_eq!(ask(&[("last", "bb")]), Some(("c".to_owned(), None)));
        assert_eq!(ask(&[("n", "x")]), None);
    }
}
