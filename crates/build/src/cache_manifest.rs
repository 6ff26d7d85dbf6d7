//! Caches that travel, in the form that BuildKit documents (`application/vnd.buildkit.cacheconfig.v0`): layers with those
//! below them, and records of the steps that led to them.
//!
//! A record's digest is a step's key, and the record before it its input. What that form has no word for, how a step is told
//! in the history, is a field of ours; records of others have none, and no step of ours has their digests.

use std::collections::HashMap;

use dray_image::{Digest, History, Layer, NewLayer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::result::BuiltImage;

/// The type of a cache's configuration.
pub(crate) const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Under which a layer's descriptor has the digest of the plain archive.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// More layers and records than any cache of ours has.
const MOST: usize = 100_000;

#[derive(Default, Serialize, Deserialize)]
struct Config {
    #[serde(default)]
    layers: Vec<ConfigLayer>,
    #[serde(default)]
    records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct ConfigLayer {
    blob: Digest,
    /// The place of the layer below; -1 when there is none.
    #[serde(default)]
    parent: i64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<Input>>,
    #[serde(default, rename = "dev.dray.step", skip_serializing_if = "Option::is_none")]
    step: Option<History>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    layer: usize,
}

#[derive(Serialize, Deserialize)]
struct Input {
    link: usize,
}

/// The cache of some images, while it is put together.
#[derive(Default)]
pub(crate) struct Writer {
    config: Config,
    /// The places of layers by their chain ids, and of records by their keys.
    layers: HashMap<Digest, usize>,
    records: HashMap<String, usize>,
}

impl Writer {
    /// Adds an image's layers and steps. `pack` is told each layer once, and answers its blob.
    pub(crate) fn add<E>(
        &mut self,
        image: &BuiltImage,
        mut pack: impl FnMut(&Layer) -> Result<Digest, E>,
    ) -> Result<(), E> {
        let mut places = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let place = match self.layers.get(&layer.chain_id) {
                Some(place) => *place,
                None => {
                    let parent =
                        places.last().map_or(-1, |place: &usize| i64::try_from(*place).unwrap_or(-1));
                    self.config.layers.push(ConfigLayer { blob: pack(layer)?, parent });
                    self.layers.insert(layer.chain_id.clone(), self.config.layers.len() - 1);
                    self.config.layers.len() - 1
                }
            };
            places.push(place);
        }
        let mut before = None;
        for trail in &image.trail {
            let place = match self.records.get(&trail.key) {
                Some(place) => *place,
                None => {
                    let Ok(digest) = Digest::from_hex(&trail.key) else { continue };
                    let layer = trail.layer.and_then(|layer| places.get(layer));
                    self.config.records.push(Record {
                        digest,
                        layers: layer.map(|layer| Outcome { layer: *layer }).into_iter().collect(),
                        inputs: before.map(|link| vec![Input { link }]).into_iter().collect(),
                        step: image.config.history.get(trail.history).cloned(),
                    });
                    self.records.insert(trail.key.clone(), self.config.records.len() - 1);
                    self.config.records.len() - 1
                }
            };
            before = Some(place);
        }
        Ok(())
    }

    /// The configuration.
    pub(crate) fn finish(self) -> Value {
        json!(self.config)
    }
}

/// A layer's descriptor as the manifest of a cache has it.
pub(crate) fn descriptor(media_type: &str, blob: &Digest, size: u64, diff_id: &Digest) -> Value {
    json!({
        "mediaType": media_type, "digest": blob.as_str(), "size": size,
        "annotations": { UNCOMPRESSED: diff_id.as_str() },
    })
}

/// A step of a cache elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) history: History,
    /// The layer that it wrote.
    pub(crate) layer: Option<NewLayer>,
}

/// The descriptors of a cache's manifest, which has them as an image has its layers or as an index.
fn descriptors(manifest: &Value) -> Vec<&Value> {
    let list = |name: &str| manifest[name].as_array().into_iter().flatten();
    list("layers").chain(list("manifests")).collect()
}

