//! Stored values: JSON texts that carry their own revision.

use std::io::Write as _;

use bytes::Bytes;

use crate::Error;

/// A value as a client hands it over: JSON text with a gap for the revision.
#[derive(Debug, Clone)]
pub struct Draft {
    json: Vec<u8>,
    revision_at: usize,
}

impl Draft {
    /// A value. The revision's decimal digits go in at byte `revision_at` of `json`, which is the position
    /// between the two quotes of `"resourceVersion":""`.
    ///
    /// # Errors
    /// `BadDraft` when the position is not between two quotes.
    pub fn new(json: Vec<u8>, revision_at: usize) -> Result<Draft, Error> {
        let quoted = revision_at > 0
            && json.get(revision_at - 1) == Some(&b'"')
            && json.get(revision_at) == Some(&b'"')
            && u32::try_from(revision_at).is_ok();
        if quoted { Ok(Draft { json, revision_at }) } else { Err(Error::BadDraft { at: revision_at }) }
    }

    /// The value that a stored one was made of.
    pub(crate) fn of(entry: &Entry) -> Draft {
        let at = entry.revision_at as usize;
        let tail = &entry.json[at + decimal_len(entry.revision)..];
        Draft { json: [&entry.json[..at], tail].concat(), revision_at: at }
    }

    /// As it lies where the revision is not known yet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&(self.revision_at as u32).to_le_bytes()[..], &self.json].concat()
    }

    pub(crate) fn decode(record: &[u8]) -> Option<Draft> {
        let (revision_at, json) = record.split_first_chunk::<4>()?;
        Draft::new(json.to_vec(), u32::from_le_bytes(*revision_at) as usize).ok()
    }

    /// The length of the text without the revision, in bytes.
    pub fn len(&self) -> usize {
        self.json.len()
    }

    /// Whether the text is empty (it never is).
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// The value as it would be stored at `revision`.
    pub fn stamp(&self, revision: u64) -> Entry {
        splice(&self.json[..self.revision_at], &self.json[self.revision_at..], revision)
    }
}

/// A stored value and the revision that wrote it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    revision: u64,
    revision_at: u32,
    /// The text, without the comma that follows it in the same memory.
    json: Bytes,
    /// The text and a comma.
    item: Bytes,
}

impl Entry {
    /// Takes a text with a comma behind it.
    fn new(revision: u64, revision_at: u32, item: Vec<u8>) -> Entry {
        let item = Bytes::from(item);
        Entry { revision, revision_at, json: item.slice(..item.len().saturating_sub(1)), item }
    }

    /// The revision that wrote this value.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The JSON text, `resourceVersion` included.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The text with a comma behind it, as it stands in a list of which it is not the last: the same memory.
    pub fn json_item(&self) -> &Bytes {
        &self.item
    }

    /// The same value at another revision: what a delete event shows.
    pub fn restamp(&self, revision: u64) -> Entry {
        let at = self.revision_at as usize;
        let digits = decimal_len(self.revision);
        splice(&self.json[..at], &self.json[at + digits..], revision)
    }

    pub(crate) fn encode(&self, record: &mut Vec<u8>) {
        record.reserve(12 + self.json.len());
        record.extend_from_slice(&self.revision.to_le_bytes());
        record.extend_from_slice(&self.revision_at.to_le_bytes());
        record.extend_from_slice(&self.json);
    }

    pub(crate) fn decode(record: &[u8]) -> Option<Entry> {
        let (revision, rest) = record.split_first_chunk::<8>()?;
        let (revision_at, json) = rest.split_first_chunk::<4>()?;
        let revision = u64::from_le_bytes(*revision);
        let revision_at = u32::from_le_bytes(*revision_at);
        let end = (revision_at as usize).checked_add(decimal_len(revision))?;
        if end >= json.len() {
            return None;
        }
        Some(Entry::new(revision, revision_at, [json, b","].concat()))
    }
}

fn splice(head: &[u8], tail: &[u8], revision: u64) -> Entry {
    let mut json = Vec::with_capacity(head.len() + tail.len() + decimal_len(revision) + 1);
    json.extend_from_slice(head);
    let _ = write!(json, "{revision}");
    json.extend_from_slice(tail);
    json.push(b',');
    Entry::new(revision, head.len() as u32, json)
}

fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_restamps_and_survives_the_disk_form() {
        let text = br#"{"metadata":{"resourceVersion":"","x":1}}"#.to_vec();
        let at = 32;
        let entry = Draft::new(text, at).unwrap().stamp(99);
        assert_eq!(&entry.json()[..], br#"{"metadata":{"resourceVersion":"99","x":1}}"#);
        assert_eq!(&entry.restamp(100).json()[..], br#"{"metadata":{"resourceVersion":"100","x":1}}"#);
        assert_eq!([&entry.json()[..], b","].concat(), entry.json_item()[..]);
        let mut record = Vec::new();
        entry.encode(&mut record);
        assert_eq!(Entry::decode(&record), Some(entry.clone()));
        assert_eq!(Entry::decode(&[1, 2, 3]), None);
        let draft = Draft::of(&Entry::decode(&record).unwrap());
        assert_eq!(Draft::decode(&draft.encode()).unwrap().stamp(7).restamp(99).json(), entry.json());
        assert!(Draft::decode(&[9, 0, 0, 0, b'{']).is_none());
        assert!(Draft::new(b"{}".to_vec(), 1).is_err());
    }
}
