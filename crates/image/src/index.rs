//! Names that lead to an index: images of several platforms, of which those that were brought are here.
//!
//! A name always leads to one image as well, that of this machine's platform or else the first that is here, so who asks
//! for no platform need not know of indexes. The images of other platforms have no name of their own: as long as a name
//! leads to their index they stay, and lists leave them out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::media::{self, Descriptor, Document, INDEX_DEPTH, OCI_INDEX, OCI_MANIFEST};
use crate::pack::read_bounded;
use crate::store::{ImageStore, State};
use crate::{Digest, Error, Image, Platform, Reference, Result};

/// Manifests of one index, those of indexes within it included.
const MEMBER_LIMIT: usize = 1_000;

/// What a member of an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// The manifest of an image.
    Image,
    /// Statements about an image: how it was built, what is in it.
    Statements,
    /// An index within the index.
    Index,
    /// Anything else.
    Unknown,
}

/// A manifest that an index names, and what of it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// Its digest.
    pub digest: Digest,
    /// Bytes of it.
    pub size: u64,
    /// Its type.
    pub media_type: String,
    /// What is noted about it.
    pub annotations: BTreeMap<String, String>,
    /// For which platform it is.
    pub platform: Option<Platform>,
    /// The image of this store that it is.
    pub image: Option<Digest>,
    /// The manifest that its statements are about.
    pub subject: Option<Digest>,
    /// Its configuration and its layers, with their sizes; nothing is known while the manifest is not here.
    pub parts: Vec<(Digest, u64)>,
}

/// An index that names lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its digest.
    pub digest: Digest,
    /// Bytes of it.
    pub size: u64,
    /// Its type.
    pub media_type: String,
    /// What it names; an index within it comes after what that one names.
    pub members: Vec<Member>,
}

impl Index {
    /// The image for a platform, when it is here.
    #[must_use]
    pub fn image_for(&self, platform: &Platform) -> Option<&Digest> {
        let mut here = self.members.iter().filter(|member| {
            member.image.is_some() && member.platform.as_ref().is_some_and(|own| platform.suits(own))
        });
        here.next().and_then(|member| member.image.as_ref())
    }

    /// The images that are here, in the order of the index.
    pub fn images(&self) -> impl Iterator<Item = &Digest> {
        self.members.iter().filter_map(|member| member.image.as_ref())
    }

    /// The image that stands for all: this machine's, or the first that is here.
    #[must_use]
    pub fn preferred(&self) -> Option<&Digest> {
        self.image_for(&Platform::host()).or_else(|| self.images().next())
    }

    /// Whether a member belongs to what is here: an image, or statements about one.
    #[must_use]
    pub fn is_here(&self, member: &Member) -> bool {
        match member.kind {
            MemberKind::Image => member.image.is_some(),
            MemberKind::Index => true,
            MemberKind::Statements => self
                .members
                .iter()
                .any(|other| other.image.is_some() && member.subject.as_ref() == Some(&other.digest)),
            MemberKind::Unknown => false,
        }
    }

    /// The documents and blobs that stay as long as a name leads here.
    pub(crate) fn reached(&self) -> impl Iterator<Item = &Digest> {
        let here = self.members.iter().filter(|member| self.is_here(member));
        let reached =
            here.flat_map(|member| member.parts.iter().map(|(part, _)| part).chain([&member.digest]));
        reached.chain([&self.digest])
    }
}

impl State {
    /// The indexes that no name leads to are no longer known.
    pub(crate) fn forget_unnamed_indexes(&mut self) {
        let named: BTreeSet<&Digest> = self.index_names.values().collect();
        self.indexes.retain(|digest, _| named.contains(digest));
    }

    /// The images that are here for an index's sake: they have no name themselves.
    pub(crate) fn inner_images(&self) -> BTreeSet<Digest> {
        let named: BTreeSet<&Digest> = self.references.values().collect();
        let all = self.indexes.values().flat_map(|index| index.images());
        all.filter(|image| !named.contains(image)).cloned().collect()
    }

    /// An image is not here any more: indexes have one less, and their names lead to another one.
    pub(crate) fn forget_image(&mut self, id: &Digest) {
        for index in self.indexes.values_mut().filter(|index| index.images().any(|image| image == id)) {
            for member in &mut Arc::make_mut(index).members {
                member.image.take_if(|image| image == id);
            }
        }
        let gone: Vec<Reference> =
            self.references.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect();
        for name in gone {
            let other = self.index_of(&name).and_then(|index| index.preferred().cloned());
            match other {
                Some(other) => {
                    self.references.insert(name, other);
                }
                None => {
                    self.references.remove(&name);
                    self.index_names.remove(&name);
                }
            }
        }
        self.forget_unnamed_indexes();
    }

