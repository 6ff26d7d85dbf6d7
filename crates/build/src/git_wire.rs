//! Git's protocol between a build and whoever has a repository: version 2 (gitprotocol-v2(5)) over HTTP, TCP and ssh, and
//! over ssh also the first one, for servers that were not told by their host's configuration to hear of versions.
//!
//! It knows packets and objects' names, and nothing of what is in a repository.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use dray_engine::Engine;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::builder::blocking;
use crate::client::{Client, Duplex};
use crate::error::IoContext;
use crate::git_address::{GitAddress, Transport};
use crate::git_pack::{ObjectId, hex, parse_id};
use crate::git_ssh::{self, Ssh};
use crate::http_client::{self, Answer, Ask};
use crate::{Error, Result, remote};

/// Longest list of references, in bytes.
const LONGEST_LIST: usize = 64 << 20;

/// Who has the repository.
pub(crate) struct Server<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) client: &'a Arc<dyn Client>,
    pub(crate) address: &'a GitAddress,
    /// What to log in with, over HTTP.
    pub(crate) login: Option<String>,
}

/// A stream of lines with their lengths.
enum Stream {
    Http(Box<Answer>),
    /// One on which both sides speak in turn.
    Duplex(Box<dyn Duplex>),
}

/// What a server says before it is asked.
enum Greeting {
    /// It waits for commands.
    Commands,
    /// It knows the first version only, and tells at once what it has.
    References(References),
}

/// References and the commits, or tags, that they lead to.
#[derive(Default)]
struct References {
    all: Vec<(String, ObjectId)>,
    size: usize,
}

impl References {
    /// Takes a line of the first version. What a tag leads to is left out: such servers give only what has a name.
    fn take(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.count(line)?;
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_whitespace();
        let (Some(id), Some(name)) = (words.next().and_then(parse_id), words.next()) else { return Ok(()) };
        if !name.ends_with("^{}") {
            self.all.push((name.to_owned(), id));
        }
        Ok(())
    }

    fn count(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.size += line.len();
        if self.size > LONGEST_LIST { Err("it has too many references") } else { Ok(()) }
    }
}

enum Packet {
    Data(Bytes),
    Flush,
    Delimiter,
}

struct Packets {
    stream: Stream,
    held: BytesMut,
    shown: String,
    /// The program behind the stream.
    ssh: Option<Ssh>,
}

impl Packets {
    fn new(stream: Stream, shown: String) -> Self {
        Self { stream, held: BytesMut::new(), shown, ssh: None }
    }

    /// The next packet; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<Packet>> {
        let fail = |why: &str| Error::Fetch { address: self.shown.clone(), why: why.to_owned() };
        loop {
            if self.held.len() >= 4 {
                let length = std::str::from_utf8(&self.held[..4]).ok();
                let length = length.and_then(|hex| usize::from_str_radix(hex, 16).ok());
                match length.ok_or_else(|| fail("it does not speak git's protocol"))? {
                    0 | 2 => {
                        self.held.advance(4);
                        return Ok(Some(Packet::Flush));
                    }
                    1 => {
                        self.held.advance(4);
                        return Ok(Some(Packet::Delimiter));
                    }
                    3 => return Err(fail("it does not speak git's protocol")),
                    length if self.held.len() >= length => {
                        let mut packet = self.held.split_to(length);
                        packet.advance(4);
                        return Ok(Some(Packet::Data(packet.freeze())));
                    }
                    _ => {}
                }
            }
            let more = match &mut self.stream {
                Stream::Http(answer) => answer.next().await?,
                Stream::Duplex(stream) => {
                    let mut buffer = BytesMut::with_capacity(64 * 1024);
                    let n = stream.read_buf(&mut buffer).await.map_err(|error| fail(&error.to_string()))?;
                    (n > 0).then(|| buffer.freeze())
                }
            };
            match more {
                Some(bytes) => self.held.extend_from_slice(&bytes),
                None if self.held.is_empty() => return Ok(None),
                None => return Err(fail("the server stopped in the middle")),
            }
        }
    }

    /// Says something to a server that listens on the same stream.
    async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let Stream::Duplex(stream) = &mut self.stream else { return Ok(()) };
        let said = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        said.await.map_err(|error| Error::Fetch { address: self.shown.clone(), why: error.to_string() })
    }

    /// Why a server that was to speak first said nothing.
    async fn last_words(&mut self) -> String {
        match self.ssh.take() {
            Some(ssh) => ssh.last_words().await,
            None => "the server said nothing".to_owned(),
        }
    }
}

