//! Output and input of containers: the multiplexed stream, the raw stream, and the user's terminal at the other end.

use std::io::{Read, Write};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::{Error, Result};

/// Kind, three bytes of nothing, and the length in network order.
const HEADER: usize = 8;
const STDERR: u8 = 2;
const BUFFER: usize = 32 * 1024;

/// What comes out goes to this process's own output, until the stream ends.
pub(crate) async fn print(mut from: impl AsyncRead + Unpin, tty: bool) -> Result<()> {
    if tty { print_raw(&mut from).await } else { print_frames(&mut from).await }
}

async fn print_raw(from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.map_err(Error::stream)?;
        if count == 0 {
            return Ok(());
        }
        put(&mut std::io::stdout(), &buffer[..count])?;
    }
}

async fn print_frames(from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut header = [0; HEADER];
    loop {
        match from.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(Error::stream(error)),
        }
        let [kind, _, _, _, length @ ..] = header;
        let mut left = u32::from_be_bytes(length) as usize;
        while left > 0 {
            let most = left.min(BUFFER);
            let count = from.read(&mut buffer[..most]).await.map_err(Error::stream)?;
            if count == 0 {
                return Ok(());
            }
            left -= count;
            if kind == STDERR {
                put(&mut std::io::stderr(), &buffer[..count])?;
            } else {
                put(&mut std::io::stdout(), &buffer[..count])?;
            }
        }
    }
}

fn put(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(Error::io("write to", "the output"))
}

/// A stream that was hijacked, in two halves.
pub(crate) fn split(
    stream: TokioIo<Upgraded>,
) -> (ReadHalf<TokioIo<Upgraded>>, WriteHalf<TokioIo<Upgraded>>) {
    tokio::io::split(stream)
}

/// Sends standard input along, and its end. The reading thread ends with the process: a read of a terminal cannot be
/// called off.
pub(crate) async fn send_input(mut to: WriteHalf<TokioIo<Upgraded>>) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        let mut stdin = std::io::stdin();
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(bytes) = receiver.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The other side may have gone already.
    let _ = to.shutdown().await;
    std::future::pending::<()>().await;
}
