//! The other direction: a tree of ours goes to the client, which asks for the contents it wants.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use tokio::sync::mpsc;

use super::stat;
use crate::grpc::{Code, Metadata, Status};
use crate::proto::fsutil::{Kind, Packet, Stat};
use crate::session::{FILE_SEND, Session};

/// Packets that wait for the wire, and requests that wait for the disk.
const AHEAD: usize = 64;
/// Bytes of content in one packet: what fsutil sends.
const PIECE: usize = 32 * 1024;
/// Directories of a result below each other.
const DEEPEST: usize = 1000;

/// A tree to be sent: its top, and the directory of the client's that it goes to, empty for the client's own top.
pub(crate) type Part = (String, OwnedFd);

/// Sends trees to the client's exporter of this number. `progress` is told how many bytes have gone.
///
/// # Errors
/// When the client refuses or goes, or a file cannot be read.
pub(crate) async fn send(
    session: &Session,
    exporter: usize,
    parts: Vec<Part>,
    mut progress: impl FnMut(u64),
) -> Result<(), Status> {
    let metadata = Metadata::from([("buildkit-attachable-exporter-id".to_owned(), exporter.to_string())]);
    let mut stream = session.call(FILE_SEND, &metadata)?;
    let Some(to_client) = stream.sender() else { return Err(Status::cancelled()) };
    // The only one that sends from here on: with it the client sees the end.
    stream.close();
    let (packets, mut to_send) = mpsc::channel::<Packet>(AHEAD);
    let (requests, asked) = mpsc::channel::<u32>(AHEAD);
    let work = tokio::task::spawn_blocking(move || {
        let result = tell(&parts, asked, &packets);
        if let Err(status) = &result {
            let data = Bytes::from(status.message.clone());
            let _ = packets.blocking_send(Packet { kind: Kind::Error as i32, data, ..Packet::default() });
        }
        result
    });
    let sending = async move {
        let mut size = 0;
        while let Some(packet) = to_send.recv().await {
            size += packet.data.len() as u64;
            progress(size);
            to_client.send(&packet).await?;
        }
        Ok::<_, Status>(())
    };
    // Takes the requests with it: without them the thread ends.
    let receiving = async {
        let mut requests = Some(requests);
        while let Some(packet) = stream.next::<Packet>().await? {
            match Kind::try_from(packet.kind) {
                Ok(Kind::Request) => {
                    if let Some(requests) = &requests {
                        let _ = requests.send(packet.id).await;
                    }
                }
                // All has been asked for: the thread ends, and says so to the client.
                Ok(Kind::Finished) => requests = None,
                Ok(Kind::Error) => {
                    let words = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(Status::unknown(format!("error from receiver: {words}")));
                }
                _ => return Err(Status::invalid("the client sent a packet that has no place here")),
            }
        }
        Ok(())
    };
    let (sent, received): (_, Result<(), Status>) = tokio::join!(sending, receiving);
    let told = work.await.map_err(|_| Status::new(Code::Internal, "the export ended unexpectedly"))?;
    // Of several reasons the one of the client's is the first.
    received.and(told).and(sent)
}

/// Tells of all entries, answers requests until there are no more, and then ends.
fn tell(
    parts: &[Part],
    mut asked: mpsc::Receiver<u32>,
    packets: &mpsc::Sender<Packet>,
) -> Result<(), Status> {
    let mut teller = Teller { packets, count: 0, files: HashMap::new(), links: HashMap::new() };
    for (number, (name, top)) in parts.iter().enumerate() {
        if !name.is_empty() {
            let mode = stat::go_mode(0o040_755);
            teller.stat(Stat { path: name.clone(), mode, ..Stat::default() })?;
        }
        teller.directory(number, top, "", name, 0)?;
    }
    teller.packet(Packet { kind: Kind::Stat as i32, ..Packet::default() })?;
    while let Some(id) = asked.blocking_recv() {
        let found = teller.files.remove(&id);
        let (part, path) = found.ok_or_else(|| Status::invalid(format!("invalid file id {id}")))?;
        let Some((_, top)) = parts.get(part) else { continue };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(top, path.as_str(), flags, Mode::empty(), beneath);
        let mut file = File::from(file.map_err(failed("open", &path))?);
        loop {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).map_err(|error| failed_io("read", &path, &error))?;
            piece.truncate(read);
            teller.packet(Packet { kind: Kind::Data as i32, id, data: piece.into(), ..Packet::default() })?;
            if read == 0 {
                break;
            }
        }
    }
    teller.packet(Packet { kind: Kind::Finished as i32, ..Packet::default() })
}

