//! Manifests, indexes and configurations: one document is one thing, whoever says what it is.
#![no_main]

use dray_image::media::Document;
use dray_image::{ImageConfig, Platform};
use libfuzzer_sys::fuzz_target;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fuzz_target!(|bytes: &[u8]| {
    let of_type = |said| Document::parse(bytes, &[said]).ok();
    assert!(of_type(Some(INDEX)).is_none() || of_type(Some(MANIFEST)).is_none(), "it is both");
    if let Some(Document::Index(manifests)) = of_type(None) {
        for platform in manifests.into_iter().filter_map(|manifest| manifest.platform) {
            let _ = Platform::host().suits(&platform);
            let _ = Platform::parse(&platform.to_string());
        }
    }
    let _ = serde_json::from_slice::<ImageConfig>(bytes);
});
