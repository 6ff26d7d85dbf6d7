//! The sockets of a name server, over UDP and TCP, in any namespace.

use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::message::{self, Query};
use super::{Answer, Forwarder, RecordData, RecordKind, Zone};
use crate::nftables::{
    BaseChain, ChainKind, DataType, Element, Expression, Family, Hook, Key, Meta, Nftables, PayloadBase, Set,
    Transaction, compare, payload,
};
use crate::{Error, Result, namespace};

/// Open connections of one server.
const CONNECTIONS: usize = 64;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// A query has one question; this is room for its options.
const QUERY_LIMIT: usize = 4096;
/// Aliases that are followed.
const ALIASES: usize = 8;
const TABLE: &str = "dray-names";
const PORT: u16 = 53;
const PORT_TRIES: usize = 16;

/// The sockets of a server that is to come, in a namespace where packets are led to them.
#[derive(Debug)]
pub struct Prepared {
    sockets: (StdSocket, StdListener),
    address: IpAddr,
}

impl Prepared {
    /// Binds sockets at an IPv4 address inside a namespace and leads packets for its port 53 to them. Nobody
    /// answers before [`NameServer::serve_prepared`]. The kernel takes some milliseconds for the first packet
    /// rule of a namespace, so this is best done before anybody waits for it.
    pub fn new(namespace: &Path, address: IpAddr) -> Result<Self> {
        let sockets = namespace::within(namespace, || {
            let sockets = bind(SocketAddr::new(address, 0))?;
            redirect(address, &sockets)?;
            Ok(sockets)
        })?;
        Ok(Self { sockets, address })
    }
}

/// A zone and whom to ask for the rest.
pub struct NameServer {
    zone: Arc<dyn Zone>,
    forwarder: Arc<Forwarder>,
}

