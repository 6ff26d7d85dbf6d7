//! A control group of one's own, so that a test attaches nothing to the host's.

use std::fs;
use std::path::{Path, PathBuf};

/// A control group of the unified hierarchy that the caller is in; when it is dropped, the caller is where it was.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    before: PathBuf,
}

impl ControlGroup {
    /// Makes a group and enters it.
    ///
    /// # Panics
    /// Where the unified hierarchy is not mounted, or the caller is not root.
    #[must_use]
    pub fn enter() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("cannot read the mounts");
        let unified = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let unified = unified.and_then(|line| line.split(' ').nth(4)).expect("mount cgroup2 somewhere");
        let own = fs::read_to_string("/proc/self/cgroup").expect("cannot read the own groups");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a unified group");
        let root = Path::new(unified);
        let path = root.join(format!("dray-test-{}", std::process::id()));
        let group = Self { path, before: root.join(own) };
        fs::create_dir(&group.path).expect("cannot make a control group: run the tests as root");
        fs::write(group.path.join("cgroup.procs"), "0").expect("cannot enter a control group");
        group
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::write(self.before.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}
