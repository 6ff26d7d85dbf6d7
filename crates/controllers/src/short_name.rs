//! Short names of templates, as the names of ReplicaSets and revisions end.

/// The letters of names: no vowels, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name for a text; another one for each count of collisions. It is FNV-1a in letters.
pub(crate) fn short_name(text: &[u8], collisions: i32) -> String {
    let collisions = if collisions == 0 { Vec::new() } else { collisions.to_le_bytes().to_vec() };
    let sum = text
        .iter()
        .chain(&collisions)
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}
