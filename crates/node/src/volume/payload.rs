//! Files that appear and change all at once.
//!
//! The layout is the kubelet's: the files are in a directory of their own, `..data` is a symbolic link to it, and
//! each name that programs see is a link through `..data`. A new version is written beside the old one, and renaming
//! the link `..data` changes all files in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path};

use sha2::{Digest as _, Sha256};

use crate::error::IoContext;
use crate::{Error, Result};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// Files by their path in the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// A name for the content: the same files always have the same.
fn version(payload: &Payload, group: Option<u32>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{group:?}"));
    for (path, file) in payload {
        hash.update((path.len() as u64).to_be_bytes());
        hash.update(path);
        hash.update(file.mode.to_be_bytes());
        hash.update((file.bytes.len() as u64).to_be_bytes());
        hash.update(&file.bytes);
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("..{hex}")
}

fn check_path(path: &str) -> Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(Error::pod(format!("invalid path {path:?}: must be relative and not begin with \"..\"")));
    }
    Ok(())
}

/// Makes the directory show exactly these files. Does nothing when it already does.
pub(crate) fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> Result<()> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let version = version(payload, group);
    let link = directory.join(DATA);
    let old = std::fs::read_link(&link).ok();
    if old.as_deref() == Some(Path::new(&version)) {
        return Ok(());
    }
    let place = directory.join(&version);
    if place.exists() {
        // A crash left it half-written.
        std::fs::remove_dir_all(&place).io("remove", &place)?;
    }
    make_directory(&place, group)?;
    for (path, file) in payload {
        write_file(&place, path, file, group)?;
    }
    let new = directory.join(NEW_DATA);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).io("remove", &new),
        _ => {}
    }
    symlink(&version, &new).io("link", &new)?;
    std::fs::rename(&new, &link).io("rename", &new)?;
    show(directory, payload)?;
    if let Some(old) =
        old.filter(|old| old.to_string_lossy().starts_with("..") && old.components().count() == 1)
    {
        let old = directory.join(old);
        std::fs::remove_dir_all(&old).io("remove", &old)?;
    }
    Ok(())
}

fn make_directory(path: &Path, group: Option<u32>) -> Result<()> {
    std::fs::create_dir_all(path).io("create", path)?;
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).io("change group of", path)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).io("change mode of", path)
}

fn write_file(place: &Path, path: &str, file: &File, group: Option<u32>) -> Result<()> {
    let target = place.join(path);
    if let Some(parent) = target.parent().filter(|parent| *parent != place) {
        make_directory(parent, group)?;
    }
    std::fs::write(&target, &file.bytes).io("write", &target)?;
    let mut mode = file.mode & 0o777;
    if group.is_some() {
        std::os::unix::fs::chown(&target, None, group).io("change group of", &target)?;
        mode |= 0o440;
    }
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).io("change mode of", &target)
}

/// Links the names that programs see, and unlinks those that are no more.
fn show(directory: &Path, payload: &Payload) -> Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &wanted {
        let link = directory.join(name);
        if std::fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).io("link", &link)?;
        }
    }
    for entry in std::fs::read_dir(directory).io("list", directory)? {
        let entry = entry.io("list", directory)?;
        let name = entry.file_name();
        let is_shown = name.to_str().is_none_or(|name| !name.starts_with("..") && !wanted.contains(name));
        if is_shown && entry.path().is_symlink() {
            std::fs::remove_file(entry.path()).io("remove", entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o644 }))
            .collect()
    }

    #[test]
    fn files_change_together_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let read = |name: &str| std::fs::read_to_string(path.join(name)).ok();
        write(path, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
        let first = std::fs::read_link(path.join(DATA)).unwrap();
        write(path, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_link(path.join(DATA)).unwrap(), first, "nothing changed");
        write(path, &payload(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!((read("a"), read("c"), read("sub/b")), (Some("3".into()), Some("4".into()), None));
        assert!(!path.join(first).exists() && !path.join("sub").exists());
    }

    #[test]
    fn nothing_is_written_outside() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "a/../../b", "", "..data", "."] {
            assert!(write(directory.path(), &payload(&[(path, "x")]), None).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
