//! `cargo xtask bench images`: load, push and pull of an image of 300 MB beside dockerd's, in turns, by Docker's command
//! line and with Debian's registry; and beside what gunzip, sha256sum and tar make of the same layers on all processors.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Dockerd, Line, PATIENCE, Samples, file, memory, report};
use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    tools,
};

/// Layers of the image, and bytes of each.
const LAYERS: usize = 3;
const LAYER: u64 = 100 << 20;
/// Rounds that count, after one that warms up.
const ROUNDS: usize = 5;
const REGISTRY: &str = "127.0.0.1:5066";
const NAME: &str = "127.0.0.1:5066/bench/image:1";

/// One of the two engines.
struct Side {
    host: String,
    load: Samples,
    push: Samples,
    pull: Samples,
}

impl Side {
    fn new(socket: &Path) -> Self {
        let [load, push, pull] = std::array::from_fn(|_| Samples::default());
        Self { host: format!("unix://{}", socket.display()), load, push, pull }
    }

    fn docker(&self, arguments: &[&str]) -> Result<(), Error> {
        let mut command = Command::new("docker");
        output(command.arg("--host").arg(&self.host).args(arguments)).map(drop)
    }

    /// Loads the archive, pushes it into an empty registry, and pulls it again.
    fn round(&mut self, directory: &Path, archive: &str) -> Result<(), Error> {
        let registry = Registry::start(directory)?;
        let mut samples = std::mem::take(&mut self.load);
        samples.time(|| self.docker(&["load", "-q", "-i", archive]))?;
        self.load = samples;
        self.docker(&["tag", "bench-image", NAME])?;
        let mut samples = std::mem::take(&mut self.push);
        samples.time(|| self.docker(&["push", "-q", NAME]))?;
        self.push = samples;
        self.docker(&["rmi", "bench-image", NAME])?;
        let mut samples = std::mem::take(&mut self.pull);
        samples.time(|| self.docker(&["pull", "-q", NAME]))?;
        self.pull = samples;
        self.docker(&["rmi", NAME])?;
        drop(registry);
        Ok(())
    }

    fn forget(&mut self) {
        for samples in [&mut self.load, &mut self.push, &mut self.pull] {
            samples.0.clear();
        }
    }
}

/// Debian's registry with nothing in it; it ends with the value.
struct Registry(Child, PathBuf);

impl Registry {
    fn start(directory: &Path) -> Result<Self, Error> {
        let data = directory.join("registry");
        let config = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: {REGISTRY} }}\n",
            data.display()
        );
        fs::write(&config, text).map_err(file(&config))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command
            .spawn()
            .map_err(|source| Error::Start { program: "docker-registry".to_owned(), source })?;
        let registry = Self(child, data);
        let begin = Instant::now();
        while std::net::TcpStream::connect(REGISTRY).is_err() {
            if begin.elapsed() > PATIENCE {
                return Err(Error::Unexpected { what: "Debian's registry does not listen".to_owned() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(&self.1);
    }
}

/// Copies files of this host, the same each time, until a layer is full.
fn fill(directory: &Path) -> Result<(), Error> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin"), PathBuf::from("/usr/share")];
    while let Some(path) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                // A few huge files would be no image.
                Ok(metadata) if metadata.is_file() && metadata.len() < 8 << 20 => {
                    found.push((entry.path(), metadata.len()));
                }
                _ => {}
            }
        }
    }
    found.sort_unstable();
    let mut files = found.into_iter();
    for layer in 0..LAYERS {
        let mut size = 0;
        while size < LAYER {
            let Some((path, length)) = files.next() else {
                return Err(Error::Unexpected {
                    what: "this host has not enough files for the image".to_owned(),
                });
            };
            let target = directory.join(layer.to_string()).join(path.strip_prefix("/").unwrap_or(&path));
            let parent = target.parent().unwrap_or(directory);
            fs::create_dir_all(parent).map_err(file(parent))?;
            if fs::copy(&path, &target).is_ok() {
                size += length;
            }
        }
    }
    Ok(())
}

