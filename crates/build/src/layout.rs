//! OCI image layouts in directories: contexts of that kind, read as the archives that they could be.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dray_engine::Engine;
use dray_image::{Digest, Hold, Image, ImageStore, Layer, LoadOptions, Loaded, NewLayer};
use serde_json::Value;

use crate::builder::blocking;
use crate::client::{BoxFuture, LocalDirectory};
use crate::images::{CacheBlobs, PullError};
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
    let tree = Tree::directory(LocalDirectory::new(directory, ()))?;
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

/// What a layout's list leads to first, read blob by blob.
pub(crate) struct Blobs {
    store: Arc<ImageStore>,
    tree: Arc<Tree>,
    manifest: Vec<u8>,
}

impl Blobs {
    pub(crate) fn open(store: Arc<ImageStore>, directory: LocalDirectory) -> Result<Self> {
        let tree = Tree::directory(directory)?;
        let bad = |why: &str| Error::invalid(format!("the OCI layout {why}"));
        let index = tree.root().read("index.json", LONGEST).map_err(|_| bad("has no index.json"))?;
        let index: Value =
            serde_json::from_slice(&index).map_err(|_| bad("has no index.json that is JSON"))?;
        let top = index["manifests"][0]["digest"].as_str().and_then(|text| text.parse::<Digest>().ok());
        let path = blob_path(&top.ok_or_else(|| bad("names nothing"))?);
        let manifest = tree.root().read(&path, LONGEST).map_err(|_| bad("lacks what it names"))?;
        Ok(Self { store, tree: Arc::new(tree), manifest })
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl CacheBlobs for Blobs {
    fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    fn document<'a>(&'a self, digest: &'a Digest, size: u64) -> BoxFuture<'a, Result<Vec<u8>, PullError>> {
        let failed = |why: String| PullError::Failed { why };
        let read = self.tree.root().read(blob_path(digest), size.min(LONGEST));
        let read = read.map_err(|error| failed(error.to_string())).and_then(|bytes| {
            if Digest::of(&bytes) == *digest {
                Ok(bytes)
            } else {
                Err(failed(format!("{digest} is damaged")))
            }
        });
        Box::pin(std::future::ready(read))
    }

    fn layer<'a>(&'a self, layer: &'a NewLayer) -> BoxFuture<'a, Result<Layer, PullError>> {
        let (store, tree, layer) = (Arc::clone(&self.store), Arc::clone(&self.tree), layer.clone());
        Box::pin(async move {
            let taken = blocking(move || {
                let opened = tree.root().open_file(Path::new(&blob_path(&layer.blob)));
                let mut file = opened.map_err(|_| Error::invalid(format!("{} is missing", layer.blob)))?;
                if store.has_blob(&layer.blob) {
                    return Ok(store.unpack_layer(layer.parent.as_ref(), &layer.blob, &layer.diff_id)?);
                }
                let pieces = std::iter::from_fn(move || {
                    let mut piece = vec![0; 128 * 1024];
                    match file.read(&mut piece) {
                        Ok(0) => None,
                        Ok(n) => {
                            piece.truncate(n);
                            Some(Ok(Bytes::from(piece)))
                        }
                        Err(error) => Some(Err(error)),
                    }
                });
                Ok(store.ingest_layer(&layer, pieces)?)
            });
            taken.await.map_err(|error| PullError::Failed { why: error.chain() })
        })
    }
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
    let tree = Tree::directory(LocalDirectory::new(directory, ()))?;
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
