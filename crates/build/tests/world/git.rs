//! Repositories and the servers that have them, made with the real `git`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dray_testkit::eventually;

pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(["-c", "safe.directory=*", "-C"])
        .arg(directory)
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", directory)
        .output()
        .expect("cannot run git: install it");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A program that is ended with the test.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A repository `x.git` with a branch, a tag, a directory, links, and large files that differ a little.
pub fn repository(base: &Path) -> String {
    let work = base.join("work");
    fs::create_dir_all(work.join("sub/deep")).unwrap();
    git(&work, &["init", "-q"]);
    fs::write(work.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    fs::write(work.join("sub/Dockerfile"), "FROM scratch\nCOPY deep/file /of-sub\n").unwrap();
    fs::write(work.join("sub/deep/file"), "deep").unwrap();
    let lines = |n: usize| (0..3000).map(|line| format!("{}\n", line * n)).collect::<String>();
    fs::write(work.join("large1"), lines(1) + "one").unwrap();
    fs::write(work.join("large2"), lines(1) + "two").unwrap();
    fs::write(work.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(work.join("tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("sub/deep/file", work.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", work.join("out")).unwrap();
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "-qm", "one"]);
    git(&work, &["tag", "-a", "v1", "-m", "first"]);
    fs::write(work.join("sub/deep/file"), "deeper").unwrap();
    git(&work, &["commit", "-qam", "two"]);
    git(&work, &["branch", "other"]);
    let commit = git(&work, &["rev-parse", "HEAD"]);
    git(base, &["clone", "-q", "--bare", "work", "x.git"]);
    git(&base.join("x.git"), &["repack", "-adfq"]);
    commit
}

pub fn daemon(base: &Path) -> Killed {
    // Not through git itself, which would be another process to end.
    let programs = git(base, &["--exec-path"]);
    let child = Command::new(Path::new(&programs).join("git-daemon"))
        .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1", "--port=9418"])
        .arg(format!("--base-path={}", base.display()))
        .env("HOME", base)
        .envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("git's daemon to listen", Duration::from_secs(10), || {
        std::net::TcpStream::connect("127.0.0.1:9418").ok()
    });
    Killed(child)
}
