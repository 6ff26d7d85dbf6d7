//! A web server on the loopback address.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A web server: files by path, redirects, and git over CGI below `/git/`.
pub async fn serve(base: &Path, files: HashMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (base, files) = (base.to_owned(), Arc::new(files));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (base, files) = (base.clone(), Arc::clone(&files));
            tokio::spawn(async move {
                let mut request = Vec::new();
                let head_end = loop {
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..n]);
                    if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                        break at + 4;
                    }
                    if n == 0 {
                        return;
                    }
                };
                let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
                let mut words = head.split_whitespace();
                let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
                let header = |name: &str| {
                    head.lines().find_map(|line| {
                        let (key, value) = line.split_once(':')?;
                        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                    })
                };
                let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
                let mut body = request.split_off(head_end);
                while body.len() < length {
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).await.unwrap();
                    body.extend_from_slice(&buffer[..n]);
                }
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                let answer = if let Some(path) = path.strip_prefix("/git") {
                    let mut child = Command::new("git")
                        .args(["-c", "safe.directory=*", "http-backend"])
                        .env("GIT_PROJECT_ROOT", &base)
                        .env("GIT_HTTP_EXPORT_ALL", "1")
                        .env("PATH_INFO", path)
                        .env("QUERY_STRING", query)
                        .env("REQUEST_METHOD", &method)
                        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
                        .env("CONTENT_LENGTH", length.to_string())
                        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
                        .env("HOME", &base)
                        .stdin(Stdio::piped())
                        .stdout(Stdio::piped())
                        .spawn()
                        .unwrap();
                    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &body).unwrap();
                    let output = child.wait_with_output().unwrap().stdout;
                    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n".as_slice(), &output].concat()
                } else if let Some(to) = path.strip_prefix("/redirect") {
                    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
                } else if let Some(bytes) = files.get(path) {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\nContent-Length: {}\r\n\r\n",
                        bytes.len()
                    );
                    [head.as_bytes(), bytes].concat()
                } else {
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
                };
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}
