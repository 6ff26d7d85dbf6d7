//! Sending what a container writes to the host's own log: syslog (RFC 3164 and 5424) or journald, one message a line.
//!
//! A receiver that does not keep up loses messages: the process must not stop for it. The file beside it has them all.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, SystemTime};

use super::stdio::Stream;
use crate::launch::{LogForward, SyslogFormat};
use crate::timestamp::rfc3339;
use crate::{Error, Result};

/// Where journald takes messages in its own protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Severities of RFC 5424.
const ERROR: u8 = 3;
const INFORMATIONAL: u8 = 6;
/// Time to connect to a receiver.
const PATIENCE: Duration = Duration::from_secs(5);

enum Socket {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Stream(UnixStream),
}

pub(super) struct Forwarder {
    to: LogForward,
    socket: Socket,
    host: String,
    pid: u32,
    /// What is left of a message that a stream took only a part of.
    rest: Vec<u8>,
}

impl Forwarder {
    /// Connects to the receiver.
    pub(super) fn open(to: LogForward) -> Result<Self> {
        let address = match &to {
            LogForward::Syslog { address, .. } => address.clone(),
            LogForward::Journald { .. } => format!("unixgram://{JOURNAL}"),
        };
        let socket =
            connect(&address).map_err(|source| Error::LogReceiver { address: address.clone(), source })?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { to, socket, host, pid: std::process::id(), rest: Vec::new() })
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
        let _ = match &mut self.socket {
            Socket::Datagram(socket) => socket.send(&message).map(drop),
            Socket::Udp(socket) => socket.send(&message).map(drop),
            Socket::Tcp(socket) => write_whole(socket, &mut self.rest, &message),
            Socket::Stream(socket) => write_whole(socket, &mut self.rest, &message),
        };
    }
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

fn connect(address: &str) -> io::Result<Socket> {
    let (scheme, rest) = address.split_once("://").ok_or(io::ErrorKind::InvalidInput)?;
    let resolve = || rest.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let socket = match scheme {
        "unix" | "unixgram" => {
            let socket = UnixDatagram::unbound()?;
            match socket.connect(rest) {
                Ok(()) => {
                    socket.set_nonblocking(true)?;
                    Socket::Datagram(socket)
                }
                // EPROTOTYPE: it listens for streams.
                Err(error) if scheme == "unix" && error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                    let socket = UnixStream::connect(rest)?;
                    socket.set_nonblocking(true)?;
                    Socket::Stream(socket)
                }
                Err(error) => return Err(error),
            }
        }
        "udp" => {
            let to = resolve()?;
            let any: std::net::IpAddr = match to {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Socket::Udp(socket)
        }
        "tcp" => {
            let socket = TcpStream::connect_timeout(&resolve()?, PATIENCE)?;
            socket.set_nonblocking(true)?;
            Socket::Tcp(socket)
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(socket)
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
        let to = LogForward::Syslog {
            address: format!("unix://{}", path.display()),
            facility: 3,
            tag: "box".into(),
            format: SyslogFormat::Local,
        };
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
        let to = LogForward::Syslog {
            address: "unix:///nowhere/log".into(),
            facility: 3,
            tag: String::new(),
            format: SyslogFormat::Local,
        };
        let error = Forwarder::open(to).err().unwrap().to_string();
        assert!(error.contains("unix:///nowhere/log"), "{error}");
    }
}
