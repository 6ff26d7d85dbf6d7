//! Pages of servers that are reached through this one: the addresses in them that lead back to their server are made to lead
//! through here again. A page is worked on as it comes, and only a tag that is not yet whole is held back. What of it is no
//! such address stays byte for byte.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder},
};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use crate::body::ResponseBody;

/// The longest tag that is looked into, in bytes.
const LONGEST: usize = 16 * 1024;

/// The attributes that are addresses, by the name of the tag.
const ADDRESSES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements in which there are no tags but their own end.
const RAW: &[&str] = &["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// What addresses have to become.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// The path through this server, before the other's own.
    pub(super) prefix: String,
    /// How the other server is named where this one reaches it.
    pub(super) server: String,
    /// How the client named whom it asks.
    pub(super) asked: String,
}

impl Links {
    /// What an address becomes; none where it stays as it is.
    pub(super) fn lead(&self, address: &str) -> Option<String> {
        let lower = address.get(..8).unwrap_or(address).to_ascii_lowercase();
        let scheme = ["http://", "https://", "//"].iter().find(|scheme| lower.starts_with(**scheme));
        let after = scheme.map_or(0, |scheme| scheme.len());
        let whole = &address[after..];
        let end = if scheme.is_some() { whole.find(['/', '?', '#']).unwrap_or(whole.len()) } else { 0 };
        let (host, path) = whole.split_at(end);
        let known = host.is_empty() || host == self.server || host == self.asked;
        if !known || !path.starts_with('/') {
            return None;
        }
        let prefix = if path.starts_with(&self.prefix) { "" } else { self.prefix.as_str() };
        let kept = if !host.is_empty() && host == self.asked { &address[..after + end] } else { "" };
        Some(format!("{kept}{prefix}{path}"))
    }
}

#[derive(Debug)]
enum Within {
    Text,
    Comment,
    Raw(&'static str),
}

/// Writes a page with other addresses.
struct Rewriter<W> {
    links: Links,
    within: Within,
    /// What is not yet decided.
    held: Vec<u8>,
    out: W,
}

/// What a page goes on with, at a "<".
enum Markup {
    /// More has to come before that can be told.
    Incomplete,
    /// Nothing but the character.
    Text,
    Comment,
    /// So many bytes in which there is no address.
    Other(usize),
    Start(Tag),
}

/// The start of an element.
struct Tag {
    length: usize,
    name: String,
    /// The addresses in it: where they begin and end.
    addresses: Vec<(usize, usize)>,
}

fn position(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.get(from..)?.iter().position(|byte| wanted(*byte)).map(|at| from + at)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c)
}

/// What is at a "<".
fn markup(bytes: &[u8]) -> Markup {
    match bytes.get(1) {
        None => Markup::Incomplete,
        Some(letter) if letter.is_ascii_alphabetic() => {
            start(bytes).map_or(Markup::Incomplete, Markup::Start)
        }
        Some(b'!') if bytes.starts_with(b"<!--") => Markup::Comment,
        Some(b'!') if b"<!--".starts_with(bytes) => Markup::Incomplete,
        Some(b'!' | b'?' | b'/') => {
            position(bytes, 2, |byte| byte == b'>').map_or(Markup::Incomplete, |end| Markup::Other(end + 1))
        }
        Some(_) => Markup::Text,
    }
}

/// The start of an element, when all of it is there.
fn start(bytes: &[u8]) -> Option<Tag> {
    let mut at = position(bytes, 1, |byte| is_space(byte) || matches!(byte, b'/' | b'>'))?;
    let name = String::from_utf8_lossy(&bytes[1..at]).to_ascii_lowercase();
    let wanted = ADDRESSES.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, wanted)| *wanted);
    let mut addresses = Vec::new();
    loop {
        at = position(bytes, at, |byte| !is_space(byte) && byte != b'/')?;
        if bytes[at] == b'>' {
            return Some(Tag { length: at + 1, name, addresses });
        }
        let end = position(bytes, at + 1, |byte| is_space(byte) || matches!(byte, b'/' | b'>' | b'='))?;
        let key = &bytes[at..end];
        at = position(bytes, end, |byte| !is_space(byte))?;
        if bytes[at] != b'=' {
            continue;
        }
        at = position(bytes, at + 1, |byte| !is_space(byte))?;
        let (from, to) = match bytes[at] {
            b'>' => (at, at),
            quote @ (b'"' | b'\'') => (at + 1, position(bytes, at + 1, |byte| byte == quote)?),
            _ => (at, position(bytes, at, |byte| is_space(byte) || byte == b'>')?),
        };
        if wanted.iter().any(|name| key.eq_ignore_ascii_case(name.as_bytes())) {
            addresses.push((from, to));
        }
        at = if from > at { to + 1 } else { to };
    }
}

