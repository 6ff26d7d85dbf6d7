//! A Debian for suites whose images need programs: debootstrap makes it from where this host has its packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, daemon::Directory, run, tools};

const RELEASE: &str = "bookworm";

/// The least Debian and `packages` (names with commas) as an archive, made once for `suite` and kept below the target
/// directory.
pub(super) fn base(root: &Path, suite: &str, packages: &str) -> Result<PathBuf, Error> {
    let kept = tools::directory(root).join(suite);
    let archive = kept.join(format!("{RELEASE}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    tools::install_debootstrap()?;
    fs::create_dir_all(&kept).map_err(|source| Error::File { path: kept.clone(), source })?;
    let mirror = tools::mirror()?;
    let directory = Directory::new("debootstrap")?;
    let tree = directory.path().join("tree");
    let include = format!("--include={packages}");
    run(Command::new("debootstrap").args(["--variant=minbase", &include, RELEASE]).arg(&tree).arg(mirror))?;
    let unfinished = archive.with_extension("new");
    run(Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .args(["--exclude=./var/cache/apt", "--exclude=./dev/*"])
        .arg("-cf")
        .arg(&unfinished)
        .arg("."))?;
    fs::rename(&unfinished, &archive).map_err(|source| Error::File { path: unfinished, source })?;
    Ok(archive)
}
