//! OCI image layouts in directories: contexts of that kind, read as the archives that they could be.

use std::collections::BTreeSet;
use std::path::Path;

use dray_engine::Engine;
use dray_image::{Digest, Hold, Image, LoadOptions, Loaded};
use serde_json::Value;

use crate::platform::Platform;
use crate::session::platform_of;
use crate::sources::Tree;
use crate::{Error, Result};

/// Largest index that is read, in bytes.
const LONGEST: u64 = 8 << 20;

/// Brings the image for a platform that a reference names in a layout here; without one the only image, or the first. The
/// store keeps its files as long as the hold is kept, and does not list it, unless it did before.
pub(crate) fn load(
    engine: &Engine,
    directory: &Path,
    reference: Option<&str>,
    platform: &Platform,
) -> Result<(Image, Hold)> {
    let bad = |why: &str| Error::invalid(format!("the OCI layout {} {why}", directory.display()));
    let tree = Tree::directory(crate::LocalDirectory::new(directory, ()))?;
    let index = tree.root().read("index.json", LONGEST).map_err(|_| bad("has no index.json"))?;
    let index: Value = serde_json::from_slice(&index).map_err(|_| bad("has no index.json that is JSON"))?;
    let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
    let names = |manifest: &&Value| {
        reference.is_none_or(|wanted| {
            let wanted = wanted.trim_start_matches('@');
            let annotation = |name: &str| manifest["annotations"][name].as_str() == Some(wanted);
            manifest["digest"].as_str() == Some(wanted)
                || annotation("org.opencontainers.image.ref.name")
                || annotation("io.containerd.image.name")
        })
    };
    let named = manifests.iter().find(names).and_then(|manifest| manifest["digest"].as_str());
    let named = named.ok_or_else(|| bad(&format!("has no image {}", reference.unwrap_or_default())))?;
    let borrowed = load_all(engine, directory)?;
    let suits = |image: &&&Image| platform_of(&image.config).is_none_or(|own| platform.matches(&own));
    let of_name: Vec<&Image> = borrowed
        .images
        .iter()
        .filter(|(target, _)| target.as_ref().is_some_and(|target| target.as_str() == named))
        .map(|(_, image)| image)
        .collect();
    let image = of_name.iter().find(suits).or(of_name.first()).map(|image| (*image).clone());
    let hold = image.as_ref().map(|image| image.layers.iter().map(|layer| layer.chain_id.clone()).collect());
    let hold = engine.images().hold(hold.unwrap_or_else(Vec::new));
    borrowed.give_back(engine)?;
    Ok((image.ok_or_else(|| bad("has no image"))?, hold))
}

/// Images of a layout that are in the store for a while, without names.
pub(crate) struct Borrowed {
    /// The images, and the digests by which the layout's list names them or their index.
    pub(crate) images: Vec<(Option<Digest>, Image)>,
    /// Those that were not there before.
    fresh: Vec<Digest>,
}

impl Borrowed {
    /// The store lists no image more than before.
    pub(crate) fn give_back(self, engine: &Engine) -> Result<()> {
        for id in self.fresh {
            engine.images().remove(id.as_str(), true, |_| Vec::new())?;
        }
        Ok(())
    }
}

/// Takes all images of a layout into the store.
pub(crate) fn load_all(engine: &Engine, directory: &Path) -> Result<Borrowed> {
    let before: BTreeSet<Digest> = engine.images().list()?.into_iter().map(|image| image.id).collect();
    let tree = Tree::directory(crate::LocalDirectory::new(directory, ()))?;
    let (reader, writer) = std::io::pipe().map_err(|error| Error::invalid(error.to_string()))?;
    let directory = tree.open_for_reading()?;
    let options = LoadOptions { nameless: true, ..LoadOptions::default() };
    let loaded = std::thread::scope(|scope| {
        let packing = scope.spawn(move || dray_image::archive_contents(directory, writer));
        let loaded = engine.images().load_with(reader, &options);
        let _ = packing.join();
        loaded
    })?;
    let mut images = Vec::new();
    let mut fresh = BTreeSet::new();
    for Loaded { id, others, target, .. } in loaded {
        for id in [id].into_iter().chain(others) {
            images.push((target.clone(), engine.images().resolve(id.as_str())?));
            if !before.contains(&id) {
                fresh.insert(id);
            }
        }
    }
    Ok(Borrowed { images, fresh: fresh.into_iter().collect() })
}
