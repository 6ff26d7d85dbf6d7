//! Sending what a container writes to the host's own log: syslog (RFC 3164 and 5424) or journald, one message a line.
//!
//! A receiver that does not keep up loses messages: the process must not stop for it. The file beside it has them all. One
//! that was away, as a log daemon that is upgraded, is connected to again.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::stdio::Stream;
use crate::launch::{LogForward, SyslogFormat};
use crate::timestamp::rfc3339;
use crate::{Error, Result};

/// Where journald takes messages in its own protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Severities of RFC 5424.
const ERROR: u8 = 3;
const INFORMATIONAL: u8 = 6;
/// Time to connect to a receiver at first.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries to connect to one that was lost.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a receiver listens.
enum Address {
    Unix { path: PathBuf, may_be_stream: bool },
    Udp(SocketAddr),
    Tcp(SocketAddr),
}

enum Socket {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Stream(UnixStream),
}

pub(super) struct Forwarder {
    to: LogForward,
    address: Address,
    socket: Socket,
    /// When the receiver was last connected to again.
    retried: Option<Instant>,
    host: String,
    pid: u32,
    /// What is left of a message that a stream took only a part of, or all of one that waits for its connection.
    rest: Vec<u8>,
}

impl Forwarder {
    /// Connects to the receiver.
    pub(super) fn open(to: LogForward) -> Result<Self> {
        let address = match &to {
            LogForward::Syslog { address, .. } => address.clone(),
            LogForward::Journald { .. } => format!("unixgram://{JOURNAL}"),
        };
        let connected = Address::parse(&address).and_then(|parsed| {
            let socket = parsed.connect(Some(PATIENCE))?;
            Ok((parsed, socket))
        });
        let (address, socket) = connected.map_err(|source| Error::LogReceiver { address, source })?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { to, address, socket, retried: None, host, pid: std::process::id(), rest: Vec::new() })
    }

    /// Sends a line, its line feed included or not.
    pub(super) fn send(&mut self, stream: Stream, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let severity = if stream == Stream::Error { ERROR } else { INFORMATIONAL };
        let message = match &self.to {
            LogForward::Syslog { facility, tag, format, .. } => {
                let now = rfc3339(SystemTime::now());
                let priority = (facility << 3) | severity;
                let head = syslog_head(*format, priority, &now, &self.host, tag, self.pid);
                let mut message = head.into_bytes();
                message.extend_from_slice(text);
                if matches!(self.socket, Socket::Tcp(_) | Socket::Stream(_)) {
                    message.push(b'\n');
                }
                message
            }
            LogForward::Journald { fields } => journal_entry(fields, severity, text),
        };
        if self.write(&message).is_err_and(is_lost) {
            self.connect_again(message);
        }
    }

    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Datagram(socket) => socket.send(message).map(drop),
            // The first error may be the answer to the datagram before.
            Socket::Udp(socket) => socket.send(message).or_else(|_| socket.send(message)).map(drop),
            Socket::Tcp(socket) => write_whole(socket, &mut self.rest, message),
            Socket::Stream(socket) => write_whole(socket, &mut self.rest, message),
        }
    }

    /// Connects to a receiver that has gone away, without waiting for it, and sends it the message or keeps it until the
    /// connection stands.
    fn connect_again(&mut self, message: Vec<u8>) {
        if self.retried.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.retried = Some(Instant::now());
        self.rest.clear();
        let Ok(socket) = self.address.connect(None) else { return };
        self.socket = socket;
        let is_stream = matches!(self.socket, Socket::Tcp(_) | Socket::Stream(_));
        let sent = self.write(&message);
        if is_stream && self.rest.is_empty() && sent.is_err_and(|error| !is_lost(error)) {
            self.rest = message;
        }
    }
}

/// Whether nothing more will be taken by this socket.
fn is_lost(error: io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Writes a message to a stream that does not block, as a whole or not at all: of one that is taken in part the rest goes
/// before the next, else two would become one line.
fn write_whole(stream: &mut impl io::Write, rest: &mut Vec<u8>, message: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match stream.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => drop(rest.drain(..written)),
        }
    }
    let mut left = message;
    while !left.is_empty() {
        match stream.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if left.len() < message.len() {
                    rest.extend_from_slice(left);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

impl Address {
    fn parse(text: &str) -> io::Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or(io::ErrorKind::InvalidInput)?;
        let resolve =
            || rest.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        Ok(match scheme {
            "unix" | "unixgram" => Self::Unix { path: rest.into(), may_be_stream: scheme == "unix" },
            "udp" => Self::Udp(resolve()?),
            "tcp" => Self::Tcp(resolve()?),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        })
    }

    /// A socket that does not block; a connection that takes its time is waited for as long as `patience` says.
    fn connect(&self, patience: Option<Duration>) -> io::Result<Socket> {
        match self {
            Self::Unix { path, may_be_stream } => {
                let socket = UnixDatagram::unbound()?;
                match socket.connect(path) {
                    Ok(()) => {
                        socket.set_nonblocking(true)?;
                        Ok(Socket::Datagram(socket))
                    }
                    // EPROTOTYPE: it listens for streams.
                    Err(error) if *may_be_stream && error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                        let socket = waiting_for_nobody(AddressFamily::UNIX)?;
                        net::connect(&socket, &SocketAddrUnix::new(path)?)?;
                        Ok(Socket::Stream(socket.into()))
                    }
                    Err(error) => Err(error),
                }
            }
            Self::Udp(to) => {
                let any =
                    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(to)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Udp(socket))
            }
            Self::Tcp(to) => {
                let Some(patience) = patience else {
                    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                    let socket = waiting_for_nobody(family)?;
                    match net::connect(&socket, to) {
                        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => return Ok(Socket::Tcp(socket.into())),
                        Err(error) => return Err(error.into()),
                    }
                };
                let socket = TcpStream::connect_timeout(to, patience)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Tcp(socket))
            }
        }
    }
}

