//! Header blocks: name and value pairs, compressed with a dictionary that both sides know, in one zlib stream a
//! direction (SPDY/3, 2.6.10).

use flate2::{Decompress, FlushDecompress};

use crate::{Error, Result};

/// Bytes of one block after decompression.
const LONGEST: usize = 64 * 1024;
/// Pairs of one block.
const MOST: u32 = 256;

/// The words of the dictionary that are preceded by their length in four bytes.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
    Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
    Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary's Adler-32 checksum, by which a stream names it.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

fn broken(why: impl Into<String>) -> Error {
    Error::Protocol { protocol: "SPDY/3.1", why: why.into() }
}

/// Names and values of a block.
pub(crate) type Headers = Vec<(String, String)>;

/// Decompresses the blocks of one direction.
pub(crate) struct Unpacker {
    zlib: Decompress,
    has_dictionary: bool,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        Self { zlib: Decompress::new(true), has_dictionary: false }
    }

    /// The pairs of a block.
    ///
    /// # Errors
    /// When the block is too long or damaged. Then the stream of blocks cannot be gone on with.
    pub(crate) fn unpack(&mut self, packed: &[u8]) -> Result<Headers> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = packed;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= LONGEST {
                    return Err(broken("a header block is too long"));
                }
                plain.reserve(1024.min(LONGEST - plain.len()));
            }
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let result = self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - read).unwrap_or(rest.len());
            rest = &rest[taken.min(rest.len())..];
            match result {
                Err(error) if error.needs_dictionary().is_some() && !self.has_dictionary => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| broken("a header block names another dictionary"))?;
                    self.has_dictionary = true;
                }
                Err(error) => return Err(broken(format!("a header block is damaged: {error}"))),
                Ok(_) => {
                    let stuck = taken == 0 && self.zlib.total_out() == written;
                    if stuck || (rest.is_empty() && plain.len() < plain.capacity()) {
                        break;
                    }
                }
            }
        }
        if plain.len() > LONGEST {
            return Err(broken("a header block is too long"));
        }
        parse(&plain)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers> {
    let count = take_number(&mut plain)?;
    if count > MOST {
        return Err(broken("a header block has too many pairs"));
    }
    (0..count).map(|_| Ok((take_text(&mut plain)?.to_ascii_lowercase(), take_text(&mut plain)?))).collect()
}

fn take_number(plain: &mut &[u8]) -> Result<u32> {
    let (number, rest) = plain.split_first_chunk::<4>().ok_or_else(|| broken("a header block is cut off"))?;
    *plain = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(plain: &mut &[u8]) -> Result<String> {
    let length = take_number(plain)? as usize;
    if length > plain.len() {
        return Err(broken("a header block is cut off"));
    }
    let (text, rest) = plain.split_at(length);
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| broken("a header is not UTF-8"))
}

/// Makes the blocks of the other direction. What a server of port-forward says in headers is too little to be worth
/// compressing, so each block is stored as it is, which every zlib reads.
#[derive(Default)]
pub(crate) struct Packer {
    begun: bool,
}

impl Packer {
    /// A block with these pairs.
    pub(crate) fn pack(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 16);
        if !std::mem::replace(&mut self.begun, true) {
            // RFC 1950: deflate with a 32 KiB window, a dictionary follows; the two bytes are a multiple of 31.
            packed.extend_from_slice(&[0x78, 0xbb]);
            packed.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        }
        for part in plain.chunks(usize::from(u16::MAX)) {
            // RFC 1951, 3.2.4: a stored block that is not the last, its length, and the length's complement.
            let length = part.len() as u16;
            packed.push(0);
            packed.extend_from_slice(&length.to_le_bytes());
            packed.extend_from_slice(&(!length).to_le_bytes());
            packed.extend_from_slice(part);
        }
        // An empty block, as a flush makes it: by it Go's reader sees that it need not wait for more.
        packed.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        packed
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// What a client does: compresses with the dictionary.
    pub(crate) struct ClientPacker(Compress);

    impl ClientPacker {
        pub(crate) fn new() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            assert_eq!(zlib.set_dictionary(&dictionary()).unwrap(), DICTIONARY_ID);
            Self(zlib)
        }

        pub(crate) fn pack(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
            let mut packed = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(&plain, &mut packed, FlushCompress::Sync).unwrap();
            packed
        }
    }

    #[test]
    fn the_dictionary_is_the_standards() {
        assert_eq!(dictionary().len(), 1423);
        ClientPacker::new();
    }

    #[test]
    fn blocks_of_a_client_are_read_one_after_the_other() {
        let (mut packer, mut unpacker) = (ClientPacker::new(), Unpacker::new());
        for round in 0..5 {
            let port = round.to_string();
            let packed = packer.pack(&[("streamtype", "error"), ("port", &port)]);
            let expected = [("streamtype".to_owned(), "error".to_owned()), ("port".to_owned(), port)];
            assert_eq!(unpacker.unpack(&packed).unwrap(), expected);
        }
    }

    #[test]
    fn own_blocks_are_read_too() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::new());
        for _ in 0..3 {
            let packed = packer.pack(&[("a", "b")]);
            assert_eq!(unpacker.unpack(&packed).unwrap(), [("a".to_owned(), "b".to_owned())]);
            assert_eq!(unpacker.unpack(&packer.pack(&[])).unwrap(), []);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let long = "x".repeat(10 << 20);
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        let mut packed = Vec::with_capacity(1 << 20);
        zlib.compress_vec(long.as_bytes(), &mut packed, FlushCompress::Sync).unwrap();
        assert!(packed.len() < 20_000);
        assert!(Unpacker::new().unpack(&packed).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Unpacker::new().unpack(&bytes);
            let mut begun = vec![0x78, 0xbb];
            begun.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
            begun.extend_from_slice(&bytes);
            let _ = Unpacker::new().unpack(&begun);
            let _ = parse(&bytes);
        }
    }
}
