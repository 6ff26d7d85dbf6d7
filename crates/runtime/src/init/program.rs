//! The program of a process: where it is, with what environment, in which directory.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, accessat, stat};
use rustix::io::Errno;
use rustix::process::{fchdir, getcwd};

use crate::error::Context as _;
use crate::protocol::{Failure, FailureKind};
use crate::rootfs::Root;
use crate::{Error, Result};

/// Everything execve needs.
pub(super) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// Whether it runs beneath an init process.
    pub(super) is_reaped: bool,
}

impl Program {
    /// Runs the program; returns only why it could not.
    pub(super) fn run(&self) -> Failure {
        let result = nix::unistd::execve(&self.path, &self.arguments, &self.environment);
        let errno = result.err().unwrap_or(nix::errno::Errno::UnknownErrno);
        let kind = match errno {
            nix::errno::Errno::ENOENT => FailureKind::CommandNotFound,
            _ => FailureKind::CannotInvoke,
        };
        let message = format!("exec {}: {}", self.path.to_string_lossy(), describe(errno as i32));
        Failure { kind, message }
    }
}

/// Error texts as users of Docker know them.
fn describe(errno: i32) -> String {
    match errno {
        libc::ENOENT => "no such file or directory".into(),
        libc::EACCES => "permission denied".into(),
        libc::EPERM => "operation not permitted".into(),
        libc::ENOEXEC => "exec format error".into(),
        libc::EISDIR => "is a directory".into(),
        libc::ENOTDIR => "not a directory".into(),
        libc::E2BIG => "argument list too long".into(),
        libc::ETXTBSY => "text file busy".into(),
        libc::ELOOP => "too many levels of symbolic links".into(),
        other => std::io::Error::from_raw_os_error(other).to_string().to_lowercase(),
    }
}

/// The environment with `HOME`, which comes from the image's users where it is not given.
pub(super) fn environment(process: &Process, root: &Root) -> Vec<String> {
    let mut environment: Vec<String> = process.env().clone().unwrap_or_default();
    let has_home =
        environment.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    if !has_home {
        environment.retain(|entry| !entry.starts_with("HOME="));
        let user = crate::rootfs::lookup_user(root, &process.user().uid().to_string()).ok();
        let home = user.and_then(|user| user.home).unwrap_or_else(|| PathBuf::from("/"));
        environment.push(format!("HOME={}", home.display()));
    }
    environment
}

/// Finds the program as a shell would and checks everything that can be checked before execve.
pub(super) fn find(process: &Process, environment: &[String]) -> Result<Program> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let Some(name) = arguments.first() else {
        return Err(Error::Invalid { field: "process.args", reason: "no command is given".into() });
    };
    let path = if name.contains('/') {
        runnable(Path::new(name)).map_err(|errno| {
            let reason = describe(errno.raw_os_error());
            let missing = matches!(errno, Errno::NOENT | Errno::NOTDIR);
            let message = if missing || errno == Errno::LOOP {
                format!("exec: {name:?}: stat {name}: {reason}")
            } else {
                format!("exec: {name:?}: {reason}")
            };
            let kind = if missing { FailureKind::CommandNotFound } else { FailureKind::CannotInvoke };
            Error::Start(Failure { kind, message })
        })?;
        PathBuf::from(name)
    } else {
        let search = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
        search
            .split(':')
            .filter(|directory| directory.starts_with('/') && !name.is_empty())
            .map(|directory| Path::new(directory).join(name))
            .find(|candidate| runnable(candidate).is_ok())
            .ok_or_else(|| {
                Error::Start(Failure {
                    kind: FailureKind::CommandNotFound,
                    message: format!("exec: {name:?}: executable file not found in $PATH"),
                })
            })?
    };
    Ok(Program {
        path: c_string(path.as_os_str(), "process.args")?,
        arguments: arguments
            .iter()
            .map(|one| c_string(one.as_ref(), "process.args"))
            .collect::<Result<_>>()?,
        environment: environment
            .iter()
            .map(|one| c_string(one.as_ref(), "process.env"))
            .collect::<Result<_>>()?,
        is_reaped: false,
    })
}

/// Whether this user may run the file.
fn runnable(path: &Path) -> std::result::Result<(), Errno> {
    let stat = stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)?;
    if stat.st_mode & 0o111 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
}

fn c_string(text: &OsStr, field: &'static str) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::Invalid { field, reason: "it contains a zero byte".into() })
}

/// Makes the working directory where it is missing; failing to is reported by [`enter_directory`].
pub(super) fn make_directory(root: &Root, path: &Path) {
    let _ = root.make_directories(path, Mode::from_raw_mode(0o755));
}

/// Enters the working directory and makes sure that it is inside (CVE-2024-21626): links of `/proc` that lead to open
/// descriptors are not followed, and what was entered has a path below the root.
pub(super) fn enter_directory(root: &Root, path: &Path, create: bool) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    if !path.is_absolute() {
        return Err(Error::Invalid {
            field: "process.cwd",
            reason: format!("{} is not absolute", path.display()),
        });
    }
    let failed =
        |source| Error::InRoot { operation: "enter the working directory", path: path.into(), source };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory = match root.resolve(path, flags, Mode::empty()) {
        Err(error) if create && error.kind() == std::io::ErrorKind::NotFound => {
            root.make_directories(path, Mode::from_raw_mode(0o755))?
        }
        result => result.map_err(failed)?,
    };
    fchdir(&directory).map_err(|errno| failed(errno.into()))?;
    let here = getcwd(Vec::new()).to("look where the working directory is")?;
    if here.to_bytes().first() != Some(&b'/') {
        return Err(Error::Invalid {
            field: "process.cwd",
            reason: format!("{} is outside of the container", path.display()),
        });
    }
    Ok(())
}

/// Sets how readily the kernel kills this process for want of memory. Lowering it needs a privilege that the
/// daemon may lack; then it stays.
pub(super) fn adjust_oom_score(adjustment: i32) -> Result<()> {
    let path = "/proc/self/oom_score_adj";
    match std::fs::write(path, adjustment.to_string()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(source) => Err(Error::File { operation: "write", path: path.into(), source }),
    }
}
