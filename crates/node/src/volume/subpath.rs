//! A part of a volume, resolved so that no symbolic link in it leads out of it, and held by a mount so that nobody
//! can exchange it afterwards.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::error::IoContext;
use crate::{Error, Result};

/// Binds `part` of the volume at `root` to `target`. A part that is missing is made as a directory.
///
/// # Errors
/// When the part leads out of the volume.
pub(super) fn bind(root: &Path, part: &str, target: &Path) -> Result<()> {
    let relative = Path::new(part);
    let plain =
        relative.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(Error::pod(format!("subPath {part:?} must be relative and without \"..\"")));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).io("open", root)?;
    let found = resolve(&directory, root, relative)?;
    let stat = rustix::fs::fstat(&found).io("look at", root.join(relative))?;
    let parent = target.parent().unwrap_or(target);
    std::fs::create_dir_all(parent).io("create", parent)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        std::fs::create_dir(target).io("create", target)?;
    } else {
        std::fs::write(target, "").io("create", target)?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(source, target).io("bind a part of a volume to", target)
}

fn open_beneath(directory: &OwnedFd, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, path, flags, Mode::empty(), resolve)
}

fn resolve(directory: &OwnedFd, root: &Path, part: &Path) -> Result<OwnedFd> {
    let outside = |error: Errno| match error {
        Errno::XDEV | Errno::LOOP => {
            Error::pod(format!("subPath {:?} leads out of its volume", part.display()))
        }
        error => Error::Io { action: "open", path: root.join(part), source: error.into() },
    };
    match open_beneath(directory, part) {
        Ok(found) => return Ok(found),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(outside(error)),
    }
    let mode = rustix::fs::fstat(directory).io("look at", root)?.st_mode & 0o7777;
    let mode = Mode::from_raw_mode(mode);
    let mut parent = open_beneath(directory, Path::new(".")).map_err(outside)?;
    let mut path = std::path::PathBuf::new();
    for component in part.components().filter(|part| matches!(part, Component::Normal(_))) {
        path.push(component);
        let next = match open_beneath(directory, &path) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let name: &Path = component.as_ref();
                rustix::fs::mkdirat(&parent, name, mode).io("create", root.join(&path))?;
                // By descriptor: a container that has the volume may have put a link in its place by now.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(&parent, name, flags, Mode::empty()).map_err(outside)?;
                rustix::fs::fchmod(&made, mode).io("change mode of", root.join(&path))?;
                open_beneath(directory, &path).map_err(outside)?
            }
            Err(error) => return Err(outside(error)),
        };
        parent = next;
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    #[test]
    fn cve_2021_25741_a_part_exchanged_while_it_is_made_changes_nothing_outside() {
        let outside = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::set_permissions(volume.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let (part, trap) = (volume.path().join("part"), volume.path().join("trap"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(volume.path(), flags, Mode::empty()).unwrap();
        let finished = AtomicBool::new(false);
        let mut refused = 0;
        std::thread::scope(|scope| {
            // A container that has the volume already.
            scope.spawn(|| {
                while !finished.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &trap, CWD, &part, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..1000 {
                symlink(outside.path(), &trap).unwrap();
                refused += usize::from(resolve(&directory, volume.path(), Path::new("part")).is_err());
                // Which is which may change until one of them is gone.
                while part.symlink_metadata().is_ok() || trap.symlink_metadata().is_ok() {
                    for path in [&part, &trap] {
                        let _ = std::fs::remove_file(path);
                        let _ = std::fs::remove_dir(path);
                    }
                }
            }
            finished.store(true, Ordering::Relaxed);
        });
        assert!(refused > 0, "the names were never exchanged in time");
        assert_eq!(mode(outside.path()), 0o700);
    }
}
