//! A web server that a container can be made of from nothing: it answers with the name of the host it runs on.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
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

/// Reads the head of one request and answers it.
fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut head = BufReader::new(io::Read::take(stream.try_clone()?, LONGEST_HEAD));
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
