//! What a registry gives out: repositories with blobs, manifests and tags.
//!
//! A repository is a directory of small files that link to blobs of the store, written beside and renamed into place:
//! a push of content that is there already copies nothing, and the sweep keeps what is linked. Parts of a repository's
//! name never begin with `_`, so its own files cannot be taken for another repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::reference::{valid_repository, valid_tag};
use crate::store::{ImageStore, read_record, write_atomically, write_record};
use crate::{Digest, Error, Result};

const BLOBS: &str = "_blobs";
const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const REFERRERS: &str = "_referrers";

/// The digest by which a registry's client names content: SHA-256, by which it is stored, or SHA-512.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BlobDigest {
    /// The digest that the store itself uses.
    Sha256(Digest),
    /// 128 lower-case hexadecimal digits.
    Sha512(String),
}

impl BlobDigest {
    /// Parses `sha256:…` or `sha512:…`.
    ///
    /// # Errors
    /// [`Error::InvalidDigest`] when it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(hex) = text.strip_prefix("sha512:") else { return Ok(Self::Sha256(text.parse()?)) };
        let valid = hex.len() == 128 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self::Sha512(hex.to_owned()))
        } else {
            Err(Error::InvalidDigest { digest: text.to_owned() })
        }
    }

    /// Whether it is the digest of these bytes.
    #[must_use]
    pub fn fits(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Sha256(digest) => *digest == Digest::of(bytes),
            Self::Sha512(hex) => crate::digest::sha512_hex(bytes).is_ok_and(|actual| actual == *hex),
        }
    }

    fn file_name(&self) -> String {
        self.to_string().replacen(':', "-", 1)
    }

    fn of_file_name(name: &str) -> Option<Self> {
        Self::parse(&name.replacen('-', ":", 1)).ok()
    }
}

impl std::fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(hex) => write!(f, "sha512:{hex}"),
        }
    }
}

impl TryFrom<String> for BlobDigest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<BlobDigest> for String {
    fn from(digest: BlobDigest) -> Self {
        digest.to_string()
    }
}

/// A manifest or index of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLink {
    /// Where its bytes are.
    pub blob: Digest,
    /// What it was pushed as.
    pub media_type: String,
    /// Bytes of it.
    pub size: u64,
    /// What kind of artifact it says it is.
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The manifest that it speaks of.
    pub subject: Option<BlobDigest>,
    /// The blobs and manifests that it is made of.
    #[serde(default)]
    pub parts: Vec<BlobDigest>,
}

/// One repository of the store; it is there once something is in it.
pub struct Repository<'a> {
    store: &'a ImageStore,
    path: PathBuf,
}

fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).io("remove", path),
    }
}

