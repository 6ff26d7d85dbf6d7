//! Images made from nothing, registries that do as they should, and registries that do not.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dray_image::{Digest, ImageStore, Reference};
use dray_registry::server::{Options, Registry};
use dray_registry::{Client, Events, Hosts, PullRequest, Pulled, Result};
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image as a registry has it.
#[derive(Clone)]
pub struct Sample {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Sample {
    /// With one file of so many bytes that do not compress.
    pub fn new(size: usize) -> Self {
        let mut state = 7_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(size)
        .collect();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(noise.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, "file", noise.as_slice()).unwrap();
        let plain = archive.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let layer = gzip.finish().unwrap();
        let architecture = dray_image::ImageConfig::host_architecture();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&plain).as_str()] },
        });
        let config = config.to_string().into_bytes();
        let mut sample = Self { layer, config, manifest: Vec::new() };
        sample.manifest = sample.manifest_with(|_| {});
        sample
    }

    /// The manifest with something changed.
    pub fn manifest_with(&self, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&self.config).as_str(), "size": self.config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(&self.layer).as_str(), "size": self.layer.len(),
            }],
        });
        change(&mut manifest);
        manifest.to_string().into_bytes()
    }

    /// What an honest registry answers.
    pub fn answer(&self, request: &Asked) -> Reply {
        let path = request.path.as_str();
        if path == "/v2/" {
            return Reply::ok(b"{}");
        }
        if path.contains("/manifests/") {
            return Reply::ok(&self.manifest).with("Content-Type", MANIFEST);
        }
        let blob =
            [&self.layer, &self.config].into_iter().find(|blob| path.ends_with(Digest::of(blob).as_str()));
        match blob {
            Some(blob) => Reply::part(blob, request),
            None => Reply::status(404),
        }
    }
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What is answered, and how.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// Nothing is answered at all.
    pub stall: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, stall: false }
    }

    pub fn ok(body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..Self::status(200) }
    }

    /// A blob, or the part of it that was asked for.
    pub fn part(blob: &[u8], request: &Asked) -> Self {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some(from) = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) else {
            return Self::ok(blob);
        };
        let content = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
        Self { body: blob[from..].to_vec(), ..Self::status(206) }.with("Content-Range", &content)
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }
}

/// A server that answers what a test wants, and remembers what it was asked.
pub struct Liar {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, answer.as_ref()));
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn reference(&self) -> Reference {
        Reference::parse(&format!("{}/sample:1", self.address)).unwrap()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let asked = Asked { method, path, headers };
        let length =
            asked.header("content-length").and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
        log.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        if reply.stall {
            // Until the client gives up.
            let _ = reader.read_line(&mut String::new());
            return None;
        }
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        writer.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if asked.method == "HEAD" {
            continue;
        }
        let sent = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        writer.write_all(&reply.body[..sent]).ok()?;
        if reply.cut.is_some() {
            return None;
        }
    }
}

pub fn store() -> (tempfile::TempDir, Arc<ImageStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(ImageStore::open(directory.path().join("image")).unwrap());
    (directory, store)
}

pub fn client(store: &Arc<ImageStore>) -> Client {
    let hosts = Hosts::default().with_certificates(Vec::new());
    Client::with_patience(Arc::clone(store), hosts, Duration::from_secs(2))
}

pub fn request(reference: Reference) -> PullRequest {
    PullRequest { reference, platform: None, credentials: None }
}

/// Pulls from a liar into a store.
pub async fn pull(store: &Arc<ImageStore>, liar: &Liar) -> Result<Pulled> {
    client(store).pull(&request(liar.reference()), &Events::ignored()).await
}

/// Nothing is left of what was refused.
pub fn assert_empty(directory: &tempfile::TempDir, store: &ImageStore) {
    assert!(store.list().unwrap().is_empty());
    store.sweep().unwrap();
    for name in ["blobs/sha256", "layers", "ingest", "images"] {
        let left = std::fs::read_dir(directory.path().join("image").join(name)).unwrap().count();
        assert_eq!(left, 0, "{name}");
    }
}

/// A registry over a store, in this process.
pub async fn registry(store: &Arc<ImageStore>, options: &Options) -> SocketAddr {
    let hosts = Hosts::default().with_certificates(Vec::new());
    let registry = Registry::new(Arc::clone(store), &hosts, options).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { registry.serve(listener, std::future::pending()).await });
    address
}
