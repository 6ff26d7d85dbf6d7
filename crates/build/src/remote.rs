//! What comes from other machines: contexts and sources of ADD by address.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_engine::{Engine, Scratch};
use sha2::{Digest as _, Sha256};

use crate::builder::blocking;
use crate::client::Client;
use crate::error::IoContext;
use crate::git::{self, GitAddress};
use crate::http_client::{self, Ask};
use crate::sources::Tree;
use crate::{Error, Result, context};

/// Largest file that is fetched, in bytes.
pub(crate) const LARGEST: u64 = 16 << 30;

/// Brings things here.
pub(crate) struct Fetcher<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) client: &'a Arc<dyn Client>,
    /// Whether a repository's own directory is part of its files.
    pub(crate) keep_git: bool,
}

/// A context by address.
pub(crate) enum Fetched {
    Tree(Tree),
    /// The address is that of a Dockerfile.
    Dockerfile(Vec<u8>),
}

/// A source of ADD by address.
pub(crate) struct FetchedSource {
    /// The name that a file gets.
    pub(crate) name: String,
    /// What it is: the digest of a file, or the commit of a repository.
    pub(crate) digest: String,
    /// Without credentials.
    pub(crate) address: String,
    /// Seconds since 1970, as the server says.
    pub(crate) modified: i64,
    /// Whether it is an archive that is to be unpacked.
    pub(crate) unpack: bool,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    File { path: PathBuf, _scratch: Scratch },
    Tree(Tree),
}

impl std::fmt::Debug for FetchedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchedSource").field("address", &self.address).field("digest", &self.digest).finish()
    }
}

impl FetchedSource {
    pub(crate) fn open(&self) -> Result<File> {
        match &self.content {
            Content::File { path, .. } => File::open(path).io("open", path),
            Content::Tree(_) => Err(Error::invalid("a repository is no file")),
        }
    }
}

/// A file that was fetched, in a directory that goes with it.
struct Download {
    path: PathBuf,
    scratch: Scratch,
    digest: String,
    name: String,
    modified: i64,
}

/// Whether a source is a git repository.
pub(crate) fn is_git(source: &str) -> bool {
    GitAddress::parse(source).is_some()
}

impl Fetcher<'_> {
    /// The files of a context.
    pub(crate) async fn context(&self, address: &str) -> Result<Fetched> {
        if let Some(git) = GitAddress::parse(address) {
            let checkout = git::fetch(self.engine, self.client, &git, None, self.keep_git).await?;
            return Ok(Fetched::Tree(checkout.tree));
        }
        if !dray_dockerfile::is_url(address) {
            return Err(Error::invalid(format!(
                "cannot build from {}: give a directory, a git repository or an http address",
                http_client::shown(address)
            )));
        }
        let download = self.download(address).await?;
        let engine = self.engine.clone();
        blocking(move || {
            let mut file = File::open(&download.path).io("open", &download.path)?;
            let head = dray_image::decompressed_head(&mut file, 512).unwrap_or_default();
            file.rewind().io("read", &download.path)?;
            if head.len() == 512 && &head[257..262] == b"ustar" {
                return context::unpack(&engine, file).map(Fetched::Tree);
            }
            let size = file.metadata().io("look at", &download.path)?.len();
            if size > dray_dockerfile::lines::LONGEST as u64 {
                return Err(Error::invalid("the address gives neither an archive nor a Dockerfile"));
            }
            std::fs::read(&download.path).io("read", &download.path).map(Fetched::Dockerfile)
        })
        .await
    }

    /// A source of ADD. `checksum` is what it must have.
    pub(crate) async fn source(
        &self,
        address: &str,
        checksum: Option<&str>,
        unpack: bool,
    ) -> Result<FetchedSource> {
        let shown = http_client::shown(address);
        if let Some(git) = GitAddress::parse(address) {
            let checkout = git::fetch(self.engine, self.client, &git, checksum, self.keep_git).await?;
            return Ok(FetchedSource {
                name: git.name(),
                digest: format!("{} {}", checkout.commit, self.keep_git),
                address: shown,
                modified: 0,
                unpack: false,
                content: Content::Tree(checkout.tree),
            });
        }
        let download = self.download(address).await?;
        if let Some(expected) = checksum
            && expected != download.digest
        {
            let why = format!("digest mismatch: it is {} and should be {expected}", download.digest);
            return Err(Error::Fetch { address: shown, why });
        }
        Ok(FetchedSource {
            name: download.name,
            digest: download.digest,
            address: shown,
            modified: download.modified,
            unpack,
            content: Content::File { path: download.path, _scratch: download.scratch },
        })
    }

    async fn download(&self, address: &str) -> Result<Download> {
        let login = self.login(address).await;
        let mut answer = http_client::ask(Ask { address, body: None, headers: &[], login }).await?;
        let name = file_name(&answer);
        let modified = answer
            .headers
            .get(http::header::LAST_MODIFIED)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
            .map_or(0, |time| time.timestamp().as_second().max(0));
        let engine = self.engine.clone();
        let (scratch, mut file) = blocking(move || {
            let scratch = engine.scratch()?;
            let path = scratch.path().join("file");
            let file = File::create_new(&path).io("create", &path)?;
            Ok((scratch, file))
        })
        .await?;
        let path = scratch.path().join("file");
        let (mut hash, mut size) = (Sha256::new(), 0_u64);
        while let Some(bytes) = answer.next().await? {
            size += bytes.len() as u64;
            if size > LARGEST {
                let why = format!("it is larger than {LARGEST} bytes");
                return Err(Error::Fetch { address: http_client::shown(address), why });
            }
            let at = path.clone();
            (file, hash) = blocking(move || {
                hash.update(&bytes);
                file.write_all(&bytes).io("write", &at)?;
                Ok((file, hash))
            })
            .await?;
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Download { path, scratch, digest: format!("sha256:{hex}"), name, modified })
    }

    /// What the client has for the host.
    pub(crate) async fn login(&self, address: &str) -> Option<String> {
        login(self.client, address).await
    }
}

/// What the client has for the host of an address, as `user:password`.
pub(crate) async fn login(client: &Arc<dyn Client>, address: &str) -> Option<String> {
    let uri: http::Uri = address.parse().ok()?;
    let host = uri.host()?.to_owned();
    // Secrets of these names are how clients give a login for a repository.
    for id in [format!("GIT_AUTH_TOKEN.{host}"), "GIT_AUTH_TOKEN".to_owned()] {
        if let Ok(token) = client.secret(&id).await
            && let Ok(token) = String::from_utf8(token)
        {
            return Some(format!("x-access-token:{}", token.trim()));
        }
    }
    None
}

/// The name of a file: what the server says, or else the end of the address.
fn file_name(answer: &http_client::Answer) -> String {
    let disposition =
        answer.headers.get(http::header::CONTENT_DISPOSITION).and_then(|value| value.to_str().ok());
    let said =
        disposition.and_then(|text| text.split(';').find_map(|part| part.trim().strip_prefix("filename=")));
    let path = answer.address.path().trim_end_matches('/');
    let name = said.map_or(path, |name| name.trim_matches('"'));
    let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.is_empty() || name == "." || name == ".." { "download".to_owned() } else { name.to_owned() }
}
