//! A second directory of the same files: hard links, below directories of their own.
//!
//! The files of layers are never written again, so nobody sees that they have several names.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::Result;
use crate::error::IoContext;

/// Makes `target` with all that is in `source`, which nobody changes meanwhile. Nothing is followed.
pub(crate) fn link_directory(source: &Path, target: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(source).io("look at", source)?;
    fs::create_dir(target).io("create", target)?;
    for entry in fs::read_dir(source).io("list", source)? {
        let entry = entry.io("list", source)?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if entry.file_type().io("look at", &from)?.is_dir() {
            link_directory(&from, &to)?;
        } else {
            // linkat(2) without AT_SYMLINK_FOLLOW: a symbolic link gets a second name itself.
            fs::hard_link(&from, &to).io("link", &from)?;
        }
    }
    let mut opaque = [0; 8];
    let name = "trusted.overlay.opaque";
    if let Ok(n) = rustix::fs::lgetxattr(source, name, &mut opaque) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(target, name, &opaque[..n], flags).io("mark", target)?;
    }
    chown(target, Some(metadata.uid()), Some(metadata.gid())).io("change owner of", target)?;
    let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(target, mode).io("change mode of", target)?;
    let modified = metadata.modified().io("look at", source)?;
    fs::File::open(target).io("open", target)?.set_modified(modified).io("set times of", target)
}
