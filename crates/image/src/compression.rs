//! How archives are compressed: told by their first bytes, and taken off while they are read.

use std::io::{self, BufRead, BufReader, Read};

use liblzma::stream::{CONCATENATED, Stream};

/// As many bytes tell the compression.
pub(crate) const MAGIC_LENGTH: usize = 6;
/// Bytes of memory that xz may take: what its strongest level needs, and then some.
const XZ_MEMORY: u64 = 96 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    Gzip,
    Zstandard,
    Bzip2,
    Xz,
}

/// How archives of each compression begin.
const MAGIC: [(&[u8], Compression); 4] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstandard),
    (b"BZh", Compression::Bzip2),
    (b"\xfd7zXZ\0", Compression::Xz),
];

impl Compression {
    /// What the first bytes tell.
    pub(crate) fn of(head: &[u8]) -> Self {
        let found = MAGIC.iter().find(|(magic, _)| head.starts_with(magic));
        found.map_or(Self::None, |(_, compression)| *compression)
    }
}

/// Whether the first bytes are those of something compressed.
#[must_use]
pub fn looks_compressed(head: &[u8]) -> bool {
    Compression::of(head) != Compression::None
}

/// A stream with its compression taken off.
pub(crate) fn decoder<'a>(
    compression: Compression,
    reader: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstandard => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
    })
}

/// A stream with its compression taken off; the kind is told by the first bytes.
pub(crate) fn decompress<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let compression = Compression::of(reader.fill_buf()?);
    let plain = decoder(compression, reader)?;
    // Headers are read in small pieces.
    Ok(if compression == Compression::None || compression == Compression::Zstandard {
        plain
    } else {
        Box::new(BufReader::with_capacity(128 * 1024, plain))
    })
}

/// The first bytes, at most `limit`, of what `reader` gives with its compression taken off.
///
/// # Errors
/// When it cannot be read.
pub fn decompressed_head(reader: impl Read + Send, limit: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(limit);
    decompress(reader)?.take(limit as u64).read_to_end(&mut head)?;
    Ok(head)
}