impl<W: Write> Rewriter<W> {
    fn new(links: Links, out: W) -> Rewriter<W> {
        Rewriter { links, within: Within::Text, held: Vec::new(), out }
    }

    /// Writes what is decided.
    fn work(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while !rest.is_empty() {
            let step = match self.within {
                Within::Text => self.text(rest)?,
                Within::Comment => self.until(rest, b"-->", 3)?,
                Within::Raw(name) => self.until(rest, format!("</{name}").as_bytes(), 0)?,
            };
            let Some(step) = step else { break };
            rest = &rest[step..];
        }
        self.held = rest.to_vec();
        Ok(())
    }

    /// Writes up to the end of a comment, or of an element in which there are no tags; how much is done.
    fn until(&mut self, rest: &[u8], end: &[u8], of_end: usize) -> io::Result<Option<usize>> {
        let done = match find(rest, end) {
            Some(at) => {
                self.within = Within::Text;
                at + of_end
            }
            None => rest.len().saturating_sub(end.len() - 1),
        };
        self.out.write_all(&rest[..done])?;
        // An element's end is text to look at: with nothing before it, too, something was done.
        Ok((done > 0 || matches!(self.within, Within::Text)).then_some(done))
    }

    /// Writes text up to the next tag, and the tag; how much is done.
    fn text(&mut self, rest: &[u8]) -> io::Result<Option<usize>> {
        let at = rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
        if at > 0 {
            self.out.write_all(&rest[..at])?;
            return Ok(Some(at));
        }
        let length = match markup(rest) {
            Markup::Incomplete if rest.len() < LONGEST => return Ok(None),
            Markup::Incomplete | Markup::Text => 1,
            Markup::Comment => {
                self.within = Within::Comment;
                // "<!-->" is a whole one.
                2
            }
            Markup::Other(length) => length,
            Markup::Start(tag) => {
                self.tag(&tag, rest)?;
                if let Some(name) = RAW.iter().find(|name| **name == tag.name) {
                    self.within = Within::Raw(name);
                }
                return Ok(Some(tag.length));
            }
        };
        self.out.write_all(&rest[..length])?;
        Ok(Some(length))
    }

    fn tag(&mut self, tag: &Tag, rest: &[u8]) -> io::Result<()> {
        let mut written = 0;
        for (from, to) in &tag.addresses {
            let address = std::str::from_utf8(&rest[*from..*to]).ok();
            if let Some(led) = address.and_then(|address| self.links.lead(address)) {
                self.out.write_all(&rest[written..*from])?;
                self.out.write_all(led.as_bytes())?;
                written = *to;
            }
        }
        self.out.write_all(&rest[written..tag.length])
    }

    /// Writes what is left of a page that has ended.
    fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&self.held)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Rewriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        self.work()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A page on its way, as it is encoded.
enum Page {
    Plain(Rewriter<Vec<u8>>),
    Gzip(Box<MultiGzDecoder<Rewriter<GzEncoder<Vec<u8>>>>>),
    Deflate(Box<DeflateDecoder<Rewriter<DeflateEncoder<Vec<u8>>>>>),
}

impl Page {
    fn new(links: Links, encoding: &str) -> Option<Page> {
        let fast = Compression::fast();
        Some(match encoding {
            "" | "identity" => Page::Plain(Rewriter::new(links, Vec::new())),
            "gzip" => Page::Gzip(Box::new(MultiGzDecoder::new(Rewriter::new(
                links,
                GzEncoder::new(Vec::new(), fast),
            )))),
            "deflate" => Page::Deflate(Box::new(DeflateDecoder::new(Rewriter::new(
                links,
                DeflateEncoder::new(Vec::new(), fast),
            )))),
            _ => return None,
        })
    }

