//! What is opened before there is a container: the sources of its bind mounts and, for a user namespace, its root.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{Mount, Spec};

use super::mounts::{self, Prepared};
use super::root;
use crate::Result;
use crate::identities::{self, Identities};
use crate::launch::Rootfs;

/// Open mounts without a path, for a container that is made next.
pub(crate) struct Sources<'a> {
    pub(super) mounts: Vec<Prepared<'a>>,
    /// The root, where the container itself could not mount it.
    pub(super) root: Option<OwnedFd>,
}

/// User namespaces for idmapped mounts, each made once.
pub(super) struct Mapped<'a> {
    container: Option<&'a Identities>,
    made: Vec<(Identities, OwnedFd)>,
}

impl Mapped<'_> {
    /// The namespace for a mount's own mappings, else the container's.
    pub(super) fn namespace(&mut self, mount: Option<&Mount>) -> Result<&OwnedFd> {
        let own = mount.and_then(|mount| {
            let (users, groups) = (mount.uid_mappings().clone()?, mount.gid_mappings().clone()?);
            Some(Identities { users, groups }).filter(|one| !one.users.is_empty() && !one.groups.is_empty())
        });
        let wanted = own.or_else(|| self.container.cloned()).ok_or_else(identities::missing)?;
        let at = match self.made.iter().position(|(one, _)| *one == wanted) {
            Some(at) => at,
            None => {
                let namespace = wanted.namespace()?;
                self.made.push((wanted, namespace));
                self.made.len() - 1
            }
        };
        Ok(&self.made[at].1)
    }
}

impl<'a> Sources<'a> {
    /// Opens the sources of mounts in the container's own namespaces. Nothing can be mapped there.
    pub(super) fn open_inside(spec: &'a Spec) -> Result<Self> {
        let mut mapped = Mapped { container: None, made: Vec::new() };
        let mounts = mounts::prepare(spec.mounts().as_deref().unwrap_or_default(), &mut mapped)?;
        Ok(Self { mounts, root: None })
    }

    /// Mounts sysfs while this process is in the network namespace that the container joins and that does not belong to
    /// its user namespace: the container itself may not.
    pub(crate) fn show_joined_network(&mut self) -> Result<()> {
        self.mounts.iter_mut().try_for_each(mounts::mount_sysfs)
    }

    /// Opens everything by the host's paths.
    pub(crate) fn open(spec: &'a Spec, rootfs: &Rootfs, container: Option<&Identities>) -> Result<Self> {
        let mut mapped = Mapped { container, made: Vec::new() };
        let mounts = mounts::prepare(spec.mounts().as_deref().unwrap_or_default(), &mut mapped)?;
        let user_namespace = super::has_namespace(spec, oci_spec::runtime::LinuxNamespaceType::User);
        let root = match (user_namespace, rootfs, container) {
            (false, ..) => None,
            (true, Rootfs::Overlay { .. }, Some(container)) => {
                let namespace = mapped.namespace(None)?.as_fd();
                Some(root::mount_root(rootfs, Some((namespace, container)))?)
            }
            (true, Rootfs::Overlay { .. }, None) => return Err(identities::missing()),
            (true, Rootfs::Path(_), _) => Some(root::mount_root(rootfs, None)?),
        };
        Ok(Self { mounts, root })
    }
}
