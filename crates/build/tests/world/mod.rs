//! An engine and a builder of a test's own, and what one asks of the images that it makes.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

pub mod git;
pub mod web;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dray_build::{
    BuildRequest, Builder, Built, Client, ContextSource, DockerfileSource, Error, Event, NoClient,
};
use dray_engine::{Engine, EngineConfig};
use dray_image::Digest;
use dray_testkit::eventually;
use tokio::sync::mpsc;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub directory: tempfile::TempDir,
    pub engine: Engine,
    pub builder: Builder,
}

/// Runs a test where it touches nothing of the host's.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    dray_testkit::isolate();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test());
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            data_dir: directory.path().join("d"),
            run_dir: directory.path().join("r"),
            instance: format!("bt{}", std::process::id()),
            remap: None,
            default_pools: Vec::new(),
            led: dray_engine::Led::Nobody,
        };
        let engine = Engine::open(config).await.unwrap();
        let builder = Builder::new(engine.clone());
        Self { directory, engine, builder }
    }

    /// A directory with these files.
    pub fn files(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.directory.path().join(name);
        for (path, content) in files {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    pub async fn build_for(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
    ) -> (Result<Built, Error>, Vec<Event>) {
        let (sender, mut receiver) = mpsc::channel(64);
        let told = tokio::spawn(async move {
            let mut told = Vec::new();
            while let Some(event) = receiver.recv().await {
                told.push(event);
            }
            told
        });
        let result = self.builder.build(request, client, sender).await;
        (result, told.await.unwrap())
    }

    pub async fn build(&self, request: BuildRequest) -> Result<Built, Error> {
        self.build_for(request, Arc::new(NoClient)).await.0
    }

    /// Builds a Dockerfile over a directory.
    pub async fn build_in(&self, directory: &Path, dockerfile: &str) -> Result<Built, Error> {
        self.build(of(directory, dockerfile)).await
    }

    /// The bytes of a file of an image.
    pub fn read(&self, built: &Built, path: &str) -> String {
        let image = built.first().unwrap();
        let root = built.open(image).unwrap().unwrap();
        String::from_utf8(root.read(path, 1 << 20).unwrap()).unwrap()
    }

    pub fn exists(&self, built: &Built, path: &str) -> bool {
        let root = built.open(built.first().unwrap()).unwrap().unwrap();
        root.lstat(path).is_ok()
    }

    /// What a build that was cancelled had goes behind it.
    pub fn assert_nothing_left(&self) {
        for place in ["d/scratch", "d/build-mounts", "d/image/ingest"] {
            eventually(place, PATIENCE, || {
                let left = fs::read_dir(self.directory.path().join(place)).unwrap().count();
                (left == 0).then_some(())
            });
        }
    }
}

pub fn of(directory: &Path, dockerfile: &str) -> BuildRequest {
    BuildRequest {
        dockerfile: DockerfileSource::Bytes(dockerfile.as_bytes().to_vec()),
        ..BuildRequest::of_directory(directory)
    }
}

pub fn of_address(address: &str) -> BuildRequest {
    BuildRequest { context: ContextSource::Remote(address.to_owned()), ..BuildRequest::default() }
}

pub fn id(built: &Built) -> &Digest {
    &built.first().unwrap().id
}

/// How many vertices were taken from the cache, those of base images aside.
pub fn cached(events: &[Event]) -> usize {
    let cached = |event: &&Event| matches!(event, Event::Vertex(vertex) if vertex.cached && !vertex.name.contains("FROM"));
    events.iter().filter(cached).count()
}
