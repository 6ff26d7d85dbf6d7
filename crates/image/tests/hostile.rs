//! Archives that mean harm, alone and together with a container that works against the unpacking.
//!
//! Needs root, GNU tar and bsdtar (libarchive-tools).
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{header, layer, raw, store};
use dray_image::{Digest, Error, ImageConfig, extract_archive};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, inotify, mknodat, renameat_with};
use tar::{Builder, EntryType};

/// A file outside of what is unpacked into, and what must not change of it.
struct Outside {
    directory: tempfile::TempDir,
}

impl Outside {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "content of the host").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        Self { directory }
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn secret(&self) -> String {
        format!("{}/secret", self.path())
    }

    fn assert_untouched(&self, what: &str) {
        let names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{what}");
        assert_eq!(fs::read(self.secret()).unwrap(), b"content of the host", "{what}");
        assert_eq!(fs::metadata(self.secret()).unwrap().nlink(), 1, "{what}: a second name of it");
        for (path, mode) in [(self.path(), 0o700), (self.secret().as_str(), 0o600)] {
            let stat = fs::metadata(path).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (mode, 0, 0), "{what}: {path}");
            assert_ne!(stat.mtime(), 1, "{what}: {path}");
        }
    }
}

/// Unpacks into a directory that is there already.
fn extract(archive: &[u8], into: &Path) -> dray_image::Result<u64> {
    extract_archive(archive, File::open(into).unwrap().as_fd())
}

#[test]
fn cve_2021_32760_nothing_is_changed_through_a_link() {
    let outside = Outside::new();
    let (secret, directory) = (outside.secret(), outside.path().to_owned());
    let climbing = format!("{}{}", "../".repeat(20), &secret[1..]);
    for target in [&secret, &climbing] {
        let archives = [
            // A second name of the link, which has a mode, an owner and times of its own.
            layer(&[(EntryType::Symlink, "link", target, b""), (EntryType::Link, "hard", "link", b"")]),
            // What has the link's name now has its attributes.
            layer(&[(EntryType::Symlink, "link", target, b""), (EntryType::Regular, "link", "", b"x")]),
            layer(&[(EntryType::Symlink, "link", target, b""), (EntryType::Fifo, "link", "", b"")]),
            layer(&[(EntryType::Symlink, "link", &directory, b""), (EntryType::Directory, "link/", "", b"")]),
            // Through a second name of it, and through a link in the middle.
            layer(&[
                (EntryType::Symlink, "link", target, b""),
                (EntryType::Link, "hard", "link", b""),
                (EntryType::Regular, "hard", "", b"x"),
            ]),
            layer(&[
                (EntryType::Symlink, "link", &directory, b""),
                (EntryType::Link, "link/hard", "link/secret", b""),
                (EntryType::Regular, "link/secret", "", b"x"),
            ]),
        ];
        for (number, archive) in archives.iter().enumerate() {
            let into = tempfile::tempdir().unwrap();
            let _ = extract(archive, into.path());
            outside.assert_untouched(&format!("archive {number}, link to {target}"));
        }
    }
}

