//! What an image's name leads to in a registry's words: the index or the manifest, and the manifests of its platforms.

use std::sync::Arc;

use dray_engine::{ContainerRecord, Engine};
use dray_image::{Image, ImageStore, Index, Member, MemberKind, Platform, Reference};
use serde_json::{Value, json};

/// Bytes of the largest manifest that is read.
const MANIFEST_LIMIT: u64 = 8 << 20;

/// The index that an image is told of with: that of the name that was asked for, and without one that of any of its names.
pub(crate) fn index_of(store: &ImageStore, image: &Image, asked: Option<&str>) -> Option<Arc<Index>> {
    let asked = asked.and_then(|name| Reference::parse(name).ok());
    match asked.filter(|name| image.references.contains(name)) {
        Some(name) => store.index_of(&name),
        None => image.references.iter().find_map(|name| store.index_of(name)),
    }
}

/// What an image is the manifest of, as far as a registry or an archive gave it one.
fn manifest(store: &ImageStore, image: &Image) -> Option<Member> {
    let digest = store.manifest_of(&image.id)?;
    let bytes = store.document_blob(&digest, MANIFEST_LIMIT).ok()?;
    let document: Value = serde_json::from_slice(&bytes).ok()?;
    let parts = document["layers"].as_array()?.iter().chain([&document["config"]]);
    let part = |part: &Value| Some((part["digest"].as_str()?.parse().ok()?, part["size"].as_u64()?));
    Some(Member {
        kind: MemberKind::Image,
        digest,
        size: bytes.len() as u64,
        media_type: document["mediaType"]
            .as_str()
            .unwrap_or("application/vnd.oci.image.manifest.v1+json")
            .to_owned(),
        annotations: Default::default(),
        platform: Some(Platform::of(&image.config)),
        image: Some(image.id.clone()),
        subject: None,
        parts: parts.filter_map(part).collect(),
    })
}

/// The descriptor of what an image's name leads to; none for an image that was made here and never pushed.
pub(crate) fn target(store: &ImageStore, image: &Image, index: Option<&Index>) -> Option<Value> {
    if let Some(index) = index {
        return Some(
            json!({ "mediaType": index.media_type, "digest": index.digest.as_str(), "size": index.size }),
        );
    }
    manifest(store, image).map(|member| descriptor(&Member { platform: None, ..member }))
}

fn descriptor(member: &Member) -> Value {
    let mut value =
        json!({ "mediaType": member.media_type, "digest": member.digest.as_str(), "size": member.size });
    if let Some(platform) = &member.platform {
        value["platform"] = json!(platform);
    }
    if !member.annotations.is_empty() {
        value["annotations"] = json!(member.annotations);
    }
    value
}

/// The manifests that an image's name leads to, what of them is here, and who uses it.
pub(crate) fn summaries(
    engine: &Engine,
    image: &Image,
    index: Option<&Index>,
    containers: &[Arc<ContainerRecord>],
) -> Vec<Value> {
    match index {
        Some(index) => index
            .members
            .iter()
            .filter(|member| member.kind != MemberKind::Index)
            .map(|member| summary(engine, member, containers))
            .collect(),
        None => manifest(engine.images(), image)
            .iter()
            .map(|member| summary(engine, member, containers))
            .collect(),
    }
}

fn summary(engine: &Engine, member: &Member, containers: &[Arc<ContainerRecord>]) -> Value {
    let store = engine.images();
    let image = member.image.as_ref().and_then(|id| store.resolve(id.as_str()).ok());
    let unpacked = image.as_ref().map_or(0, Image::size);
    let here = member.parts.iter().filter(|(part, _)| store.has_blob(part)).map(|(_, size)| size);
    let document = if store.has_blob(&member.digest) { member.size } else { 0 };
    let content = here.sum::<u64>() + document;
    let (kind, is_here) = match member.kind {
        MemberKind::Image => ("image", image.is_some()),
        MemberKind::Statements => ("attestation", store.is_whole(member)),
        MemberKind::Index | MemberKind::Unknown => ("unknown", store.is_whole(member)),
    };
    let mut value = json!({
        "ID": member.digest.as_str(),
        "Descriptor": descriptor(member),
        "Available": is_here,
        "Size": { "Content": content, "Total": content + unpacked },
        "Kind": kind,
    });
    match member.kind {
        MemberKind::Image => {
            let using = containers.iter().filter(|container| Some(&container.image) == member.image.as_ref());
            value["ImageData"] = json!({
                "Platform": member.platform,
                "Containers": using.map(|container| container.id.as_str()).collect::<Vec<_>>(),
                "Size": { "Unpacked": unpacked },
            });
        }
        MemberKind::Statements => {
            value["AttestationData"] =
                json!({ "For": member.subject.as_ref().map(|subject| subject.as_str()) });
        }
        MemberKind::Index | MemberKind::Unknown => {}
    }
    value
}
