//! What the compiler does not check about the source: the length of files, and no unsafe code where none is due.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The longest a file may be. Beyond it, it is two modules.
const MAXIMUM_LINES: usize = 1000;

/// The crates that call the kernel where no safe wrapper exists.
const MAY_BE_UNSAFE: [&str; 2] = ["runtime", "network"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside the repository")
}

/// The tracked Rust files and their text; one deleted and not yet committed is left out.
fn sources() -> Vec<(PathBuf, String)> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let files: Vec<_> = names
        .split_terminator('\0')
        .filter_map(|name| match fs::read_to_string(root().join(name)) {
            Ok(text) => Some((PathBuf::from(name), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{name}: {error}"),
        })
        .collect();
    assert!(!files.is_empty(), "git lists no Rust file");
    files
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAXIMUM_LINES)
        .collect();
    assert!(long.is_empty(), "longer than {MAXIMUM_LINES} lines: {long:?}");
}

#[test]
fn libraries_forbid_unsafe_code() {
    let mut libraries = 0;
    for (path, text) in sources() {
        let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
        let ["crates", name, "src", "lib.rs"] = parts.as_slice() else { continue };
        libraries += 1;
        let mut code = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        let is_placeholder = code.clone().next().is_none();
        let forbids = code.any(|line| line == "#![forbid(unsafe_code)]");
        assert!(
            is_placeholder || forbids || MAY_BE_UNSAFE.contains(name),
            "{} lacks #![forbid(unsafe_code)]",
            path.display()
        );
    }
    assert!(libraries > 0, "no library was found");
}
