//! A client of our own on the other side of a real connection, honest and not.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;

use super::*;
use crate::grpc::{Call, serve};
use crate::proto::fsutil::{Kind, Packet, Stat};
use crate::proto::session::BytesMessage;
use crate::sync::{Keep, Wanted, receive};

fn head(id: &str, methods: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ID, HeaderValue::from_str(id).unwrap());
    headers.insert(SHARED_KEY, HeaderValue::from_static("key"));
    for method in methods {
        headers.append(HeaderName::from_static(METHOD), HeaderValue::from_str(method).unwrap());
    }
    headers
}

/// Opens a session whose client answers with `handler`.
pub(crate) async fn open<F>(
    sessions: &Sessions,
    id: &str,
    methods: &[&str],
    handler: impl Fn(Call) -> F + Send + Sync + 'static,
) -> (Arc<Session>, tokio::task::JoinHandle<()>)
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let client = tokio::spawn(async move { drop(serve(TokioIo::new(theirs), handler).await) });
    let (kept, headers) = (sessions.clone(), head(id, methods));
    tokio::spawn(async move { drop(kept.run(&headers, TokioIo::new(ours)).await) });
    (sessions.find(id).await.unwrap(), client)
}

fn packet(kind: Kind) -> Packet {
    Packet { kind: kind as i32, ..Packet::default() }
}

fn stat(path: &str, mode: u32, content: &str) -> Packet {
    let size = i64::try_from(content.len()).unwrap();
    let link = if mode & 1 << 27 == 0 { String::new() } else { content.to_owned() };
    let stat = Stat { path: path.to_owned(), mode, size, modified: 1_000_000_000, link, ..Stat::default() };
    Packet { stat: Some(stat), ..packet(Kind::Stat) }
}

/// Serves a tree as fsutil does: all entries at once, contents as they are asked for.
async fn send_tree(mut call: Call, entries: Vec<(&'static str, u32, &'static str)>) -> Result<(), Status> {
    for (path, mode, content) in &entries {
        call.answer(&stat(path, *mode, content)).await?;
    }
    call.answer(&packet(Kind::Stat)).await?;
    while let Some(asked) = call.next::<Packet>().await? {
        match Kind::try_from(asked.kind).unwrap() {
            Kind::Request => {
                let (_, _, content) = entries[asked.id as usize];
                for data in [content, ""] {
                    let data = Bytes::from_static(data.as_bytes());
                    call.answer(&Packet { id: asked.id, data, ..packet(Kind::Data) }).await?;
                }
            }
            Kind::Finished => return call.answer(&packet(Kind::Finished)).await,
            Kind::Error => return Err(Status::unknown(String::from_utf8_lossy(&asked.data))),
            _ => return Err(Status::invalid("unexpected")),
        }
    }
    Ok(())
}

