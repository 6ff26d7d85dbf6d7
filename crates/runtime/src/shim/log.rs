//! A log in Docker's json-file format, rotated by size.
//!
//! One object a line: `{"log":"text\n","stream":"stdout","time":"2024-02-29T12:34:56.7Z"}`. A line of output longer
//! than 16 KiB becomes several objects, of which only the last ends in `\n`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use super::forward::Forwarder;
use super::stdio::Stream;
use crate::launch::LogFile;
use crate::timestamp::rfc3339;
use crate::{Error, Result};

/// Longest piece of a line in one object, in bytes.
const PIECE: usize = 16 << 10;

pub(super) struct Log {
    options: LogFile,
    file: File,
    size: u64,
    written: bool,
    /// The beginning of a line whose end has not come yet, for each stream.
    partial: [Vec<u8>; 2],
    encoded: Vec<u8>,
    /// `,"attrs":{…}`, or nothing.
    attributes: Vec<u8>,
    forwarder: Option<Forwarder>,
}

impl Log {
    pub(super) fn open(options: LogFile) -> Result<Self> {
        let failed = |source| Error::File { operation: "open", path: options.path.clone(), source };
        let file = OpenOptions::new().append(true).create(true).open(&options.path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let forwarder = options.forward.clone().map(Forwarder::open).transpose()?;
        let mut attributes = Vec::new();
        for (index, (name, value)) in options.attributes.iter().enumerate() {
            attributes.extend_from_slice(if index == 0 { b",\"attrs\":{\"" } else { b",\"" });
            escape(name.as_bytes(), &mut attributes);
            attributes.extend_from_slice(b"\":\"");
            escape(value.as_bytes(), &mut attributes);
            attributes.push(b'"');
        }
        if !attributes.is_empty() {
            attributes.push(b'}');
        }
        Ok(Self {
            options,
            file,
            size,
            written: false,
            partial: Default::default(),
            encoded: Vec::new(),
            attributes,
            forwarder,
        })
    }

    /// Adds output. What cannot be written (a full disk) is lost, as the process must not stop for it.
    pub(super) fn add(&mut self, stream: Stream, mut bytes: &[u8]) {
        let time = rfc3339(SystemTime::now());
        let index = stream as usize - 1;
        let mut partial = std::mem::take(&mut self.partial[index]);
        while !bytes.is_empty() {
            let room = PIECE - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let (take, complete) = match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, rest) = bytes.split_at(take);
            bytes = rest;
            if !complete {
                partial.extend_from_slice(piece);
            } else if partial.is_empty() {
                self.encode(stream, &time, piece);
            } else {
                partial.extend_from_slice(piece);
                self.encode(stream, &time, &partial);
                partial.clear();
            }
        }
        partial.shrink_to(1024);
        self.partial[index] = partial;
        self.write_encoded();
    }

    /// Writes lines that have no end yet.
    pub(super) fn finish(&mut self) {
        let time = rfc3339(SystemTime::now());
        for (index, stream) in [Stream::Output, Stream::Error].into_iter().enumerate() {
            let partial = std::mem::take(&mut self.partial[index]);
            if !partial.is_empty() {
                self.encode(stream, &time, &partial);
            }
        }
        self.write_encoded();
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) {
        if self.written {
            let _ = self.file.sync_data();
        }
    }

    fn encode(&mut self, stream: Stream, time: &str, text: &[u8]) {
        if let Some(forwarder) = &mut self.forwarder {
            forwarder.send(stream, text);
        }
        let out = &mut self.encoded;
        let start = out.len();
        out.extend_from_slice(b"{\"log\":\"");
        escape(text, out);
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(stream.name().as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.attributes);
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b"\"}\n");
        let length = (self.encoded.len() - start) as u64;
        let full = self.options.max_size.is_some_and(|limit| self.size + length > limit && self.size > 0);
        if full {
            let line = self.encoded.split_off(start);
            self.write_encoded();
            self.rotate();
            self.encoded = line;
        }
        self.size += length;
    }

    fn write_encoded(&mut self) {
        if !self.encoded.is_empty() {
            self.written |= self.file.write_all(&self.encoded).is_ok();
            self.encoded.clear();
            self.encoded.shrink_to(8 << 10);
        }
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name: OsString = self.options.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) {
        let result = (|| -> io::Result<File> {
            let keep = self.options.max_files.clamp(1, 1000);
            if keep == 1 {
                self.file.set_len(0)?;
                return self.file.try_clone();
            }
            for number in (1..keep - 1).rev() {
                match std::fs::rename(self.rotated(number), self.rotated(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            std::fs::rename(&self.options.path, self.rotated(1))?;
            OpenOptions::new().append(true).create(true).open(&self.options.path)
        })();
        if let Ok(file) = result {
            self.file = file;
            self.size = 0;
        }
    }
}

/// The body of a JSON string as Go's encoder writes it for HTML too; invalid UTF-8 becomes U+FFFD.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '<' | '>' | '&' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
                    let number = character as u32;
                    out.extend_from_slice(b"\\u");
                    for shift in [12, 8, 4, 0] {
                        out.push(b"0123456789abcdef"[(number >> shift) as usize & 15]);
                    }
                }
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_size: Option<u64>, max_files: u32) -> (tempfile::TempDir, Log) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log =
            Log::open(LogFile { path, max_size, max_files, attributes: Default::default(), forward: None })
                .unwrap();
        (directory, log)
    }

    fn entries(text: &str) -> Vec<(String, String)> {
        text.lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(line.starts_with("{\"log\":\""), "{line}");
                (value["log"].as_str().unwrap().into(), value["stream"].as_str().unwrap().into())
            })
            .collect()
    }

    #[test]
    fn lines_are_objects_and_wait_for_their_end() {
        let (directory, mut log) = log(None, 1);
        log.add(Stream::Output, b"one\ntw");
        log.add(Stream::Error, b"err\n");
        log.add(Stream::Output, b"o\nrest");
        log.finish();
        let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
        let entry = |text: &str, stream: &str| (text.to_owned(), stream.to_owned());
        assert_eq!(
            entries(&text),
            [
                entry("one\n", "stdout"),
                entry("err\n", "stderr"),
                entry("two\n", "stdout"),
                entry("rest", "stdout")
            ]
        );
    }

    #[test]
    fn long_lines_are_cut_at_16_kibibytes() {
        let (directory, mut log) = log(None, 1);
        let mut bytes = vec![b'x'; 40_000];
        bytes.push(b'\n');
        for part in bytes.chunks(7_000) {
            log.add(Stream::Output, part);
        }
        let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
        let lengths: Vec<usize> = entries(&text).iter().map(|(text, _)| text.len()).collect();
        assert_eq!(lengths, [16_384, 16_384, 40_001 - 32_768]);
    }

    #[test]
    fn text_is_escaped_as_docker_does() {
        let mut out = Vec::new();
        escape("a\"\\<>&\u{1b}\t\u{2028}ä".as_bytes(), &mut out);
        escape(b"\xff\xc3", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a\\\"\\\\\\u003c\\u003e\\u0026\\u001b\\t\\u2028ä\\ufffd\\ufffd"
        );
    }

    #[test]
    fn full_files_are_rotated_and_the_oldest_go() {
        let (directory, mut log) = log(Some(200), 3);
        for number in 0..20 {
            log.add(Stream::Output, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let all = format!("{}{}{}", read("log.2"), read("log.1"), read("log"));
        let last = entries(&all);
        assert_eq!(last.last().unwrap().0, "line 19\n");
        assert!(names.iter().all(|name| read(name.to_str().unwrap()).len() <= 200));
    }
}