    /// What becomes of the next bytes.
    fn next(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let out = match self {
            Page::Plain(page) => {
                page.write_all(bytes)?;
                &mut page.out
            }
            Page::Gzip(page) => {
                page.write_all(bytes)?;
                page.flush()?;
                page.get_mut().out.get_mut()
            }
            Page::Deflate(page) => {
                page.write_all(bytes)?;
                page.flush()?;
                page.get_mut().out.get_mut()
            }
        };
        Ok(std::mem::take(out))
    }

    /// What is left.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Page::Plain(page) => page.finish(),
            Page::Gzip(page) => page.finish()?.finish()?.finish(),
            Page::Deflate(page) => page.finish()?.finish()?.finish(),
        }
    }
}

/// The body of a page whose addresses lead through this server; none where the encoding is not known, and the body as it was.
pub(super) fn page(body: ResponseBody, links: Links, encoding: &str) -> Result<ResponseBody, ResponseBody> {
    let Some(page) = Page::new(links, encoding) else { return Err(body) };
    let led = futures_util::stream::unfold(Some((body, page)), |state| async {
        let (mut body, mut page) = state?;
        loop {
            let out = match body.frame().await {
                None => {
                    let end = page.finish().map(|bytes| Frame::data(Bytes::from(bytes)));
                    return Some((end.map_err(Into::into), None));
                }
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => page.next(&bytes),
                    Err(_) => continue,
                },
            };
            match out {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(Frame::data(Bytes::from(bytes))), Some((body, page)))),
                Err(error) => return Some((Err(error.into()), None)),
            }
        }
    });
    Ok(StreamBody::new(led).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn links() -> Links {
        Links { prefix: "/p/proxy".into(), server: "10.0.0.1:80".into(), asked: "api:6443".into() }
    }

    #[test]
    fn addresses_of_the_server_lead_through_this_one() {
        for (address, expected) in [
            ("/a?b=/c#d", Some("/p/proxy/a?b=/c#d")),
            ("/", Some("/p/proxy/")),
            ("/p/proxy/a", Some("/p/proxy/a")),
            ("http://10.0.0.1:80/a", Some("/p/proxy/a")),
            ("HTTP://10.0.0.1:80/a", Some("/p/proxy/a")),
            ("//10.0.0.1:80/a", Some("/p/proxy/a")),
            ("https://api:6443/a", Some("https://api:6443/p/proxy/a")),
            ("https://api:6443/p/proxy/a", Some("https://api:6443/p/proxy/a")),
            ("http://10.0.0.1:80", None),
            ("http://elsewhere/a", None),
            ("//elsewhere/a", None),
            ("a/b", None),
            ("#a", None),
            ("", None),
            ("mailto:a@b", None),
            ("ünï/ä", None),
        ] {
            assert_eq!(links().lead(address).as_deref(), expected, "{address}");
        }
    }

    const PAGES: &[(&str, &str)] = &[
        ("<a href=\"/x\">test</a>", "<a href=\"/p/proxy/x\">test</a>"),
        ("<A class=c HREF = '/x' >", "<A class=c HREF = '/p/proxy/x' >"),
        ("<img src=/x usemap=/y alt=/z>", "<img src=/p/proxy/x usemap=/p/proxy/y alt=/z>"),
        ("<link href=/x/>", "<link href=/p/proxy/x/>"),
        ("<img src=\"/x\"/><br/>", "<img src=\"/p/proxy/x\"/><br/>"),
        ("<p href=\"/x\"><a name=\"/x\">", "<p href=\"/x\"><a name=\"/x\">"),
        ("<a href=\"http://elsewhere/x\">", "<a href=\"http://elsewhere/x\">"),
        ("<a href=>x</a>", "<a href=>x</a>"),
        ("1 < 2 <3 <a href=/x", "1 < 2 <3 <a href=/x"),
        ("<!doctype html><a href=/x>", "<!doctype html><a href=/p/proxy/x>"),
        ("<!-- <a href=\"/x\"> --><a href=/x>", "<!-- <a href=\"/x\"> --><a href=/p/proxy/x>"),
        ("<!--><a href=/x>", "<!--><a href=/p/proxy/x>"),
        (
            "<script src=/x>if (a</b) '<a href=/x>'</SCRIPT><a href=/x>",
            "<script src=/p/proxy/x>if (a</b) '<a href=/x>'</SCRIPT><a href=/p/proxy/x>",
        ),
        ("<title></title><a href='/x'>", "<title></title><a href='/p/proxy/x'>"),
        ("<a title=\"<a href='/x'>\" href='/x'>", "<a title=\"<a href='/x'>\" href='/p/proxy/x'>"),
        ("<a\nhref\n=\n\"/x\"\n>", "<a\nhref\n=\n\"/p/proxy/x\"\n>"),
        ("<a href='/x' href=/y>", "<a href='/p/proxy/x' href=/p/proxy/y>"),
        ("\u{e4}<a href=/\u{e4}>", "\u{e4}<a href=/p/proxy/\u{e4}>"),
    ];

    fn led(mut page: Page, given: &[u8], by: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for part in given.chunks(by) {
            out.extend(page.next(part).unwrap());
        }
        out.extend(page.finish().unwrap());
        out
    }

    #[test]
    fn pages_stay_as_they_are_but_for_their_addresses() {
        for (given, expected) in PAGES {
            for by in [1, 2, 3, 7, 1000] {
                let page = Page::new(links(), "").unwrap();
                let found = led(page, given.as_bytes(), by);
                assert_eq!(String::from_utf8_lossy(&found), *expected, "{by} at a time");
            }
        }
    }

    #[test]
    fn pages_are_looked_into_as_they_are_encoded() {
        let (given, expected) = PAGES[0];
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(given.as_bytes()).unwrap();
        let found = led(Page::new(links(), "gzip").unwrap(), &gzip.finish().unwrap(), 3);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&found[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
        deflate.write_all(given.as_bytes()).unwrap();
        let found = led(Page::new(links(), "deflate").unwrap(), &deflate.finish().unwrap(), 3);
        let mut text = String::new();
        flate2::read::DeflateDecoder::new(&found[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
        assert!(Page::new(links(), "br").is_none());
        assert!(Page::new(links(), "gzip").unwrap().next(b"this is not compressed").is_err());
    }

    #[test]
    fn however_a_page_is_cut_it_becomes_the_same() {
        const PIECES: [&str; 20] = [
            "<",
            ">",
            "/y",
            "=",
            "\"",
            "'",
            " ",
            "-",
            "<!--",
            "-->",
            "<a ",
            "href",
            "=/x",
            "</a",
            "<script",
            "</script>",
            "<title>",
            "<img src",
            "text",
            "\u{e4}",
        ];
        let mut state: u64 = 1;
        for _ in 0..2000 {
            let mut given = String::new();
            for _ in 0..20 {
                // Numbers that look like chance, and are the same at every run (Knuth's).
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                given.push_str(PIECES[(state >> 33) as usize % PIECES.len()]);
            }
            let whole = led(Page::new(links(), "").unwrap(), given.as_bytes(), given.len());
            for by in [1, 2, 5] {
                assert_eq!(led(Page::new(links(), "").unwrap(), given.as_bytes(), by), whole, "{given}");
            }
            // Nothing but addresses has changed.
            let whole = String::from_utf8(whole).unwrap();
            assert_eq!(whole.replace("/p/proxy", ""), given);
        }
    }

    #[test]
    fn what_never_ends_is_not_held() {
        let mut page = Page::new(links(), "").unwrap();
        let endless = [b"<a href=/".to_vec(), vec![b'x'; 3 * LONGEST]].concat();
        let mut out = Vec::new();
        for part in endless.chunks(1000) {
            out.extend(page.next(part).unwrap());
        }
        assert!(out.len() >= endless.len() - LONGEST);
        out.extend(page.finish().unwrap());
        assert_eq!(out, endless);
    }
}