#[test]
fn cve_2025_47290_names_exchanged_while_unpacking_change_nothing_outside() {
    let outside = Outside::new();
    for (kind, name) in [(EntryType::Regular, "f"), (EntryType::Fifo, "p"), (EntryType::Directory, "d")] {
        let into = tempfile::tempdir().unwrap();
        let is_directory = kind == EntryType::Directory;
        // Whose mode, owner and times could be taken for those of what the link names.
        let mut builder = Builder::new(Vec::new());
        let mut header = header(kind, 0);
        header.set_path(name).unwrap();
        header.set_mode(0o777);
        header.set_uid(77);
        header.set_gid(77);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        if is_directory {
            raw(&mut builder, EntryType::Regular, "d/written", "", b"x");
        }
        let archive = builder.into_inner().unwrap();
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (place, finished) = (into.path(), &finished);
            let target = if is_directory { outside.path().to_owned() } else { outside.secret() };
            scope.spawn(move || {
                let trap = place.join("trap");
                symlink(target, &trap).unwrap();
                while !finished.load(Ordering::Relaxed) {
                    // There, and back again.
                    let _ = renameat_with(CWD, &trap, CWD, place.join(name), RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..3000 {
                // It may fail at what has gone or come meanwhile.
                let _ = extract(&archive, into.path());
            }
            finished.store(true, Ordering::Relaxed);
        });
        outside.assert_untouched(name);
    }
}

#[test]
fn cve_2018_15664_packing_opens_no_link_and_no_device() {
    let outside = Outside::new();
    for kind in ["link", "device"] {
        let root = tempfile::tempdir().unwrap();
        let (file, trap) = (root.path().join("dir/file"), root.path().join("trap"));
        fs::create_dir(root.path().join("dir")).unwrap();
        fs::write(&file, "file").unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        if kind == "link" {
            symlink(outside.secret(), &trap).unwrap();
        } else {
            let null = rustix::fs::makedev(1, 3);
            mknodat(CWD, &trap, FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).unwrap();
            inotify::add_watch(&watch, &trap, inotify::WatchFlags::OPEN).unwrap();
        }
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let finished = &finished;
            scope.spawn(move || {
                while !finished.load(Ordering::Relaxed) {
                    renameat_with(CWD, &trap, CWD, &file, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let opened = File::open(root.path()).unwrap();
            let mut files = 0;
            for _ in 0..8000 {
                let mut archive = Vec::new();
                let packed =
                    dray_image::archive_path(opened.as_fd(), "dir".as_ref(), Path::new("dir"), &mut archive);
                // What is exchanged is left out, and is no reason to give up.
                packed.unwrap();
                assert!(!archive.windows(7).any(|window| window == b"content"), "a link was followed");
                files += usize::from(archive.windows(8).any(|window| window == b"dir/file"));
            }
            finished.store(true, Ordering::Relaxed);
            assert!(files > 0);
        });
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        let event = events.next();
        assert!(matches!(event, Err(rustix::io::Errno::AGAIN)), "the device was opened: {event:?}");
    }
}

/// What an unpacked tree holds: kind, permissions, size, seconds, owner, content and target of each path.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let content = if kind.is_file() {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                if kind.is_dir() {
                    left.push(path.clone());
                }
                format!("{}", stat.rdev())
            };
            let links = if kind.is_dir() { 0 } else { stat.nlink() };
            // Directories that no entry names have the time of now.
            let time = if kind.is_file() { stat.mtime() } else { 0 };
            let line = format!("{:o} {}:{} {links} {time} {content}", stat.mode(), stat.uid(), stat.gid());
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), line);
        }
    }
    found
}

/// A header with a PAX extension before it.
fn extended(
    builder: &mut Builder<Vec<u8>>,
    records: &[(&str, &[u8])],
    kind: EntryType,
    name: &str,
    data: &[u8],
) {
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    raw(builder, kind, name, "", data);
}

