//! One exchange: what is wanted goes to the client as metadata, what comes goes to the tree.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::keep::Lease;
use super::tree::Tree;
use crate::grpc::{Code, Metadata, Status};
use crate::proto::fsutil::{Kind, Packet};
use crate::session::{FILE_SYNC, Session};

/// Packets that wait for the disk, and requests that wait for the wire.
const AHEAD: usize = 64;
/// How often progress is told.
const INTERVAL: Duration = Duration::from_millis(150);

/// Which part of which directory of the client is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The client's name for the directory.
    pub(crate) name: String,
    /// Patterns of what alone is to come; none means everything.
    pub(crate) include: Vec<String>,
    /// Patterns of what is left out, in the words of `.dockerignore`.
    pub(crate) exclude: Vec<String>,
    /// Paths that alone are to come, with what their links lead to; none means everything.
    pub(crate) follow: Vec<String>,
}

impl Wanted {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        let name = std::slice::from_ref(&self.name);
        for (key, values) in [
            ("dir-name", name),
            ("include-patterns", &self.include),
            ("exclude-patterns", &self.exclude),
            ("followpaths", &self.follow),
        ] {
            let plain = values.iter().all(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            for value in values {
                let value = if plain { value.clone() } else { escaped(value) };
                metadata.push((key.to_owned(), value));
            }
            if !plain {
                metadata.push((format!("{key}-encoded"), "1".to_owned()));
            }
        }
        metadata
    }
}

/// A value as a query of a URL has it, which headers can carry.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            _ => {
                use std::fmt::Write as _;
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// Brings a directory up to date with the client's. `progress` is told how many bytes have come, from time to time and in
/// the end.
///
/// # Errors
/// When the client sends what has no place in a tree, or goes, or the disk refuses.
pub(crate) async fn receive(
    session: &Session,
    wanted: &Wanted,
    place: &Arc<Lease>,
    mut progress: impl FnMut(u64),
) -> Result<u64, Status> {
    let mut stream = session.call(FILE_SYNC, &wanted.metadata())?;
    let Some(to_client) = stream.sender() else { return Err(Status::cancelled()) };
    let (to_tree, packets) = mpsc::channel::<Packet>(AHEAD);
    let (requests, mut to_ask) = mpsc::channel::<Packet>(AHEAD);
    // The place stays ours until the thread has left it, also when the build is gone by then.
    let place = Arc::clone(place);
    let work = tokio::task::spawn_blocking(move || keep_up(place.path(), packets, &requests));
    // What the tree asks for is sent beside what is received: the client may wait for the one before it goes on with the
    // other.
    let asking = tokio::spawn(async move {
        while let Some(packet) = to_ask.recv().await {
            if to_client.send(&packet).await.is_err() {
                return;
            }
        }
    });
    let mut size = 0;
    let mut told = Instant::now();
    let received = async {
        loop {
            let packet = tokio::select! {
                packet = stream.next::<Packet>() => packet?,
                // The tree has failed, and says why below.
                () = to_tree.closed() => return Ok(()),
            };
            let Some(packet) = packet else { return Ok(()) };
            size += u64::try_from(prost::Message::encoded_len(&packet)).unwrap_or_default();
            if told.elapsed() > INTERVAL {
                told = Instant::now();
                progress(size);
            }
            if to_tree.send(packet).await.is_err() {
                return Ok(());
            }
        }
    };
    let received: Result<(), Status> = received.await;
    drop(to_tree);
    let kept = work.await.map_err(|_| Status::new(Code::Internal, "the transfer ended unexpectedly"))?;
    // Let what is still to be said to the client go out: it shows the reason to its user.
    let _ = tokio::time::timeout(Duration::from_secs(1), asking).await;
    match (received, kept) {
        // The client has ended the call, and its status says why.
        (Err(status), Err(kept)) if matches!(kept.code, Code::Unavailable | Code::Cancelled) => {
            return Err(status);
        }
        (received, kept) => kept.and(received)?,
    }
    progress(size);
    // The client's side of the call ends by itself now, and is not cut off.
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        while let Ok(Some(_)) = stream.next::<Packet>().await {}
    })
    .await;
    Ok(size)
}

/// Applies packets until the tree is complete and the client has said so, too.
fn keep_up(
    top: &std::path::Path,
    mut packets: mpsc::Receiver<Packet>,
    requests: &mpsc::Sender<Packet>,
) -> Result<(), Status> {
    let result = apply(top, &mut packets, requests);
    if let Err(status) = &result {
        let data = Bytes::from(status.message.clone());
        let packet = Packet { kind: Kind::Error as i32, data, ..Packet::default() };
        let _ = requests.try_send(packet);
    }
    result
}

fn apply(
    top: &std::path::Path,
    packets: &mut mpsc::Receiver<Packet>,
    requests: &mpsc::Sender<Packet>,
) -> Result<(), Status> {
    let mut tree = Tree::open(top)?;
    let mut to_ask = std::collections::VecDeque::new();
    let mut is_finished = false;
    while let Some(packet) = packets.blocking_recv() {
        match Kind::try_from(packet.kind) {
            Ok(Kind::Stat) => match packet.stat {
                Some(stat) => to_ask.extend(tree.entry(stat)?),
                None => tree.told()?,
            },
            Ok(Kind::Data) => tree.data(packet.id, &packet.data)?,
            Ok(Kind::Error) => {
                let words = String::from_utf8_lossy(&packet.data).into_owned();
                return Err(Status::unknown(format!("error from sender: {words}")));
            }
            Ok(Kind::Finished) if is_finished => return tree.finish(),
            _ => return Err(Status::invalid("the client sent a packet that has no place here")),
        }
        // Those that do not go now go when an answer to one before has come.
        while let Some(id) = to_ask.front() {
            let packet = Packet { kind: Kind::Request as i32, id: *id, ..Packet::default() };
            match requests.try_send(packet) {
                Ok(()) => to_ask.pop_front(),
                Err(mpsc::error::TrySendError::Full(_)) => break,
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(Status::cancelled()),
            };
        }
        if tree.is_complete() && !is_finished {
            is_finished = true;
            let packet = Packet { kind: Kind::Finished as i32, ..Packet::default() };
            requests.blocking_send(packet).map_err(|_| Status::cancelled())?;
        }
    }
    // Whoever closes the stream has its reason, which the other side of it tells.
    Err(Status::new(Code::Unavailable, "the client ended the transfer early"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_headers_cannot_carry_is_escaped() {
        let wanted = Wanted {
            name: "context".to_owned(),
            exclude: vec!["*.md".to_owned(), "grö ße/+".to_owned()],
            ..Wanted::default()
        };
        let expected = [
            ("dir-name", "context"),
            ("exclude-patterns", "%2A.md"),
            ("exclude-patterns", "gr%C3%B6+%C3%9Fe%2F%2B"),
            ("exclude-patterns-encoded", "1"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(wanted.metadata(), expected);
    }
}