/// The names in a directory, which need not be there.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.io("list", directory)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.io("list", directory)?.file_name().into_string()
            && !name.ends_with(".new")
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_optional<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    match read_record(path) {
        Ok(record) => Ok(Some(record)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Repository<'_> {
    fn file(&self, kind: &str, name: &str) -> PathBuf {
        self.path.join(kind).join(name)
    }

    fn directory(&self, kind: &str) -> Result<()> {
        let path = self.path.join(kind);
        fs::create_dir_all(&path).io("create", path)
    }

    /// Whether anything was ever pushed to it.
    #[must_use]
    pub fn exists(&self) -> bool {
        [BLOBS, MANIFESTS, TAGS].iter().any(|kind| self.path.join(kind).exists())
    }

    /// Where a blob of the repository is in the store.
    ///
    /// # Errors
    /// When the link is damaged.
    pub fn blob(&self, digest: &BlobDigest) -> Result<Option<Digest>> {
        let link: Option<Digest> = read_optional(&self.file(BLOBS, &digest.file_name()))?;
        Ok(link.filter(|blob| self.store.has_blob(blob)))
    }

    /// Makes a blob of the store one of the repository. The caller holds it.
    ///
    /// # Errors
    /// When the link cannot be written.
    pub fn link_blob(&self, digest: &BlobDigest, blob: &Digest) -> Result<()> {
        self.directory(BLOBS)?;
        write_record(&self.file(BLOBS, &digest.file_name()), blob)
    }

    /// Takes a blob out of the repository; whether it was there.
    ///
    /// # Errors
    /// When the link cannot be removed.
    pub fn unlink_blob(&self, digest: &BlobDigest) -> Result<bool> {
        remove(&self.file(BLOBS, &digest.file_name()))
    }

    /// A manifest of the repository.
    ///
    /// # Errors
    /// When its record is damaged.
    pub fn manifest(&self, digest: &BlobDigest) -> Result<Option<ManifestLink>> {
        read_optional(&self.file(MANIFESTS, &digest.file_name()))
    }

    /// Adds a manifest whose bytes the store has and the caller holds.
    ///
    /// # Errors
    /// When the records cannot be written.
    pub fn put_manifest(&self, digest: &BlobDigest, link: &ManifestLink) -> Result<()> {
        self.directory(MANIFESTS)?;
        write_record(&self.file(MANIFESTS, &digest.file_name()), link)?;
        if let Some(subject) = &link.subject {
            let directory = format!("{REFERRERS}/{}", subject.file_name());
            self.directory(&directory)?;
            write_atomically(&self.file(&directory, &digest.file_name()), b"")?;
        }
        Ok(())
    }

    /// Removes a manifest, with the tags that name it; whether it was there.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_manifest(&self, digest: &BlobDigest) -> Result<bool> {
        let Some(link) = self.manifest(digest)? else { return Ok(false) };
        for tag in self.tags()? {
            if self.tag(&tag)?.as_ref() == Some(digest) {
                self.remove_tag(&tag)?;
            }
        }
        if let Some(subject) = link.subject {
            remove(&self.file(&format!("{REFERRERS}/{}", subject.file_name()), &digest.file_name()))?;
        }
        remove(&self.file(MANIFESTS, &digest.file_name()))
    }

    /// The manifests that speak of `subject`, which need not be there.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn referrers(&self, subject: &BlobDigest) -> Result<Vec<(BlobDigest, ManifestLink)>> {
        let mut found = Vec::new();
        for name in names(&self.path.join(REFERRERS).join(subject.file_name()))? {
            let Some(digest) = BlobDigest::of_file_name(&name) else { continue };
            if let Some(link) = self.manifest(&digest)? {
                found.push((digest, link));
            }
        }
        Ok(found)
    }

    /// All tags, in order.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn tags(&self) -> Result<Vec<String>> {
        names(&self.path.join(TAGS))
    }

    /// What a tag names.
    ///
    /// # Errors
    /// When its record is damaged.
    pub fn tag(&self, tag: &str) -> Result<Option<BlobDigest>> {
        if !valid_tag(tag) {
            return Ok(None);
        }
        read_optional(&self.file(TAGS, tag))
    }

    /// Has a tag name a manifest.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] when it is no tag; otherwise when it cannot be written.
    pub fn set_tag(&self, tag: &str, digest: &BlobDigest) -> Result<()> {
        // Files that are being written end so.
        if !valid_tag(tag) || tag.ends_with(".new") {
            let why = "a tag has 1 to 128 letters, digits, '_', '.' and '-'";
            return Err(Error::InvalidReference { reference: tag.to_owned(), why });
        }
        self.directory(TAGS)?;
        write_record(&self.file(TAGS, tag), digest)
    }

    /// Removes a tag; whether it was there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_tag(&self, tag: &str) -> Result<bool> {
        if !valid_tag(tag) {
            return Ok(false);
        }
        remove(&self.file(TAGS, tag))
    }

    /// The digests of all manifests.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn manifests(&self) -> Result<Vec<BlobDigest>> {
        let names = names(&self.path.join(MANIFESTS))?;
        Ok(names.iter().filter_map(|name| BlobDigest::of_file_name(name)).collect())
    }

    /// Takes the blobs out of the repository that no manifest is made of and that are older than `age`: an upload whose
    /// manifest is still to come keeps what it has pushed. Answers how many.
    fn unlink_unused_blobs(&self, age: Duration) -> Result<usize> {
        let mut used = BTreeSet::new();
        for digest in self.manifests()? {
            used.extend(self.manifest(&digest)?.into_iter().flat_map(|link| link.parts));
        }
        let mut removed = 0;
        for name in names(&self.path.join(BLOBS))? {
            let Some(digest) = BlobDigest::of_file_name(&name).filter(|digest| !used.contains(digest)) else {
                continue;
            };
            let modified = fs::metadata(self.file(BLOBS, &name)).and_then(|metadata| metadata.modified());
            let old = modified.ok().and_then(|time| time.elapsed().ok()).is_some_and(|passed| passed >= age);
            if old && self.unlink_blob(&digest)? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl ImageStore {
    fn repositories_root(&self) -> PathBuf {
        self.root().join("repositories")
    }

    /// The repository `name`, for example `library/nginx`, whether there is anything in it or not.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] when it is no repository's name.
    pub fn repository(&self, name: &str) -> Result<Repository<'_>> {
        if !valid_repository(name) {
            let why =
                "a repository's parts are lower-case letters and digits, joined by '.', '_', '__' or '-'";
            return Err(Error::InvalidReference { reference: name.to_owned(), why });
        }
        Ok(Repository { store: self, path: self.repositories_root().join(name) })
    }

    /// The names of all repositories, in order.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            let children = names(&self.repositories_root().join(&name))?;
            if !name.is_empty() && children.iter().any(|child| child.starts_with('_')) {
                found.push(name.clone());
            }
            let parts = children.iter().filter(|child| !child.starts_with('_'));
            open.extend(
                parts.map(|part| if name.is_empty() { part.clone() } else { format!("{name}/{part}") }),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Takes out of every repository the blobs that no manifest is made of and that are older than `age`, then sweeps.
    /// Answers how many links went and how many bytes that freed.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn collect_repositories(&self, age: Duration) -> Result<(usize, u64)> {
        let mut removed = 0;
        for name in self.repositories()? {
            removed += self.repository(&name)?.unlink_unused_blobs(age)?;
        }
        Ok((removed, self.sweep()?))
    }

    /// Every blob that a repository links to.
    pub(crate) fn linked_blobs(&self) -> Result<BTreeSet<Digest>> {
        let mut blobs = BTreeSet::new();
        for name in self.repositories()? {
            let repository = self.repository(&name)?;
            for digest in repository.manifests()? {
                blobs.extend(repository.manifest(&digest)?.map(|link| link.blob));
            }
            for name in names(&repository.path.join(BLOBS))? {
                match BlobDigest::of_file_name(&name) {
                    Some(BlobDigest::Sha256(digest)) => {
                        blobs.insert(digest);
                    }
                    Some(digest) => blobs.extend(repository.blob(&digest)?),
                    None => {}
                }
            }
        }
        Ok(blobs)
    }
}