/// Makes the image on a daemon that goes again, and answers its archive.
fn archive(dray: &Path, directory: &Path) -> Result<PathBuf, Error> {
    let context = directory.join("context");
    fill(&context)?;
    let copies: String = (0..LAYERS).map(|layer| format!("COPY {layer} /\n")).collect();
    let dockerfile = context.join("Dockerfile");
    fs::write(&dockerfile, format!("FROM scratch\n{copies}CMD [\"/none\"]\n")).map_err(file(&dockerfile))?;
    let state = directory.join("maker");
    fs::create_dir_all(&state).map_err(file(&state))?;
    let daemon = Daemon::start(dray, &state)?;
    let archive = directory.join("image.tar");
    daemon.ask(&["build", "-q", "-t", "bench-image", &context.to_string_lossy()])?;
    daemon.ask(&["save", "-o", &archive.to_string_lossy(), "bench-image"])?;
    daemon.stop(true)?;
    for gone in [&context, &state] {
        fs::remove_dir_all(gone).map_err(file(gone))?;
    }
    Ok(archive)
}

/// What gunzip, sha256sum and tar need for the compressed layers, all at once.
struct Floor {
    script: String,
    target: PathBuf,
}

impl Floor {
    fn new(directory: &Path, archive: &Path) -> Result<Self, Error> {
        let place = directory.join("floor");
        fs::create_dir_all(&place).map_err(file(&place))?;
        output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&place))?;
        let blobs = place.join("blobs/sha256");
        let mut lines = String::new();
        let target = place.join("target");
        for (index, entry) in fs::read_dir(&blobs).map_err(file(&blobs))?.flatten().enumerate() {
            if entry.metadata().is_ok_and(|metadata| metadata.len() > 1 << 20) {
                output(Command::new("gzip").args(["-n", "-f"]).arg(entry.path()))?;
                let (blob, into) = (entry.path(), target.join(index.to_string()));
                lines.push_str(&format!(
                    "mkdir -p {into}; tee >(sha256sum >/dev/null) < {blob}.gz | gunzip | tee >(sha256sum >/dev/null) | tar -xp -C {into} &\n",
                    into = into.display(),
                    blob = blob.display(),
                ));
            }
        }
        Ok(Self { script: format!("{lines}wait\n"), target })
    }

    fn run(&self, samples: &mut Samples) -> Result<(), Error> {
        samples.time(|| output(Command::new("bash").args(["-c", &self.script])).map(drop))?;
        fs::remove_dir_all(&self.target).map_err(file(&self.target))
    }
}

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_peers()?;
    tools::install_registry_clients()?;
    let [dray] = prepare(root, ["dray"])?;
    let directory = Directory::new("bench")?;
    let path = directory.path();
    let archive = archive(&dray, path)?;
    let floor = Floor::new(path, &archive)?;
    let archive = archive.to_string_lossy();
    let state = path.join("state");
    fs::create_dir_all(&state).map_err(file(&state))?;
    let daemon = Daemon::start(&dray, &state)?;
    let dockerd = Dockerd::start(path)?;
    let (mut ours, mut peer) = (Side::new(&daemon.socket()), Side::new(&dockerd.socket));
    let mut bare = Samples::default();
    for round in 0..=ROUNDS {
        ours.round(path, &archive)?;
        peer.round(path, &archive)?;
        floor.run(&mut bare)?;
        if round == 0 {
            ours.forget();
            peer.forget();
            bare.0.clear();
        }
    }
    let peak = memory(&daemon.pid().to_string(), &["Rss:"])?;
    let mut lines = Vec::new();
    let mut compare = |what, ours: &Samples, peer: &Samples, bar, times: f64| {
        let met = ours.median() * times <= peer.median();
        lines.push(Line { what, ours: ours.text(), peer: peer.text(), bar, met });
    };
    compare("load of 300 MB", &ours.load, &peer.load, "1/3 of the peer", 3.0);
    compare("push of it", &ours.push, &peer.push, "1/3 of the peer", 3.0);
    compare("pull of it", &ours.pull, &peer.pull, "1/3 of the peer", 3.0);
    compare("pull of it (peer: gunzip, sha256sum and tar)", &ours.pull, &bare, "70 % of its rate", 0.7);
    #[allow(clippy::cast_precision_loss, reason = "far below the limit")]
    lines.push(Line {
        what: "resident memory of the daemon after all that, MiB",
        ours: format!("{:.1}", peak as f64 / 1024.0),
        peer: String::new(),
        bar: "< 150",
        met: peak < 150 * 1024,
    });
    drop(dockerd);
    daemon.stop(true)?;
    report(&lines);
    Ok(())
}
