//! Reading netlink messages. The kernel is the only sender, yet every length is checked.

use super::encode::HEADER;

/// One message of an answer.
#[derive(Debug)]
pub(crate) struct Message {
    /// What follows the header.
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Takes the first message off `bytes`; none if it is cut short.
    pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Option<(u16, u16, u32, &'a [u8])> {
        let length = native_u32(bytes.get(..4)?)? as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = &bytes[..length];
        *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let flags = u16::from_ne_bytes([message[6], message[7]]);
        Some((kind, flags, native_u32(&message[8..12])?, &message[HEADER..]))
    }

    /// The attributes after a fixed part of `fixed` bytes.
    pub(crate) fn attributes(&self, fixed: usize) -> Attributes<'_> {
        Attributes::new(self.payload.get(fixed..).unwrap_or(&[]))
    }
}

/// Takes the first message off `bytes`, as its type, the number of the socket it is about, and what follows the header.
pub(crate) fn header_of<'a>(bytes: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let port = native_u32(bytes.get(12..16)?)?;
    let (kind, _, _, payload) = Message::take(bytes)?;
    Some((kind, port, payload))
}

/// The attributes in a piece of a message, as (type without flags, value).
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The value of the first attribute of a type.
    pub(crate) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self.clone(), |(present, _)| *present == kind).map(|(_, value)| value)
    }

    /// The attributes nested in the first attribute of a type.
    pub(crate) fn nested(&self, kind: u16) -> Attributes<'a> {
        Attributes::new(self.find(kind).unwrap_or(&[]))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// A number in the machine's byte order.
pub(crate) fn native_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A number in network byte order.
pub(crate) fn be_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Text up to its NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len() / 4);
            let mut rest = bytes.as_slice();
            let mut count = 0;
            while Message::take(&mut rest).is_some() {
                count += 1;
            }
            prop_assert!(count <= bytes.len() / HEADER);
        }
    }

    #[test]
    fn an_attribute_shorter_than_its_header_ends_the_walk() {
        assert_eq!(Attributes::new(&[0, 0, 1, 0, 8, 0, 1, 0, 1, 1, 1, 1]).next(), None);
    }
}