struct Teller<'a> {
    packets: &'a mpsc::Sender<Packet>,
    count: u32,
    /// What may be asked for: the part and the path in it.
    files: HashMap<u32, (usize, String)>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), String>,
}

impl Teller<'_> {
    fn packet(&self, packet: Packet) -> Result<(), Status> {
        self.packets.blocking_send(packet).map_err(|_| Status::cancelled())
    }

    fn stat(&mut self, stat: Stat) -> Result<u32, Status> {
        let id = self.count;
        self.count += 1;
        self.packet(Packet { kind: Kind::Stat as i32, stat: Some(stat), ..Packet::default() })?;
        Ok(id)
    }

    /// Tells of what is in a directory: its path in the part, and the path that the client knows it by.
    fn directory(
        &mut self,
        part: usize,
        directory: &OwnedFd,
        within: &str,
        shown: &str,
        depth: usize,
    ) -> Result<(), Status> {
        if depth > DEEPEST {
            return Err(Status::invalid(format!("{within} is too deep to be exported")));
        }
        let below =
            |path: &str, name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed("read", within))? {
            let entry = entry.map_err(failed("read", within))?;
            let name = entry.file_name().to_str().map_err(|_| {
                let name = entry.file_name().to_string_lossy().into_owned();
                Status::invalid(format!("{} has a name that is no text", below(within, &name)))
            })?;
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let (path, shown) = (below(within, &name), below(shown, &name));
            let found =
                statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", &path))?;
            let mut stat = stat::stat_of(&shown, &found, String::new());
            match stat::kind(&stat) {
                stat::Kind::Directory => {
                    stat.size = 0;
                    self.stat(stat)?;
                    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    let inner = rustix::fs::openat(directory, &name, flags, Mode::empty());
                    self.directory(part, &inner.map_err(failed("open", &path))?, &path, &shown, depth + 1)?;
                }
                stat::Kind::Symlink => {
                    let target = readlinkat(directory, &name, Vec::new()).map_err(failed("read", &path))?;
                    stat.link = target.to_string_lossy().into_owned();
                    self.stat(stat)?;
                }
                stat::Kind::File => {
                    if found.st_nlink > 1 {
                        let key = (found.st_dev, found.st_ino);
                        match self.links.get(&key) {
                            Some(first) => stat.link.clone_from(first),
                            None => drop(self.links.insert(key, shown.clone())),
                        }
                    }
                    let is_link = !stat.link.is_empty();
                    let id = self.stat(stat)?;
                    if !is_link {
                        self.files.insert(id, (part, path));
                    }
                }
                stat::Kind::Special => {
                    stat.major = i64::from(rustix::fs::major(found.st_rdev));
                    stat.minor = i64::from(rustix::fs::minor(found.st_rdev));
                    self.stat(stat)?;
                }
            }
        }
        Ok(())
    }
}

fn failed(action: &str, path: &str) -> impl FnOnce(rustix::io::Errno) -> Status {
    move |error| failed_io(action, path, &error.into())
}

fn failed_io(action: &str, path: &str, error: &std::io::Error) -> Status {
    Status::new(Code::Internal, format!("cannot {action} {path} of the result: {error}"))
}
