//! OCI layouts made from nothing: images of any platform, indexes of them, and statements about them.
#![allow(
    clippy::missing_panics_doc,
    reason = "an archive in memory grows, and a test stops where it does not"
)]

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, path, bytes).expect("an archive in memory grows");
}

/// An OCI layout as an archive, made piece by piece.
pub struct LayoutArchive(tar::Builder<Vec<u8>>);

impl Default for LayoutArchive {
    fn default() -> Self {
        Self::new()
    }
}

impl LayoutArchive {
    /// One with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        append(&mut self.0, &format!("blobs/{}", digest.replace(':', "/")), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Adds a document; answers its descriptor.
    pub fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// Adds an image with one file, `platform`, that holds the name of its processor; answers its manifest's descriptor.
    pub fn image(&mut self, architecture: &str) -> Value {
        let mut plain = tar::Builder::new(Vec::new());
        append(&mut plain, "platform", architecture.as_bytes());
        let plain = plain.into_inner().expect("an archive in memory ends");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("memory takes what is written");
        let layer = self.blob(LAYER, &gzip.finish().expect("memory takes what is written"));
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [digest(&plain)] },
        });
        let config = self.document(CONFIG, &config);
        let mut descriptor = self.manifest(&config, &[layer]);
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptor
    }

    fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.document(MANIFEST, &manifest)
    }

    /// Adds statements about an image, as BuildKit attaches them.
    pub fn statements(&mut self, subject: &Value) -> Value {
        let statement = self.document("application/vnd.in-toto+json", &json!({ "subject": subject }));
        let config = json!({
            "architecture": "unknown", "os": "unknown",
            "rootfs": { "type": "layers", "diff_ids": [statement["digest"]] },
        });
        let config = self.document(CONFIG, &config);
        let mut descriptor = self.manifest(&config, &[statement]);
        descriptor["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        descriptor["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject["digest"],
        });
        descriptor
    }

    /// Adds an index of these manifests.
    pub fn index(&mut self, manifests: &[Value]) -> Value {
        self.document(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }))
    }

    /// The archive, in which an image of Docker's own registry, `name`, is this one.
    #[must_use]
    pub fn finish(mut self, mut top: Value, name: &str) -> Vec<u8> {
        top["annotations"] = json!({ "io.containerd.image.name": format!("docker.io/library/{name}") });
        let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [top] }).to_string();
        append(&mut self.0, "index.json", list.as_bytes());
        append(&mut self.0, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        self.0.into_inner().expect("an archive in memory ends")
    }
}
