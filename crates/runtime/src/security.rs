//! Which security modules this host has. It knows the kernel's files, no profiles.

use std::path::Path;

/// Whether the kernel confines programs by AppArmor profiles.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.first() == Some(&b'Y'))
}

/// Whether the kernel labels by SELinux.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