    /// The index that a name leads to.
    pub(crate) fn index_of(&self, name: &Reference) -> Option<&Arc<Index>> {
        self.indexes.get(self.index_names.get(name)?)
    }

    /// Takes over which names lead to which index, as far as it agrees with the images: another version of this program
    /// may have given such a name to another image.
    pub(crate) fn take_index_names(&mut self, names: BTreeMap<Reference, Digest>, indexes: Vec<Index>) {
        self.indexes = indexes.into_iter().map(|index| (index.digest.clone(), Arc::new(index))).collect();
        let is_so = |name: &Reference, digest: &Digest| {
            let index = self.indexes.get(digest)?;
            let image = self.references.get(name)?;
            Some(index.images().any(|own| own == image))
        };
        let names: BTreeMap<Reference, Digest> =
            names.into_iter().filter(|(name, digest)| is_so(name, digest) == Some(true)).collect();
        self.index_names = names;
        self.forget_unnamed_indexes();
    }
}

/// Members as they are found.
#[derive(Default)]
struct Members(Vec<Member>);

impl Members {
    fn add(&mut self, descriptor: &Descriptor, kind: MemberKind) -> Result<&mut Member> {
        if self.0.len() >= MEMBER_LIMIT {
            let why = format!("an index has at most {MEMBER_LIMIT} manifests");
            return Err(Error::InvalidArchive { why });
        }
        let media_type = match (descriptor.media_type.as_str(), kind) {
            ("", MemberKind::Index) => OCI_INDEX,
            ("", _) => OCI_MANIFEST,
            (own, _) => own,
        };
        self.0.push(Member {
            kind,
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: media_type.to_owned(),
            annotations: descriptor.annotations.clone(),
            platform: descriptor.platform.clone(),
            image: None,
            subject: descriptor.subject(),
            parts: Vec::new(),
        });
        let last = self.0.len() - 1;
        Ok(&mut self.0[last])
    }
}

impl ImageStore {
    /// The index that exactly this name leads to.
    #[must_use]
    pub fn index_of(&self, reference: &Reference) -> Option<Arc<Index>> {
        self.state.read().index_of(reference).cloned()
    }

    /// The index that a name leads to, of a reference or of the digest of an index itself.
    #[must_use]
    pub fn index_named(&self, name: &str) -> Option<Arc<Index>> {
        let digest = self.resolve_name(name).ok()?.index?;
        self.state.read().indexes.get(&digest).cloned()
    }

    /// The images that have no name and are here for an index's sake.
    #[must_use]
    pub fn inner_images(&self) -> BTreeSet<Digest> {
        self.state.read().inner_images()
    }

