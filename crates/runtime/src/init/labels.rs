//! Labels of the kernel's security modules, for the program that is about to run.

use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::filesystem::new_filesystem;
use crate::error::Context as _;
use crate::{Error, Result};

/// Asks the kernel to give the next program its AppArmor profile or SELinux label. One that the host cannot give is
/// an error, never ignored.
///
/// It is written through a proc file system of our own: what is mounted at `/proc` could be anything (CVE-2019-16884,
/// CVE-2025-52881).
pub(super) fn apply(process: &Process) -> Result<()> {
    let profile = process.apparmor_profile().as_deref().filter(|name| !name.is_empty());
    let label = process.selinux_label().as_deref().filter(|label| !label.is_empty());
    if profile.is_none() && label.is_none() {
        return Ok(());
    }
    let proc = new_filesystem("proc", Some("proc"), &[], MountAttrFlags::empty()).to("mount proc")?;
    let write = |path: &str, value: &str| {
        let file = crate::rootfs::resolve_in(proc.as_fd(), Path::new(path), OFlags::WRONLY, Mode::empty());
        let failed = |source| Error::File { operation: "write", path: Path::new("/proc").join(path), source };
        rustix::io::write(&file.map_err(failed)?, value.as_bytes()).map(drop).map_err(|e| failed(e.into()))
    };
    if let Some(profile) = profile {
        if !crate::security::has_apparmor() {
            return Err(Error::Invalid {
                field: "process.apparmorProfile",
                reason: "the host has no AppArmor".into(),
            });
        }
        let value = format!("exec {profile}");
        write("thread-self/attr/apparmor/exec", &value)
            .or_else(|_| write("thread-self/attr/exec", &value))?;
    }
    if let Some(label) = label {
        if !crate::security::has_selinux() {
            return Err(Error::Invalid {
                field: "process.selinuxLabel",
                reason: "the host has no SELinux".into(),
            });
        }
        write("thread-self/attr/exec", label)?;
    }
    Ok(())
}
