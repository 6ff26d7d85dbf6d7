//! Building netlink messages: a header, a fixed part, then attributes that may nest.

/// Length, type, flags, sequence number, port.
pub(super) const HEADER: usize = 16;
/// Set in the type of an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// Messages that are sent to the kernel at once and worked off in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each message starts.
    pub(super) starts: Vec<usize>,
    /// An attribute was longer than its length field can say.
    pub(super) overflow: bool,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends one message; `fixed` is its family's fixed part and `body` writes the attributes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fixed: &[u8], body: impl FnOnce(&mut Body<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        body(&mut Body { bytes: &mut self.bytes, overflow: &mut self.overflow });
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Sets a flag on the last message.
    pub(crate) fn flag_last(&mut self, flag: u16) {
        if let Some(&start) = self.starts.last() {
            let flags = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]) | flag;
            self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    pub(super) fn number_from(&mut self, first: u32) {
        for (index, &start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }
}

/// The attributes of a message or of an attribute.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    bytes: &'a mut Vec<u8>,
    overflow: &'a mut bool,
}

impl Body<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// Text with the NUL the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// In the machine's byte order, as rtnetlink has its numbers.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as nfnetlink has its numbers.
    pub(crate) fn be_u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// In network byte order.
    pub(crate) fn be_u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Body<'_>)) {
        let start = self.open(kind | NESTED);
        body(&mut Body { bytes: self.bytes, overflow: self.overflow });
        self.close(start);
    }

    /// A fixed part inside an attribute, as `VETH_INFO_PEER` has it.
    pub(crate) fn fixed(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => *self.overflow = true,
        }
        pad(self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_cover_content_and_everything_is_aligned() {
        let mut batch = Batch::new();
        batch.message(20, 0x400, &[1, 2, 3, 4], |body| {
            body.text(3, "lo");
            body.nest(18, |inner| inner.u32(1, 7));
        });
        batch.message(21, 0, &[], |_| {});
        batch.number_from(9);
        assert_eq!(batch.starts, [0, 16 + 4 + 8 + 12]);
        assert_eq!(batch.bytes[..4], 40u32.to_ne_bytes());
        assert_eq!(batch.bytes[6..8], 0x401u16.to_ne_bytes());
        assert_eq!(batch.bytes[20..28], [7, 0, 3, 0, b'l', b'o', 0, 0]);
        assert_eq!(batch.bytes[28..32], [12, 0, 18, 0x80]);
        assert_eq!(batch.bytes[48..52], 10u32.to_ne_bytes());
        assert!(!batch.overflow);
    }

    #[test]
    fn too_long_an_attribute_is_noticed() {
        let mut batch = Batch::new();
        batch.message(20, 0, &[], |body| body.bytes(1, &vec![0; 70_000]));
        assert!(batch.overflow);
    }
}
