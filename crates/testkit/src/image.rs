//! Images without a registry: an archive as `docker save` writes it, made of the host's static busybox.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "sh", "echo", "cat", "sleep", "true", "false", "id", "wget", "httpd", "touch", "ls", "stty", "env",
    "hostname", "grep", "mkdir", "rm", "readlink", "stat", "nc", "head", "seq", "kill", "test", "printf",
    "pwd", "mount", "date", "tr", "wc", "dd", "trap", "nslookup", "ps", "yes", "tail", "chmod", "mv", "cp",
    "ln", "sync", "uname", "tty",
];

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// An archive with one image: a static busybox with its applets, root and `user` (1000), Cmd `sh`.
///
/// # Panics
/// When busybox is not there: install busybox-static.
#[must_use]
pub fn busybox_archive(tag: &str) -> Vec<u8> {
    let busybox = std::fs::read(BUSYBOX).expect("cannot read /bin/busybox: install busybox-static");
    let mut layer = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700)] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        layer.append_data(&mut header, name, std::io::empty()).expect("an archive in memory grows");
    }
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/busybox", 0o755, &busybox),
        ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n"),
    ];
    for (name, mode, bytes) in files {
        let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
        layer.append_data(&mut header, name, bytes).expect("an archive in memory grows");
    }
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("an archive in memory grows");
    }
    let layer = layer.into_inner().expect("an archive in memory ends");
    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(&layer) {
        let _ = write!(digest, "{byte:02x}");
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{tag}"],"Layers":["layer.tar"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("layer.tar", layer.as_slice()),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).expect("an archive in memory grows");
    }
    archive.into_inner().expect("an archive in memory ends")
}