async fn sync(session: &Session, keep: &Keep) -> (Result<u64, Status>, std::path::PathBuf) {
    let place = keep.lease("tree").unwrap();
    let wanted = Wanted { name: "context".to_owned(), ..Wanted::default() };
    let received = receive(session, &wanted, &place, |_| {}).await;
    (received, place.path().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_over_and_its_changes_after_it() {
    let top = tempfile::tempdir().unwrap();
    let keep = Keep::new(top.path().to_owned());
    let sessions = Sessions::new();
    let first = vec![
        ("a", 0o644, "first"),
        ("d", 1 << 31 | 0o755, ""),
        ("d/b", 0o600, "second"),
        ("l", 1 << 27, "a"),
    ];
    let second = vec![("a", 0o644, "other"), ("d", 1 << 31 | 0o755, ""), ("d/c", 0o600, "third")];
    let turn = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let handler = {
        let trees = [first, second];
        move |call: Call| {
            assert_eq!(call.text("dir-name"), Some("context"));
            let turn = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            send_tree(call, trees[turn.min(1)].clone())
        }
    };
    let (session, _client) = open(&sessions, "s", &[FILE_SYNC], handler).await;
    let (received, path) = sync(&session, &keep).await;
    assert!(received.unwrap() > 0);
    assert_eq!(fs::read_to_string(path.join("d/b")).unwrap(), "second");
    assert_eq!(fs::read_link(path.join("l")).unwrap(), Path::new("a"));
    let (received, again) = sync(&session, &keep).await;
    received.unwrap();
    assert_eq!(path, again);
    assert_eq!(fs::read_to_string(path.join("d/c")).unwrap(), "third");
    assert!(!path.join("d/b").exists() && path.join("l").symlink_metadata().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_do_not_get_stuck() {
    let top = tempfile::tempdir().unwrap();
    let keep = Keep::new(top.path().to_owned());
    let sessions = Sessions::new();
    let names: Vec<String> = (0..5000).map(|number| format!("f{number:05}")).collect();
    let entries: Vec<(&'static str, u32, &'static str)> =
        names.into_iter().map(|name| (&*name.leak(), 0o644, "some content of a file")).collect();
    let handler = move |call: Call| send_tree(call, entries.clone());
    let (session, _client) = open(&sessions, "s", &[FILE_SYNC], handler).await;
    let (received, path) = sync(&session, &keep).await;
    received.unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_trees_are_refused_over_the_wire() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "whole").unwrap();
    let target: &'static str = outside.path().to_str().unwrap().to_owned().leak();
    let attacks: Vec<Vec<(&'static str, u32, &'static str)>> = vec![
        vec![("../x", 0o644, "x")],
        vec![("/etc/x", 0o644, "x")],
        vec![("a", 1 << 27, target), ("a/victim", 0o644, "broken")],
        vec![("b", 0o644, "x"), ("a", 0o644, "x")],
        vec![("a/b", 0o644, "x")],
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let top = tempfile::tempdir().unwrap();
        let keep = Keep::new(top.path().join("keep"));
        let sessions = Sessions::new();
        let shown = format!("{attack:?}");
        let handler = move |call: Call| send_tree(call, attack.clone());
        let (session, _client) = open(&sessions, &number.to_string(), &[FILE_SYNC], handler).await;
        let (received, _) = sync(&session, &keep).await;
        assert!(received.is_err(), "{shown}");
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1, "{shown}");
        assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole", "{shown}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unasked_content_and_odd_packets_end_the_transfer() {
    let attacks: [fn(u32) -> Packet; 4] = [
        |_| Packet { id: 9, data: Bytes::from_static(b"x"), ..packet(Kind::Data) },
        |_| packet(Kind::Request),
        |_| packet(Kind::Finished),
        |_| Packet { kind: 77, ..Packet::default() },
    ];
    for attack in attacks {
        let top = tempfile::tempdir().unwrap();
        let keep = Keep::new(top.path().to_owned());
        let sessions = Sessions::new();
        let handler = move |mut call: Call| async move {
            call.answer(&attack(0)).await?;
            while call.next::<Packet>().await?.is_some() {}
            Ok(())
        };
        let (session, _client) = open(&sessions, "s", &[FILE_SYNC], handler).await;
        let (received, _) = sync(&session, &keep).await;
        assert!(received.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_connection_and_names_are_one_clients() {
    let sessions = Sessions::new();
    let handler = |call: Call| async move {
        assert_eq!(call.method, GET_SECRET);
        call.answer(&GetSecretResponse { data: b"words".to_vec() }).await
    };
    let (session, client) = open(&sessions, "s", &[GET_SECRET], handler).await;
    assert_eq!(session.secret("x").await.unwrap(), b"words");
    assert_eq!(sessions.check(&head("s", &[])).unwrap_err().code, Code::AlreadyExists);
    assert!(sessions.check(&HeaderMap::new()).is_err());
    // What the client does not offer is missing, without a call.
    assert_eq!(session.credentials("host").await.unwrap(), (String::new(), String::new()));
    assert_eq!(session.check_agent("default").await.unwrap_err().code, Code::NotFound);
    client.abort();
    tokio::time::timeout(Duration::from_secs(10), session.gone()).await.unwrap();
    assert!(sessions.check(&head("s", &[])).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_the_client_is_told_in_its_words() {
    let sessions = Sessions::new();
    let handler = |mut call: Call| async move {
        if call.method == GET_SECRET {
            let _: Option<BytesMessage> = call.next().await?;
        }
        Err(Status::new(Code::PermissionDenied, "not for you: 100 %"))
    };
    let (session, _client) = open(&sessions, "s", &[GET_SECRET, FILE_SYNC], handler).await;
    let refused = session.secret("x").await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::PermissionDenied, "not for you: 100 %"));
    let top = tempfile::tempdir().unwrap();
    let (received, _) = sync(&session, &Keep::new(top.path().to_owned())).await;
    assert!(received.is_err());
}
