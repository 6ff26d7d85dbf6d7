//! `cargo xtask bench builds`: builds by the own client and by Docker's with buildx, beside dockerd's with its classic
//! builder and with BuildKit, in turns.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Dockerd, Line, RUNS, Samples, WARM_UP, build, file, report};
use crate::{
    Error,
    daemon::{Daemon, Directory, output, prepare},
    tools,
};

/// Builds without a cache take their time, so there are fewer of them.
const COLD: usize = 5;
/// Bytes of the base image that cold builds stand on.
const BASE: usize = 300 << 20;
const BASE_FILES: usize = 3000;

/// Who builds.
struct Side {
    name: &'static str,
    program: PathBuf,
    socket: PathBuf,
    /// Where Docker's client finds its plugins; without it builds classically.
    plugins: Option<PathBuf>,
    cached: Samples,
    cold: Samples,
    stages: Samples,
}

impl Side {
    fn new(name: &'static str, program: &Path, socket: &Path, plugins: Option<&Path>) -> Self {
        let [cached, cold, stages] = std::array::from_fn(|_| Samples::default());
        let (program, socket) = (program.to_owned(), socket.to_owned());
        Self { name, program, socket, plugins: plugins.map(Path::to_owned), cached, cold, stages }
    }

    fn build(&self, options: &[&str], context: &Path) -> Result<Duration, Error> {
        let mut command = Command::new(&self.program);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_BUILDKIT", if self.plugins.is_some() { "1" } else { "0" });
        if let Some(plugins) = &self.plugins {
            command.env("DOCKER_CONFIG", plugins);
        }
        command.args(["build", "-q"]).args(options).arg(context);
        let begin = Instant::now();
        output(&mut command)?;
        Ok(begin.elapsed())
    }
}

/// Ten steps of the usual kinds, over an image.
fn ten_steps(base: &str) -> String {
    format!(
        "FROM {base}\nENV A=1\nWORKDIR /srv\nCOPY one.txt .\nRUN sh -c 'true > made'\nCOPY tree tree/\n\
         RUN sh -c 'true > made2'\nLABEL a=b\nCOPY two.txt .\nRUN sh -c 'true > made3'\nCMD [\"true\"]\n"
    )
}

fn context(directory: &Path, name: &str, dockerfile: &str) -> Result<PathBuf, Error> {
    let context = directory.join(name);
    fs::create_dir_all(context.join("tree")).map_err(file(&context))?;
    for index in 0..50 {
        let path = context.join(format!("tree/{index}.txt"));
        fs::write(&path, format!("{index}")).map_err(file(&path))?;
    }
    for (name, text) in [("one.txt", "one"), ("two.txt", "two"), ("Dockerfile", dockerfile)] {
        let path = context.join(name);
        fs::write(&path, text).map_err(file(&path))?;
    }
    Ok(context)
}

/// A base image of many files with contents that do not compress.
fn base(daemon: &Daemon, directory: &Path) -> Result<(), Error> {
    let context = directory.join("base");
    let data = context.join("data");
    fs::create_dir_all(&data).map_err(file(&data))?;
    let mut state = 1_u64;
    for index in 0..BASE_FILES {
        let mut bytes = Vec::with_capacity(BASE / BASE_FILES);
        while bytes.len() < BASE / BASE_FILES {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        let path = data.join(format!("{index}"));
        fs::write(&path, bytes).map_err(file(&path))?;
    }
    let path = context.join("Dockerfile");
    fs::write(&path, "FROM bench\nCOPY data /data\n").map_err(file(&path))?;
    daemon.ask(&["build", "-q", "-t", "large", &context.to_string_lossy()]).map(drop)
}

pub(super) fn run(root: &Path) -> Result<(), Error> {
    tools::install_peers()?;
    let [dray] = prepare(root, ["dray"])?;
    let directory = Directory::new("bench-builds")?;
    let state = directory.path().join("state");
    fs::create_dir_all(&state).map_err(file(&state))?;
    let daemon = Daemon::start(&dray, &state)?;
    build(&daemon, directory.path())?;
    base(&daemon, directory.path())?;
    let dockerd = Dockerd::start(directory.path())?;
    let archive = directory.path().join("images.tar");
    let archive = archive.to_string_lossy();
    daemon.ask(&["save", "-o", &archive, "bench", "large"])?;
    output(&mut dockerd.client(&["load", "-q", "-i", &archive]))?;
    let plugins = directory.path().join("client/cli-plugins");
    fs::create_dir_all(&plugins).map_err(file(&plugins))?;
    let buildx = plugins.join("docker-buildx");
    symlink(tools::buildx(root)?, &buildx).map_err(file(&buildx))?;
    let with = Some(directory.path().join("client"));
    let (docker, ours) = (Path::new("docker"), daemon.socket());
    let mut sides = [
        Side::new("ours", &dray, &ours, None),
        Side::new("classic", docker, &dockerd.socket, None),
        Side::new("BuildKit", docker, &dockerd.socket, with.as_deref()),
        Side::new("ours by buildx", docker, &ours, with.as_deref()),
    ];
    let cached = context(directory.path(), "cached", &ten_steps("bench"))?;
    let cold = context(directory.path(), "cold", &ten_steps("large"))?;
    let stages = "FROM bench AS a\nRUN sleep 2\nFROM bench AS b\nRUN : && sleep 2\nFROM bench\n\
                  COPY --from=a /bin/true /a\nCOPY --from=b /bin/true /b\n";
    let stages = context(directory.path(), "stages", stages)?;
    for round in 0..WARM_UP + RUNS {
        for side in &mut sides {
            let took = side.build(&[], &cached)?;
            if round >= WARM_UP {
                side.cached.add(took);
            }
        }
    }
    for _ in 0..COLD {
        for side in &mut sides {
            let took = side.build(&["--no-cache"], &cold)?;
            side.cold.add(took);
            let took = side.build(&["--no-cache"], &stages)?;
            side.stages.add(took);
        }
    }
    let [ours, others @ ..] = &sides;
    let [_, buildkit, _] = others;
    let peer = |pick: fn(&Side) -> &Samples| {
        let texts: Vec<String> =
            others.iter().map(|side| format!("{} {}", side.name, pick(side).text())).collect();
        texts.join(", ")
    };
    let lines = [
        Line {
            what: "build of ten steps, all cached",
            ours: ours.cached.text(),
            peer: peer(|side| &side.cached),
            bar: "a tenth of BuildKit",
            met: ours.cached.median() * 10.0 <= buildkit.cached.median(),
        },
        Line {
            what: "build of ten steps over 300 MB, none cached",
            ours: ours.cold.text(),
            peer: peer(|side| &side.cold),
            bar: "a third of BuildKit",
            met: ours.cold.median() * 3.0 <= buildkit.cold.median(),
        },
        Line {
            what: "two independent stages of two seconds",
            ours: ours.stages.text(),
            peer: peer(|side| &side.stages),
            bar: "< 2500",
            met: ours.stages.median() < 2500.0,
        },
    ];
    daemon.stop(true)?;
    report(&lines);
    Ok(())
}
