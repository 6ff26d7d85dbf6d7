//! OCI image layouts in directories: contexts of that kind, read as the archives that they could be.

use std::path::Path;

use dray_engine::Engine;
use dray_image::{Digest, Image};
use serde_json::Value;

use crate::sources::Tree;
use crate::{Error, Result};

/// Largest index that is read, in bytes.
const LONGEST: u64 = 8 << 20;

/// Takes the image that a reference names in a layout into the store; without one the only image, or the first.
pub(crate) fn load(engine: &Engine, directory: &Path, reference: Option<&str>) -> Result<Image> {
    let bad = |why: &str| Error::invalid(format!("the OCI layout {} {why}", directory.display()));
    let tree = Tree::directory(crate::LocalDirectory::new(directory, ()))?;
    let index = tree.root().read("index.json", LONGEST).map_err(|_| bad("has no index.json"))?;
    let index: Value = serde_json::from_slice(&index).map_err(|_| bad("has no index.json that is JSON"))?;
    let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
    let names = |manifest: &Value| {
        reference.is_none_or(|wanted| {
            let wanted = wanted.trim_start_matches('@');
            let annotation = |name: &str| manifest["annotations"][name].as_str() == Some(wanted);
            manifest["digest"].as_str() == Some(wanted)
                || annotation("org.opencontainers.image.ref.name")
                || annotation("io.containerd.image.name")
        })
    };
    if !manifests.iter().any(names) {
        return Err(bad(&format!("has no image {}", reference.unwrap_or_default())));
    }
    let (reader, writer) = std::io::pipe().map_err(|error| bad(&error.to_string()))?;
    let directory = tree.open_for_reading()?;
    let loaded = std::thread::scope(|scope| {
        let packing = scope.spawn(move || dray_image::archive_contents(directory, writer));
        let loaded = engine.images().load(reader);
        let _ = packing.join();
        loaded
    })?;
    let first = loaded.first().ok_or_else(|| bad("has no image"))?;
    let id: &Digest = &first.id;
    Ok(engine.images().resolve(id.as_str())?)
}

/// Takes all images of a layout into the store; answers them, and the ids of those that were not there before.
pub(crate) fn load_all(engine: &Engine, directory: &Path) -> Result<(Vec<Image>, Vec<Digest>)> {
    let before: Vec<Digest> = engine.images().list()?.into_iter().map(|image| image.id).collect();
    let tree = Tree::directory(crate::LocalDirectory::new(directory, ()))?;
    let (reader, writer) = std::io::pipe().map_err(|error| Error::invalid(error.to_string()))?;
    let directory = tree.open_for_reading()?;
    let loaded = std::thread::scope(|scope| {
        let packing = scope.spawn(move || dray_image::archive_contents(directory, writer));
        let loaded = engine.images().load(reader);
        let _ = packing.join();
        loaded
    })?;
    let mut images = Vec::new();
    for loaded in &loaded {
        images.push(engine.images().resolve(loaded.id.as_str())?);
    }
    let fresh = loaded.into_iter().map(|loaded| loaded.id).filter(|id| !before.contains(id)).collect();
    Ok((images, fresh))
}
