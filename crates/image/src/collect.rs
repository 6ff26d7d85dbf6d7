//! Taking images away: Docker's rules of `rmi`, and the sweep of what no image and no lease needs.

use std::collections::BTreeSet;
use std::fs;

use crate::error::IoContext;
use crate::store::ImageStore;
use crate::{Digest, Error, Image, Platform, Reference, Result};

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

fn in_use(short: &str, user: &User) -> Error {
    let (rule, state) = match user.running {
        true => ("cannot be forced", "running"),
        false => ("must be forced", "stopped"),
    };
    Error::Conflict {
        message: format!(
            "conflict: unable to delete {short} ({rule}) - image is being used by {state} container {}",
            user.id
        ),
    }
}

fn has_more_names(short: &str) -> Error {
    Error::Conflict {
        message: format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        ),
    }
}

impl ImageStore {
    /// Removes the images of some platforms of what `name` leads to; with the last of them the name goes, as by
    /// [`ImageStore::remove`].
    ///
    /// # Errors
    /// As [`ImageStore::remove`], and [`Error::OtherPlatform`] when there is none for one of the platforms.
    pub fn remove_platforms(
        &self,
        name: &str,
        platforms: &[Platform],
        force: bool,
        users: impl Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Deletion>> {
        let mut ids = BTreeSet::new();
        for platform in platforms {
            ids.insert(self.resolve_for(name, Some(platform))?.id);
        }
        let given = Reference::parse(name).ok();
        let index = self.index_named(name);
        if ids.is_empty() || index.is_none_or(|index| index.images().all(|image| ids.contains(image))) {
            return self.remove(name, force, users);
        }
        for id in &ids {
            let using = users(id);
            if let Some(user) = using.iter().find(|user| user.running || !force) {
                return Err(in_use(id.short(), user));
            }
            let state = self.state.read();
            // What it was pushed or pulled as by its digest is no name that anyone gave.
            let is_own = |name: &Reference| {
                let same = given.as_ref().is_some_and(|given| name.same_repository(given));
                !(state.index_names.contains_key(name) || (same && name.digest().is_some()))
            };
            if !force && state.references.iter().any(|(name, image)| image == id && is_own(name)) {
                return Err(has_more_names(id.short()));
            }
        }
        for id in &ids {
            self.remove_image_record(id)?;
        }
        self.sweep()?;
        Ok(ids.into_iter().map(Deletion::Deleted).collect())
    }

    /// Removes the image `name`, by Docker's rules: by reference it takes the name off and, with the last one, the
    /// image; by id it takes the image with its only name, or with `force` with all names. With the last name of an index
    /// the images of its other platforms go as well; by its id one of those goes alone.
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
        let reference = Reference::parse(name).ok().and_then(|reference| {
            let by_digest = reference.digest().map(|digest| reference.at_digest(digest.clone()));
            [Some(reference), by_digest].into_iter().flatten().find(|name| image.references.contains(name))
        });
        let family = self.family_by(&image, reference.as_ref());
        let using: Vec<(&Digest, Vec<User>)> = family.iter().map(|id| (id, users(id))).collect();
        let all_users = || using.iter().flat_map(|(_, users)| users);
        let is_running =
            |id: &Digest| using.iter().any(|(of, users)| *of == id && users.iter().any(|user| user.running));
        let mut deletions = Vec::new();
        let short = image.id.short().to_owned();
        let is_single = is_single(&image.references);
        let gone = if let Some(reference) = &reference {
            if is_single
                && !force
                && let Some(user) = all_users().next()
            {
                return Err(Error::Conflict {
                    message: format!(
                        "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {short}",
                        user.id
                    ),
                });
            }
            let others = image.references.iter().filter(|known| *known != reference);
            let left: Vec<&Reference> = others.collect();
            // With its last tag a repository's names by digest go as well.
            let is_last_tag = reference.tag().is_some()
                && !left.iter().any(|name| name.tag().is_some() && name.same_repository(reference));
            let same = left.into_iter().filter(|name| is_last_tag && name.same_repository(reference));
            std::iter::once(reference).chain(same).collect()
        } else {
            if let Some(user) = all_users().find(|user| user.running) {
                return Err(in_use(&short, user));
            }
            if image.references.len() > 1 && !is_single && !force {
                return Err(has_more_names(&short));
            }
            if let Some(user) = all_users().next()
                && !force
            {
                return Err(in_use(&short, user));
            }
            image.references.iter().collect::<Vec<_>>()
        };
        for reference in gone {
            self.untag(reference)?;
            deletions.push(Deletion::Untagged(reference.familiar()));
        }
        // A forced removal of an image in use only takes the name.
        let is_gone = |id: &Digest| match &reference {
            Some(_) => !self.is_named(id) && !is_running(id),
            None => *id == image.id || !self.is_named(id),
        };
        let unnamed: Vec<&Digest> = family.iter().filter(|id| is_gone(id)).collect();
        for id in &unnamed {
            self.remove_image_record(id)?;
            deletions.push(Deletion::Deleted((*id).clone()));
        }
        if !unnamed.is_empty() {
            self.sweep()?;
        }
        Ok(deletions)
    }

    /// The images that go together: this one, and those of the indexes that its names lead to.
    #[must_use]
    pub fn family(&self, image: &Image) -> Vec<Digest> {
        self.family_by(image, None)
    }

    /// The images that go with one name, or with all.
    fn family_by(&self, image: &Image, reference: Option<&Reference>) -> Vec<Digest> {
        let state = self.state.read();
        let names = image.references.iter().filter(|name| reference.is_none_or(|only| only == *name));
        let mut family = vec![image.id.clone()];
        for id in names.filter_map(|name| state.index_of(name)).flat_map(|index| index.images()) {
            if !family.contains(id) {
                family.push(id.clone());
            }
        }
        family
    }

    /// Whether a name leads to an image, or to an index with it.
    fn is_named(&self, id: &Digest) -> bool {
        let state = self.state.read();
        state.references.values().any(|of| of == id)
            || state.indexes.values().any(|index| index.images().any(|image| image == id))
    }

    fn untag(&self, reference: &Reference) -> Result<()> {
        {
            let mut state = self.state.write();
            state.references.remove(reference);
            if state.index_names.remove(reference).is_some() {
                state.forget_unnamed_indexes();
            }
        }
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
        let (images, leases, indexes) = {
            let state = self.state.read();
            let indexes: Vec<_> = state.indexes.values().cloned().collect();
            (state.images.clone(), state.leases.values().cloned().collect::<Vec<_>>(), indexes)
        };
        let mut blobs: BTreeSet<Digest> = indexes.iter().flat_map(|index| index.reached()).cloned().collect();
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
