//! User namespaces' mappings of users and groups: for containers, and for mounts that show other owners.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use crate::error::Context as _;
use crate::sys::{self, Fork};
use crate::{Error, Result, init, namespaces};

/// What numbers inside are outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identities {
    pub(crate) users: Vec<LinuxIdMapping>,
    pub(crate) groups: Vec<LinuxIdMapping>,
}

pub(crate) fn missing() -> Error {
    Error::Invalid {
        field: "linux.uidMappings",
        reason: "a user namespace needs mappings of users and groups".into(),
    }
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|one| {
        let offset = id.checked_sub(one.container_id()).filter(|&offset| offset < one.size())?;
        one.host_id().checked_add(offset)
    })
}

impl Identities {
    /// Those of a container with a user namespace.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        if !init::has_namespace(spec, LinuxNamespaceType::User) {
            return None;
        }
        let linux = spec.linux().as_ref()?;
        let (users, groups) = (linux.uid_mappings().clone()?, linux.gid_mappings().clone()?);
        Some(Self { users, groups }).filter(|one| !one.users.is_empty() && !one.groups.is_empty())
    }

    pub(crate) fn host_uid(&self, uid: u32) -> Option<u32> {
        host_id(&self.users, uid)
    }

    pub(crate) fn host_gid(&self, gid: u32) -> Option<u32> {
        host_id(&self.groups, gid)
    }

    /// Sets the mappings of a process that is alone in a new user namespace.
    pub(crate) fn write(&self, pid: i32) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            // Whoever maps only itself must give up setgroups (user_namespaces(7)).
            write(pid, "setgroups", "deny".into())?;
        }
        write(pid, "uid_map", text(&self.users))?;
        write(pid, "gid_map", text(&self.groups))
    }

    /// A user namespace with these mappings that nobody is in, for idmapped mounts.
    pub(crate) fn namespace(&self) -> Result<OwnedFd> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).to("make a pipe")?;
        match sys::clone3(libc::CLONE_NEWUSER as u64, None).to("make a user namespace")? {
            Fork::Child => {
                drop(writer);
                // Ends when the maker has what it wants, or is gone.
                let _ = rustix::io::read(reader.as_fd(), &mut [0u8; 1]);
                sys::exit_now(0)
            }
            Fork::Parent { pid } => {
                let _child = crate::spawn::Child { pid };
                drop(reader);
                self.write(pid)?;
                let namespace = namespaces::open_namespace(format!("/proc/{pid}/ns/user").as_ref());
                drop(writer);
                namespace
            }
        }
    }
}

fn text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size())).collect()
}

fn write(pid: i32, file: &str, text: String) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).map_err(|source| Error::File {
        operation: "write",
        path: path.into(),
        source,
    })
}
