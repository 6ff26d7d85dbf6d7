//! Asking other name servers, from the namespace of the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at once; more are refused at once.
const IN_FLIGHT: usize = 512;
/// As the C library does.
const SERVERS: usize = 3;
const PORT: u16 = 53;
/// The fixed part of a message.
const HEADER: usize = 12;
const RESOLV_CONF_LIMIT: u64 = 64 * 1024;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolvers {
    /// The servers a file like /etc/resolv.conf names; read again when it changes.
    File(PathBuf),
    /// These.
    Fixed(Vec<SocketAddr>),
    /// Nobody.
    None,
}

/// Passes questions on; shared by any number of servers.
#[derive(Debug)]
pub struct Forwarder {
    resolvers: Resolvers,
    file: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
    permits: Semaphore,
}

impl Forwarder {
    /// A forwarder to these resolvers.
    pub fn new(resolvers: Resolvers) -> Self {
        Self { resolvers, file: Mutex::default(), permits: Semaphore::new(IN_FLIGHT) }
    }

    /// The answer of the first server that gives one, with the identifier of the query.
    pub(super) async fn ask(&self, query: &[u8], udp: bool) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        for server in self.servers() {
            let asked =
                async { if udp { ask_udp(query, server).await } else { ask_tcp(query, server).await } };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server did not answer"),
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.resolvers {
            Resolvers::None => return Vec::new(),
            Resolvers::Fixed(servers) => return servers.clone(),
            Resolvers::File(path) => path,
        };
        let metadata = std::fs::metadata(path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        let mut file = self.file.lock();
        if modified.is_none() || file.0 != modified {
            let small = metadata.is_some_and(|metadata| metadata.len() <= RESOLV_CONF_LIMIT);
            let text = if small { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
            *file = (modified, parse_servers(&text));
        }
        file.1.clone()
    }
}

/// The `nameserver` lines of resolv.conf(5); without one, the server on this host.
fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // A scope (`%eth0`) needs an interface's number: such a server is passed over.
            (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
        })
        .map(|address| SocketAddr::new(address, PORT))
        .take(SERVERS)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

async fn ask_udp(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket of its own, connected: its random port and the identifier must both be guessed by a forger.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let asked = with_identifier(query, rand::random())?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        if is_answer(&asked, answer) {
            return with_identifier(answer, identifier(query));
        }
    }
}

async fn ask_tcp(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server).await?;
    let asked = with_identifier(query, rand::random())?;
    let length = u16::try_from(asked.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&asked);
    connection.write_all(&framed).await?;
    let length = connection.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    connection.read_exact(&mut answer).await?;
    if !is_answer(&asked, &answer) {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    with_identifier(&answer, identifier(query))
}

fn identifier(message: &[u8]) -> u16 {
    message.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn with_identifier(message: &[u8], identifier: u16) -> std::io::Result<Vec<u8>> {
    let mut message = message.to_vec();
    match message.first_chunk_mut::<2>() {
        Some(bytes) => *bytes = identifier.to_be_bytes(),
        None => return Err(std::io::ErrorKind::InvalidInput.into()),
    }
    Ok(message)
}

/// Whether the answer has the query's identifier and its question.
fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    let question = |message: &[u8]| -> Option<Vec<u8>> {
        let mut rest = message.get(HEADER..)?;
        let mut question = Vec::new();
        loop {
            // A name at the start of a message is never compressed.
            let (&length, after) = rest.split_first()?;
            if length > 63 {
                return None;
            }
            let label = after.get(..usize::from(length))?;
            question.push(length);
            question.extend(label.iter().map(u8::to_ascii_lowercase));
            rest = after.get(usize::from(length)..)?;
            if length == 0 {
                question.extend_from_slice(rest.get(..4)?);
                return Some(question);
            }
        }
    };
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_response
        && answer.get(..2) == query.get(..2)
        && question(answer).is_some_and(|it| Some(it) == question(query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        let text = "# comment\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t::1 \nnameserver fe80::1%eth0\n\
            options ndots:5\nnameserver bad\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let servers = parse_servers(text);
        let expected = ["192.0.2.1:53", "[::1]:53", "192.0.2.3:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers, expected);
        assert_eq!(parse_servers("")[0].to_string(), "127.0.0.1:53");
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let mut answer = query.clone();
        assert!(!is_answer(&query, &answer), "a query is no answer");
        answer[2] |= 0x80;
        answer[13] = b'A';
        assert!(is_answer(&query, &answer));
        answer[13] = b'b';
        assert!(!is_answer(&query, &answer));
        answer[13] = b'a';
        query[0] = 9;
        assert!(!is_answer(&query, &answer));
        assert!(!is_answer(&query, &answer[..14]));
    }
}
