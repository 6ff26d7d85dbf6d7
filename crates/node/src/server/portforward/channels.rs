//! `/portForward` as libraries other than kubectl's speak it: one WebSocket for all ports, two numbered channels for
//! each. On both the pod's side says the port first; then the even one carries the bytes, the odd one what went wrong.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::connect;
use crate::context::Context;
use crate::pod::slot::Background;
use crate::server::query::Query;
use crate::server::websocket::{self, Socket};
use crate::server::{Body, Refusal, find};

/// The protocol's name; the offers of a request are looked at for it.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";
/// Channels are numbered by one byte.
const MOST_PORTS: usize = 127;
/// Messages on their way to the client, and pieces on their way to a port.
const QUEUED: usize = 32;
const BUFFER: usize = 32 * 1024;

pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let sandbox = find::sandbox(context, namespace, pod)?;
    let ports = ports(&Query::parse(request.uri().query())?)?;
    let mut handshake = websocket::accept(&mut request, &[PROTOCOL])?;
    let response = handshake.take_response();
    let namespace = sandbox.network_namespace();
    tokio::spawn(async move {
        if let Some(socket) = handshake.socket().await {
            serve(namespace, &ports, socket).await;
        }
    });
    Ok(response)
}

fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let words = query.all("port").flat_map(|text| text.split(','));
    let ports: Option<Vec<u16>> = words.map(|word| word.parse().ok().filter(|port| *port != 0)).collect();
    match ports {
        Some(ports) if (1..=MOST_PORTS).contains(&ports.len()) => Ok(ports),
        _ => {
            Err(Refusal::bad_request("query parameter \"port\" must be given, with numbers from 1 to 65535"))
        }
    }
}

async fn serve(namespace: Option<PathBuf>, ports: &[u16], socket: Socket) {
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut messages) = mpsc::channel::<Message>(QUEUED);
    let _writer = Background(tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    }));
    let mut inputs = Vec::new();
    let mut connections = Vec::new();
    for (channel, &port) in (0_u8..).step_by(2).zip(ports) {
        let (input, receiver) = mpsc::channel(QUEUED);
        let connection =
            Connection { namespace: namespace.clone(), port, channel, outgoing: outgoing.clone() };
        inputs.push(Some(input));
        connections.push(Background(tokio::spawn(connection.run(receiver))));
    }
    // It goes when the last connection has ended, and the socket with it.
    drop(outgoing);
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            _ => continue,
        };
        let Some(&channel) = bytes.first() else { continue };
        let input = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel.is_multiple_of(2));
        // A pod that does not read holds up the socket: there is no other bound on what is in memory.
        if let Some(input) = input
            && let Some(open) = input
            && open.send(bytes.slice(1..)).await.is_err()
        {
            *input = None;
        }
    }
}

struct Connection {
    namespace: Option<PathBuf>,
    port: u16,
    /// That of the bytes; the next one is that of errors.
    channel: u8,
    outgoing: mpsc::Sender<Message>,
}

impl Connection {
    async fn say(&self, channel: u8, bytes: &[u8]) -> bool {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        self.outgoing.send(Message::binary(message)).await.is_ok()
    }

    async fn run(self, input: mpsc::Receiver<Bytes>) {
        for channel in [self.channel, self.channel + 1] {
            self.say(channel, &self.port.to_le_bytes()).await;
        }
        if let Err(why) = self.copy(input).await {
            let text = format!("error forwarding port {} to pod: {why}", self.port);
            self.say(self.channel + 1, text.as_bytes()).await;
        }
    }

    async fn copy(&self, mut input: mpsc::Receiver<Bytes>) -> Result<(), String> {
        let stream = connect(self.namespace.clone(), self.port).await.map_err(|error| error.chain())?;
        let (mut reader, mut writer) = stream.into_split();
        let to_pod = async move {
            while let Some(bytes) = input.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // The pod may still have something to say.
            std::future::pending::<()>().await;
        };
        let from_pod = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) => return Ok(()),
                    Ok(count) if self.say(self.channel, &buffer[..count]).await => {}
                    Ok(_) => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        tokio::select! {
            ended = from_pod => ended,
            () = to_pod => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_not_none() {
        let ports = |query| ports(&Query::parse(Some(query)).ok()?).ok();
        assert_eq!(ports("port=80&port=81,82"), Some(vec![80, 81, 82]));
        assert_eq!(ports(""), None);
        assert_eq!(ports("port=0"), None);
        assert_eq!(ports("port=x"), None);
    }
}
