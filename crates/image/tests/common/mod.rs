//! Archives made entry by entry, also such as no program makes.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

use dray_image::ImageStore;
use tar::{Builder, EntryType, Header};

pub fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_mode(0o755);
    header.set_size(size as u64);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
    }
    header
}

/// Sets the name in the raw header, so that names which the library refuses can be written.
pub fn raw(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = header(kind, data.len());
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

pub fn layer(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        raw(&mut builder, *kind, name, link, data);
    }
    builder.into_inner().unwrap()
}

pub fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("image")).unwrap();
    (directory, store)
}
