//! `cargo bench -p dray-image`: how fast compressed layers are taken in, and an archive is loaded, beside gunzip, sha256sum
//! and tar on the same bytes, in turns. `MEGABYTES` says how large each of three layers is (60).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement speaks to its terminal"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use dray_image::{Digest, ImageConfig, ImageStore, NewLayer};

const LAYERS: usize = 3;
const ROUNDS: usize = 5;

struct Layer {
    plain: PathBuf,
    packed: PathBuf,
    new: NewLayer,
}

/// Files of this host, the same each time.
fn files() -> impl Iterator<Item = (PathBuf, u64)> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin"), PathBuf::from("/usr/share")];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) if metadata.is_file() && metadata.len() < 8 << 20 => {
                    found.push((entry.path(), metadata.len()));
                }
                _ => {}
            }
        }
    }
    found.sort_unstable();
    found.into_iter()
}

fn layers(directory: &Path, size: u64) -> Vec<Layer> {
    let mut files = files();
    let mut parent = None;
    (0..LAYERS)
        .map(|index| {
            let (plain, packed) =
                (directory.join(format!("{index}.tar")), directory.join(format!("{index}.tar.gz")));
            let mut archive = tar::Builder::new(File::create(&plain).unwrap());
            let mut total = 0;
            while total < size {
                let (path, length) = files.next().expect("this host has too few files");
                if archive.append_path_with_name(&path, path.strip_prefix("/").unwrap()).is_ok() {
                    total += length;
                }
            }
            archive.into_inner().unwrap();
            let bytes = fs::read(&plain).unwrap();
            let diff_id = Digest::of(&bytes);
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&bytes).unwrap();
            let blob = gzip.finish().unwrap();
            fs::write(&packed, &blob).unwrap();
            let new = NewLayer {
                blob: Digest::of(&blob),
                size: blob.len() as u64,
                diff_id,
                parent: parent.clone(),
            };
            parent = Some(Digest::chain(new.parent.as_ref(), &new.diff_id));
            Layer { plain, packed, new }
        })
        .collect()
}

fn chunks(path: &Path) -> impl Iterator<Item = std::io::Result<Bytes>> {
    let mut file = File::open(path).unwrap();
    std::iter::from_fn(move || {
        let mut chunk = vec![0; 64 << 10];
        match file.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                chunk.truncate(n);
                Some(Ok(Bytes::from(chunk)))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

fn ingest(store: &ImageStore, layers: &[Layer]) {
    std::thread::scope(|scope| {
        for layer in layers {
            scope.spawn(move || store.ingest_layer(&layer.new, chunks(&layer.packed)).unwrap());
        }
    });
}

fn archive(directory: &Path, layers: &[Layer]) -> PathBuf {
    let path = directory.join("image.tar");
    let mut archive = tar::Builder::new(File::create(&path).unwrap());
    let mut names = Vec::new();
    for layer in layers {
        let name = format!("blobs/sha256/{}", layer.new.diff_id.hex());
        archive.append_path_with_name(&layer.plain, &name).unwrap();
        names.push(name);
    }
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.new.diff_id).collect();
    let config = serde_json::json!({
        "architecture": ImageConfig::host_architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["bench:1"], "Layers": names }]);
    for (name, document) in [("config.json", config), ("manifest.json", manifest)] {
        let text = document.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap();
    path
}

fn bash(script: &str) {
    assert!(Command::new("bash").args(["-c", script]).status().unwrap().success());
}

/// Seconds that the processors worked for this process and for those that it has waited for.
fn processor_time() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    // utime, stime, cutime and cstime, in hundredths of a second (proc(5)).
    fields.split_whitespace().skip(11).take(4).map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// What was measured: seconds on the clock, and seconds that processors worked.
#[derive(Default)]
struct Samples(Vec<f64>, Vec<f64>);

fn timed(samples: &mut Samples, work: impl FnOnce()) {
    let (begin, worked) = (Instant::now(), processor_time());
    work();
    samples.0.push(begin.elapsed().as_secs_f64());
    samples.1.push(processor_time() - worked);
}

fn report(what: &str, plain: f64, ours: &mut Samples, tools: &mut Samples) {
    let median = |samples: &mut [f64]| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    };
    let (rate, tools_rate) = (plain / median(&mut ours.0), plain / median(&mut tools.0));
    println!(
        "{what}: {rate:.0} MB/s, the tools {tools_rate:.0} MB/s, {:.0} % of them",
        rate / tools_rate * 100.0
    );
    // What is left to say when others use the machine as well.
    let (work, tools_work) = (median(&mut ours.1), median(&mut tools.1));
    println!("    processor seconds: {work:.2}, the tools {tools_work:.2}");
}

fn main() {
    let size: u64 = std::env::var("MEGABYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let directory = tempfile::tempdir().unwrap();
    let layers = layers(directory.path(), size << 20);
    let archive = archive(directory.path(), &layers);
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    let plain =
        layers.iter().map(|layer| fs::metadata(&layer.plain).unwrap().len()).sum::<u64>() as f64 / 1e6;
    let [mut pulled, mut unpacked, mut loaded, mut untarred] = [(); 4].map(|()| Samples::default());
    for _ in 0..ROUNDS {
        let target = directory.path().join("target");
        let store = |name: &str| ImageStore::open(directory.path().join(name)).unwrap();
        let (first, second) = (store("first"), store("second"));
        timed(&mut pulled, || ingest(&first, &layers));
        let tools: String = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let (into, blob) = (target.join(index.to_string()), layer.packed.display());
                let into = into.display();
                format!("mkdir -p {into}; tee >(sha256sum >/dev/null) < {blob} | gunzip | tee >(sha256sum >/dev/null) | tar -xp -C {into} &\n")
            })
            .collect();
        timed(&mut unpacked, || bash(&format!("{tools}wait")));
        fs::remove_dir_all(&target).unwrap();
        timed(&mut loaded, || drop(second.load(File::open(&archive).unwrap()).unwrap()));
        let tools: String = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let (into, blob) = (target.join(index.to_string()), layer.plain.display());
                let into = into.display();
                format!("mkdir -p {into}; tee >(sha256sum >/dev/null) < {blob} | tar -xp -C {into} &\n")
            })
            .collect();
        timed(&mut untarred, || bash(&format!("{tools}wait")));
        drop((first, second));
        for name in ["target", "first", "second"] {
            fs::remove_dir_all(directory.path().join(name)).unwrap();
        }
    }
    report("compressed layers taken in", plain, &mut pulled, &mut unpacked);
    report("plain archive loaded", plain, &mut loaded, &mut untarred);
}
