//! OCI image layouts in directories: contexts of that kind, read as the archives that they could be.

use std::path::Path;

use dray_engine::Engine;
use dray_image::{Digest, Hold, Image, Reference};
use serde_json::Value;

use crate::sources::Tree;
use crate::{Error, Result};

/// Largest index that is read, in bytes.
const LONGEST: u64 = 8 << 20;

/// Brings the image that a reference names in a layout here; without one the only image, or the first. The store keeps
/// its files as long as the hold is kept, and does not list it, unless it did before.
pub(crate) fn load(engine: &Engine, directory: &Path, reference: Option<&str>) -> Result<(Image, Hold)> {
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
    // Archives are loaded in the order of their index.
    let place = manifests.iter().position(names);
    let place = place.ok_or_else(|| bad(&format!("has no image {}", reference.unwrap_or_default())))?;
    let borrowed = load_all(engine, directory)?;
    let image = borrowed.images.get(place.min(borrowed.images.len().saturating_sub(1))).cloned();
    let hold = image.as_ref().map(|image| image.layers.iter().map(|layer| layer.chain_id.clone()).collect());
    let hold = engine.images().hold(hold.unwrap_or_else(Vec::new));
    borrowed.give_back(engine)?;
    Ok((image.ok_or_else(|| bad("has no image"))?, hold))
}

/// Images of a layout that are in the store for a while.
pub(crate) struct Borrowed {
    pub(crate) images: Vec<Image>,
    /// Those that were not there before.
    fresh: Vec<Digest>,
    /// What names meant before.
    names: Vec<(Reference, Digest)>,
}

impl Borrowed {
    /// The store lists no image more than before, and every name means what it meant.
    pub(crate) fn give_back(self, engine: &Engine) -> Result<()> {
        for id in self.fresh {
            engine.images().remove(id.as_str(), true, |_| Vec::new())?;
        }
        for (name, id) in self.names {
            if engine.images().named(&name).as_ref() != Some(&id) {
                engine.images().tag(&id, &name)?;
            }
        }
        Ok(())
    }
}

/// Takes all images of a layout into the store.
pub(crate) fn load_all(engine: &Engine, directory: &Path) -> Result<Borrowed> {
    let before = engine.images().list()?;
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
    let is_old = |id: &Digest| before.iter().any(|image| image.id == *id);
    let fresh = loaded.into_iter().map(|loaded| loaded.id).filter(|id| !is_old(id)).collect();
    let names =
        before.iter().flat_map(|image| image.references.iter().map(|name| (name.clone(), image.id.clone())));
    Ok(Borrowed { images, fresh, names: names.collect() })
}
