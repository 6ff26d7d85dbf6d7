//! The name server with real queries, inside namespaces.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dray_network::names::{
    Answer, Forwarder, NameServer, Names, Prepared, Question, Record, RecordData, RecordKind, Resolvers, Zone,
};
use dray_network::namespace;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use support::Host;

const DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PATIENCE: Duration = Duration::from_secs(5);

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn inside<T: Send>(namespace: Option<&Path>, work: impl FnOnce() -> T + Send) -> T {
    match namespace {
        Some(path) => namespace::within(path, || Ok(work())).unwrap(),
        None => work(),
    }
}

fn ask_udp(namespace: Option<&Path>, server: SocketAddr, message: &Message) -> Message {
    inside(namespace, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        socket.send(&message.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    })
}

fn ask_tcp(namespace: Option<&Path>, server: SocketAddr, message: &Message) -> Message {
    inside(namespace, || {
        let mut connection = TcpStream::connect(server).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes = message.to_vec().unwrap();
        connection.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
        connection.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        connection.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        connection.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    })
}

fn answers(message: &Message) -> Vec<String> {
    let mut answers: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    answers.sort();
    answers
}

/// The world outside: `many.example` has forty addresses, `example.com` one, the rest does not exist.
struct World;

impl Zone for World {
    fn answer(&self, question: &Question) -> Answer {
        let record = |last| Record {
            name: question.name.clone(),
            time_to_live: Duration::from_secs(60),
            data: RecordData::Address(IpAddr::from([192, 0, 2, last])),
        };
        match (question.name.as_str(), question.kind) {
            ("many.example", RecordKind::A) => Answer::records((1..=100).map(record).collect()),
            ("example.com", RecordKind::A) => Answer::records(vec![record(7)]),
            ("alias.example", _) => Answer::records(vec![Record {
                data: RecordData::Alias("example.com".to_owned()),
                ..record(0)
            }]),
            _ => Answer::NoSuchName,
        }
    }

    fn apex(&self, _name: &str) -> Option<String> {
        Some("example".to_owned())
    }
}

fn server(zone: Arc<dyn Zone>, upstream: Vec<SocketAddr>) -> Arc<NameServer> {
    NameServer::new(zone, Arc::new(Forwarder::new(Resolvers::Fixed(upstream))))
}

/// One thread that is in the test's namespaces, as its threads are.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn containers_resolve_each_other_and_the_world() {
    let host = Host::new();
    let container = host.namespace("one");
    let runtime = runtime();
    let _guard = runtime.enter();
    let world = server(Arc::new(World), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let names = Names::new();
    names.add_network("n1", "front", false);
    names.add_network("n2", "back", true);
    names.add("n1", [10, 0, 0, 2].into(), &["web".to_owned(), "www".to_owned()]);
    let view = names.view(vec!["n1".to_owned()]);
    let start = Instant::now();
    let _server =
        server(view.clone(), vec![world.address()]).serve_redirected(&container, DNS.into()).unwrap();
    println!("name server in a namespace: {:?}", start.elapsed());
    let at = SocketAddr::from((DNS, 53));
    for ask in [ask_udp, ask_tcp] {
        let ask = |name, kind| ask(Some(&container), at, &query(name, kind));
        let web = ask("Web.", RecordType::A);
        assert_eq!(answers(&web), ["10.0.0.2"]);
        assert_eq!(web.metadata.id, 0x1234);
        assert!(web.metadata.authoritative && web.metadata.recursion_available);
        assert_eq!(web.answers[0].name.to_ascii(), "Web.", "as the client spelled it");
        let none = ask("www.", RecordType::AAAA);
        assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(answers(&ask("2.0.0.10.in-addr.arpa.", RecordType::PTR)), ["web.front."]);
        assert_eq!(answers(&ask("example.com.", RecordType::A)), ["192.0.2.7"]);
        let missing = ask("missing.example.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(missing.metadata.id, 0x1234);
        assert_eq!(missing.authorities.len(), 1, "how long this may be kept");
    }
    // The container may have port 53 for itself.
    inside(Some(&container), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).map(drop).unwrap());

    view.set_networks(vec!["n2".to_owned()]);
    let internal = ask_udp(Some(&container), at, &query("example.com.", RecordType::A));
    assert_eq!(internal.metadata.response_code, ResponseCode::ServFail, "cve_2024_29018");
}

