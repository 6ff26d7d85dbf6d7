//! A web server that a container can be made of from nothing: it answers with the name of the host it runs on.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{env, fs, io, thread};

/// A request head is read up to this many bytes.
const LONGEST_HEAD: u64 = 16 * 1024;

fn main() -> io::Result<()> {
    // The first process of a container has no default actions: without this, SIGTERM would be ignored.
    signal_hook::flag::register_conditional_shutdown(15, 0, Arc::new(AtomicBool::new(true)))?;
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let body = format!("{greeting} from {host}\n");
    for stream in listener.incoming() {
        let body = body.clone();
        // A client that goes away early is its own affair.
        thread::spawn(move || stream.and_then(|stream| answer(stream, &body)).ok());
    }
    Ok(())
}

/// Answers one request after the other until the client closes the connection or asks for its end.
fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    loop {
        let (mut line, mut is_last) = (String::new(), false);
        let mut head = requests.by_ref().take(LONGEST_HEAD);
        while head.read_line(&mut line)? > 2 {
            is_last |= line.trim_end().eq_ignore_ascii_case("connection: close");
            line.clear();
        }
        // The head ends with an empty line; without one, the client went away or said too much.
        if line.trim_end_matches(['\r', '\n']).len() == line.len() {
            return Ok(());
        }
        let connection = if is_last { "close" } else { "keep-alive" };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes())?;
        if is_last {
            return Ok(());
        }
    }
}
