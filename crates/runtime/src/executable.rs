//! A view of the running binary that nobody can write through.
//!
//! Shims, and the first processes of containers before they run their program, are this binary. A container that
//! opened their `/proc/PID/exe` for writing would own the host (CVE-2019-5736), so they are run from a read-only
//! mount of their own that has no path, or else from a sealed copy in memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::Context as _;
use crate::{Error, Result};

/// The running binary, opened so that a process run from it cannot be used to overwrite it.
#[derive(Debug)]
pub struct Executable {
    file: OwnedFd,
    sealed_copy: bool,
}

impl Executable {
    /// Opens the binary of the calling process. The daemon does this once.
    pub fn open() -> Result<Self> {
        match Self::read_only_clone() {
            Ok(file) => Ok(Self { file, sealed_copy: false }),
            Err(_) => Self::sealed_copy("/proc/self/exe"),
        }
    }

    /// As [`Self::open`] for another binary, for example in tests.
    pub fn open_path(path: &std::path::Path) -> Result<Self> {
        match clone_read_only(path) {
            Ok(file) => Ok(Self { file, sealed_copy: false }),
            Err(_) => Self::sealed_copy(path),
        }
    }

    /// Runs the calling process anew from a read-only view of its binary, unless it runs from one already.
    ///
    /// For a process that makes containers without a shim: what they could get at through `/proc` is the view. Must be
    /// called while the process has one thread. Arguments, environment and inherited descriptors stay.
    pub fn become_read_only() -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let path = std::path::Path::new("/proc/self/exe");
        let failed = |source| Error::File { operation: "open", path: path.into(), source };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let system = rustix::fs::fstatvfs(&own).to("look at this binary")?;
        let sealed = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
        if system.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) || sealed {
            return Ok(());
        }
        drop(own);
        let executable = Self::open()?;
        let mut words = std::env::args_os();
        let mut command = std::process::Command::new(executable.path());
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        Err(Error::System { operation: "run this binary anew", source: command.args(words).exec() })
    }

    fn read_only_clone() -> io::Result<OwnedFd> {
        clone_read_only(std::path::Path::new("/proc/self/exe"))
    }

    fn sealed_copy(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let mut source = std::fs::File::open(path.as_ref()).map_err(|source| Error::File {
            operation: "open",
            path: path.as_ref().into(),
            source,
        })?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = memfd_create("dray", flags).to("create a memory file")?;
        let mut copy = std::fs::File::from(copy);
        io::copy(&mut source, &mut copy).to("copy the binary into memory")?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&copy, seals).to("seal the copy of the binary")?;
        // A descriptor open for writing would make execve fail with ETXTBSY.
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let file = open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .to("reopen the copy of the binary")?;
        Ok(Self { file, sealed_copy: true })
    }

    /// Path by which this process can run it, valid while the value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Whether it is a copy in memory because the kernel offers no read-only clone.
    pub fn is_sealed_copy(&self) -> bool {
        self.sealed_copy
    }
}

fn clone_read_only(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)?;
    crate::sys::mount_setattr(
        mount.as_fd(),
        false,
        libc::MOUNT_ATTR_RDONLY,
        0,
        u64::from(libc::MS_PRIVATE as u32),
        None,
    )?;
    Ok(mount)
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
