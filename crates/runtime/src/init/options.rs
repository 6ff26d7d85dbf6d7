//! Mount options as the OCI runtime specification and mount(8) write them.

use rustix::mount::MountAttrFlags;

/// Options of one mount, sorted by who they concern.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// It is a bind mount, and with what is mounted below.
    pub(super) bind: bool,
    pub(super) recursive: bool,
    /// Owners are shown mapped, and whether those of mounts below too.
    pub(super) idmap: Option<bool>,
    /// A tmpfs begins with what it covers.
    pub(super) copy_up: bool,
    /// Change what is mounted there already.
    pub(super) remount: bool,
    /// Attributes of the mount to set and to clear.
    pub(super) set: u64,
    pub(super) clear: u64,
    /// The same for all mounts below (options like `rro`).
    pub(super) recursive_set: u64,
    pub(super) recursive_clear: u64,
    /// Propagation and whether it goes for mounts below too.
    pub(super) propagation: Option<(u64, bool)>,
    /// Settings of the file system: name, and a value where there is one.
    pub(super) data: Vec<(String, Option<String>)>,
}

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NO_DEVICES: u64 = libc::MOUNT_ATTR_NODEV;
const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const ACCESS_TIME: u64 = libc::MOUNT_ATTR__ATIME;
const NO_ACCESS_TIME: u64 = libc::MOUNT_ATTR_NOATIME;
const STRICT_ACCESS_TIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
const NO_DIRECTORY_ACCESS_TIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NO_LINKS: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;

/// Attribute by name: what is set and what is cleared.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEVICES, 0),
        "dev" => (0, NO_DEVICES),
        "noexec" => (NO_EXEC, 0),
        "exec" => (0, NO_EXEC),
        // The three kinds of access times are one field: the kernel wants it cleared when it is set.
        "noatime" => (NO_ACCESS_TIME, ACCESS_TIME),
        "atime" | "norelatime" | "nostrictatime" => (0, 0),
        "relatime" => (0, ACCESS_TIME),
        "strictatime" => (STRICT_ACCESS_TIME, ACCESS_TIME),
        "nodiratime" => (NO_DIRECTORY_ACCESS_TIME, 0),
        "diratime" => (0, NO_DIRECTORY_ACCESS_TIME),
        "nosymfollow" => (NO_LINKS, 0),
        "symfollow" => (0, NO_LINKS),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<u64> {
    Some(match name {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    })
}

impl Options {
    /// Sorts options; what is no option of mounts goes to the file system.
    pub(super) fn parse<'a>(options: impl IntoIterator<Item = &'a String>) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "" | "defaults" | "async" | "nomand" | "loud" | "noiversion" | "newinstance" | "nofail" => {}
                "bind" => parsed.bind = true,
                "rbind" => {
                    parsed.bind = true;
                    parsed.recursive = true;
                }
                "idmap" => parsed.idmap = Some(false),
                "ridmap" => parsed.idmap = Some(true),
                "tmpcopyup" => parsed.copy_up = true,
                "remount" => parsed.remount = true,
                name => parsed.add(name),
            }
        }
        parsed
    }

    fn add(&mut self, name: &str) {
        if let Some((set, clear)) = attribute(name) {
            self.set = self.set & !clear | set;
            self.clear = self.clear & !set | clear;
        } else if let Some(kind) = propagation(name) {
            self.propagation = Some((kind, false));
        } else if let Some(kind) = name.strip_prefix('r').and_then(propagation) {
            self.propagation = Some((kind, true));
        } else if let Some((set, clear)) = name.strip_prefix('r').and_then(attribute) {
            self.recursive_set = self.recursive_set & !clear | set;
            self.recursive_clear = self.recursive_clear & !set | clear;
        } else {
            let (key, value) = match name.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (name, None),
            };
            self.data.push((key.to_owned(), value));
        }
    }

    /// Attributes for a new mount.
    pub(super) fn attributes(&self) -> MountAttrFlags {
        MountAttrFlags::from_bits_retain(self.set as libc::c_uint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Options {
        let options: Vec<String> = options.split(',').map(String::from).collect();
        Options::parse(&options)
    }

    #[test]
    fn options_go_where_they_belong() {
        let options = parse("rbind,ro,nosuid,rprivate,size=64k,mode=755,noswap");
        assert!(options.bind && options.recursive);
        assert_eq!(options.set, READ_ONLY | NO_SUID);
        assert_eq!(options.propagation, Some((libc::MS_PRIVATE, true)));
        let data: Vec<_> = options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(data, [("size", Some("64k")), ("mode", Some("755")), ("noswap", None)]);
    }

    #[test]
    fn later_options_win() {
        let options = parse("ro,rw");
        assert_eq!((options.set, options.clear), (0, READ_ONLY));
        let options = parse("rro,noatime,strictatime");
        assert_eq!(options.recursive_set, READ_ONLY);
        assert_eq!((options.set, options.clear), (STRICT_ACCESS_TIME, ACCESS_TIME));
    }
}
