//! `cargo xtask suite docker-py`: the integration tests of Docker's library for Python, of its repository.
//!
//! `DOCKER_PY=DIR` names a checkout (otherwise git clones one below the target directory), and `DRAY=PATH` a binary that
//! is built already. The images that the tests want are made of Debian's busybox, and pulled from the daemon's own registry,
//! which stands for docker.io as its mirror.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::images;
use crate::{
    Error,
    daemon::{self, Daemon, Directory},
    run, tools,
};

const SOURCE: &str = "https://github.com/docker/docker-py";
const TAG: &str = "7.1.0";
/// The version of the API that this release of the library is tested with.
const API_VERSION: &str = "1.44";
const REQUIREMENTS: [&str; 6] = [
    "pytest==7.4.2",
    "pytest-timeout==2.1.0",
    "paramiko==3.5.1",
    "requests>=2.26.0",
    "urllib3>=1.26.0",
    "websocket-client>=1.3.0",
];
const IMAGES: [&str; 4] = ["busybox:latest", "alpine:3.10", "alpine:latest", "hello-world:latest"];
/// Seconds that one test may take.
const PATIENCE: &str = "90";

/// What the tests run with.
struct Tools {
    checkout: PathBuf,
    environment: PathBuf,
    /// Programs that the tests find before all others.
    programs: PathBuf,
}

/// Installs what is missing, runs all tests, and compares what fails with `xtask/suites/docker-py.txt`.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let tools = install(root)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("py")?;
    let daemon = Daemon::start_with(&dray, directory.path(), &images::MIRRORED)?;
    let host = format!("unix://{}", daemon.socket().display());
    make_images(directory.path(), &host)?;
    let home = directory.path().join("home");
    // Without a configuration the library keeps contexts in the directory it runs in.
    make(&home.join(".docker"))?;
    let configuration = home.join(".docker/config.json");
    fs::write(&configuration, "{}").map_err(|source| Error::File { path: configuration, source })?;
    let result = make_password_store(&home).and_then(|()| test(root, &tools, &home, &host));
    daemon.stop(true)?;
    judge(root, &result?)
}

fn make(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::File { path: directory.to_path_buf(), source })
}

fn install(root: &Path) -> Result<Tools, Error> {
    let directory = tools::directory(root).join("docker-py");
    let programs = directory.join("bin");
    make(&programs)?;
    let environment = directory.join("venv");
    if !environment.join("bin/pytest").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["--quiet", "install"]).args(REQUIREMENTS))?;
    }
    let checkout = match std::env::var_os("DOCKER_PY") {
        Some(path) => PathBuf::from(path),
        None => directory.join("docker-py"),
    };
    if !checkout.exists() {
        let clone = ["clone", "--quiet", "--depth", "1", "--branch", TAG, SOURCE];
        run(Command::new("git").args(clone).arg(&checkout))?;
    }
    tools::install_docker()?;
    tools::install_password_store()?;
    let helper = programs.join("docker-credential-pass");
    if !helper.exists() {
        // The package brings a second helper that needs a desktop, and that the tests would prefer.
        run(Command::new("apt-get")
            .args(["download", "golang-docker-credential-helpers"])
            .current_dir(&directory))?;
        let unpacked = directory.join("helpers");
        let command = format!("dpkg-deb -x golang-docker-credential-helpers_*.deb {}", unpacked.display());
        run(Command::new("sh").args(["-c", &command]).current_dir(&directory))?;
        let from = unpacked.join("usr/bin/docker-credential-pass");
        fs::copy(&from, &helper).map_err(|source| Error::File { path: from, source })?;
    }
    Ok(Tools { checkout, environment, programs })
}