/// The digest and the size of the configuration, when this is the manifest of a cache.
pub(crate) fn configuration(manifest: &Value) -> Option<(Digest, u64)> {
    let mut all = descriptors(manifest).into_iter().chain([&manifest["config"]]);
    let config = all.find(|descriptor| descriptor["mediaType"] == CONFIG)?;
    Some((config["digest"].as_str()?.parse().ok()?, config["size"].as_u64()?))
}

/// The steps of a cache, by their keys. What makes no sense is left out.
pub(crate) fn steps(manifest: &Value, config: &[u8]) -> HashMap<String, Step> {
    let mut blobs = HashMap::new();
    for descriptor in descriptors(manifest) {
        let digest = |value: &Value| value.as_str().and_then(|text| text.parse::<Digest>().ok());
        if let (Some(blob), Some(diff_id), Some(size)) = (
            digest(&descriptor["digest"]),
            digest(&descriptor["annotations"][UNCOMPRESSED]),
            descriptor["size"].as_u64(),
        ) {
            blobs.insert(blob, (diff_id, size));
        }
    }
    let Ok(config) = serde_json::from_slice::<Config>(config) else { return HashMap::new() };
    // A layer comes after those below it, so this ends whatever is written there.
    let mut layers: Vec<Option<NewLayer>> = Vec::new();
    for layer in config.layers.into_iter().take(MOST) {
        let below = match usize::try_from(layer.parent) {
            Err(_) => Some(None),
            Ok(parent) => layers
                .get(parent)
                .and_then(Option::as_ref)
                .map(|below| Some(Digest::chain(below.parent.as_ref(), &below.diff_id))),
        };
        let known = blobs.get(&layer.blob).zip(below);
        layers.push(known.map(|((diff_id, size), parent)| NewLayer {
            blob: layer.blob.clone(),
            size: *size,
            diff_id: diff_id.clone(),
            parent,
        }));
    }
    let mut steps = HashMap::new();
    for record in config.records.into_iter().take(MOST) {
        let Some(history) = record.step else { continue };
        let layer = match record.layers.first() {
            None => None,
            Some(outcome) => match layers.get(outcome.layer) {
                Some(Some(layer)) => Some(layer.clone()),
                _ => continue,
            },
        };
        steps.insert(record.digest.hex().to_owned(), Step { history, layer });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lead_to_layers_on_those_below() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let manifest = json!({
            "config": { "mediaType": CONFIG, "digest": digest("config").as_str(), "size": 7 },
            "layers": [
                descriptor("x", &digest("a"), 1, &digest("plain a")),
                descriptor("x", &digest("b"), 2, &digest("plain b")),
            ],
        });
        assert_eq!(configuration(&manifest), Some((digest("config"), 7)));
        let config = json!({
            "layers": [
                { "blob": digest("a").as_str(), "parent": -1 },
                // Another writer leaves out what is nought.
                { "blob": digest("b").as_str() },
                { "blob": digest("b").as_str(), "parent": 7 },
                { "blob": digest("unknown").as_str(), "parent": 0 },
            ],
            "records": [
                { "digest": digest("first").as_str(), "dev.dray.step": { "created_by": "one" } },
                { "digest": digest("second").as_str(), "layers": [{ "layer": 1 }], "inputs": [[{ "link": 0 }]],
                  "dev.dray.step": { "created_by": "two" } },
                { "digest": digest("lost").as_str(), "layers": [{ "layer": 2 }], "dev.dray.step": {} },
                { "digest": digest("absent").as_str(), "layers": [{ "layer": 3 }], "dev.dray.step": {} },
                { "digest": digest("others").as_str(), "layers": [{ "layer": 0 }] },
            ],
        });
        let steps = steps(&manifest, config.to_string().as_bytes());
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert!(steps[digest("first").hex()].layer.is_none());
        let layer = steps[digest("second").hex()].layer.clone().unwrap();
        assert_eq!((layer.blob, layer.size, layer.parent), (digest("b"), 2, Some(digest("plain a"))));
    }

    #[test]
    fn what_is_no_cache_has_no_steps() {
        assert_eq!(configuration(&json!({ "config": { "mediaType": "x" }, "layers": [] })), None);
        assert_eq!(configuration(&json!([])), None);
        assert!(steps(&json!(1), b"[]").is_empty());
        assert!(steps(&json!({}), br#"{"layers":[{"blob":"x"}]}"#).is_empty());
    }
}