#[test]
fn a_server_made_ahead_moves_with_its_namespace() {
    let host = Host::new();
    let stored = host.namespace("stored");
    let container = stored.with_file_name("taken");
    let prepared = Prepared::new(&stored, DNS.into()).unwrap();
    namespace::move_pin(&stored, &container).unwrap();
    assert!(!stored.exists() && namespace::move_pin(&container, &container).is_err());
    let runtime = runtime();
    let _guard = runtime.enter();
    let names = Names::new();
    names.add_network("n1", "front", false);
    names.add("n1", [10, 0, 0, 2].into(), &["web".to_owned()]);
    let _server = server(names.view(vec!["n1".to_owned()]), vec![]).serve_prepared(prepared).unwrap();
    let at = SocketAddr::from((DNS, 53));
    for ask in [ask_udp, ask_tcp] {
        assert_eq!(answers(&ask(Some(&container), at, &query("web.", RecordType::A))), ["10.0.0.2"]);
    }
    namespace::remove(&container).unwrap();
}

#[test]
fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let _host = Host::new();
    let runtime = runtime();
    let _guard = runtime.enter();
    let world = server(Arc::new(World), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let mut many = query("many.example.", RecordType::A);
    let cut = ask_udp(None, world.address(), &many);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(answers(&ask_tcp(None, world.address(), &many)).len(), 100);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    many.set_edns(edns);
    let cut = ask_udp(None, world.address(), &many);
    assert!(cut.metadata.truncation && cut.edns.is_some(), "1600 bytes are more than is sent in one piece");
}

#[test]
fn aliases_are_followed_for_the_client() {
    let _host = Host::new();
    let runtime = runtime();
    let _guard = runtime.enter();
    let world = server(Arc::new(World), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let alias = ask_udp(None, world.address(), &query("alias.example.", RecordType::A));
    assert_eq!(answers(&alias), ["192.0.2.7", "example.com."]);
    let only = ask_udp(None, world.address(), &query("alias.example.", RecordType::CNAME));
    assert_eq!(answers(&only), ["example.com."]);
}

#[test]
fn without_resolvers_the_answer_is_a_failure_at_once() {
    let _host = Host::new();
    let runtime = runtime();
    let _guard = runtime.enter();
    let names = Names::new();
    let view = names.view(vec![]);
    let nobody = server(view.clone(), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let failed = ask_udp(None, nobody.address(), &query("example.com.", RecordType::A));
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    // The first server refuses, the second answers.
    let world = server(Arc::new(World), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let both = server(view, vec![dead, world.address()]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    assert_eq!(answers(&ask_udp(None, both.address(), &query("example.com.", RecordType::A))), ["192.0.2.7"]);
}

#[test]
fn nonsense_is_answered_as_such_or_not_at_all() {
    let _host = Host::new();
    let runtime = runtime();
    let _guard = runtime.enter();
    let world = server(Arc::new(World), vec![]).serve_at(None, ([127, 0, 0, 1], 0).into()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(world.address()).unwrap();
    socket.send(b"").unwrap();
    socket.send(b"xx").unwrap();
    let mut answer = query("example.com.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    socket.send(&answer.to_vec().unwrap()).unwrap();
    // Twelve bytes that promise a question which is not there: the only one of the four that is answered.
    socket.send(&[9, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..2], [9, 9]);
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, ResponseCode::FormErr);
    let mut two = query("example.com.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
    assert_eq!(ask_udp(None, world.address(), &two).metadata.response_code, ResponseCode::FormErr);
    let mut update = query("example.com.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(ask_udp(None, world.address(), &update).metadata.response_code, ResponseCode::NotImp);
}
