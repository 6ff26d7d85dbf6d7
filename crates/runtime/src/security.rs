//! Which security modules this host has. It knows the kernel's files, no profiles.

use std::path::Path;

/// Whether the kernel confines programs by AppArmor profiles.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.first() == Some(&b'Y'))
}

/// Whether the kernel has an AppArmor profile of this name.
pub fn has_apparmor_profile(name: &str) -> bool {
    has_apparmor()
        && std::fs::read_to_string("/sys/kernel/security/apparmor/profiles")
            .is_ok_and(|profiles| lists_profile(&profiles, name))
}

/// Whether the kernel's list, lines like `name (enforce)`, has a profile.
fn lists_profile(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

/// Whether the kernel labels by SELinux.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_listed_with_their_mode() {
        let listed = "/usr/bin/man (enforce)\nwith a (blank) (complain)\ndocker-default (enforce)\n";
        assert!(lists_profile(listed, "docker-default") && lists_profile(listed, "with a (blank)"));
        assert!(!lists_profile(listed, "docker") && !lists_profile("", "docker-default"));
    }
}
