//! The corpus of Dockerfiles: every instruction and flag, each with what the result must be.
//!
//! A case is a file of sections that begin with `=== `: `dockerfile`, `file PATH` (with `x` behind it for one that can
//! be executed), `build OPTIONS` (more options for the client), `run` (a script for the image's shell, and behind
//! `---` what it prints), `inspect TEMPLATE` (and what that gives), `cached N` (a second build takes N steps from the
//! cache), `says` (lines that the build prints) and `fails` (lines that a build prints that fails).

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::Daemon;

struct Case {
    name: String,
    sections: Vec<(String, String)>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut sections: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("=== ") {
                Some(head) => sections.push((head.to_owned(), String::new())),
                None => {
                    let last =
                        sections.last_mut().unwrap_or_else(|| panic!("{path:?} begins with no section"));
                    last.1.push_str(line);
                    last.1.push('\n');
                }
            }
        }
        Self { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), sections }
    }

    fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.sections.iter().filter_map(move |(head, body)| {
            let (name, rest) = head.split_once(' ').unwrap_or((head, ""));
            (name == kind).then_some((rest, body.as_str()))
        })
    }

    fn check(&self, daemon: &Daemon) -> Result<(), String> {
        let directory = daemon.path(&format!("corpus/{}", self.name));
        fs::create_dir_all(&directory).unwrap();
        for (path, body) in self.all("file") {
            let (path, executable) = path.strip_suffix(" x").map_or((path, false), |path| (path, true));
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, body).unwrap();
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let (_, dockerfile) = self.all("dockerfile").next().unwrap();
        fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
        let options: Vec<&str> =
            self.all("build").flat_map(|(options, _)| options.split_whitespace()).collect();
        let tag = format!("corpus-{}", self.name);
        let arguments = [&["build", "-t", &tag], options.as_slice(), &[directory.to_str().unwrap()]].concat();
        let output = daemon.docker(&arguments);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let must_fail = self.all("fails").next().is_some();
        if output.status.success() == must_fail {
            return Err(format!("the build ended with {}: {said}", output.status));
        }
        for line in self.all("says").chain(self.all("fails")).flat_map(|(_, body)| body.lines()) {
            if !said.contains(line) {
                return Err(format!("it does not say {line:?}: {said}"));
            }
        }
        for (_, body) in self.all("run") {
            let (script, expected) = body.split_once("---\n").unwrap();
            let output = daemon.docker(&["run", "--rm", "--entrypoint", "/bin/sh", &tag, "-c", script]);
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if printed.trim_end() != expected.trim_end() {
                let errors = String::from_utf8_lossy(&output.stderr);
                return Err(format!("it prints {printed:?} and not {expected:?}: {errors}{said}"));
            }
        }
        for (template, expected) in self.all("inspect") {
            let found = daemon.ok(&["inspect", "-f", template, &tag]);
            if found != expected.trim_end() {
                return Err(format!("{template} is {found:?} and not {:?}", expected.trim_end()));
            }
        }
        for (count, _) in self.all("cached") {
            let again = daemon.ok(&arguments);
            let found = again.matches("Using cache").count();
            if found.to_string() != count {
                return Err(format!("{found} steps are cached and not {count}: {again}"));
            }
        }
        Ok(())
    }
}

#[test]
fn every_instruction_does_what_the_reference_says() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let only = std::env::var("CORPUS").unwrap_or_default();
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in paths.iter().filter(|path| path.to_str().unwrap().contains(&only)) {
        let case = Case::read(path);
        count += 1;
        if let Err(why) = case.check(&daemon) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(count >= 60 || !only.is_empty(), "{count} cases");
    daemon.assert_nothing_left();
    assert_eq!(fs::read_dir(daemon.path("d/build-mounts")).unwrap().count(), 0, "nothing is left mounted");
}
