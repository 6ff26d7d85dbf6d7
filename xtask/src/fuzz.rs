//! `cargo xtask fuzz [SECONDS [NAME]]`: the targets of `fuzz/`, each for so long, with libFuzzer and its instrumentation.
//!
//! What a search finds on the way stays below the target directory and is where the next begins; an input that fails is
//! named at the end, and belongs into `fuzz/corpus` with the mending.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{Error, run, tools};

/// How long a target is searched when nobody says.
pub(crate) const SECONDS: u32 = 60;
/// The targets: the name of the program and of its corpus, and the longest input in bytes.
const TARGETS: [(&str, u32); 7] = [
    ("backup", 16_384),
    ("cel", 2_048),
    ("document", 16_384),
    ("dockerfile", 4_096),
    ("image", 65_536),
    ("layer", 16_384),
    ("reference", 512),
];
/// How the compiler tells libFuzzer where an input led.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// One input that takes longer is a failure, in seconds.
const SLOWEST: u32 = 20;
/// Memory that the search may take, in MiB.
const MEMORY: u32 = 2_048;

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// Builds the targets and runs them, or one of them, for `seconds` each.
pub(crate) fn everything(root: &Path, seconds: u32, only: Option<&str>) -> Result<(), Error> {
    if let Some(only) = only.filter(|only| !TARGETS.iter().any(|(name, _)| name == only)) {
        let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(Error::Unexpected {
            what: format!("there is no target {only:?}: try one of {}", known.join(", ")),
        });
    }
    tools::install_fuzzer()?;
    let manifest = root.join("fuzz/Cargo.toml");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("fuzz");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--bins", "--manifest-path"]).arg(&manifest);
    // The workspace's own flags are for its static binaries.
    cargo.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", INSTRUMENTATION).current_dir(root.join("fuzz"));
    run(&mut cargo)?;
    let wanted: Vec<_> =
        TARGETS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)).copied().collect();
    let next = AtomicUsize::new(0);
    // A search has one thread: as many at once as there are processors.
    let searcher = || {
        while let Some((name, longest)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            search(root, &target, name, *longest, seconds)?;
        }
        Ok(())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let searchers: Vec<_> = (0..processors).map(|_| scope.spawn(searcher)).collect();
        let results = searchers.into_iter().map(|searcher| match searcher.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All end, then the first that failed is told.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

fn search(root: &Path, target: &Path, name: &str, longest: u32, seconds: u32) -> Result<(), Error> {
    let place = target.join("found").join(name);
    let corpus = place.join("corpus");
    fs::create_dir_all(&corpus).map_err(file(&corpus))?;
    let program = target.join(target_triple()).join("release").join(name);
    let mut search = Command::new(program);
    search.arg(&corpus).arg(root.join("fuzz/corpus").join(name)).current_dir(&place).args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={longest}"),
        format!("-timeout={SLOWEST}"),
        format!("-rss_limit_mb={MEMORY}"),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ]);
    run(&mut search)
}

/// Where cargo puts what it builds for this host: the workspace's settings name the host as the target.
fn target_triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