/// A root directory with busybox under all its names, and the users that the tests ask for.
fn make_images(directory: &Path, host: &str) -> Result<(), Error> {
    let rootfs = directory.join("rootfs");
    for name in
        ["bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/opt"]
    {
        make(&rootfs.join(name))?;
    }
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { path, source }
    };
    let busybox = rootfs.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).map_err(failed(&busybox))?;
    let names = daemon::output(Command::new("/bin/busybox").arg("--list"))?;
    for name in names.lines().filter(|name| *name != "busybox") {
        let link = rootfs.join("bin").join(name);
        symlink("busybox", &link).map_err(failed(&link))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/home:/bin/sh\n";
    for (name, text) in [("etc/passwd", passwd), ("etc/group", "root:x:0:\npostgres:x:70:\n")] {
        let path = rootfs.join(name);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    let temporary = rootfs.join("tmp");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).map_err(failed(&temporary))?;
    let archive = directory.join("rootfs.tar");
    run(Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg("."))?;
    for image in IMAGES {
        let mut import = Command::new("docker");
        // A message of its own makes each an image of its own.
        import.env("DOCKER_HOST", host).args(["import", "-m", image, "-c", "CMD [\"/bin/sh\"]"]);
        run(import.arg(&archive).arg(image).stdout(Stdio::null()))?;
    }
    images::publish(host, &IMAGES)
}

/// A key and a store of passwords for the tests of credentials.
fn make_password_store(home: &Path) -> Result<(), Error> {
    let keys = home.join(".gnupg");
    make(&keys)?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700))
        .map_err(|source| Error::File { path: keys.clone(), source })?;
    let mut key = Command::new("gpg");
    key.args(["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "dray@example.com"]);
    run(key.env("HOME", home))?;
    run(Command::new("pass").args(["init", "dray@example.com"]).env("HOME", home).stdout(Stdio::null()))
}

/// Runs the tests and answers a line for each.
fn test(root: &Path, tools: &Tools, home: &Path, host: &str) -> Result<String, Error> {
    let mut path = OsString::from(&tools.programs);
    path.push(":");
    path.push(tools.environment.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(tools.environment.join("bin/pytest"));
    command
        .current_dir(&tools.checkout)
        .env("PATH", path)
        .env("HOME", home)
        .env("DOCKER_HOST", host)
        .env("DOCKER_TEST_API_VERSION", API_VERSION)
        .env("PYTHONPATH", &tools.checkout)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args([
            "--verbose",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "--timeout",
            PATIENCE,
            "tests/integration",
        ])
        .stderr(Stdio::inherit());
    super::pytest(root, "docker-py", &mut command)
}

/// The name of a test in a line of pytest's, and how it ended.
fn outcome(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("tests/integration/")?.split_once(' ')?;
    let word = rest.split_whitespace().next()?;
    let known = ["PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS"];
    known.contains(&word).then_some((name, word))
}

fn judge(root: &Path, text: &str) -> Result<(), Error> {
    let (mut passed, mut skipped, mut failed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (name, word) in text.lines().filter_map(outcome) {
        let kind = match word {
            "PASSED" | "XPASS" => &mut passed,
            "SKIPPED" | "XFAIL" => &mut skipped,
            _ => &mut failed,
        };
        kind.insert(name);
    }
    // One whose cleaning up fails is told of twice.
    passed.retain(|name| !failed.contains(name));
    skipped.retain(|name| !failed.contains(name));
    let (done, left) = (passed.len(), skipped.len());
    println!("\ndocker-py: {done} passed, {} failed, {left} skipped", failed.len());
    if passed.is_empty() {
        return Err(Error::Unexpected { what: "no test ran".to_owned() });
    }
    super::judge(root, "docker-py", failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pytest_are_read() {
        let line = "tests/integration/a_test.py::A::test_x PASSED          [ 12%]";
        assert_eq!(outcome(line), Some(("a_test.py::A::test_x", "PASSED")));
        assert_eq!(outcome("tests/integration/a_test.py:12: in test_x"), None);
        assert_eq!(outcome("FAILED tests/integration/a_test.py::A::test_x - x"), None);
    }
}