    /// The image with this name for a platform; without one the image that the name leads to.
    ///
    /// # Errors
    /// As [`ImageStore::resolve`], and [`Error::OtherPlatform`].
    pub fn resolve_for(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let Some(platform) = platform else { return self.resolve(name) };
        let other = || Error::OtherPlatform {
            name: Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.familiar()),
            platform: platform.to_string(),
        };
        if let Some(index) = self.index_named(name) {
            let id = index.image_for(platform).ok_or_else(other)?;
            return self.image(id)?.ok_or_else(other);
        }
        let image = self.resolve(name)?;
        if platform.suits(&Platform::of(&image.config)) { Ok(image) } else { Err(other()) }
    }

    /// Has a name lead to an index, a blob of the store, of which the caller holds what is here; answers the image that
    /// the name leads to from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the store has no image of it; [`Error::InvalidArchive`] when it is no index.
    pub fn name_index(&self, reference: &Reference, index: &Digest) -> Result<Image> {
        let read = self.read_index(index)?;
        let missing = || Error::NotFound { name: reference.familiar() };
        let id = read.preferred().ok_or_else(missing)?.clone();
        {
            let mut state = self.state.write();
            if !state.images.contains_key(&id) {
                return Err(missing());
            }
            state.index_names.insert(reference.clone(), index.clone());
            // An image of this machine's platform may have come to those that were here.
            let names: Vec<Reference> = state
                .index_names
                .iter()
                .filter(|(_, of)| *of == index)
                .map(|(name, _)| name.clone())
                .collect();
            state.references.extend(names.into_iter().map(|name| (name, id.clone())));
            state.indexes.insert(index.clone(), Arc::new(read));
            state.forget_unnamed_indexes();
        }
        self.save_references()?;
        self.image(&id)?.ok_or_else(missing)
    }

    /// Gives what `name` leads to, with all its platforms, one more name.
    ///
    /// # Errors
    /// As [`ImageStore::resolve`].
    pub fn tag_as(&self, name: &str, reference: &Reference) -> Result<Image> {
        let found = self.resolve_name(name)?;
        match found.index {
            Some(index) => self.name_index(reference, &index),
            None => {
                self.tag(&found.image, reference)?;
                self.resolve(found.image.as_str())
            }
        }
    }

    /// Whether all blobs of a member are here, as its manifest names them.
    #[must_use]
    pub fn is_whole(&self, member: &Member) -> bool {
        self.has_blob(&member.digest) && member.parts.iter().all(|(part, _)| self.has_blob(part))
    }

    /// Reads an index, a blob of the store.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`] when it is none; [`Error::Io`] when it is not here.
    pub fn read_index(&self, digest: &Digest) -> Result<Index> {
        let mut members = Members::default();
        let bytes = self.read_document(digest, digest.as_str())?;
        let media_type = media::own_type(&bytes).unwrap_or_else(|| OCI_INDEX.to_owned());
        self.read_members(&self.index_document(digest)?, &mut members, 1)?;
        Ok(Index { digest: digest.clone(), size: self.content.size(digest)?, media_type, members: members.0 })
    }

    fn index_document(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        match self.document(digest, Some(OCI_INDEX))? {
            Document::Index(descriptors) => Ok(descriptors),
            Document::Manifest(_) => Err(Error::InvalidArchive { why: format!("{digest} is no index") }),
        }
    }

    fn read_members(&self, index: &[Descriptor], members: &mut Members, depth: usize) -> Result<()> {
        if depth > INDEX_DEPTH {
            return Err(Error::InvalidArchive { why: "its indexes are nested too deeply".to_owned() });
        }
        for descriptor in index {
            if members.0.iter().any(|member| member.digest == descriptor.digest) {
                continue;
            }
            if descriptor.is_index() {
                if self.content.contains(&descriptor.digest) {
                    self.read_members(&self.index_document(&descriptor.digest)?, members, depth + 1)?;
                    members.add(descriptor, MemberKind::Index)?;
                } else {
                    members.add(descriptor, MemberKind::Unknown)?;
                }
                continue;
            }
            let kind =
                if descriptor.subject().is_some() { MemberKind::Statements } else { MemberKind::Image };
            let member = members.add(descriptor, kind)?;
            if !self.content.contains(&descriptor.digest) {
                continue;
            }
            let document = self.document(&descriptor.digest, Some(&descriptor.media_type))?;
            let Document::Manifest(manifest) = document else {
                member.kind = MemberKind::Unknown;
                continue;
            };
            let parts = manifest.layers.iter().chain([&manifest.config]);
            member.parts = parts.map(|part| (part.digest.clone(), part.size)).collect();
            if kind == MemberKind::Image && !manifest.is_image() {
                member.kind = MemberKind::Unknown;
            }
            if member.kind == MemberKind::Image
                && let Some(image) = self.image(&manifest.config.digest)?
            {
                member.platform.get_or_insert_with(|| Platform::of(&image.config));
                member.image = Some(image.id);
            }
        }
        Ok(())
    }

    fn read_document(&self, digest: &Digest, what: &str) -> Result<Vec<u8>> {
        read_bounded(&mut self.content.open_blob(digest)?, media::MANIFEST_LIMIT as u64, what)
    }

    /// A document of another kind, which an error calls `what`.
    pub(crate) fn read_json<T: for<'de> serde::Deserialize<'de>>(
        &self,
        digest: &Digest,
        what: &str,
    ) -> Result<T> {
        serde_json::from_slice(&self.read_document(digest, what)?)
            .map_err(|error| Error::InvalidArchive { why: format!("{what}: {error}") })
    }

    /// The manifest or index of a digest, which whoever named it says is of the type `said`.
    pub(crate) fn document(&self, digest: &Digest, said: Option<&str>) -> Result<Document> {
        Document::parse(&self.read_document(digest, digest.as_str())?, &[said])
            .map_err(|why| Error::InvalidArchive { why: format!("{digest}: {why}") })
    }
}