fn packet(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

/// A command of the second version.
fn command(name: &str, arguments: &[String]) -> Vec<u8> {
    let mut body = Vec::new();
    packet(&mut body, &format!("command={name}\n"));
    packet(&mut body, "object-format=sha1\n");
    body.extend_from_slice(b"0001");
    for argument in arguments {
        packet(&mut body, &format!("{argument}\n"));
    }
    body.extend_from_slice(b"0000");
    body
}

impl Server<'_> {
    fn fail(&self, why: impl Into<String>) -> Error {
        Error::Fetch { address: http_client::shown(&self.address.remote), why: why.into() }
    }

    /// What a server refuses, in words that say what to do.
    fn refused(&self, words: &[u8]) -> Error {
        let words = String::from_utf8_lossy(words).trim().to_owned();
        if words.contains("object format") {
            return self.other_format();
        }
        self.fail(words)
    }

    fn other_format(&self) -> Error {
        self.fail(
            "repositories that name their objects by SHA-256 are not supported: only those with SHA-1 are",
        )
    }

    /// A connection on which both sides speak, and what the server says first.
    async fn open(&self) -> Result<(Packets, Greeting)> {
        let shown = http_client::shown(&self.address.remote);
        let mut packets = if self.address.transport == Transport::Ssh {
            let (stream, ssh) = git_ssh::connect(self.engine, self.client, &self.address.remote).await?;
            Packets { ssh: Some(ssh), ..Packets::new(Stream::Duplex(stream), shown) }
        } else {
            let rest = self.address.remote.trim_start_matches("git://");
            let (host, path) = rest.split_once('/').ok_or_else(|| self.fail("it has no path"))?;
            let (name, port) = host.rsplit_once(':').unwrap_or((host, "9418"));
            let port = port.parse().map_err(|_| self.fail("its port is no number"))?;
            let connected = tokio::net::TcpStream::connect((name, port)).await;
            let stream = connected.map_err(|error| self.fail(error.to_string()))?;
            let mut packets = Packets::new(Stream::Duplex(Box::new(stream)), shown);
            let mut request = Vec::new();
            packet(&mut request, &format!("git-upload-pack /{path}\0host={host}\0\0version=2\0"));
            packets.say(&request).await?;
            packets
        };
        let Ok(Some(Packet::Data(first))) = packets.next().await else {
            let why = packets.last_words().await;
            return Err(self.fail(why));
        };
        if let Some(why) = first.strip_prefix(b"ERR ") {
            return Err(self.refused(why));
        }
        let speaks_second = first.starts_with(b"version 2");
        let mut references = References::default();
        let mut next = Some(first);
        while let Some(line) = next {
            if line.starts_with(b"object-format=") && !line.starts_with(b"object-format=sha1") {
                return Err(self.other_format());
            }
            // The first line has behind the name what the server can do.
            let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
            if !speaks_second {
                references.take(name).map_err(|why| self.fail(why))?;
            }
            next = match packets.next().await? {
                Some(Packet::Data(line)) => Some(line),
                _ => None,
            };
        }
        let greeting = if speaks_second { Greeting::Commands } else { Greeting::References(references) };
        Ok((packets, greeting))
    }

    /// Sends a command over HTTP.
    async fn post(&self, name: &str, arguments: &[String]) -> Result<Packets> {
        let base = self.address.remote.trim_end_matches('/');
        let address = format!("{base}/git-upload-pack");
        let ask = Ask {
            address: &address,
            body: Some(("application/x-git-upload-pack-request", command(name, arguments).into())),
            headers: &[("git-protocol", "version=2"), ("accept", "application/x-git-upload-pack-result")],
            login: self.login.clone(),
        };
        let answer = Box::new(http_client::ask(ask).await?);
        Ok(Packets::new(Stream::Http(answer), http_client::shown(&self.address.remote)))
    }

    /// The references and the commits that they lead to.
    pub(crate) async fn list(&self) -> Result<Vec<(String, ObjectId)>> {
        let mut arguments = vec!["peel".to_owned(), "ref-prefix HEAD".to_owned()];
        if let Some(name) = &self.address.reference {
            for form in ["", "refs/", "refs/heads/", "refs/tags/"] {
                // One that is no name of a reference cannot break out of its line.
                if !name.contains(char::is_control) {
                    arguments.push(format!("ref-prefix {form}{name}"));
                }
            }
        }
        let mut packets = if self.address.transport == Transport::Http {
            self.post("ls-refs", &arguments).await?
        } else {
            let (mut packets, greeting) = self.open().await?;
            if let Greeting::References(references) = greeting {
                packets.say(b"0000").await?;
                return Ok(references.all);
            }
            packets.say(&command("ls-refs", &arguments)).await?;
            packets
        };
        let mut references = References::default();
        while let Some(Packet::Data(line)) = packets.next().await? {
            references.count(&line).map_err(|why| self.fail(why))?;
            if let Some(why) = line.strip_prefix(b"ERR ") {
                return Err(self.refused(why));
            }
            let text = String::from_utf8_lossy(&line);
            let mut words = text.split_whitespace();
            let (Some(id), Some(name)) = (words.next(), words.next()) else { continue };
            let peeled = words.find_map(|word| word.strip_prefix("peeled:"));
            if let Some(id) = parse_id(peeled.unwrap_or(id)) {
                references.all.push((name.to_owned(), id));
            }
        }
        if references.all.is_empty() && self.address.transport == Transport::Http {
            self.check_format().await?;
        }
        Ok(references.all)
    }

    /// Over HTTP a server does not say why it answers nothing, but what it is asked for in the first place it does.
    async fn check_format(&self) -> Result<()> {
        let base = self.address.remote.trim_end_matches('/');
        let address = format!("{base}/info/refs?service=git-upload-pack");
        let login = self.login.clone();
        let ask = Ask { address: &address, body: None, headers: &[("git-protocol", "version=2")], login };
        let answer = Box::new(http_client::ask(ask).await?);
        let mut packets = Packets::new(Stream::Http(answer), http_client::shown(&self.address.remote));
        while let Some(packet) = packets.next().await? {
            if let Packet::Data(line) = packet
                && line.starts_with(b"object-format=")
                && !line.starts_with(b"object-format=sha1")
            {
                return Err(self.other_format());
            }
        }
        Ok(())
    }

    /// The objects of one commit, in a file.
    pub(crate) async fn pack(&self, commit: &ObjectId, path: &Path) -> Result<File> {
        let want = format!("want {}", hex(commit));
        let arguments = ["no-progress", "ofs-delta", "deepen 1", &want, "done"].map(str::to_owned);
        if self.address.transport == Transport::Http {
            return self.receive(self.post("fetch", &arguments).await?, b"packfile", path).await;
        }
        let (mut packets, greeting) = self.open().await?;
        if matches!(greeting, Greeting::Commands) {
            packets.say(&command("fetch", &arguments)).await?;
            return self.receive(packets, b"packfile", path).await;
        }
        let mut wanted = Vec::new();
        packet(&mut wanted, &format!("{want} side-band-64k ofs-delta no-progress\n"));
        packet(&mut wanted, "deepen 1\n");
        wanted.extend_from_slice(b"0000");
        packets.say(&wanted).await?;
        // What has no parents here, up to the end of that list.
        while let Some(Packet::Data(line)) = packets.next().await? {
            if let Some(why) = line.strip_prefix(b"ERR ") {
                return Err(self.refused(why));
            }
        }
        let mut done = Vec::new();
        packet(&mut done, "done\n");
        packets.say(&done).await?;
        self.receive(packets, b"NAK", path).await
    }

    /// Writes the pack that follows a line which begins with `before` into a file.
    async fn receive(&self, mut packets: Packets, before: &[u8], path: &Path) -> Result<File> {
        let mut file =
            File::options().read(true).write(true).create_new(true).open(path).io("create", path)?;
        let (mut in_pack, mut size) = (false, 0_u64);
        while let Some(packet) = packets.next().await? {
            let line = match packet {
                Packet::Data(line) => line,
                Packet::Flush if in_pack => break,
                _ => continue,
            };
            if !in_pack {
                if let Some(why) = line.strip_prefix(b"ERR ") {
                    return Err(self.refused(why));
                }
                in_pack = line.starts_with(before);
                continue;
            }
            match line.first() {
                Some(1) => {
                    size += line.len() as u64;
                    if size > remote::LARGEST {
                        return Err(self.fail(format!("it is larger than {} bytes", remote::LARGEST)));
                    }
                    file = blocking(move || {
                        file.write_all(&line[1..]).io("write", "pack")?;
                        Ok(file)
                    })
                    .await?;
                }
                Some(3) => return Err(self.refused(&line[1..])),
                _ => {}
            }
        }
        if !in_pack {
            return Err(self.fail("the server sent no objects"));
        }
        file.rewind().io("read", path)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_tells_names_one_a_line() {
        let mut references = References::default();
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        for line in [
            format!("{one} HEAD"),
            format!("{one} refs/heads/main\n"),
            format!("{one} refs/tags/v1"),
            format!("{two} refs/tags/v1^{{}}"),
            "version 1\n".to_owned(),
            format!("{} capabilities^{{}}", "0".repeat(40)),
        ] {
            references.take(line.as_bytes()).unwrap();
        }
        let found: Vec<(&str, String)> =
            references.all.iter().map(|(name, id)| (name.as_str(), hex(id))).collect();
        assert_eq!(found[1], ("refs/heads/main", one.clone()));
        assert_eq!(found[2], ("refs/tags/v1", one));
        assert_eq!(found.len(), 3);
    }
}
