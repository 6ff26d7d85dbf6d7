//! Archives in, layers on disk, archives out; and archives that mean harm.
//!
//! Needs root: whiteouts are device nodes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::path::Path;

use common::{layer, raw, store};
use dray_image::{Digest, Error, ImageConfig, ImageStore};
use tar::{Builder, EntryType};

fn archive(layers: &[Vec<u8>], diff_ids: &[Digest]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let names: Vec<String> = (0..layers.len()).map(|index| format!("{index}.tar")).collect();
    for (name, bytes) in names.iter().zip(layers) {
        raw(&mut builder, EntryType::Regular, name, "", bytes);
    }
    let config = serde_json::json!({
        "architecture": ImageConfig::host_architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    raw(&mut builder, EntryType::Regular, "c.json", "", config.to_string().as_bytes());
    let manifest = serde_json::json!([{ "Config": "c.json", "RepoTags": ["a:1"], "Layers": names }]);
    raw(&mut builder, EntryType::Regular, "manifest.json", "", manifest.to_string().as_bytes());
    builder.into_inner().unwrap()
}

fn load(store: &ImageStore, layers: &[Vec<u8>]) -> dray_image::Result<Vec<dray_image::Loaded>> {
    let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    store.load(archive(layers, &ids).as_slice())
}

fn children(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn loads_unpacks_saves_and_removes() {
    let (directory, store) = store();
    let base =
        layer(&[(EntryType::Directory, "etc/", "", b""), (EntryType::Regular, "etc/name", "", b"one")]);
    let top =
        layer(&[(EntryType::Regular, "etc/.wh.name", "", b""), (EntryType::Regular, "new", "", b"two")]);
    let loaded = load(&store, &[base, top]).unwrap();
    let image = store.resolve("a:1").unwrap();
    assert_eq!((image.id.clone(), image.size()), (loaded[0].id.clone(), 6));
    let lower = store.lower_directories(&image.layers).unwrap();
    assert_eq!(std::fs::read(lower[0].join("new")).unwrap(), b"two");
    assert_eq!(std::fs::read(lower[1].join("etc/name")).unwrap(), b"one");
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let whiteout = std::fs::symlink_metadata(lower[0].join("etc/name")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);

    let mut saved = Vec::new();
    store.save(&["a:1".to_owned()], &[], &mut saved).unwrap();
    let other = ImageStore::open(directory.path().join("other")).unwrap();
    let again = other.load(saved.as_slice()).unwrap();
    assert_eq!((&again[0].id, &again[0].references), (&loaded[0].id, &loaded[0].references));

    drop(store);
    let store = ImageStore::open(directory.path().join("image")).unwrap();
    assert_eq!(store.resolve(image.id.short()).unwrap().id, image.id);
    store.lease("container", image.chain_id().unwrap()).unwrap();
    store.remove("a:1", false, |_| Vec::new()).unwrap();
    assert!(matches!(store.resolve("a:1"), Err(Error::NotFound { .. })));
    assert_eq!(children(&directory.path().join("image/layers")), 2, "a lease keeps the layers");
    store.release("container").unwrap();
    store.sweep().unwrap();
    assert_eq!(children(&directory.path().join("image/layers")), 0);
    assert_eq!(children(&directory.path().join("image/blobs/sha256")), 0);
}

#[test]
fn leases_of_one_owner_are_written_at_once_and_what_is_on_disk_is_what_is_known() {
    let (directory, store) = store();
    let id = &load(&store, &[layer(&[])]).unwrap()[0].id;
    let chain = store.resolve(id.short()).unwrap().chain_id().unwrap().clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    store.lease("build", &chain).unwrap();
                    store.release("build").unwrap();
                    store.lease("build", &chain).unwrap();
                }
            });
        }
    });
    std::fs::write(directory.path().join("image/leases/build.9.new"), b"half").unwrap();
    drop(store);
    let store = ImageStore::open(directory.path().join("image")).unwrap();
    assert_eq!(store.lease_owners(), ["build"]);
    assert_eq!(children(&directory.path().join("image/leases")), 1, "what a crash left half-written is gone");
}

#[test]
fn cve_2025_62518_entries_that_lead_outside_are_refused_or_stay_inside() {
    let (directory, store) = store();
    for name in ["../out", "a/../../out"] {
        let result = load(&store, &[layer(&[(EntryType::Regular, name, "", b"x")])]);
        assert!(matches!(result, Err(Error::InvalidEntry { .. })), "{name}");
    }
    let device = layer(&[(EntryType::Char, "null", "", b"")]);
    let result = load(&store, &[device]);
    let disguise = "a device 0:0 is a whiteout in disguise";
    assert!(matches!(result, Err(Error::InvalidEntry { .. })), "{disguise}: {result:?}");
    let outside = directory.path().join("out");
    let through = layer(&[
        (EntryType::Symlink, "link", directory.path().to_str().unwrap(), b""),
        (EntryType::Regular, "link/out", "", b"x"),
    ]);
    // The kernel resolves the link inside the layer, where it leads nowhere or to a place of its own.
    let _ = load(&store, &[through]);
    let hard = layer(&[(EntryType::Link, "passwd", "/etc/passwd", b"")]);
    assert!(load(&store, &[hard]).is_err());
    assert!(!outside.exists());
}

#[test]
fn content_that_fails_its_digest_is_never_used() {
    let (directory, store) = store();
    let bytes = layer(&[(EntryType::Regular, "a", "", b"x")]);
    let result = store.load(archive(&[bytes], &[Digest::of(b"something else")]).as_slice());
    assert!(matches!(result, Err(Error::DigestMismatch { .. })));
    assert!(store.list().unwrap().is_empty());
    for place in ["layers", "blobs/sha256", "ingest"] {
        assert_eq!(children(&directory.path().join("image").join(place)), 0, "{place}");
    }
    assert!(matches!(store.load(&b"no archive"[..]), Err(Error::InvalidArchive { .. })));
}

#[test]
fn an_archive_may_lack_its_end_but_no_byte_of_a_file() {
    let whole = layer(&[(EntryType::Regular, "a", "", b"first"), (EntryType::Regular, "b", "", b"second")]);
    let end_of_content = 3 * 512 + 6;
    let extract = |bytes: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(directory.path()).unwrap();
        let result = dray_image::extract_archive(bytes, std::os::fd::AsFd::as_fd(&opened));
        result.map(|size| (size, std::fs::read(directory.path().join("b")).unwrap()))
    };
    for length in [end_of_content, end_of_content + 100, 4 * 512, whole.len()] {
        assert_eq!(extract(&whole[..length]).unwrap(), (11, b"second".to_vec()), "{length}");
    }
    for length in [end_of_content - 1, 3 * 512, 2 * 512 + 100] {
        assert!(extract(&whole[..length]).is_err(), "{length}");
    }
}