#[test]
fn cve_2025_62518_archives_are_read_as_gnu_tar_and_bsdtar_read_them() {
    let mut builder = Builder::new(Vec::new());
    raw(&mut builder, EntryType::Directory, "a/", "", b"");
    raw(&mut builder, EntryType::Regular, "a/one", "", b"one");
    raw(&mut builder, EntryType::Link, "a/two", "a/one", b"");
    raw(&mut builder, EntryType::Symlink, "a/three", "../nowhere", b"");
    raw(&mut builder, EntryType::Fifo, "pipe", "", b"");
    raw(&mut builder, EntryType::Regular, "./dotted", "", b"dotted");
    raw(&mut builder, EntryType::Regular, "a/one", "", b"one again");
    // A name of PAX, and one of GNU's.
    let long = format!("long/{}", "n".repeat(180));
    extended(&mut builder, &[("path", long.as_bytes())], EntryType::Regular, "short", b"by PAX");
    let mut named = header(EntryType::Regular, 6);
    builder.append_data(&mut named, format!("gnu/{}", "g".repeat(190)), &b"by GNU"[..]).unwrap();
    // The size of PAX counts, and not the header's: an archive inside must not be taken for a part of this one.
    let inner = layer(&[(EntryType::Regular, "smuggled", "", b"x")]);
    builder.append_pax_extensions([("size", inner.len().to_string().as_bytes())]).unwrap();
    let mut nested = header(EntryType::Regular, 0);
    nested.set_path("nested").unwrap();
    nested.set_cksum();
    let mut archive = {
        builder.append(&nested, std::io::empty()).unwrap();
        builder.into_inner().unwrap()
    };
    // The library would write an end; go on after the header.
    archive.truncate(archive.len() - 1024);
    archive.extend_from_slice(&inner);
    archive.resize(archive.len().next_multiple_of(512), 0);
    let mut rest = Builder::new(Vec::new());
    extended(&mut rest, &[("mtime", b"1234567890.25")], EntryType::Regular, "late", b"late");
    raw(&mut rest, EntryType::Regular, "last", "", b"last");
    archive.extend_from_slice(&rest.into_inner().unwrap());

    let ours = tempfile::tempdir().unwrap();
    extract(&archive, ours.path()).unwrap();
    let ours = listing(ours.path());
    assert!(!ours.contains_key("smuggled") && ours.contains_key("last"), "{ours:#?}");
    for program in ["tar", "bsdtar"] {
        let theirs = tempfile::tempdir().unwrap();
        let file = theirs.path().with_extension("tar");
        fs::write(&file, &archive).unwrap();
        let output = Command::new(program)
            .args(["--numeric-owner", "-xpf"])
            .arg(&file)
            .arg("-C")
            .arg(theirs.path())
            .output()
            .expect("install libarchive-tools");
        fs::remove_file(&file).unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(ours, listing(theirs.path()), "{program}");
    }
}

/// An OCI layout whose index names one document, once as an index and once as a manifest.
fn layout(document: &serde_json::Value, media_type: &str, others: &[&[u8]]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let name = format!("blobs/sha256/{}", digest.hex());
        raw(&mut builder, EntryType::Regular, &name, "", bytes);
        digest
    };
    for bytes in others {
        blob(bytes);
    }
    let text = document.to_string();
    let digest = blob(text.as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": media_type, "digest": digest, "size": text.len(),
        "annotations": { "io.containerd.image.name": "docker.io/library/two:faces" },
    }] });
    raw(&mut builder, EntryType::Regular, "index.json", "", index.to_string().as_bytes());
    builder.into_inner().unwrap()
}

#[test]
fn cve_2021_41190_no_document_is_an_index_and_a_manifest() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let content = layer(&[(EntryType::Regular, "a", "", b"x")]);
    let config = serde_json::json!({
        "architecture": ImageConfig::host_architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&content)] },
    })
    .to_string();
    let blobs: [&[u8]; 2] = [&content, config.as_bytes()];
    let descriptor = |bytes: &[u8], kind: &str| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(config.as_bytes(), "config.v1+json"),
        "layers": [descriptor(&content, "layer.v1.tar")],
    });
    let with = |field: &str, value: serde_json::Value| {
        let mut document = manifest.clone();
        document[field] = value;
        document
    };
    // What is well formed is taken, whether it names itself or not.
    for document in [manifest.clone(), with("mediaType", MANIFEST.into())] {
        let (_directory, store) = store();
        assert_eq!(store.load(layout(&document, MANIFEST, &blobs).as_slice()).unwrap().len(), 1);
    }
    let both = with("manifests", serde_json::json!([]));
    for (document, named) in [
        (with("mediaType", INDEX.into()), MANIFEST),
        (both.clone(), MANIFEST),
        (both.clone(), INDEX),
        (manifest.clone(), INDEX),
        (serde_json::json!({ "mediaType": MANIFEST, "manifests": [] }), INDEX),
        (serde_json::json!({ "manifests": [] }), MANIFEST),
    ] {
        let (_directory, store) = store();
        let result = store.load(layout(&document, named, &blobs).as_slice());
        assert!(matches!(result, Err(Error::InvalidArchive { .. })), "{document} as {named}: {result:?}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn blank_owners_are_root() {
    let directory = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o640);
    let mut archive = Builder::new(Vec::new());
    archive.append_data(&mut header, "file", &b""[..]).unwrap();
    extract(&archive.into_inner().unwrap(), directory.path()).unwrap();
    let stat = fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 0, 0));
}
