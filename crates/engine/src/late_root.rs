//! A container's root for who only looks into it before the start, mounted as late as possible: most starts need the
//! image's accounts alone, and those stand in one layer.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use dray_runtime::rootfs::Root;

use crate::error::Trying;
use crate::record::ContainerRecord;
use crate::{Engine, Result};

pub(crate) struct LateRoot<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    lower: &'a [PathBuf],
    mounted: OnceCell<Root>,
}

/// Where the files with users and groups are.
pub(crate) enum Accounts<'a> {
    Layer(Root),
    Whole(&'a Root),
}

impl Accounts<'_> {
    pub(crate) fn root(&self) -> &Root {
        match self {
            Self::Layer(root) => root,
            Self::Whole(root) => root,
        }
    }
}

impl<'a> LateRoot<'a> {
    /// `lower` has the uppermost layer first.
    pub(crate) fn new(engine: &'a Engine, record: &'a ContainerRecord, lower: &'a [PathBuf]) -> Self {
        Self { engine, record, lower, mounted: OnceCell::new() }
    }

    /// The whole file system as the container will see it.
    pub(crate) fn whole(&self) -> Result<&Root> {
        if let Some(root) = self.mounted.get() {
            return Ok(root);
        }
        let root = self.engine.root_of(self.record, self.lower)?;
        Ok(self.mounted.get_or_init(|| root))
    }

    /// The layer in which the files with users and groups are, when it is only one, or else the whole.
    pub(crate) fn accounts(&self) -> Result<Accounts<'_>> {
        let upper = self.engine.container_dir(&self.record.id).join("upper");
        let mut layers = vec![upper.as_path()];
        layers.extend(self.lower.iter().map(PathBuf::as_path));
        match only_layer(&layers) {
            Some(layer) => Ok(Accounts::Layer(Root::open(layer).trying("open a layer")?)),
            None => self.whole().map(Accounts::Whole),
        }
    }
}

/// The layer that has `etc/passwd` and `etc/group`, or the uppermost when none has either. None when they are in
/// several, or when links, whiteouts or opaque directories decide: then only overlayfs knows.
fn only_layer<'a>(layers: &[&'a Path]) -> Option<&'a Path> {
    let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let mut found: [Option<&Path>; 2] = [None, None];
    for layer in layers {
        if found.iter().all(Option::is_some) {
            break;
        }
        let etc = layer.join("etc");
        match etc.symlink_metadata() {
            Err(error) if absent(&error) => continue,
            Ok(metadata) if metadata.is_dir() && !is_opaque(&etc) => {}
            _ => return None,
        }
        for (slot, name) in found.iter_mut().zip(["passwd", "group"]) {
            if slot.is_some() {
                continue;
            }
            match etc.join(name).symlink_metadata() {
                Err(error) if absent(&error) => {}
                Ok(metadata) if metadata.is_file() => *slot = Some(layer),
                _ => return None,
            }
        }
    }
    match found {
        [Some(one), Some(other)] if one == other => Some(one),
        [None, None] => layers.first().copied(),
        _ => None,
    }
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0_u8; 8];
    matches!(rustix::fs::lgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn accounts_are_read_from_one_layer_only_when_that_is_what_overlayfs_would_show() {
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str, files: &[&str]| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            for file in files {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            path
        };
        let empty = layer("empty", &["bin/sh"]);
        let both = layer("both", &["etc/passwd", "etc/group"]);
        let one = layer("one", &["etc/passwd"]);
        let other = layer("other", &["etc/hosts"]);
        let link = layer("link", &[]);
        std::os::unix::fs::symlink("/etc", link.join("etc")).unwrap();
        let linked = layer("linked", &["etc/group"]);
        std::os::unix::fs::symlink("/etc/shadow", linked.join("etc/passwd")).unwrap();
        let found = |layers: &[&PathBuf]| {
            let layers: Vec<&Path> = layers.iter().map(|path| path.as_path()).collect();
            only_layer(&layers).map(Path::to_owned)
        };
        assert_eq!(found(&[&empty, &other, &both, &one]), Some(both.clone()));
        assert_eq!(found(&[&empty, &other]), Some(empty.clone()));
        assert_eq!(found(&[&one, &both]), None);
        assert_eq!(found(&[&one]), None);
        assert_eq!(found(&[&link, &both]), None);
        assert_eq!(found(&[&both, &link]), Some(both.clone()), "what is below decides nothing");
        assert_eq!(found(&[&linked]), None);
    }
}