/// A server at one address; it ends when this is dropped.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Listening {
    /// Where the sockets are; behind a redirection that is not where clients ask.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl NameServer {
    /// A server that is nowhere yet.
    pub fn new(zone: Arc<dyn Zone>, forwarder: Arc<Forwarder>) -> Arc<Self> {
        Arc::new(Self { zone, forwarder })
    }

    /// Serves at an address of a namespace (the caller's if none), by UDP and TCP. Must be called in a tokio
    /// runtime; blocks for well under a millisecond.
    pub fn serve_at(self: &Arc<Self>, namespace: Option<&Path>, address: SocketAddr) -> Result<Listening> {
        let bind = || bind(address);
        let sockets = match namespace {
            Some(path) => namespace::within(path, bind)?,
            None => bind()?,
        };
        self.listen(sockets, address)
    }

    /// Serves at port 53 of an IPv4 address inside a container's namespace without taking that port: packets
    /// for it are led to the server's own, so that the container may run a name server itself.
    pub fn serve_redirected(self: &Arc<Self>, namespace: &Path, address: IpAddr) -> Result<Listening> {
        self.serve_prepared(Prepared::new(namespace, address)?)
    }

    /// Serves at sockets that were made ahead. Must be called in a tokio runtime.
    pub fn serve_prepared(self: &Arc<Self>, prepared: Prepared) -> Result<Listening> {
        self.listen(prepared.sockets, SocketAddr::new(prepared.address, PORT))
    }

    fn listen(
        self: &Arc<Self>,
        (udp, tcp): (StdSocket, StdListener),
        wanted: SocketAddr,
    ) -> Result<Listening> {
        let failed = |source| Error::NameServer { address: wanted, source };
        let address = udp.local_addr().map_err(failed)?;
        let udp = Arc::new(UdpSocket::from_std(udp).map_err(failed)?);
        let tcp = TcpListener::from_std(tcp).map_err(failed)?;
        let tasks = [tokio::spawn(self.clone().serve_udp(udp)), tokio::spawn(self.clone().serve_tcp(tcp))];
        Ok(Listening { address, tasks })
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUERY_LIMIT];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier answer; the socket goes on.
                    tracing::debug!(%error, "receiving a name query failed");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match message::read(&buffer[..length], client) {
                Err(Some(refusal)) => drop(socket.send_to(&refusal, client).await),
                Err(None) => {}
                Ok(query) => match self.answer_now(&query) {
                    Some(answer) => {
                        if let Some(bytes) = query.encode(&answer, true) {
                            let _ = socket.send_to(&bytes, client).await;
                        }
                    }
                    // The forwarder bounds how many of these wait; beyond, they fail at once.
                    None => {
                        let (server, socket) = (self.clone(), socket.clone());
                        let bytes = buffer[..length].to_vec();
                        tokio::spawn(async move {
                            if let Some(answer) = server.answer_later(&query, &bytes, true).await {
                                let _ = socket.send_to(&answer, client).await;
                            }
                        });
                    }
                },
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((connection, client)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = server.serve_connection(connection, client).await {
                            tracing::trace!(%client, %error, "a name connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a name connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_connection(&self, mut connection: TcpStream, client: SocketAddr) -> std::io::Result<()> {
        loop {
            let received = tokio::time::timeout(IDLE, async {
                let length = usize::from(connection.read_u16().await?);
                if length > QUERY_LIMIT {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                let mut bytes = vec![0; length];
                connection.read_exact(&mut bytes).await?;
                Ok::<_, std::io::Error>(bytes)
            });
            let bytes = received.await.map_err(|_| std::io::ErrorKind::TimedOut)??;
            let answer = match message::read(&bytes, client) {
                Err(refusal) => refusal,
                Ok(query) => match self.answer_now(&query) {
                    Some(answer) => query.encode(&answer, false),
                    None => self.answer_later(&query, &bytes, false).await,
                },
            };
            let Some(answer) = answer else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            tokio::time::timeout(IDLE, connection.write_all(&framed))
                .await
                .map_err(|_| std::io::ErrorKind::TimedOut)??;
        }
    }

    /// The answer, unless somebody else has to be asked.
    fn answer_now(&self, query: &Query) -> Option<Message> {
        match self.zone.answer(&query.question) {
            Answer::Records { answers, additional } => {
                let alias = answers.iter().any(|record| matches!(record.data, RecordData::Alias(_)));
                if alias && matches!(query.question.kind, RecordKind::A | RecordKind::Aaaa) {
                    return None;
                }
                let apex = self.zone.apex(&query.question.name);
                Some(query.answer(ResponseCode::NoError, &answers, &additional, apex))
            }
            Answer::NoSuchName => {
                let apex = self.zone.apex(&query.question.name);
                Some(query.answer(ResponseCode::NXDomain, &[], &[], apex))
            }
            Answer::Failed => Some(query.empty(ResponseCode::ServFail)),
            Answer::Forward => None,
        }
    }

    async fn answer_later(&self, query: &Query, bytes: &[u8], udp: bool) -> Option<Vec<u8>> {
        if let Answer::Records { answers, .. } = self.zone.answer(&query.question) {
            let answer = self.follow_aliases(query, &answers).await;
            return query.encode(&answer, udp);
        }
        match self.forwarder.ask(bytes, udp).await {
            Some(answer) => Some(answer),
            None => query.encode(&query.empty(ResponseCode::ServFail), udp),
        }
    }

    /// A client's library does not follow aliases; the server has to.
    async fn follow_aliases(&self, query: &Query, first: &[super::Record]) -> Message {
        let mut answer = query.answer(ResponseCode::NoError, first, &[], None);
        let target = |records: &[super::Record]| {
            records.iter().find_map(|record| match &record.data {
                RecordData::Alias(name) => Some(name.clone()),
                _ => None,
            })
        };
        let mut next = target(first);
        for _ in 0..ALIASES {
            let Some((bytes, question)) = next.and_then(|name| query.follow(&name)) else { break };
            match self.zone.answer(&question) {
                Answer::Records { answers, .. } => {
                    message::append_records(&mut answer, &answers);
                    next = target(&answers);
                }
                Answer::Forward => {
                    if let Some(other) = self.forwarder.ask(&bytes, true).await {
                        message::append_answers(&mut answer, &other);
                    }
                    break;
                }
                Answer::NoSuchName | Answer::Failed => break,
            }
        }
        answer
    }
}

fn bind(address: SocketAddr) -> Result<(StdSocket, StdListener)> {
    let failed = |source| Error::NameServer { address, source };
    // Both at one port, also where the kernel chooses it: it may be taken for the second.
    let mut left = if address.port() == 0 { PORT_TRIES } else { 1 };
    let (udp, tcp) = loop {
        left -= 1;
        let udp = StdSocket::bind(address).map_err(failed)?;
        match StdListener::bind(udp.local_addr().map_err(failed)?) {
            Ok(tcp) => break (udp, tcp),
            Err(error) if left == 0 => return Err(failed(error)),
            Err(_) => {}
        }
    };
    udp.set_nonblocking(true).map_err(failed)?;
    tcp.set_nonblocking(true).map_err(failed)?;
    Ok((udp, tcp))
}

/// Leads packets for port 53 of the address to the sockets, in the namespace of the calling thread.
fn redirect(address: IpAddr, (udp, tcp): &(StdSocket, StdListener)) -> Result<()> {
    let failed = |source| Error::NameServer { address: SocketAddr::new(address, PORT), source };
    let ports =
        [(17, udp.local_addr().map_err(failed)?.port()), (6, tcp.local_addr().map_err(failed)?.port())];
    let IpAddr::V4(address) = address else {
        return Err(failed(std::io::ErrorKind::Unsupported.into()));
    };
    let mut transaction = Transaction::new(Family::Ipv4, TABLE);
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    let fields = [DataType::Protocol, DataType::Ipv4Address, DataType::Port];
    transaction.add_set(&Set::map("servers", &fields, &[DataType::Ipv4Address, DataType::Port]));
    let element = |(protocol, port)| {
        let key = Key::new().protocol(protocol).address(address).port(PORT);
        Element::value(key, Key::new().address(address).port(port))
    };
    transaction.add_elements("servers", &ports.map(element));
    let base = BaseChain { kind: ChainKind::Nat, hook: Hook::Output, priority: -100 };
    transaction.add_base_chain("output", base);
    let rule = [
        // Most packets are for somewhere else and are done here.
        payload(0, PayloadBase::Network, 16, 4),
        compare(0, &address.octets()),
        Expression::Meta { register: 0, key: Meta::TransportProtocol },
        payload(1, PayloadBase::Network, 16, 4),
        payload(2, PayloadBase::Transport, 2, 2),
        Expression::Map { register: 0, map: "servers".to_owned(), into: 0 },
        Expression::DestinationNat { address: 0, port: Some(1) },
    ];
    transaction.add_rule("output", &rule);
    Nftables::open()?.commit(transaction)
}