/// A socket for a stream that neither connects nor writes with waiting.
fn waiting_for_nobody(family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// What stands before the text; `now` is RFC 3339 in UTC.
fn syslog_head(format: SyslogFormat, priority: u8, now: &str, host: &str, tag: &str, pid: u32) -> String {
    match format {
        SyslogFormat::Local => format!("<{priority}>{} {tag}[{pid}]: ", short_time(now)),
        SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", short_time(now)),
        SyslogFormat::Rfc5424 => format!("<{priority}>1 {now} {host} {tag} {pid} {tag} - "),
    }
}

/// `Feb 29 12:34:56`, as RFC 3164 has times.
fn short_time(now: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let part = |range: std::ops::Range<usize>| now.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let day = part(8..10).trim_start_matches('0');
    format!("{} {day:>2} {}", month.unwrap_or(&"Jan"), part(11..19))
}

/// An entry in journald's own protocol: `NAME=value` lines, or for a value with line feeds the name, a length of eight
/// bytes, little endian, and the value.
fn journal_entry(fields: &[(String, String)], severity: u8, text: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(text.len() + 256);
    let severity = severity.to_string();
    let own = [("MESSAGE", text), ("PRIORITY", severity.as_bytes())];
    let given = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in own.into_iter().chain(given) {
        entry.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value);
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_syslog_messages() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let to = syslog(format!("unix://{}", path.display()));
        let mut forwarder = Forwarder::open(to).unwrap();
        forwarder.send(Stream::Output, b"hello\n");
        forwarder.send(Stream::Error, b"bad");
        let mut buffer = [0; 256];
        let mut next = || {
            let n = receiver.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        };
        let (first, second) = (next(), next());
        assert!(first.starts_with("<30>") && first.ends_with("]: hello"), "{first}");
        assert!(first.contains(&format!(" box[{}]", std::process::id())), "{first}");
        assert!(second.starts_with("<27>") && second.ends_with(": bad"), "{second}");
    }

    fn syslog(address: String) -> LogForward {
        LogForward::Syslog { address, facility: 3, tag: "box".into(), format: SyslogFormat::Local }
    }

    #[test]
    fn a_receiver_that_was_away_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut forwarder = Forwarder::open(syslog(format!("unix://{}", path.display()))).unwrap();
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        forwarder.send(Stream::Output, b"again\n");
        let mut buffer = [0; 256];
        let n = second.recv(&mut buffer).unwrap();
        assert!(buffer[..n].ends_with(b": again"));
    }

    #[test]
    fn a_connection_that_was_lost_is_made_again() {
        use std::io::BufRead as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut forwarder =
            Forwarder::open(syslog(format!("tcp://{}", listener.local_addr().unwrap()))).unwrap();
        // A message to one who has closed is answered with a reset, which the next message learns.
        drop(listener.accept().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            for line in io::BufReader::new(stream).lines().map_while(io::Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = (0..1000).find_map(|number: u32| {
            forwarder.send(Stream::Output, format!("line {number}").as_bytes());
            lines.recv_timeout(Duration::from_millis(5)).ok()
        });
        assert!(line.is_some_and(|line| line.contains("]: line ")));
    }

    /// A stream with room for so many bytes.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl io::Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_receiver_gets_whole_lines_or_none() {
        let (mut stream, mut rest) = (Narrow { room: 5, taken: Vec::new() }, Vec::new());
        assert!(write_whole(&mut stream, &mut rest, b"the first\n").is_err());
        assert!(write_whole(&mut stream, &mut rest, b"lost\n").is_err());
        stream.room = 2;
        assert!(write_whole(&mut stream, &mut rest, b"lost as well\n").is_err());
        stream.room = 100;
        write_whole(&mut stream, &mut rest, b"the next\n").unwrap();
        assert_eq!(stream.taken, b"the first\nthe next\n");
    }

    #[test]
    fn heads_follow_their_formats() {
        let head = |format| syslog_head(format, 30, "2024-02-09T12:34:56.5Z", "host", "tag", 7);
        assert_eq!(head(SyslogFormat::Rfc3164), "<30>Feb  9 12:34:56 host tag[7]: ");
        assert_eq!(head(SyslogFormat::Rfc5424), "<30>1 2024-02-09T12:34:56.5Z host tag 7 tag - ");
    }

    #[test]
    fn journal_values_with_line_feeds_have_a_length() {
        let fields = [("A".to_owned(), "b\nc".to_owned()), ("D".to_owned(), "e".to_owned())];
        let entry = journal_entry(&fields, 6, b"text");
        assert_eq!(entry, b"MESSAGE=text\nPRIORITY=6\nA\n\x03\0\0\0\0\0\0\0b\nc\nD=e\n");
    }

    #[test]
    fn a_receiver_that_is_not_there_is_named() {
        let to = syslog("unix:///nowhere/log".into());
        let error = Forwarder::open(to).err().unwrap().to_string();
        assert!(error.contains("unix:///nowhere/log"), "{error}");
    }
}
