//! `dray backup` and `dray restore`: the cluster's objects and what they hang on, as one file.
//!
//! With the objects go the cluster's certificates and keys, and what was chosen at its first start, because objects name them.
//! Containers and images are no part of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dray_store::backup;

use crate::arguments::{BackupOptions, RestoreOptions};
use crate::cluster::CHOICES;
use crate::daemon;
use crate::error::{Error, io};

const CLUSTER: &str = "cluster";
const STORE: &str = "store";
const PKI: &str = "pki";
/// The largest file that goes along with the objects, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Takes a backup, whether a daemon runs or not.
pub(crate) fn take(options: &BackupOptions) -> Result<(), Error> {
    let cluster = options.data_dir.join(CLUSTER);
    let pki = cluster.join(PKI);
    let mut files = Vec::new();
    for file in fs::read_dir(&pki).map_err(io("read", &pki))? {
        let path = file.map_err(io("read", &pki))?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            files.push((format!("{PKI}/{name}"), read(&path)?));
        }
    }
    files.push((CHOICES.to_owned(), read(&options.data_dir.join(CHOICES))?));
    // A half-written file must not be taken for a backup.
    let new = options.file.with_extension("partial");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let mut out = BufWriter::new(file.map_err(io("write", &new))?);
    let taken = backup::take(&cluster.join(STORE), &files, &mut out, &new);
    let revision = taken.map_err(|source| Error::Backup { source })?;
    let finish = || {
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &options.file)
    };
    finish().map_err(io("write", &options.file))?;
    say(&format!("{}: revision {revision}", options.file.display()));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let length = fs::metadata(path).map_err(io("read", path))?.len();
    if length > LARGEST {
        return Err(io("keep", path)(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(io("read", path))
}

/// Makes a cluster of a backup where none is.
pub(crate) fn restore(options: &RestoreOptions) -> Result<(), Error> {
    let data_dir = &options.data_dir;
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(data_dir).map_err(io("create", data_dir))?;
    let _lock = daemon::lock(data_dir)?;
    let cluster = data_dir.join(CLUSTER);
    if cluster.exists() {
        return Err(Error::Exists { path: cluster });
    }
    // What an attempt before left behind.
    let new = data_dir.join("cluster.restoring");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove", &new)(error)),
        _ => {}
    }
    make(&new.join(PKI)).map_err(io("create", &new))?;
    let mut place = |name: &str, content: &[u8]| {
        let path = destination(name, data_dir, &new).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it has a file {name:?} that belongs nowhere"))
        })?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    let restored = backup::restore(&options.file, &new.join(STORE), &mut place);
    let revision = restored.map_err(|source| Error::Backup { source })?;
    let finish = || {
        fs::rename(&new, &cluster)?;
        File::open(data_dir)?.sync_all()
    };
    finish().map_err(io("write", &cluster))?;
    say(&format!("{}: restored at revision {revision}", data_dir.display()));
    Ok(())
}

/// Where a file of a backup belongs.
fn destination(name: &str, data_dir: &Path, cluster: &Path) -> Option<PathBuf> {
    if name == CHOICES {
        return Some(data_dir.join(CHOICES));
    }
    let name = name.strip_prefix(PKI)?.strip_prefix('/')?;
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/') && !name.contains('\0');
    plain.then(|| cluster.join(PKI).join(name))
}

#[allow(clippy::print_stdout, reason = "this is the answer")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::destination;

    #[test]
    fn files_go_to_their_places_and_nowhere_else() {
        let place = |name| destination(name, Path::new("/d"), Path::new("/d/new"));
        assert_eq!(place("choices.json").as_deref(), Some(Path::new("/d/choices.json")));
        assert_eq!(place("pki/ca.crt").as_deref(), Some(Path::new("/d/new/pki/ca.crt")));
        for name in ["pki/../x", "pki/", "pki", "pki/a/b", "/etc/passwd", "../x", "pki/..", "x", "pkix"] {
            assert_eq!(place(name), None, "{name}");
        }
    }
}
