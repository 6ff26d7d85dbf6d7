//! Taking images away: Docker's rules of `rmi`, and the sweep of what no image and no lease needs.

use std::collections::BTreeSet;
use std::fs;

use crate::error::IoContext;
use crate::store::ImageStore;
use crate::{Digest, Error, Reference, Result};

/// What a removal did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// A name was taken off.
    Untagged(String),
    /// The image with this id is gone.
    Deleted(Digest),
}

/// What the store takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Bytes of the regular files of all unpacked layers.
    pub layers: u64,
    /// Bytes of all blobs.
    pub blobs: u64,
}

/// A container that uses an image, as the caller knows it.
pub struct User {
    /// The container's short id.
    pub id: String,
    /// Whether it is running.
    pub running: bool,
}

/// Whether an image has one name only: one tag at most, and names by digest of one repository at most, which is the tag's.
fn is_single(references: &[Reference]) -> bool {
    let (tagged, by_digest): (Vec<&Reference>, Vec<&Reference>) =
        references.iter().partition(|name| name.digest().is_none());
    let all_of = |one: &Reference| by_digest.iter().all(|name| name.same_repository(one));
    match (tagged.as_slice(), by_digest.first()) {
        ([], Some(first)) => all_of(first),
        ([one], _) => all_of(one),
        _ => false,
    }
}

impl ImageStore {
    /// Removes the image `name`, by Docker's rules: by reference it takes the name off and, with the last one, the
    /// image; by id it takes the image with its only name, or with `force` with all names.
    /// `users` answers the containers of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Conflict`] with the sentence of Docker's API.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        users: impl Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Deletion>> {
        let image = self.resolve(name)?;
        let users = users(&image.id);
        let reference = Reference::parse(name).ok().and_then(|reference| {
            let by_digest = reference.digest().map(|digest| reference.at_digest(digest.clone()));
            [Some(reference), by_digest].into_iter().flatten().find(|name| image.references.contains(name))
        });
        let mut deletions = Vec::new();
        let short = image.id.short().to_owned();
        let is_single = is_single(&image.references);
        if let Some(reference) = reference {
            if is_single
                && !force
                && let Some(user) = users.first()
            {
                return Err(Error::Conflict {
                    message: format!(
                        "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {short}",
                        user.id
                    ),
                });
            }
            let mut left: Vec<&Reference> =
                image.references.iter().filter(|known| **known != reference).collect();
            let mut gone = vec![&reference];
            // With its last tag a repository's names by digest go as well.
            if reference.tag().is_some()
                && !left.iter().any(|name| name.tag().is_some() && name.same_repository(&reference))
            {
                let (same, others): (Vec<_>, Vec<_>) =
                    left.into_iter().partition(|name| name.same_repository(&reference));
                gone.extend(same);
                left = others;
            }
            for reference in gone {
                self.untag(reference)?;
                deletions.push(Deletion::Untagged(reference.familiar()));
            }
            // A forced removal of an image in use only takes the name.
            if !left.is_empty() || users.iter().any(|user| user.running) {
                return Ok(deletions);
            }
        } else {
            if let Some(user) = users.iter().find(|user| user.running) {
                return Err(Error::Conflict {
                    message: format!(
                        "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {}",
                        user.id
                    ),
                });
            }
            if image.references.len() > 1 && !is_single && !force {
                return Err(Error::Conflict {
                    message: format!(
                        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
                    ),
                });
            }
            if let Some(user) = users.first()
                && !force
            {
                return Err(Error::Conflict {
                    message: format!(
                        "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {}",
                        user.id
                    ),
                });
            }
            for reference in &image.references {
                self.untag(reference)?;
                deletions.push(Deletion::Untagged(reference.familiar()));
            }
        }
        self.remove_image_record(&image.id)?;
        deletions.push(Deletion::Deleted(image.id));
        self.sweep()?;
        Ok(deletions)
    }

    fn untag(&self, reference: &Reference) -> Result<()> {
        self.state.write().references.remove(reference);
        self.save_references()
    }

    /// Removes every layer and blob that no image and no lease needs; answers how many bytes that freed.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep(&self) -> Result<u64> {
        let _exclusive = self.adding.write();
        let (blobs, chains) = self.needed()?;
        let mut freed = 0;
        for entry in fs::read_dir(self.layers_root()).io("list", self.layers_root())? {
            let entry = entry.io("list", self.layers_root())?;
            let Some(chain) = entry.file_name().to_str().and_then(|hex| Digest::from_hex(hex).ok()) else {
                continue;
            };
            if !chains.contains(&chain) {
                freed += self.layer(&chain).ok().flatten().map_or(0, |layer| layer.size);
                fs::remove_dir_all(entry.path()).io("remove", entry.path())?;
            }
        }
        for (digest, size) in self.content.list()? {
            if !blobs.contains(&digest) {
                self.content.remove(&digest)?;
                freed += size;
            }
        }
        Ok(freed)
    }

    /// The blobs and chain ids that images and leases reach.
    fn needed(&self) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>)> {
        let (images, leases) = {
            let state = self.state.read();
            (state.images.clone(), state.leases.values().cloned().collect::<Vec<_>>())
        };
        let mut blobs = BTreeSet::new();
        let mut chains = BTreeSet::new();
        for (id, record) in images {
            blobs.insert(id);
            blobs.extend(record.manifest);
            for layer in record.layers {
                blobs.extend(layer.blob);
                chains.insert(layer.chain_id);
            }
        }
        let held = self.holds.all();
        blobs.extend(held.iter().cloned());
        chains.extend(held);
        blobs.extend(self.linked_blobs()?);
        // A lease names the top of a chain; the layers below it are found through their records.
        for top in leases {
            let mut next = Some(top);
            while let Some(chain) = next.take() {
                if let Some(layer) = self.layer(&chain)? {
                    blobs.extend(layer.blob);
                    next = layer.parent;
                }
                chains.insert(chain);
            }
        }
        Ok((blobs, chains))
    }

    /// Removes the blobs among `candidates` that nothing needs: what an archive held besides its images.
    pub(crate) fn forget_unused<'a>(&self, candidates: impl Iterator<Item = &'a Digest>) {
        let _exclusive = self.adding.write();
        let Ok((blobs, _)) = self.needed() else { return };
        for digest in candidates.filter(|digest| !blobs.contains(digest)) {
            if let Err(error) = self.content.remove(digest) {
                tracing::warn!(%digest, %error, "cannot remove a blob that nothing needs");
            }
        }
    }

    /// What the store takes on disk.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn usage(&self) -> Result<UsageTotals> {
        let mut totals = UsageTotals::default();
        let (_, chains) = self.needed()?;
        for chain in chains {
            totals.layers += self.layer(&chain)?.map_or(0, |layer| layer.size);
        }
        totals.blobs = self.content.list()?.iter().map(|(_, size)| size).sum();
        Ok(totals)
    }
}
